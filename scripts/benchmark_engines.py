"""What scripts/benchmark.py times, each engine in a process of its own: the zoo, PyTorch and Keras.

All train the same networks on the same synthetic data, MNIST's shapes in batches of 128, with SGD and momentum 0.9:
the MLP 784-512-512-10 (669,706 parameters) and the modern LeNet-5 (61,706). Every operation is a function of a number
of steps that returns the seconds they took, once their results are there.
"""

import io
import itertools
import os
import subprocess
import tempfile
import time

import numpy as np
from benchmark_harness import cpus
from benchmark_worker import rss_mb, serve

BATCH_SIZE = 128
LR, MOMENTUM = 0.01, 0.9
PARAMETERS = {"mlp": 669_706, "lenet5": 61_706}


def synthetic(rows: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 28, 28, 1], uint8 in 0..255 or float32 of unit variance, and labels int32 [N]."""
    rng = np.random.default_rng(0)
    shape = (rows, 28, 28, 1)
    images = rng.integers(0, 256, shape, np.uint8) if dtype == "uint8" else rng.standard_normal(shape, np.float32)
    return images, rng.integers(0, 10, rows, np.int32)


def zoo_engine(model: str, *, rows: int, dtype: str):
    """The zoo; uint8 images are normalized inside its step, float32 ones are not.

    train: the compiled step on a new batch each time. eval: the compiled evaluation step.
    bare: the compiled step in a `for` loop, with the order of the first epoch over and over.
    loop: the same step in the zoo's whole training loop: order of each epoch, log lines, TensorBoard, display;
      without checkpoints and evaluations, as the loop's own stopwatch takes them out. bar: with the progress bar.
    epochs: whole epochs of that loop, all in. memory: {step: resident 10^6 bytes} of a run with all that belongs to
      it, at steps given as arguments.
    """
    import jax

    import zoo
    from zoo import loop, report
    from zoo.console import Display
    from zoo.run import prepare
    from zoo.run_folder import RunFolder

    images, labels = synthetic(rows, dtype)
    names, evaluated = tuple("0123456789"), {"image": images[:10_000], "label": labels[:10_000]}
    source = zoo.Source({"image": images, "label": labels}, class_names=names)

    def run_of(source, **settings):
        config = zoo.config.default()
        config.model = {"name": model}
        config.data.update(
            validation=0.0, test=0.0, batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE,
            normalize="standardize" if dtype == "uint8" else "none",
        )  # fmt: skip
        config.optim.update(name="sgd", lr=LR, momentum=MOMENTUM)
        config.schedule.name = "constant"
        config.update(settings)
        return prepare(config, source)

    class NoCheckpoints:
        steps = staticmethod(list)
        restore = save = wait = staticmethod(lambda *_: None)

    run = run_of(source, total_steps=10**9)  # nothing but the order of the steps depends on the length
    parameters = sum(x.size for x in jax.tree.leaves(run.shapes[0].params))
    assert parameters == PARAMETERS[model], f"{parameters} parameters"
    seed = jax.device_put(np.uint32(0), jax.tree.leaves(run.shapes)[0].sharding)

    def compiled_step(fetch):
        state, window, _ = loop._start(run, NoCheckpoints(), None)
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

    def whole_loop(file, *, all_in: bool = False):
        state, window, _ = loop._start(run, NoCheckpoints(), None)
        folder = RunFolder(tempfile.mkdtemp())
        folder.start(0)

        def side(steps: int) -> float:
            nonlocal state
            part, watch = run._replace(total_steps=int(state.step) + steps), report.Stopwatch()
            started = time.perf_counter()
            with Display(part, int(state.step), file) as display:
                state, _ = loop._train(part, folder, NoCheckpoints(), loop._Signals(), display, watch, state, window)
            taken = time.perf_counter() - started
            return taken if all_in else watch.seconds["train"] + watch.seconds["compile"]

        return side

    def epochs(count: int) -> float:
        return all_in(count * run.dataset.meta["steps_per_epoch"])

    def evaluation():
        evaluated_run = run_of(source._replace(test=evaluated), total_steps=1)
        state, _, _ = loop._start(evaluated_run, NoCheckpoints(), None)
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
        with loop._open(whole, tempfile.mkdtemp()) as (folder, checkpoints):
            state, window, _ = loop._start(whole, checkpoints, None)
            folder.start(0)
            with Marking(whole, 0, io.StringIO()) as display:
                loop._train(whole, folder, checkpoints, loop._Signals(), display, report.Stopwatch(), state, window)
        return found

    first = run.dataset.train.fetch(0)
    all_in = _later(lambda: whole_loop(io.StringIO(), all_in=True))
    return {
        "train": _later(lambda: compiled_step(run.dataset.train.fetch)),
        "bare": _later(lambda: compiled_step(lambda step: first)),
        "loop": _later(lambda: whole_loop(io.StringIO())),
        "bar": _later(lambda: whole_loop(_terminal())),
        "epochs": epochs,
        "eval": _later(evaluation),
        "memory": memory,
    }


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


def torch_engine(model: str, *, rows: int, compiled: bool):
    """PyTorch on float32 images that lie in memory, each batch a gather of rows in a random order, as in the zoo.

    train: zero_grad, forward, loss, backward, the optimizer's step; no metrics (the zoo's step has them). eval: the
    sums of losses and of right answers.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(cpus())
    torch.manual_seed(0)
    images, labels = synthetic(rows, "float32")
    images, labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long()
    layers = {
        "mlp": lambda: [
            nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10),
        ],
        "lenet5": lambda: [
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        ],
    }  # fmt: skip
    network = nn.Sequential(*layers[model]())
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[model]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM)
    batches = rows // BATCH_SIZE

    def loss(images, labels):
        return functional.cross_entropy(network(images), labels)

    def sums(images, labels):
        logits = network(images)
        return functional.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum()

    if compiled:
        loss, sums = torch.compile(loss), torch.compile(sums)

    def in_random_order():
        while True:
            yield from torch.randperm(rows)[: batches * BATCH_SIZE].split(BATCH_SIZE)

    orders = in_random_order()

    def train(steps: int) -> float:
        started = time.perf_counter()
        network.train()
        for batch in itertools.islice(orders, steps):
            optimizer.zero_grad()
            loss(images[batch], labels[batch]).backward()
            optimizer.step()
        return time.perf_counter() - started

    in_order = itertools.cycle(slice(i * BATCH_SIZE, (i + 1) * BATCH_SIZE) for i in range(min(batches, 78)))

    def evaluate(steps: int) -> float:
        started = time.perf_counter()
        network.eval()
        with torch.inference_mode():
            _ = [sums(images[batch], labels[batch]) for batch in itertools.islice(in_order, steps)]
        return time.perf_counter() - started

    return {"train": train, "eval": evaluate}


def keras_engine(model: str, *, rows: int):
    """Keras on its jax backend: `fit` for whole epochs over float32 images, with accuracy as the zoo has it.

    The rows are cut to whole batches, as the zoo does, so that both do the same steps.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    from keras import layers

    images, labels = synthetic(rows // BATCH_SIZE * BATCH_SIZE, "float32")
    hidden = {
        "mlp": lambda: [layers.Flatten(), *(layers.Dense(512, activation="relu") for _ in range(2))],
        "lenet5": lambda: [
            layers.Conv2D(6, 5, padding="same", activation="relu"), layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
            layers.Dense(120, activation="relu"), layers.Dense(84, activation="relu"),
        ],
    }  # fmt: skip
    network = keras.Sequential([keras.Input((28, 28, 1)), *hidden[model](), layers.Dense(10)])
    assert network.count_params() == PARAMETERS[model]
    network.compile(
        keras.optimizers.SGD(LR, MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def epochs(count: int) -> float:
        started = time.perf_counter()
        network.fit(images, labels, batch_size=BATCH_SIZE, epochs=count, verbose=0)
        return time.perf_counter() - started

    return {"epochs": epochs}


ENGINES = {"zoo": zoo_engine, "torch": torch_engine, "keras": keras_engine}

if __name__ == "__main__":
    serve(lambda name, model, options: ENGINES[name](model, **options))
