"""Constraints on parameters, as projections that follow every step of the optimizer.

A unit's incoming weights are all entries of a kernel with the same last index: a column of a dense kernel [in, out],
one output channel of a convolution [height, width, in, out]. Each projection is idempotent: where the optimizer did
not move a parameter, it does not either (unit_norm but for the last bit).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zoo.errors import UserError

Projection = Callable[[jax.Array], jax.Array]


def non_negative() -> Projection:
    """Negative weights become zero."""
    return optax.projections.projection_non_negative


def max_norm(limit: float) -> Projection:
    """L2 norm of at most `limit` for each unit's incoming weights, scaled down (Srivastava et al. 2014, 5.1)."""
    if not limit:
        raise UserError("regularize.constraints: the limit of max_norm is 0; it must be positive, for example 3")
    limit = np.float32(limit)
    return jax.vmap(lambda w: optax.projections.projection_l2_ball(w, limit), in_axes=-1, out_axes=-1)


def unit_norm() -> Projection:
    """L2 norm of 1 for each unit's incoming weights; where all of them are zero, they stay so."""

    def project(w):
        norm = jnp.sqrt(jnp.sum(jnp.square(w), axis=range(w.ndim - 1), keepdims=True))
        return w / jnp.where(norm > 0, norm, 1)

    return project


# They are applied in this order: the later ones keep what the earlier ones reached.
CONSTRAINTS: dict[str, Callable[..., Projection]] = {
    "non_negative": non_negative,
    "max_norm": max_norm,
    "unit_norm": unit_norm,
}
