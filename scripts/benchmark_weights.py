"""A ResNet-50 (25.6 million parameters) read from a file with torchvision's names, for scripts/benchmark.py.

The zoo makes all variables of the model of it, as `zoo.load_weights` does; PyTorch takes it into a module with
`load_state_dict`.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

from benchmark_worker import peak_mb, rss_mb, serve


def zoo_engine(options: dict) -> tuple[Callable[[str], object], Mapping[str, Callable]]:
    """(what reads a file, further operations); keeps the shapes of the model, as any second import does."""
    import jax
    import numpy as np

    import zoo
    from zoo.weights import import_weights, shapes

    model = zoo.create_model("resnet50", **options)
    shaped = shapes.of(model)[0]

    def make(path: str) -> float:
        rng = np.random.default_rng(0)
        variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shaped)
        zoo.save_weights(path, model, variables, layout="torchvision")
        return sum(leaf.nbytes for leaf in jax.tree.leaves(variables)) / 1e6

    return lambda path: import_weights(model, path), {"make": make}


def torch_engine(path: str) -> tuple[Callable[[str], object], Mapping[str, Callable]]:
    """The module is made of what the file names: torchvision is not needed."""
    import torch

    if path.endswith(".safetensors"):
        from safetensors.torch import load_file as load
    else:
        load = partial(torch.load, weights_only=True)
    net = torch.nn.Module()
    for name, tensor in load(path).items():
        *parents, leaf = name.split(".")
        place = net
        for part in parents:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.register_buffer(leaf, torch.empty_like(tensor))

    def read(path: str):
        net.load_state_dict(load(path), strict=True)
        return net.state_dict()

    return read, {}


def operations(library: str, path: str, options: dict) -> Mapping[str, Callable]:
    read, more = zoo_engine(options) if library == "zoo" else torch_engine(path)

    def load(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            read(path)
        return time.perf_counter() - started

    def grown() -> float:
        """How far the memory rises above what it was, while a file is read for the first time, in 10^6 bytes."""
        before = rss_mb()
        kept = read(path)
        del kept
        return peak_mb() - before

    return {"load": load, "grown": grown, **more}


if __name__ == "__main__":
    serve(operations)
