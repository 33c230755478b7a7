"""Array transforms of import rules, each paired with its inverse for exports: (theirs -> ours, ours -> theirs).

A function of several arrays takes all that its rule names; its inverse takes our array and those that other rules name
too, and gives the first one, or a tuple of all.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Pair = tuple[Callable, Callable | None]  # None: an export cannot be made


def same(x):
    return x


def torch_kernel(w):
    """[out, in] to [in, out], or [out, in, H, W] to [H, W, in, out]."""
    return np.moveaxis(w, (0, 1), (-1, -2)) if w.ndim > 1 else w


def to_torch_kernel(kernel):
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def torch_up_kernel(w):
    """ConvTranspose2d's [in, out, H, W] to `UpConv`'s [H, W, in, out], rotated by 180 degrees as in flax."""
    return w.transpose(2, 3, 0, 1)[::-1, ::-1]


def to_torch_up_kernel(kernel):
    return kernel[::-1, ::-1].transpose(2, 3, 0, 1)


def torch_kernel_1x1(w):
    """A 1x1 convolution [out, in, 1, 1] as a dense kernel [in, out]."""
    return w[:, :, 0, 0].T


def to_torch_kernel_1x1(kernel):
    return kernel.T[:, :, None, None]


def torch_kernel_after_flatten(w, bias):
    """[out, C H W] to [H W C, out]; `bias` is that of the last convolution, which has C channels; H = W."""
    side = math.isqrt(w.shape[1] // bias.size)
    return _from_chw(w, (side, side, bias.size))


def to_torch_kernel_after_flatten(kernel, bias):
    side = math.isqrt(len(kernel) // bias.size)
    return _to_chw(kernel, (side, side, bias.size))


def torch_kernel_of_image(shape: Sequence[int]) -> Pair:
    """The first dense layer over flattened images of `shape`, [H, W, C]."""

    def torch_kernel_of_image(w):
        return _from_chw(w, shape)

    return torch_kernel_of_image, lambda kernel: _to_chw(kernel, shape)


def _from_chw(w, shape):
    height, width, channels = shape
    if height * width * channels != w.shape[1]:
        return torch_kernel(w)  # of another shape than the model's, which is told
    return w.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


def _to_chw(kernel, shape):
    return kernel.reshape(*shape, -1).transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)


def torch_kernel_skip_last(w):
    """A 3x3 kernel whose input is [up, skip], for ours of [skip, up]; there are as many skipped as output channels."""
    kernel, up = torch_kernel(w), w.shape[1] - w.shape[0]
    return np.concatenate([kernel[:, :, up:], kernel[:, :, :up]], axis=2)


def to_torch_kernel_skip_last(kernel):
    skip = kernel.shape[3]
    return to_torch_kernel(np.concatenate([kernel[:, :, skip:], kernel[:, :, :skip]], axis=2))


def theano_kernel(w):
    """[out, in, H, W] of a true convolution, whose kernels are rotated by 180 degrees, to [H, W, in, out]."""
    return torch_kernel(w[:, :, ::-1, ::-1])


def to_theano_kernel(kernel):
    return to_torch_kernel(kernel)[:, :, ::-1, ::-1]


def theano_kernel_skip_last(w):
    return torch_kernel_skip_last(w[:, :, ::-1, ::-1])


def to_theano_kernel_skip_last(kernel):
    return to_torch_kernel_skip_last(kernel)[:, :, ::-1, ::-1]


def torch_bias_sum(input_bias, recurrent_bias):
    """PyTorch's two biases of a gate as one, where nothing stands between them (LSTM and tanh RNN)."""
    return input_bias + recurrent_bias


def to_torch_bias_sum(bias):
    return bias, np.zeros_like(bias)


def tied(embedding, kernel):
    """An embedding [V, D] that is also the kernel of the head: both must be the same."""
    if not np.array_equal(embedding, kernel):
        raise ValueError("the embedding and the kernel of the head differ, the model ties them")
    return embedding


def _ifgo(gates):
    """TensorFlow's i, j, f, o in our order: input, forget, cell (j), output."""
    i, j, f, o = np.split(gates, 4, axis=-1)
    return np.concatenate([i, f, j, o], axis=-1)


def tensorflow_input_kernel(w):
    """BasicLSTMCell's [D + H, 4 H], the rows of the input."""
    return _ifgo(w[: -(w.shape[1] // 4)])


def tensorflow_recurrent_kernel(w):
    """BasicLSTMCell's [D + H, 4 H], the rows of the state."""
    return _ifgo(w[-(w.shape[1] // 4) :])


def tensorflow_bias(b):
    """BasicLSTMCell's bias, with the 1 that it adds to that of the forget gate when it runs."""
    width = len(b) // 4
    return _ifgo(b) + (np.arange(len(b)) // width == 1).astype(b.dtype)


SAME: Pair = same, same
TORCH: Pair = torch_kernel, to_torch_kernel
TORCH_UP: Pair = torch_up_kernel, to_torch_up_kernel
TORCH_1X1: Pair = torch_kernel_1x1, to_torch_kernel_1x1
TORCH_FLATTENED: Pair = torch_kernel_after_flatten, to_torch_kernel_after_flatten
TORCH_SKIP_LAST: Pair = torch_kernel_skip_last, to_torch_kernel_skip_last
TORCH_BIASES: Pair = torch_bias_sum, to_torch_bias_sum
THEANO: Pair = theano_kernel, to_theano_kernel
THEANO_SKIP_LAST: Pair = theano_kernel_skip_last, to_theano_kernel_skip_last
TIED: Pair = tied, lambda embedding: (embedding, embedding)
