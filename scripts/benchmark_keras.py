"""Keras on its jax backend, in a process of its own, for scripts/benchmark.py."""

import os
import time

os.environ["KERAS_BACKEND"] = "jax"

import keras
from benchmark_cases import CASES, LR, MOMENTUM, synthetic
from benchmark_worker import serve
from keras import layers


def engine(model: str, *, rows: int, batch_size: int):
    """epochs: `fit` for whole epochs over float32 images, with accuracy as the zoo has it.

    The rows are cut to whole batches, as the zoo does, so that both do the same steps.
    """
    case = CASES[model]._replace(rows=rows // batch_size * batch_size)
    images, labels = synthetic(case)
    hidden = {
        "mlp": lambda: [layers.Flatten(), *(layers.Dense(512, activation="relu") for _ in range(2))],
        "lenet5": lambda: [
            layers.Conv2D(6, 5, padding="same", activation="relu"), layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
            layers.Dense(120, activation="relu"), layers.Dense(84, activation="relu"),
        ],
    }  # fmt: skip
    network = keras.Sequential([keras.Input(case.shape), *hidden[model](), layers.Dense(10)])
    assert network.count_params() == case.parameters
    network.compile(
        keras.optimizers.SGD(LR, MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def epochs(count: int) -> float:
        started = time.perf_counter()
        network.fit(images, labels, batch_size=batch_size, epochs=count, verbose=0)
        return time.perf_counter() - started

    return {"epochs": epochs}


if __name__ == "__main__":
    serve(lambda model, options: engine(model, **options))
