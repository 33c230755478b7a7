"""Trains tests/tiny.py and kills itself: `killed_run.py WORKDIR step N` before step N, `... save N DELAY` that many
seconds after the N-th save began (its files are then half written)."""

import os
import signal
import sys
import threading
import time

import zoo
from zoo import loop
from zoo.checkpoint import Checkpoints


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def main(workdir, what, number, delay="0"):
    config = zoo.config.load("tests/tiny.py")
    left = [int(number)]
    prepare, save = loop.prepare, Checkpoints.save

    def prepare_and_count(*args):
        run = prepare(*args)

        def train_step(state, *rest):
            left[0] -= 1
            if left[0] < 0:
                die()
            return run.train_step(state, *rest)

        return run._replace(train_step=train_step)

    def save_and_die(self, *args):
        left[0] -= 1
        if left[0] == 0:
            threading.Thread(target=lambda: (time.sleep(float(delay)), die())).start()
        save(self, *args)

    if what == "step":
        loop.prepare = prepare_and_count
    else:
        Checkpoints.save = save_and_die
    zoo.train(config, workdir)
    sys.exit("was not killed")


if __name__ == "__main__":
    main(*sys.argv[1:])
