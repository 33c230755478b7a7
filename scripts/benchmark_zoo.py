"""The zoo in a process of its own, for scripts/benchmark.py.

Every operation is a function of a number of steps that returns the seconds they took, once their results are there.
"""

import zoo  # isort: skip  first, as in train.py: it sets up the memory before NumPy starts a thread

import io
import itertools
import os
import subprocess
import tempfile
import time

import jax
import numpy as np
from benchmark_cases import CASES, LR, MOMENTUM, synthetic
from benchmark_worker import rss_mb, serve

from zoo import initial, loop, report
from zoo.console import Display
from zoo.run import Run, prepare
from zoo.run_folder import RunFolder


def engine(model: str, *, rows: int, batch_size: int, dtype: str):
    """The zoo; uint8 images are normalized inside its step, float32 ones are not.

    train: the compiled step on a new batch each time. eval: the compiled evaluation step.
    bare: the compiled step in a `for` loop, with the order of the first epoch over and over.
    loop: the same step in the zoo's whole training loop: order of each epoch, log lines, TensorBoard, display;
      without checkpoints and evaluations, as the loop's own stopwatch takes them out. bar: with the progress bar.
    epochs: whole epochs of that loop, all in. memory: {step: resident 10^6 bytes} of a run with all that belongs to
      it, at steps given as arguments.
    """
    case = CASES[model]._replace(rows=rows, batch_size=batch_size)
    inputs, labels = synthetic(case, dtype)
    key = "image" if len(case.shape) == 3 else "feature"
    names, evaluated = tuple(map(str, range(case.classes))), {key: inputs[:10_000], "label": labels[:10_000]}
    source = zoo.Source({key: inputs, "label": labels}, class_names=names)

    def run_of(source, **settings):
        config = zoo.config.default()
        config.model = {"name": model, **case.options}
        config.task = {"name": "segmentation" if case.per_pixel else "classification"}
        config.data.update(
            validation=0.0, test=0.0, batch_size=batch_size, eval_batch_size=batch_size,
            normalize="standardize" if dtype == "uint8" else "none",
        )  # fmt: skip
        config.optim.update(name="sgd", lr=LR, momentum=MOMENTUM)
        config.schedule.name = "constant"
        config.update(settings)
        return prepare(config, source)

    run = run_of(source, total_steps=10**9)  # nothing but the order of the steps depends on the length
    parameters = sum(x.size for x in jax.tree.leaves(run.shapes[0].params))
    assert parameters == case.parameters, f"{parameters} parameters"

    def epochs(count: int) -> float:
        return all_in(count * run.dataset.meta["steps_per_epoch"])

    def evaluation():
        evaluated_run = run_of(source._replace(test=evaluated), total_steps=1)
        state, _ = initial.state(evaluated_run)
        variables = {"params": state.params, **state.model_state}
        batches = itertools.cycle(list(evaluated_run.dataset.eval("test")))

        def side(steps: int) -> float:
            started = time.perf_counter()
            found = [evaluated_run.eval_step(variables, batch) for batch in itertools.islice(batches, steps)]
            jax.block_until_ready(found)
            return time.perf_counter() - started

        return side

    def memory(*marks: int) -> dict[int, float]:
        found = {}

        class Marking(Display):
            def train(self, step, values):
                super().train(step, values)
                if step in marks:
                    found[step] = rss_mb()

        whole = run_of(source._replace(test=evaluated), total_steps=max(marks))
        with loop.open_folder(whole, tempfile.mkdtemp()) as (folder, checkpoints):
            state, window = initial.state(whole)
            folder.start(0)
            with Marking(whole, 0, io.StringIO()) as display:
                loop.train_steps(whole, folder, checkpoints, loop.Signals(), display, report.Stopwatch(), state, window)
        return found

    first = run.dataset.train.fetch(0)

    def looped(make_file, **options):
        return _later(lambda: whole_loop(run, RunFolder(tempfile.mkdtemp()), make_file(), **options))

    all_in = looped(io.StringIO, all_in=True)
    return {
        "train": _later(lambda: compiled_step(run, run.dataset.train.fetch)),
        "bare": _later(lambda: compiled_step(run, lambda step: first)),
        "loop": looped(io.StringIO),
        "bar": looped(_terminal),
        "epochs": epochs,
        "eval": _later(evaluation),
        "memory": memory,
    }


class NoCheckpoints:
    steps = staticmethod(list)
    save = wait = staticmethod(lambda *_: None)


def compiled_step(run: Run, fetch):
    """The compiled training step of `run` in a `for` loop, as a side."""
    state, window = initial.state(run)
    seed = jax.device_put(np.uint32(run.config.seed), jax.tree.leaves(run.shapes)[0].sharding)
    numbers = itertools.count()

    def side(steps: int) -> float:
        nonlocal state, window
        started = time.perf_counter()
        for step in itertools.islice(numbers, steps):
            before = window
            state, window = run.train_step(state, window, fetch(step), seed)
            # As the loop does where it logs. Never to wait makes the MLP's steps 4 % slower (a long queue of
            # them needs more memory), and would flatter the loop.
            if step % run.log_every == 0:
                jax.block_until_ready(before)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return side


def whole_loop(run: Run, folder: RunFolder, file, *, all_in: bool = False):
    """The zoo's whole loop without checkpoints, as a side; `side.state` is where it stands."""
    state, window = initial.state(run)
    folder.start(0)

    def side(steps: int) -> float:
        part, watch = run._replace(total_steps=int(side.state.step) + steps), report.Stopwatch()
        started = time.perf_counter()
        with Display(part, int(side.state.step), file) as display:
            side.state, _ = loop.train_steps(
                part, folder, NoCheckpoints(), loop.Signals(), display, watch, side.state, window
            )
        taken = time.perf_counter() - started
        return taken if all_in else watch.seconds["train"] + watch.seconds["compile"]

    side.state = state
    return side


def _later(make):
    """The side that `make` returns, made when it is first called, outside of its time."""
    made = []

    def side(steps: int) -> float:
        made[:] = made or [make()]
        return made[0](steps)

    return side


def _terminal():
    """A file that is a terminal; another process reads and forgets what is written."""
    ours, theirs = os.openpty()
    subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL)
    os.close(ours)
    return os.fdopen(theirs, "w")


if __name__ == "__main__":
    serve(lambda model, options: engine(model, **options))
