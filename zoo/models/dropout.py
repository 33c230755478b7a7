"""What dropout drops. Call these in a compact module; what stays is scaled up, so evaluation needs no factor.

Customary rates: 0.2 for the input and 0.5 for hidden layers (Srivastava et al. 2014, section 6), 0.3 for feature maps
(Zagoruyko & Komodakis 2016, section 2.4).
"""

from collections.abc import Callable

import flax.linen as nn
from jax import lax

from zoo.errors import UserError, lookup


def unit(x, rate: float, *, train: bool, name: str):
    """Every value on its own (Srivastava et al. 2014)."""
    return nn.Dropout(rate, deterministic=not train, name=name)(x)


def spatial(x, rate: float, *, train: bool, name: str):
    """Whole channels of an example, since neighbouring places are correlated (Tompson et al. 2015, arXiv:1411.4280)."""
    places = tuple(range(1, x.ndim - 1))
    return nn.Dropout(rate, broadcast_dims=places, deterministic=not train, name=name)(x)


DROPOUTS: dict[str, Callable] = {"unit": unit, "spatial": spatial}


def check(what: str, kind: str, rate: float) -> None:
    """Raises UserError unless `kind` is a name of DROPOUTS, with a `rate` that gives it something to drop."""
    lookup(f"dropout_kind of {what}", kind, DROPOUTS)
    if kind != "unit" and not rate:
        raise UserError(f"{what}: dropout_kind is {kind!r}, but block_dropout is 0; set both or none")


def stochastic_depth(x, rate: float, *, train: bool, name: str):
    """The residual branch [B, ...] of a whole example (Huang et al. 2016, arXiv:1603.09382)."""
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, x.ndim)), deterministic=not train, name=name)(x)


def dropconnect(rate: float, *, train: bool, name: str) -> Callable:
    """Weights of a dense layer (Wan et al. 2013, "Regularization of neural networks using DropConnect").

    The `dot_general` for an `nn.Dense` below the calling module. Two things differ from the paper: a training step
    draws one mask for its whole batch, since a mask per example is a matrix per example, and evaluation takes the mean
    weights, where the paper samples from the Gaussian that they lead to.
    """
    drop = nn.Dropout(rate, deterministic=not train, name=name)
    return lambda x, kernel, *args, **kwargs: lax.dot_general(x, drop(kernel), *args, **kwargs)
