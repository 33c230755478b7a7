"""Activation functions by name. Each maps float [...] to float [...] of the same shape."""

from collections.abc import Callable

import jax
from jax import numpy as jnp

from zoo.errors import lookup


def lecun_tanh(x):
    """1.7159 tanh(2x/3), which keeps unit variance (LeCun et al. 1998, "Efficient BackProp", section 4.4)."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


ACTIVATIONS: dict[str, Callable] = {
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "leaky_relu": jax.nn.leaky_relu,
    "lecun_tanh": lecun_tanh,
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
}


def get(name: str) -> Callable:
    return lookup("activation", name, ACTIVATIONS)
