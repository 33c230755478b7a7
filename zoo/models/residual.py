"""The residual block of `zoo.models.resnet`, and the layers it is made of."""

import math

import flax.linen as nn
import jax.numpy as jnp

from zoo.models.conv import Conv, avg_pool
from zoo.models.dropout import DROPOUTS, stochastic_depth
from zoo.models.layers import DTYPES
from zoo.models.normalization import PLAIN, normalized, standardized_conv

# By the fan-out, which keeps the gradient's variance over the layers, as the authors' and torchvision's networks do.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Block(nn.Module):
    """Convolutions around which a shortcut leads: [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features].

    `train` is an attribute because `nn.remat` would trace an argument; `zoo.models.resnet.ResNet` explains the others.
    """

    convs: tuple[tuple[int, int, int], ...]  # (features, kernel size, stride)
    shortcut: str
    conv_bias: bool
    bn_eps: float
    preactivation: bool
    zero_init: bool
    stochastic_depth: float
    dropout: float
    dropout_kind: str
    norm: str
    weight_standardization: bool
    dtype: str
    train: bool

    @nn.compact
    def __call__(self, x):
        features, stride = self.convs[-1][0], math.prod(stride for _, _, stride in self.convs)
        changes, project = stride > 1 or x.shape[-1] != features, self.shortcut != "A"
        y = x
        for i, (width, size, step) in enumerate(self.convs, start=1):
            last = i == len(self.convs)
            start = nn.initializers.zeros if self.zero_init and last else None
            if self.preactivation:
                y = nn.relu(norm_of(self, y, name=f"norm{i}"))
                if i == 1 and changes and project:
                    x = y
            if last:
                y = DROPOUTS[self.dropout_kind](y, self.dropout, train=self.train, name="dropout")
            kernel_init = start if start and self.preactivation else he_normal_fan_out
            bias = self.conv_bias and (last or not self.preactivation)
            y = convolution(y, width, size, step, model=self, bias=bias, name=f"conv{i}", kernel_init=kernel_init)
            if not self.preactivation:
                scale_init = start or nn.initializers.ones
                y = norm_of(self, y, scale_init=scale_init, name=f"norm{i}")
                y = y if last else nn.relu(y)
        y = stochastic_depth(y, self.stochastic_depth, train=self.train, name="stochastic_depth")
        if changes:
            x = self._projected(x, features, stride) if project else zero_padded(x, features, stride)
        return x + y if self.preactivation else nn.relu(x + y)

    def _projected(self, x, features: int, stride: int):
        if self.shortcut == "D" and stride > 1:
            x, stride = halved(x), 1
        x = convolution(x, features, 1, stride, model=self, bias=self.conv_bias, name="proj")
        return x if self.preactivation else norm_of(self, x, name="proj_norm")


def norm_of(model, x, **options):
    """The normalization that `model`, a ResNet or Block, has; call it in its compact method."""
    return normalized(x, model.norm, epsilon=model.bn_eps, dtype=model.dtype, **options)


def convolution(
    x, features: int, size: int, stride: int, *, model, name: str, bias=False, kernel_init=he_normal_fan_out
):
    """A convolution whose padding keeps the size at stride 1; call it in the compact method of `model`.

    Where the norm of `model`, a ResNet or Block, has no offset, it has a bias in any case.
    """
    pad, options = (size // 2, size // 2), {"dtype": DTYPES[model.dtype], "kernel_init": kernel_init, "name": name}
    if model.weight_standardization:
        options["conv_general_dilated"] = standardized_conv
    use_bias = bias or model.norm in PLAIN
    return Conv(features, (size, size), (stride, stride), (pad, pad), use_bias=use_bias, **options)(x)


def zero_padded(x, features: int, stride: int):
    """Shortcut A: every stride-th pixel, and zeros for the new channels, half of them before the old ones."""
    new = features - x.shape[-1]
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


def halved(x):
    """Means of 2x2 pixels, at the lower and right edge of those that exist: [B, ceil(H / 2), ceil(W / 2), C]."""
    height, width = x.shape[1:3]
    if height % 2 == width % 2 == 0:
        return avg_pool(x, (2, 2), (2, 2))
    return nn.avg_pool(x, (2, 2), (2, 2), ((0, height % 2), (0, width % 2)), count_include_pad=False)
