"""Weight initializers by name, all from `jax.nn.initializers`; a number means that constant."""

from collections.abc import Callable
from numbers import Real

from jax.nn import initializers

from zoo.errors import UserError, lookup


def _described(initializer: Callable, about: str) -> Callable:
    initializer.__doc__ = about
    return initializer


INITIALIZERS: dict[str, Callable] = {
    "glorot_normal": _described(
        initializers.glorot_normal(), "Cut-off normal, variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010)."
    ),
    "glorot_uniform": _described(
        initializers.glorot_uniform(), "Uniform, variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010, equation 16)."
    ),
    "he_normal": _described(
        initializers.he_normal(), "Cut-off normal, variance 2 / fan-in, for ReLU (He et al. 2015, equation 10)."
    ),
    "he_uniform": _described(initializers.he_uniform(), "Uniform, variance 2 / fan-in, for ReLU (He et al. 2015)."),
    "lecun_normal": _described(
        initializers.lecun_normal(), "Cut-off normal, variance 1 / fan-in, for tanh and selu (LeCun et al. 1998)."
    ),
    "lecun_uniform": _described(initializers.lecun_uniform(), "Uniform, variance 1 / fan-in (LeCun et al. 1998)."),
    "normal": _described(
        initializers.normal(0.01), "Normal, standard deviation 0.01 (Krizhevsky et al. 2012, section 5)."
    ),
    "ones": initializers.ones,
    "orthogonal": _described(
        initializers.orthogonal(), "Orthonormal columns, or rows where there are fewer of them (Saxe et al. 2014)."
    ),
    "truncated_normal": _described(
        initializers.truncated_normal(0.01), "Normal, standard deviation 0.01, cut off at two of them."
    ),
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
