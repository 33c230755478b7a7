"""Weight initializers by name, all from `jax.nn.initializers`; a float means that constant."""

from collections.abc import Callable
from numbers import Real

from jax.nn import initializers

from zoo.errors import UserError, lookup

INITIALIZERS: dict[str, Callable] = {
    "glorot_normal": initializers.glorot_normal(),
    "glorot_uniform": initializers.glorot_uniform(),
    "he_normal": initializers.he_normal(),
    "he_uniform": initializers.he_uniform(),
    "lecun_normal": initializers.lecun_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "normal": initializers.normal(0.01),
    "ones": initializers.ones,
    "orthogonal": initializers.orthogonal(),
    "truncated_normal": initializers.truncated_normal(0.01),
    "zeros": initializers.zeros,
}

FOR_BIASES = ("normal", "ones", "truncated_normal", "zeros")  # the others go by the fan-in and fan-out of a kernel


def get(name: str | float) -> Callable:
    """The initializer called `name`, or a constant one for a number such as 0.1."""
    if isinstance(name, Real):
        return initializers.constant(name)
    return lookup("initializer", name, INITIALIZERS)


def get_bias(name: str | float) -> Callable:
    """Like `get`, but only what can fill a vector."""
    initializer = get(name)
    if isinstance(name, str) and name not in FOR_BIASES:
        raise UserError(f"initializer {name!r} cannot fill a bias; known: {', '.join(FOR_BIASES)}, or a number")
    return initializer
