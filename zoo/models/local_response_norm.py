"""Local response normalization (Krizhevsky et al. 2012, section 3.3): each value over the energy of its neighbours.

y = x / (k + alpha * sum of the neighbours' squares) ** beta, with the paper's k 2, n 5, alpha 1e-4 and beta 0.75 as
defaults. PyTorch and Caffe take the mean of the squares in place of the sum: their alpha is ours times `size`, within a
channel times `size` squared, whatever lies beyond the edge counting as zero. (PyTorch's k is 1 unless it is said.)
"""

import jax.numpy as jnp

from zoo.errors import UserError

REGIONS = ("across", "within")


def local_response_norm(
    x, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, region: str = "across"
):
    """Float [B, ..., C] to the same shape and type; the sum is in float32.

    Args:
      size: n, the width of the window; an even one reaches one further back than forward, as PyTorch's.
      alpha, beta, k: as in the formula.
      region: the neighbours, 'across' the channels at the same place, or 'within' the channel, a size x size window
        (of as many axes as there are between the first and the last).

    Raises:
      UserError: another region, or a size below 1.
    """
    if region not in REGIONS:
        raise UserError(f"local_response_norm: region is {region!r}; it must be 'across' or 'within'")
    if size < 1:
        raise UserError(f"local_response_norm: size is {size}; it must be at least 1")
    energy = jnp.square(x.astype(jnp.float32))
    for axis in (x.ndim - 1,) if region == "across" else range(1, x.ndim - 1):
        energy = _window_sum(energy, size, axis)
    return (x * (k + alpha * energy) ** -beta).astype(x.dtype)


def _window_sum(x, size: int, axis: int):
    """Sums of `size` neighbours along an axis, as shifted copies: cheaper than a reduction over windows."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (size // 2, (size - 1) // 2)
    padded, length = jnp.pad(x, pads), x.shape[axis]
    index = [slice(None)] * x.ndim
    total = 0
    for start in range(size):
        index[axis] = slice(start, start + length)
        total = total + padded[tuple(index)]
    return total
