"""Maps at twice their size: the up-convolution of U-Net in two forms, and the bilinear resize.

An up-convolution has one kernel [2, 2, in, out] and a bias:
- 'transpose': the four taps of an input pixel lie side by side; it is `nn.ConvTranspose` with stride 2.
- 'resize': "an upsampling of the feature map followed by a 2x2 convolution" (Ronneberger et al. 2015, section 2), here
  by linear interpolation at the corners of the new pixels, so that the 2x2 window lies centred on each of them, without
  the half-pixel shift of a window that is padded on one side. Neighbouring outputs see overlapping inputs, so there
  is no checkerboard (Odena et al. 2016, "Deconvolution and checkerboard artifacts"). The kernel is applied before the
  interpolation, which commutes with it: the cost is that of 'transpose' and a few sums.
"""

import flax.linen as nn
import jax.numpy as jnp

from zoo.models.layers import DTYPES

# N(0, 2 / N) with N = the inputs of a unit: of the 2x2 taps an output pixel sees one ('transpose') or all ('resize').
INITS = {"resize": nn.initializers.he_normal(), "transpose": nn.initializers.he_normal(batch_axis=(0, 1))}


class UpConv(nn.Module):
    """[B, H, W, C] to [B, 2 H, 2 W, width] by 'resize' or 'transpose'.

    One matrix product for all four taps. On 2 (busy) CPU cores, [4, 64, 64, 64] to 32 channels, forward and gradients:
    13 ms, either way; `nn.ConvTranspose` takes 89.
    """

    width: int
    up: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        dtype = DTYPES[self.dtype]
        kernel = self.param("kernel", INITS[self.up], (2, 2, x.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        y = jnp.einsum("bhwi,klio->bhwklo", x.astype(dtype), kernel.astype(dtype))
        for axis in (1, 2):  # rows and their taps first, which leaves [B, 2 H, W, taps, width]
            first, second = y[:, :, :, 0], y[:, :, :, 1]
            even, odd = second, first
            if self.up == "resize":
                even = even + (_before(first, axis) + first) / 2
                odd = odd + (second + _after(second, axis)) / 2
            y = _interleaved(even, odd, axis)
        return y + bias.astype(dtype).reshape(1, 1, 1, -1)


def doubled(x):
    """[B, H, W, C] to [B, 2 H, 2 W, C], bilinear at the centres of the pixels; the border is repeated outwards."""
    for axis in (1, 2):
        x = _interleaved((_before(x, axis) + 3 * x) / 4, (3 * x + _after(x, axis)) / 4, axis)
    return x


def _before(x, axis: int):
    """The neighbour at the next smaller place of an axis; the first is its own."""
    return jnp.concatenate([_part(x, axis, 0, 1), _part(x, axis, 0, -1)], axis)


def _after(x, axis: int):
    return jnp.concatenate([_part(x, axis, 1, None), _part(x, axis, -1, None)], axis)


def _part(x, axis: int, start: int, stop: int | None):
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _interleaved(even, odd, axis: int):
    shape = even.shape[:axis] + (2 * even.shape[axis],) + even.shape[axis + 1 :]
    return jnp.stack([even, odd], axis + 1).reshape(shape)
