"""The formulations of one layer side by side in one process, for scripts/benchmark.py.

Every formulation is timed on its own under `jit`, and inside a `lax.scan`, where XLA's CPU backend computes the
gradients of a convolution many times slower. A step is `REPEATS` applications, to inputs of their own: as many calls
of the compiled function, or one call of the compiled scan.
"""

import zoo  # isort: skip  # noqa: F401  first: it sets up the memory before NumPy starts a thread

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from benchmark_cases import REPEATS, Layer
from benchmark_worker import serve
from jax import lax

from zoo.models.batch_norm import BatchNorm
from zoo.models.conv import NHWC, conv
from zoo.models.upsampling import UpConv

# All formulations of a layer are functions of (x, params) to (y, new state).


def convolutions(layer: Layer):
    padding = ((layer.kernel // 2, layer.kernel // 2),) * 2
    arguments = ((layer.stride, layer.stride), padding)
    found = {
        "zoo": lambda x, kernel: (conv(x, kernel, *arguments, dimension_numbers=NHWC), {}),
        "lax": lambda x, kernel: (lax.conv_general_dilated(x, kernel, *arguments, dimension_numbers=NHWC), {}),
    }
    if layer.kernel == layer.stride == 1:
        found["matrix product"] = lambda x, kernel: (jnp.dot(x, kernel[0, 0]), {})
    return found, (layer.kernel, layer.kernel, layer.channels, layer.features)


def up_convolutions(layer: Layer):
    def applied(module):
        return lambda x, params: (module.apply({"params": params}, x), {})

    found = {
        "zoo": applied(UpConv(layer.features, "transpose")),
        "flax": applied(nn.ConvTranspose(layer.features, (2, 2), (2, 2), padding="VALID")),
    }
    return found, {"kernel": (2, 2, layer.channels, layer.features), "bias": (layer.features,)}


def normalizations(layer: Layer):
    stats = {"mean": jnp.zeros(layer.channels), "var": jnp.ones(layer.channels)}

    def applied(module):
        return lambda x, params: module.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])

    found = {
        "zoo": applied(BatchNorm(momentum=0.9, epsilon=1e-5)),
        "flax": applied(nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)),
    }
    return found, {"scale": (layer.channels,), "bias": (layer.channels,)}


def forward(fn):
    return lambda x, params, dy: fn(x, params)


def input_gradient(fn):
    return lambda x, params, dy: jax.vjp(lambda x: fn(x, params), x, has_aux=True)[1](dy)


def weight_gradient(fn):
    return lambda x, params, dy: jax.vjp(lambda params: fn(x, params), params, has_aux=True)[1](dy)


def everything(fn):
    def run(x, params, dy):
        y, pull, state = jax.vjp(fn, x, params, has_aux=True)
        return y, pull(dy), state

    return run


PASSES = {"forward": forward, "input gradient": input_gradient, "weight gradient": weight_gradient}
KINDS = {
    "conv": (convolutions, PASSES),
    "up": (up_convolutions, PASSES),
    "norm": (normalizations, {"forward and gradients": everything}),
}


def programs(layer: Layer):
    """(pass -> formulation -> compiled function of (x, params, dy), one set of inputs for each application)."""
    make, passes = KINDS[layer.kind]
    formulations, shapes = make(layer)
    rng = np.random.default_rng(0)

    def normal(shape):
        return jnp.asarray(rng.standard_normal((REPEATS, *shape), np.float32))

    x = normal((layer.batch_size, layer.size, layer.size, layer.channels))
    params = jax.tree.map(normal, shapes, is_leaf=lambda shape: isinstance(shape, tuple))
    y, _ = jax.eval_shape(formulations["zoo"], *jax.tree.map(lambda leaf: leaf[0], (x, params)))
    stacked = x, params, normal(y.shape)
    return {name: {k: run(fn) for k, fn in formulations.items()} for name, run in passes.items()}, stacked


def operations(layer):
    """The sides '<pass>/<formulation>', their names as 'sides', and 'check', which compares the numbers of a pass."""
    table, stacked = programs(Layer(*layer))
    apart = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(REPEATS)]
    compiled, sides = {}, {}
    for name, formulations in table.items():
        compiled[name] = {}
        for formulation, fn in formulations.items():
            # Not to wait for each call would let calls overlap, which a scan cannot.
            alone = jax.jit(fn)
            scan = jax.jit(lambda stacked, fn=fn: lax.scan(lambda carry, xs: (carry, fn(*xs)), None, stacked)[1])
            compiled[name][formulation] = lambda alone=alone: [jax.block_until_ready(alone(*xs)) for xs in apart]
            compiled[name][f"{formulation}, in a scan"] = lambda scan=scan: jax.block_until_ready(scan(stacked))
        for formulation, call in compiled[name].items():
            sides[f"{name}/{formulation}"] = lambda steps, call=call: timed(call, steps)

    def check(name: str) -> None:
        """Raises AssertionError unless all formulations give the same, to rounding."""
        results = {k: call() for k, call in compiled[name].items()}
        # A scan gives its results stacked, the calls a list of theirs: both as one list of arrays.
        flat = {
            k: jax.tree.leaves(jax.tree.map(lambda *leaves: np.stack(leaves), *v) if isinstance(v, list) else v)
            for k, v in results.items()
        }
        for formulation, found in flat.items():
            for a, b in zip(found, flat["zoo"], strict=True):
                worst = np.abs(a - b).max() / np.abs(b).max()
                assert worst < 1e-3, f"{name}: {formulation} is off by {worst:.2g}"

    return {"sides": lambda: {name: list(calls) for name, calls in compiled.items()}, "check": check, **sides}


def timed(call, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        call()
    return time.perf_counter() - started


if __name__ == "__main__":
    serve(operations)
