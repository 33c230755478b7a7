"""Residual networks (He et al. 2015, "Deep residual learning for image recognition", arXiv:1512.03385).

| model | parameters | model | parameters | model | parameters |
|---|--:|---|--:|---|--:|
| resnet18 | 11,689,512 | resnetv2_18 | 11,687,720 | resnet20_cifar | 269,722 |
| resnet34 | 21,797,672 | resnetv2_34 | 21,795,880 | resnet32_cifar | 464,154 |
| resnet50 | 25,557,032 | resnetv2_50 | 25,549,352 | resnet44_cifar | 658,586 |
| resnet101 | 44,549,160 | resnetv2_101 | 44,541,480 | resnet56_cifar | 853,018 |
| resnet152 | 60,192,808 | resnetv2_152 | 60,185,128 | resnet110_cifar | 1,727,962 |
| wide_resnet50_2 | 68,883,240 | wide_resnet101_2 | 126,886,696 | | |

With 1000 classes (10 for CIFAR). The networks for ImageNet follow torchvision, and differ from the paper in one thing:
a bottleneck strides in its 3x3 convolution, not in the first 1x1 (`bottleneck_stride='1x1'` is the paper's). Those for
CIFAR are section 4.2's: published test errors 8.75, 7.51, 7.17, 6.97 and 6.43 %. `resnetv2_*` activate before each
convolution and leave the sums clean (He et al. 2016, "Identity mappings in deep residual networks", arXiv:1603.05027);
`wide_resnet*` have twice the channels inside a bottleneck (Zagoruyko & Komodakis 2016); stem 'deep' and shortcut 'D'
are from He et al. 2018, "Bag of tricks", arXiv:1812.01187, section 4. All share one module, so that `resnet18` with
stem '3x3' is the usual ResNet-18 for 32x32 images.

The networks of keras.applications, whose weights `zoo.load_weights` takes, are these with some options: ResNet50 is
`resnet50` with bottleneck_stride='1x1', conv_bias=True and bn_eps=1.001e-5; ResNet50V2 is `resnetv2_50` with
stage_stride='last', zero_padded_pool=True and the same conv_bias and bn_eps; likewise 101 and 152.

Input: images [B, H, W, C] of any size; a map at stride s is ceil(H / s) x ceil(W / s).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from zoo.errors import UserError, lookup
from zoo.models import dropout as dropouts
from zoo.models import layers, normalization
from zoo.models.conv import max_pool
from zoo.models.layers import DTYPES, Stage
from zoo.models.normalization import EPSILON, PLAIN
from zoo.models.residual import Block, convolution, norm_of
from zoo.options import check_choices, check_least, check_rate

_CIFAR = {"width": 16, "stem": "3x3", "shortcut": "A", "num_classes": 10}

# What the networks are made of; every option can also be set on its own.
VARIANTS = {
    "resnet18": {"depths": (2, 2, 2, 2)},
    "resnet34": {"depths": (3, 4, 6, 3)},
    "resnet50": {"depths": (3, 4, 6, 3), "bottleneck": True},
    "resnet101": {"depths": (3, 4, 23, 3), "bottleneck": True},
    "resnet152": {"depths": (3, 8, 36, 3), "bottleneck": True},
    "resnetv2_18": {"depths": (2, 2, 2, 2), "preactivation": True},
    "resnetv2_34": {"depths": (3, 4, 6, 3), "preactivation": True},
    "resnetv2_50": {"depths": (3, 4, 6, 3), "bottleneck": True, "preactivation": True},
    "resnetv2_101": {"depths": (3, 4, 23, 3), "bottleneck": True, "preactivation": True},
    "resnetv2_152": {"depths": (3, 8, 36, 3), "bottleneck": True, "preactivation": True},
    "wide_resnet50_2": {"depths": (3, 4, 6, 3), "bottleneck": True, "widening": 2},
    "wide_resnet101_2": {"depths": (3, 4, 23, 3), "bottleneck": True, "widening": 2},
    "resnet20_cifar": {"depths": (3, 3, 3), **_CIFAR},
    "resnet32_cifar": {"depths": (5, 5, 5), **_CIFAR},
    "resnet44_cifar": {"depths": (7, 7, 7), **_CIFAR},
    "resnet56_cifar": {"depths": (9, 9, 9), **_CIFAR},
    "resnet110_cifar": {"depths": (18, 18, 18), **_CIFAR},
}

CHOICES = {
    "stem": ("7x7", "deep", "3x3"),
    "shortcut": ("A", "B", "D"),
    "bottleneck_stride": ("3x3", "1x1"),
    "stage_stride": ("first", "last"),
}


class ResNet(nn.Module):
    """A residual network: images [B, H, W, C] to logits [B, num_classes]. The momentum of BN is 0.9.

    Attributes, beside those of `zoo.models.layers`:
      depths: blocks in each stage; every stage after the first halves the map and doubles the width.
      bottleneck: 1x1, 3x3 and 1x1 convolutions (and 4 times the output width) instead of two 3x3.
      width: of the first stage's 3x3 convolutions.
      widening: factor on the width inside the blocks, but not on their output.
      stem: '7x7' at stride 2 and max pooling; 'deep', three 3x3 in place of the 7x7; '3x3' at stride 1 without pooling.
      stem_width: output channels of the stem; None is `width`.
      shortcut: where the shape changes, 'A' subsamples and pads with zero channels (as many before as after), 'B' is a
        strided 1x1 convolution, 'D' average pooling and then a 1x1 convolution.
      bottleneck_stride: the convolution of a bottleneck that strides, '3x3' or '1x1'.
      stage_stride: the map is halved by the 'first' block of every stage after the first one, or by the 'last' block of
        every stage before the last one, whose shortcut then is every second pixel (as in Keras's V2).
      zero_padded_pool: the stem's max pooling sees zeros beyond the border, as in Keras, in place of nothing.
      conv_bias: convolutions have biases; with preactivation, those alone that no BN of their block follows.
      bn_eps: added to every variance, whatever the norm.
      preactivation: BN and ReLU before each convolution instead of after it; a projection sees the activated input.
      zero_init: every block starts as its shortcut: a zero scale in the last BN, or, with preactivation (where the BN
        is not last and its ReLU would never wake up), a zero kernel in the last convolution.
      stochastic_depth: rate of dropping the last block's residual in training, rising linearly from 0 at the stem
        (Huang et al. 2016, arXiv:1603.09382, section 3); what stays is scaled up, so evaluation needs no factor.
      block_dropout: rate before the last convolution of every block (Zagoruyko & Komodakis 2016, section 2.4).
      dropout_kind: what it drops, a name of `zoo.models.dropout`.
      norm: in place of BN, a name of `zoo.models.normalization`.
      weight_standardization: of all convolutions' kernels, customary with norm 'group' (Qiao et al. 2019).
    """

    depths: Sequence[int]
    num_classes: int = 1000
    bottleneck: bool = False
    width: int = 64
    widening: int = 1
    stem: str = "7x7"
    stem_width: int | None = None
    shortcut: str = "B"
    bottleneck_stride: str = "3x3"
    stage_stride: str = "first"
    zero_padded_pool: bool = False
    conv_bias: bool = False
    bn_eps: float = EPSILON
    preactivation: bool = False
    zero_init: bool = False
    stochastic_depth: float = 0.0
    block_dropout: float = 0.0
    dropout_kind: str = "unit"
    norm: str = "batch"
    weight_standardization: bool = False
    in_channels: int | None = None
    features_only: bool = False
    global_pool: str = "avg"
    dropout: float = 0.0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        layers.check_image_options("resnet", self)
        check_rate("resnet", stochastic_depth=self.stochastic_depth, block_dropout=self.block_dropout)
        dropouts.check("resnet", self.dropout_kind, self.block_dropout)
        normalization.check("resnet", self.norm, weight_standardization=self.weight_standardization)
        if self.zero_init and self.norm in PLAIN and not self.preactivation:
            raise UserError(f"resnet: zero_init zeroes the scale of the last norm, and norm {self.norm!r} has no scale")
        if not self.depths or min(self.depths) < 1:
            raise UserError(f"resnet: depths is {tuple(self.depths)}; every stage needs at least 1 block")
        check_least("resnet", self, width=1, widening=1, stem_width=1)
        check_choices("resnet", self, **CHOICES)
        if not self.bn_eps > 0:
            raise UserError(f"resnet: bn_eps is {self.bn_eps}; it must be more than 0")
        if self.bn_eps != EPSILON and self.norm in PLAIN:
            raise UserError(f"resnet: bn_eps is {self.bn_eps}, but norm {self.norm!r} has no variance; leave it out")
        if self.zero_padded_pool and self.stem == "3x3":
            raise UserError("resnet: zero_padded_pool is set, but stem '3x3' has no pooling; leave it out")
        if self.bottleneck_stride == "1x1" and not self.bottleneck:
            raise UserError("resnet: bottleneck_stride is '1x1', but the blocks are not bottlenecks; leave it out")
        if self.shortcut == "A" and self.stages[0].width > self.stages[1].width:
            raise UserError(
                f"resnet: shortcut 'A' cannot take the stem's {self.stages[0].width} channels to "
                f"{self.stages[1].width}; use 'B', or a smaller stem_width"
            )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stem before its pooling, then each of `depths`."""
        stem, first = (1, 1) if self.stem == "3x3" else (2, 4)
        wide = self.width * (4 if self.bottleneck else 1)
        last = len(self.depths) - 1
        ends = [min(i + (self.stage_stride == "last"), last) for i in range(len(self.depths))]
        blocks = (Stage(first * 2**end, wide * 2**i) for i, end in enumerate(ends))
        return (Stage(stem, self.stem_width or self.width), *blocks)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        layers.check_images("resnet", x, self.in_channels)
        x = self._stem(x.astype(DTYPES[self.dtype]))
        maps = [x]
        if self.stem != "3x3":
            border = (1, 1)
            if self.zero_padded_pool:
                x, border = jnp.pad(x, ((0, 0), border, border, (0, 0))), (0, 0)
            x = max_pool(x, (3, 3), (2, 2), (border, border))
        block, done = nn.remat(Block) if self.remat else Block, 0
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                done += 1
                if self.stage_stride == "first":
                    strides = i > 0 and j == 0
                else:
                    strides = i < len(self.depths) - 1 and j == depth - 1
                subsamples = strides and j > 0  # without another width there is nothing to project
                x = block(
                    convs=self._convs(self.width * 2**i, stride=2 if strides else 1),
                    shortcut="A" if subsamples else self.shortcut,
                    conv_bias=self.conv_bias,
                    bn_eps=self.bn_eps,
                    preactivation=self.preactivation,
                    zero_init=self.zero_init,
                    stochastic_depth=self.stochastic_depth * done / sum(self.depths),
                    dropout=self.block_dropout,
                    dropout_kind=self.dropout_kind,
                    norm=self.norm,
                    weight_standardization=self.weight_standardization,
                    dtype=self.dtype,
                    train=train,
                    name=f"layer{i + 1}_{j}",
                )(x)
            maps.append(x)
        if self.preactivation:  # the last sum has no follower that would activate it
            maps[-1] = x = nn.relu(norm_of(self, x, name="norm"))
        if self.features_only:
            return maps
        return layers.head(
            x,
            num_classes=self.num_classes,
            global_pool=self.global_pool,
            dropout=self.dropout,
            dtype=self.dtype,
            train=train,
        )

    def _stem(self, x):
        width = self.stages[0].width
        if self.stem == "deep":
            half = max(width // 2, 1)
            convs = (("stem1", half, 3, 2), ("stem2", half, 3, 1), ("stem3", width, 3, 1))
        else:
            size = 3 if self.stem == "3x3" else 7
            convs = (("stem", width, size, self.stages[0].stride),)
        for i, (name, features, size, stride) in enumerate(convs, start=1):
            normed = i < len(convs) or not self.preactivation  # else the first block activates its input itself
            bias = self.conv_bias and (not normed or not self.preactivation)
            x = convolution(x, features, size, stride, model=self, bias=bias, name=name)
            if normed:
                x = nn.relu(norm_of(self, x, name=name.replace("stem", "stem_norm")))
        return x

    def _convs(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        """(features, kernel size, stride) of a block's convolutions."""
        inner = width * self.widening
        if not self.bottleneck:
            return (inner, 3, stride), (width, 3, 1)
        first, second = (stride, 1) if self.bottleneck_stride == "1x1" else (1, stride)
        return (inner, 1, first), (inner, 3, second), (4 * width, 1, 1)


def make(variant: str, **options) -> ResNet:
    """The residual network called `variant` in `VARIANTS`; further options are those of `ResNet`."""
    return ResNet(**lookup("resnet variant", variant, VARIANTS) | options)
