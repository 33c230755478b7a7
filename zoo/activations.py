"""Activation functions by name. Each of ACTIVATIONS maps float [...] to float [...] of the same shape."""

import functools
from collections.abc import Callable

import jax
from jax import numpy as jnp

from zoo.errors import lookup


def gelu(x):
    """x Phi(x), with Phi the normal distribution function itself (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x):
    """gelu by the paper's tanh approximation (section 2), within 5e-4 of it and cheaper."""
    return jax.nn.gelu(x, approximate=True)


def lecun_tanh(x):
    """1.7159 tanh(2x/3), which keeps unit variance (LeCun et al. 1998, "Efficient BackProp", section 4.4)."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


def linear(x):
    """x itself."""
    return x


def softmax(x, temperature: float = 1.0):
    """exp(x / temperature) over its sum along the last axis; a high temperature evens it out (Hinton et al. 2015)."""
    return jax.nn.softmax(x if temperature == 1 else x / temperature)


def maxout(x, pieces: int):
    """The largest of each group of `pieces` neighbours (Goodfellow et al. 2013); for `mlp`, with as many per unit."""
    # The gradient of jnp.max looks for the largest again: NaN where the compiler computes x twice, rounded otherwise.
    return functools.reduce(jnp.maximum, (x[..., i::pieces] for i in range(pieces)))


@jax.custom_jvp
def step(x):
    """1 where x > 0, else 0, with the gradient of x itself: straight through (Bengio et al. 2013, arXiv:1308.3432)."""
    return (x > 0).astype(x.dtype)


step.defjvp(lambda primals, tangents: (step(*primals), *tangents))


ACTIVATIONS: dict[str, Callable] = {
    "elu": jax.nn.elu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "leaky_relu": jax.nn.leaky_relu,
    "lecun_tanh": lecun_tanh,
    "linear": linear,
    "relu": jax.nn.relu,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "softmax": softmax,
    "softplus": jax.nn.softplus,
    "step": step,
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
}


def get(name: str) -> Callable:
    return lookup("activation", name, ACTIVATIONS)
