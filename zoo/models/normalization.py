"""Normalization layers by name, each a function of the features [B, ..., C]; call them in a compact module.

All have an epsilon of 1e-5 unless the model says another, compute in float32, and have one scale and one offset per
channel, but for `none` and `response`, which have none. They differ in what shares a mean and a variance. In all but
`batch`, an example does not see the others of its batch, and training and evaluation are the same.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from zoo.errors import UserError, lookup
from zoo.models.batch_norm import BatchNorm
from zoo.models.conv import conv
from zoo.models.local_response_norm import local_response_norm

EPSILON = 1e-5


def none(x, **_):
    """No normalization."""
    return x


def batch(x, **options):
    """Each channel over the batch, with running statistics for evaluation (Ioffe & Szegedy 2015, arXiv:1502.03167)."""
    return BatchNorm(**options)(x)


def layer(x, **options):
    """Each example over everything it has, channels and places (Ba et al. 2016, arXiv:1607.06450)."""
    return nn.LayerNorm(reduction_axes=tuple(range(1, x.ndim)), **options)(x)


def group(x, *, groups: int = 32, **options):
    """Each example over groups of channels, 32 or as many as in 'group:8' (Wu & He 2018, arXiv:1803.08494)."""
    if x.shape[-1] % groups:
        raise UserError(f"norm 'group:{groups}': {x.shape[-1]} channels cannot be cut into {groups} groups of one size")
    return nn.GroupNorm(groups, **options)(x)


def instance(x, **options):
    """Each channel of each example over its places (Ulyanov et al. 2016, arXiv:1607.08022)."""
    return nn.InstanceNorm(**options)(x)


def response(x, **_):
    """Each value over the energy of its neighbours among the channels (Krizhevsky et al. 2012, section 3.3)."""
    return local_response_norm(x)


NORMS: dict[str, Callable] = {
    "none": none,
    "batch": batch,
    "layer": layer,
    "group": group,
    "instance": instance,
    "response": response,
}
PLAIN = ("none", "response")  # without a scale and an offset


def check(what: str, norm: str, *, place: str = "before", weight_standardization: bool = False) -> None:
    """Raises UserError unless `norm` is a name of NORMS, or 'group:<number>', and the other options suit it."""
    kind, _, number = norm.partition(":")
    lookup(f"norm of {what}", kind, NORMS)
    if kind != norm and (kind != "group" or not number.isdecimal() or int(number) < 1):
        raise UserError(f"{what}: norm is {norm!r}; only group takes a number of groups, as in 'group:8'")
    if place != "before" and norm == "none":
        raise UserError(f"{what}: norm_place is {place!r}, but norm is 'none'; set both or none")
    if weight_standardization and norm in PLAIN:
        raise UserError(f"{what}: weight_standardization needs a norm with a scale behind it, not {norm!r}")


def normalized(
    x, norm: str, *, epsilon: float = EPSILON, dtype: str = "float32", scale_init=nn.initializers.ones, name: str
):
    """`x` after the layer that `norm` names; those without a scale look at none of the options."""
    kind, _, number = norm.partition(":")
    options = {"groups": int(number)} if number else {}
    return NORMS[kind](x, epsilon=epsilon, dtype=dtype, scale_init=scale_init, name=name, **options)


def standardized(kernel):
    """A kernel [..., C_out] whose weights into each output channel have mean 0 and variance 1.

    Weight standardization (Qiao et al. 2019, arXiv:1903.10520, section 3.1; epsilon 1e-5 on the variance), in float32.
    """
    axes = tuple(range(kernel.ndim - 1))
    w = kernel.astype(jnp.float32)
    centred = w - jnp.mean(w, axes, keepdims=True)
    return (centred * lax.rsqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + EPSILON)).astype(kernel.dtype)


def standardized_conv(lhs, rhs, *args, **kwargs):
    """`zoo.models.conv.conv` with a standardized kernel: for `nn.Conv(conv_general_dilated=...)`."""
    return conv(lhs, standardized(rhs), *args, **kwargs)
