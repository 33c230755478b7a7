"""AlexNet: five convolutions and three dense layers (Krizhevsky et al. 2012, "ImageNet classification with deep
convolutional neural networks").

| variant | parameters, 1000 classes | what it is |
|---|--:|---|
| 2014 | 61,100,840 | one tower (Krizhevsky 2014, "One weird trick", arXiv:1404.5997), as in torchvision |
| 2012 | 60,965,224 | 96-256-384-384-256 channels in two groups, response normalization, the paper's initial weights |

2012 by the paper's section 3.5: conv1 34,944; conv2 (of 48 channels per kernel) 307,456; conv3 885,120; conv4 (of 192)
663,936; conv5 (of 192) 442,624; dense1 37,752,832; dense2 16,781,312; head 4,097,000. Where the paper has two GPUs, its
groups are those of a grouped convolution. The paper's images of 224x224 give its 55x55 maps with a padding of 2 in
conv1. Published top-1 error of one network on ILSVRC-2010: 37.5 %, on the validation set of 2012: 40.7 %.

Input: images [B, H, W, C] of at least 63x63; the last maps are pooled to 6x6 as torchvision does, so that the dense
layers fit any size (for 224x224 they are 6x6 already).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from zoo import initializers
from zoo.errors import UserError, lookup
from zoo.models import layers
from zoo.models.conv import Conv, max_pool
from zoo.models.layers import DTYPES, POOLS, Stage
from zoo.models.local_response_norm import REGIONS, local_response_norm
from zoo.options import check_choices, check_least

# What the two networks are made of; every option can also be set on its own.
VARIANTS = {
    "2014": {"widths": (64, 192, 384, 256, 256)},
    "2012": {
        "widths": (96, 256, 384, 384, 256),
        "groups": 2,
        "response_norm": "across",
        "kernel_init": "normal",
        "bias_init": "ones",
    },
}
KERNELS = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # size, stride, padding
GROUPED = (2, 4, 5)  # conv3 and the dense layers see both groups
POOLED = (1, 2, 5)  # 3x3 at stride 2, overlapping
SMALLEST = 63  # 15, 7, 3 and 1 pixels after conv1 and the three poolings
GRID = 6


class AlexNet(nn.Module):
    """AlexNet: images [B, H, W, C] to logits [B, num_classes].

    Attributes, beside those of `zoo.models.layers`:
      widths: channels of the five convolutions.
      hidden: width of the two hidden dense layers; num_classes 0 returns the second one's features.
      groups: of conv2, conv4 and conv5.
      response_norm: after conv1 and conv2, 'none', 'across' channels (the paper) or 'within' a channel.
      kernel_init: a name of `zoo.initializers`; 'normal' is the paper's, of standard deviation 0.01.
      bias_init: of conv2, conv4, conv5 and the hidden dense layers, ones in the paper (section 5); 0 elsewhere.
      global_pool: how the last maps become 6x6, where they are not.
      dropout: rate on the outputs of both hidden dense layers (section 4.2); torchvision drops their inputs instead.
      remat: the blocks are the convolutions with their normalization and pooling.
    """

    widths: Sequence[int]
    num_classes: int = 1000
    hidden: int = 4096
    groups: int = 1
    response_norm: str = "none"
    kernel_init: str | float = "he_normal"
    bias_init: str | float = "zeros"
    in_channels: int | None = None
    features_only: bool = False
    global_pool: str = "avg"
    dropout: float = 0.5
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        layers.check_image_options("alexnet", self)
        initializers.get(self.kernel_init)
        initializers.get_bias(self.bias_init)
        if len(self.widths) != 5 or min(self.widths) < 1:
            raise UserError(f"alexnet: widths is {tuple(self.widths)}; it must be the channels of 5 convolutions")
        if self.groups < 1 or any(width % self.groups for width in self.widths):
            raise UserError(f"alexnet: groups is {self.groups}; it must divide the widths {tuple(self.widths)}")
        check_least("alexnet", self, hidden=1)
        check_choices("alexnet", self, response_norm=("none", *REGIONS))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """conv1, conv2 and conv5, before their pooling; VALID pooling drops a rest, so a map is at most H / stride."""
        return tuple(Stage(4 * 2**i, self.widths[number - 1]) for i, number in enumerate(POOLED))

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        layers.check_images("alexnet", x, self.in_channels, SMALLEST)
        block = nn.remat(AlexNet._convolution, static_argnums=(2,)) if self.remat else AlexNet._convolution
        x, maps = x.astype(DTYPES[self.dtype]), []
        for number in range(1, 6):
            x = block(self, x, number)
            if number in POOLED:
                maps.append(x)
                if not (self.features_only and number == 5):
                    x = max_pool(x, (3, 3), (2, 2))
        if self.features_only:
            return maps
        x = adaptive_pool(x, GRID, POOLS[self.global_pool])
        x = x.reshape(x.shape[0], -1)
        options = {"dtype": DTYPES[self.dtype], "kernel_init": initializers.get(self.kernel_init)}
        bias_init = initializers.get_bias(self.bias_init)
        for i in (1, 2):
            x = nn.relu(nn.Dense(self.hidden, bias_init=bias_init, name=f"dense{i}", **options)(x))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
        if not self.num_classes:
            return x
        return nn.Dense(self.num_classes, name="head", **options)(x).astype(jnp.float32)

    def _convolution(self, x, number: int):
        size, stride, padding = KERNELS[number - 1]
        x = Conv(
            self.widths[number - 1],
            (size, size),
            (stride, stride),
            ((padding, padding), (padding, padding)),
            feature_group_count=self.groups if number in GROUPED else 1,
            dtype=DTYPES[self.dtype],
            kernel_init=initializers.get(self.kernel_init),
            bias_init=initializers.get_bias(self.bias_init if number in GROUPED else "zeros"),
            name=f"conv{number}",
        )(x)
        x = nn.relu(x)
        if number in (1, 2) and self.response_norm != "none":
            x = local_response_norm(x, region=self.response_norm)
        return x


def adaptive_pool(x, grid: int, reduce):
    """[B, H, W, C] to [B, grid, grid, C]: cell i is reduced over rows floor(i H / grid) to ceil((i + 1) H / grid)."""
    for axis in (1, 2):
        size = x.shape[axis]
        if size == grid:
            continue
        cells = ((i * size // grid, -(-(i + 1) * size // grid)) for i in range(grid))
        index = (slice(None),) * axis
        x = jnp.stack([reduce(x[(*index, slice(*cell))], axis=axis) for cell in cells], axis=axis)
    return x


def make(variant: str = "2014", **options) -> AlexNet:
    """AlexNet in one of `VARIANTS`, '2014' or '2012'; further options are those of `AlexNet`."""
    return AlexNet(**lookup("alexnet variant", variant, VARIANTS) | options)
