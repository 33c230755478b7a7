"""Convolution and pooling for the whole zoo: NHWC images, HWIO kernels; sequences [B, T, C] are images of one row.

XLA's CPU backend is slow at some things that image models lean on, and fast at matrix products and at convolutions of
stride 1 in NHWC / HWIO. So, on the CPU alone, `conv` computes
- a convolution of a handful of channels as one matrix product with a banded kernel,
- a 1x1 convolution as a matrix product,
- one of a few groups as a convolution for each,
- all others as they are, with gradients made of such convolutions: that of the input of a strided one with all its
  phases as channels, that of the kernel over pieces of the batch that fit the cache (of sequences, one product);
and `max_pool` / `avg_pool` compute windows that lie side by side as a reshape and a reduction. A training step of
ResNet-20 takes 172 ms beside the 324 of the same network in plain flax, a U-Net's 82 beside 165, LeNet-5's 4.5 beside
11.2 (2 cores, with `zoo.memory`); `scripts/benchmark.py conv` shows each layer beside JAX's own. The gradients keep
their speed inside a `lax.scan`, where XLA's own take up to 200 times as long (jax issue 12868).

Everything else (GPU, TPU, bfloat16, dilation, many groups, overlapping windows) goes to JAX's own operations. The
results are equal to rounding, gradients included. What has gradients of its own takes reverse mode and what builds on
it (Hessian-vector products by `jax.jvp` of `jax.grad`), not `jax.jvp` alone.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

# Measured on a 2-core AVX-512 machine, forward + gradients: at 6 input channels the matrix product is 1.3-2.5x faster
# than lax's convolution; at 8 it already loses (on a busy machine), at 16 it takes 2.9x as long.
MAX_INPUT_CHANNELS = 6
MAX_TILE = 7  # output columns computed by one row of the matrix product
PIECE = 8  # images, or strips of them, that a kernel's gradient takes at once
STRIP_BYTES = 2**18  # of input and output together, for one of these
# One group after the other, forward + gradients: conv2 of AlexNet 2012 takes 104 ms (batch 16), lax's own 1020, in a
# loop 9000. Each group is a convolution to compile, which a depthwise kernel has too many of.
MAX_GROUPS = 16
NHWC = ("NHWC", "HWIO", "NHWC")
LAYOUTS = {3: ("NWC", "WIO", "NWC"), 4: NHWC}  # of 1-D and 2-D convolutions


def conv(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    batch_group_count=1,
    precision=None,
    preferred_element_type=None,
):
    """Drop-in for `lax.conv_general_dilated`, e.g. `nn.Conv(conv_general_dilated=conv)`."""

    def general(lhs, rhs):
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
            batch_group_count, precision, preferred_element_type,
        )  # fmt: skip

    dilations, groups = (*(lhs_dilation or ()), *(rhs_dilation or ())), (feature_group_count, batch_group_count)
    if not _is_plain(lhs, rhs, dilations, dimension_numbers, groups, preferred_element_type):
        return general(lhs, rhs)
    if lhs.ndim == 3:  # sequences are images of one row
        padding = padding if isinstance(padding, str) else ((0, 0), *padding)
        options = {"dimension_numbers": NHWC, "feature_group_count": feature_group_count, "precision": precision}
        return conv(lhs[:, None], rhs[None], (1, *window_strides), padding, **options)[:, 0]
    if feature_group_count > 1:

        def one_by_one(lhs, rhs):
            groups = zip(*(jnp.split(x, feature_group_count, axis=-1) for x in (lhs, rhs)), strict=True)
            options = {"dimension_numbers": NHWC, "precision": precision}
            return jnp.concatenate([conv(*group, window_strides, padding, **options) for group in groups], axis=-1)

        return lax.platform_dependent(lhs, rhs, cpu=one_by_one, default=general)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    strides, padding = tuple(window_strides), tuple(map(tuple, padding))
    size = tuple(
        (n + lo + hi - kernel) // stride + 1
        for n, (lo, hi), kernel, stride in zip(lhs.shape[1:3], padding, rhs.shape[:2], strides, strict=True)
    )
    if min(size) <= 0 or not all(0 <= p < k for k, pair in zip(rhs.shape, padding, strict=False) for p in pair):
        return general(lhs, rhs)
    on_cpu = _cpu_formulation(lhs.shape[3], rhs.shape[:2], strides, padding, size, precision)
    return lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=general)


def _is_plain(lhs, rhs, dilations, dimension_numbers, groups, preferred_element_type) -> bool:
    """Whether it is of float32 images or sequences, channels last, undilated and in few groups."""
    return (
        lhs.ndim in LAYOUTS
        and lhs.dtype == rhs.dtype == jnp.float32
        and preferred_element_type in (None, jnp.float32)
        and all(d == 1 for d in dilations)
        and groups[0] <= MAX_GROUPS
        and groups[1] == 1
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        == lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUTS[lhs.ndim])
    )


def _cpu_formulation(c_in, window, strides, padding, size, precision) -> Callable:
    """(image, kernel) -> image of this size, by the way that is fastest on the CPU."""
    tile = max((d for d in range(2, MAX_TILE + 1) if size[1] % d == 0), default=0)
    if c_in <= MAX_INPUT_CHANNELS and tile:
        return lambda image, kernel: _conv_by_tiles(image, kernel, strides, padding, size, tile, precision)
    if window == (1, 1) and not any(p for pair in padding for p in pair):
        return lambda image, kernel: jnp.dot(image[:, :: strides[0], :: strides[1]], kernel[0, 0], precision=precision)
    return lambda image, kernel: _conv(image, kernel, strides, padding, precision)


def _conv_forward(image, kernel, strides, padding, precision):
    out = lax.conv_general_dilated(
        image, kernel, strides, padding, dimension_numbers=NHWC, precision=precision
    )  # fmt: skip
    return out, (image, kernel)


_conv = jax.custom_vjp(lambda *args: _conv_forward(*args)[0], nondiff_argnums=(2, 3, 4))


def _conv_backward(strides, padding, precision, saved, gradient):
    image, kernel = saved
    return (
        _image_gradient(gradient, kernel, image.shape[1:3], strides, padding, precision),
        _kernel_gradient(image, gradient, kernel.shape, strides, padding, precision),
    )


_conv.defvjp(_conv_forward, _conv_backward)


def _image_gradient(gradient, kernel, size, strides, padding, precision):
    """One convolution of stride 1, whose channels are the `strides` phases of the image."""
    (rows, before, after), (columns, left, right) = (
        _phases(k, stride, low, n, out)
        for k, stride, (low, _), n, out in zip(
            kernel.shape[:2], strides, padding, size, gradient.shape[1:3], strict=True
        )
    )
    c_in, c_out = kernel.shape[2:]
    # Taps that a phase does not have point at the zeros behind the kernel.
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))[rows[:, :, None, None], columns[None, None]]
    kernel = kernel.transpose(0, 2, 5, 1, 3, 4).reshape(len(rows), len(columns), c_out, -1)
    out = lax.conv_general_dilated(
        gradient, kernel, (1, 1), ((before, after), (left, right)),
        dimension_numbers=NHWC, precision=precision,
    )  # fmt: skip
    batch, height, width = out.shape[:3]
    out = out.reshape(batch, height, width, *strides, c_in).transpose(0, 1, 3, 2, 4, 5)
    return out.reshape(batch, height * strides[0], width * strides[1], c_in)[:, : size[0], : size[1]]


def _phases(kernel: int, stride: int, low: int, size: int, out: int):
    """Of one axis: (taps [offset, phase], padding before, padding after).

    Pixel `u * stride + phase` meets the output `u + offset` through tap `phase + low - offset * stride`.
    """
    first, last = -((kernel - 1 - low) // stride), (stride - 1 + low) // stride
    offsets, phases = np.arange(first, last + 1)[:, None], np.arange(stride)
    taps = phases + low - offsets * stride
    taps = np.where((taps >= 0) & (taps < kernel), taps, kernel)
    return taps, -first, -(-size // stride) + last - out


def _kernel_gradient(image, gradient, shape, strides, padding, precision):
    """The sum over pieces of the batch of: the image convolved with the gradient, batch and channels exchanged.

    Cut into pieces because XLA would fuse what made the image into one exchange of its axes over the whole batch, and
    crawl through memory.
    """
    kh, kw, c_in, c_out = shape
    batch, height, width, _ = gradient.shape
    if image.shape[1] == kh == 1:  # sequences
        return _row_kernel_gradient(image[:, 0], gradient[:, 0], kw, strides[1], padding[1], precision)
    needed = [(n - 1) * stride + k for n, stride, k in zip((height, width), strides, (kh, kw), strict=True)]
    padding = [(low, n - low - size, 0) for n, (low, _), size in zip(needed, padding, image.shape[1:3], strict=True)]
    image = lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *padding, (0, 0, 0)])

    rows = _largest_divisor(height, max(STRIP_BYTES // (4 * width * (c_in + c_out)), kh))
    if rows < kh:
        rows = height
    strips = height // rows
    span = (rows - 1) * strides[0] + kh
    starts = range(0, strips * rows * strides[0], rows * strides[0])
    image = jnp.stack([image[:, start : start + span] for start in starts], axis=1)
    pieces = batch * strips // (_largest_divisor(batch * strips, PIECE))
    if pieces * PIECE > 2 * batch * strips:  # few and large, rather than many of a single image
        pieces = 1

    def cut(x, *axes):
        return x.reshape(pieces, batch * strips // pieces, *axes, x.shape[-1])

    def add(total, piece):
        image, gradient = piece
        found = lax.conv_general_dilated(
            image.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), (1, 1), "VALID",
            rhs_dilation=strides, dimension_numbers=NHWC, precision=precision,
        )  # fmt: skip
        return total + found, None

    images, gradients = cut(image, span, needed[1]), cut(gradient, rows, width)
    total = jnp.zeros((c_in, kh, kw, c_out), image.dtype)
    return lax.scan(add, total, (images, gradients))[0].transpose(1, 2, 0, 3)


def _row_kernel_gradient(image, gradient, kw, stride, padding, precision):
    """That of a convolution along one axis, [B, T, C]: one product of what the outputs see and the gradient."""
    image = jnp.pad(image, ((0, 0), padding, (0, 0)))
    reach = (gradient.shape[1] - 1) * stride + 1
    seen = jnp.concatenate([image[:, i : i + reach : stride] for i in range(kw)], axis=-1)
    flat = [x.reshape(-1, x.shape[-1]) for x in (seen, gradient)]
    return jnp.matmul(flat[0].T, flat[1], precision=precision).reshape(1, kw, image.shape[2], -1)


def _largest_divisor(n: int, limit: int) -> int:
    return max(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def _conv_by_tiles(image, kernel, strides, padding, size, tile, precision):
    """NHWC convolution: (every input window) @ (a banded copy of the kernel).

    A window is what `tile` neighbouring outputs of one output row see: `kh` rows of `span` columns. `tile=1` would be
    im2col, whose long thin product wastes memory traffic; a whole row would waste arithmetic on the zeros of the band.
    """
    image = jnp.pad(image, ((0, 0), *padding, (0, 0)))
    batch, (kh, kw, c_in, c_out), (down, across), (height, width) = image.shape[0], kernel.shape, strides, size
    span = (tile - 1) * across + kw

    # band[i, t, x] = kernel[i, x - t * across]. Writing the zero-padded kernel `tile` times and re-cutting it into
    # shorter rows shifts each copy by `across`.
    longer = span + across
    band = jnp.pad(kernel, ((0, 0), (0, longer - kw), (0, 0), (0, 0)))
    band = jnp.broadcast_to(band[:, None], (kh, tile, longer, c_in, c_out))
    band = band.reshape(kh, tile * longer, c_in, c_out)[:, : tile * span]
    band = band.reshape(kh, tile, span, c_in, c_out).transpose(0, 2, 3, 1, 4)
    band = band.reshape(kh * span * c_in, tile * c_out)

    starts = range(0, width * across, tile * across)
    windows = jnp.stack([image[:, :, x : x + span] for x in starts], axis=2)
    windows = windows.reshape(batch, image.shape[1], len(starts), span * c_in)
    last = (height - 1) * down + 1
    windows = jnp.concatenate([windows[:, i : i + last : down] for i in range(kh)], axis=-1)

    out = jnp.dot(windows.reshape(-1, windows.shape[-1]), band, precision=precision)
    return out.reshape(batch, height, width, c_out)


# `nn.Conv` with this convolution: the same parameters, the same numbers to rounding.
Conv = functools.partial(nn.Conv, conv_general_dilated=conv)


def max_pool(x, window, strides=None, padding="VALID"):
    """`flax.linen.max_pool`; ties send the gradient to the first maximum, as there."""
    return _pool(nn.max_pool, _block_max, x, window, strides, padding)


def avg_pool(x, window, strides=None, padding="VALID"):
    """`flax.linen.avg_pool`."""
    return _pool(nn.avg_pool, lambda blocks: blocks.mean((2, 4)), x, window, strides, padding)


def _pool(general, reduce_blocks, x, window, strides, padding):
    window = tuple(window)
    strides = tuple(strides or (1,) * len(window))
    if x.ndim != 4 or len(window) != 2 or window != strides or padding != "VALID":
        return general(x, window, strides, padding)

    def blockwise(x):
        (batch, height, width, channels), (kh, kw) = x.shape, window
        rows, columns = height // kh, width // kw
        x = x[:, : rows * kh, : columns * kw]  # VALID drops what fills no window
        return reduce_blocks(x.reshape(batch, rows, kh, columns, kw, channels))

    return lax.platform_dependent(x, cpu=blockwise, default=lambda x: general(x, window, strides, padding))


@jax.custom_jvp
def _block_max(blocks):
    return blocks.max((2, 4))


@_block_max.defjvp
def _block_max_jvp(primals, tangents):
    (blocks,), (tangent,) = primals, tangents
    top = blocks.max((2, 4), keepdims=True)
    kh, kw = blocks.shape[2], blocks.shape[4]
    place = jnp.arange(kh * kw).reshape(1, 1, kh, 1, kw, 1)
    first = jnp.where(blocks == top, place, kh * kw).min((2, 4), keepdims=True)
    return top[:, :, 0, :, 0], jnp.where(place == first, tangent, 0).sum((2, 4))
