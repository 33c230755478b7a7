"""U-Net (Ronneberger et al. 2015, "U-Net: Convolutional networks for biomedical image segmentation", arXiv:1505.04597).

| model | input -> output | parameters |
|---|---|--:|
| unet, variant '2015', 1 channel, 2 classes | 572x572 -> 388x388 | 31,030,658 |
| unet, variant 'same', 3 channels, 1 class | any size -> the same | 31,037,633 |
| unet_resnet18 / 34 / 50, 3 channels, 1 class | any size -> the same | 14,328,081 / 24,436,241 / 32,520,977 |

'2015' is the paper's network (figure 1). 'same' is what people train today: padded convolutions and batch
normalization, as in milesial/Pytorch-UNet. `unet_resnet*` have a residual network as contracting path, by option any
of the zoo's, whose parameters lie below `encoder` and take the weights of that network as they are.

An up-convolution (`up`) doubles the map and halves the channels, see `zoo.models.upsampling`: by 'transpose' as in the
authors' released network, or by 'resize', the paper's words. Both have the same parameters. 'nearest' has none: every
pixel becomes four, with all channels (orobix/retina-unet and many U-Nets in Keras).

Deviation: the dropout "at the end of the contracting path" (rate not stated) is an option, off by default.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from zoo import activations
from zoo.errors import UserError, lookup
from zoo.models import encoders, normalization, resnet
from zoo.models.conv import Conv, max_pool
from zoo.models.layers import DTYPES, Stage, check_image_options, check_images
from zoo.models.normalization import PLAIN, normalized
from zoo.models.upsampling import UpConv, doubled
from zoo.options import check_choices, check_least

# What the networks are made of; every option can also be set on its own.
VARIANTS = {
    "same": {},
    "2015": {"padding": "valid", "norm": "none", "up": "transpose"},
}
RESNET_VARIANTS = {f"unet_{name}": {"encoder_name": name} for name in ("resnet18", "resnet34", "resnet50")}

CHOICES = {"padding": ("same", "valid"), "up": ("resize", "transpose", "nearest")}
he_normal = nn.initializers.he_normal()  # N(0, 2 / inputs of a unit), section 3


class UNet(nn.Module):
    """U-Net: images [B, H, W, C] to logits [B, H, W, num_classes].

    With padding 'valid' the logits are smaller, for the centre of the image, and only some sizes fit. With 'same',
    sizes that are no multiple of 2**depth are filled up with zeros below and to the right, and the output is cut again.
    BN: epsilon 1e-5, momentum 0.9 (0.1 in PyTorch's terms).

    Attributes, beside `in_channels`, `dtype` and `remat` of `zoo.models.layers`:
      num_classes: channels of the logits; 0 returns the last feature map before the head.
      width: channels at the full resolution; each pooling doubles them.
      depth: number of poolings.
      padding: 'same', or 'valid' convolutions, which lose a pixel on each side.
      up: 'resize', 'transpose' or 'nearest', see above.
      norm: after each 3x3 convolution, which then has no bias: a name of `zoo.models.normalization`.
      activation: a name of `zoo.activations`.
      head_activation: of the logits, likewise; 'linear' leaves them as they are.
      dropout: rate at the end of the contracting path: after its last pooled stage, and after the bottom.
      features_only: return the maps of the expanding path, `model.stages`, the finest first.
    """

    num_classes: int = 2
    width: int = 64
    depth: int = 4
    padding: str = "same"
    up: str = "resize"
    norm: str = "batch"
    activation: str = "relu"
    head_activation: str = "linear"
    dropout: float = 0.0
    in_channels: int | None = None
    features_only: bool = False
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        _check("unet", self)
        activations.get(self.head_activation)
        check_choices("unet", self, **CHOICES)
        normalization.check("unet", self.norm)
        check_least("unet", self, depth=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the expanding path, the finest first."""
        return tuple(Stage(2**i, self.width * 2**i) for i in range(self.depth))

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        size, multiple = x.shape[1:3], 2**self.depth
        if self.padding == "same":
            check_images("unet", x, self.in_channels, smallest=multiple)
            x = _filled_up(x, multiple)
        else:
            check_images("unet", x, self.in_channels)
            for side in size:
                _check_valid(self, side)
        options = {k: getattr(self, k) for k in ("padding", "norm", "activation", "dtype")}
        block = functools.partial(nn.remat(Block) if self.remat else Block, **options)
        x, skips, maps = x.astype(DTYPES[self.dtype]), [], []
        for i, stage in enumerate(self.stages):
            x = block(stage.width, name=f"down{i}")(x)
            if i == self.depth - 1:
                x = nn.Dropout(self.dropout, deterministic=not train, name="down_dropout")(x)
            skips.append(x)
            x = max_pool(x, (2, 2), (2, 2))
        x = block(self.width * multiple, name="bottom")(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name="bottom_dropout")(x)
        for i, stage in reversed(list(enumerate(self.stages))):
            x = block(stage.width, up_by=self.up, name=f"up{i}")(x, skips[i])
            maps.insert(0, x)
        if self.padding == "same":
            maps = _cut(maps, size, self.stages)
        if self.features_only:
            return maps
        x = _head(maps[0], self.num_classes, self.dtype)
        return activations.get(self.head_activation)(x) if self.num_classes else x


class UNetResNet(nn.Module):
    """A residual network as contracting path: images [B, H, W, C] to logits [B, H, W, num_classes].

    Every stage of the encoder is a skip connection, its stem before the max pooling included; at resolutions that the
    encoder does not have (the full one) there is none. Each expanding stage is a bilinear resize to twice the size and
    two 3x3 convolutions with BN. Any size: filled up with zeros below and to the right, and the output cut again.

    Attributes, beside `in_channels`, `dtype` and `remat` of `zoo.models.layers`:
      encoder_name: a residual network of the zoo.
      encoder_options: what it has other than its variant, a dict or pairs such as (('norm', 'group:8'),).
      num_classes: channels of the logits; 0 returns the last feature map before the head.
      width: channels of the expanding path at the full resolution; doubled at each stage below.
      activation: of the expanding path, a name of `zoo.activations`.
      dropout: rate after the encoder.
      features_only: return the maps of the expanding path, `model.stages`, the finest first.
    """

    encoder_name: str = "resnet18"
    encoder_options: object = ()
    num_classes: int = 2
    width: int = 16
    activation: str = "relu"
    dropout: float = 0.0
    in_channels: int | None = None
    features_only: bool = False
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        self.encoder_options = encoders.pairs("unet_resnet: encoder_options", self.encoder_options)
        super().__post_init__()
        _check("unet_resnet", self)
        if not self.stages:
            raise UserError(f"unet_resnet: encoder {self.encoder_name} never halves the map")

    def make_encoder(self, **placement) -> resnet.ResNet:
        """The contracting path, whose weights are those of a residual network on its own."""
        make = lookup("resnet variant", self.encoder_name, encoders.ENCODERS)
        options = {"features_only": True, "dtype": self.dtype, "remat": self.remat, **dict(self.encoder_options)}
        return make(self.encoder_name, **options, **placement)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the expanding path, the finest first."""
        poolings = self.make_encoder(parent=None).stages[-1].stride.bit_length() - 1
        return tuple(Stage(2**i, self.width * 2**i) for i in range(poolings))

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        stages, size = self.stages, x.shape[1:3]
        multiple = 2 * stages[-1].stride
        check_images("unet_resnet", x, self.in_channels, smallest=multiple)
        encoder = self.make_encoder(name="encoder")
        skips = encoder(_filled_up(x, multiple), train=train)
        skip_at = {stage.stride: skip for stage, skip in zip(encoder.stages, skips, strict=True)}
        x, maps = nn.Dropout(self.dropout, deterministic=not train, name="bottom_dropout")(skips[-1]), []
        block = functools.partial(nn.remat(Block) if self.remat else Block, activation=self.activation)
        for i, stage in reversed(list(enumerate(stages))):
            x = block(stage.width, dtype=self.dtype, name=f"up{i}")(doubled(x), skip_at.get(stage.stride))
            maps.insert(0, x)
        maps = _cut(maps, size, stages)
        return maps if self.features_only else _head(maps[0], self.num_classes, self.dtype)


class Block(nn.Module):
    """Two 3x3 convolutions, after the up-convolution of `x` and the concatenation [skip, x] where there are such."""

    width: int
    up_by: str | None = None
    padding: str = "same"
    norm: str = "batch"
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, skip=None):
        if self.up_by == "nearest":
            x = x.repeat(2, axis=1).repeat(2, axis=2)
        elif self.up_by:
            x = UpConv(self.width, self.up_by, self.dtype, name="up")(x)
            if self.up_by == "resize" and self.padding == "valid":
                x = x[:, 1:-1, 1:-1]  # the outermost pixels look beyond the border of the map
        if skip is not None:
            top, left = ((a - b) // 2 for a, b in zip(skip.shape[1:3], x.shape[1:3], strict=True))
            x = jnp.concatenate([skip[:, top : top + x.shape[1], left : left + x.shape[2]], x], axis=-1)
        for i in (1, 2):
            x = Conv(
                self.width, (3, 3), padding=1 if self.padding == "same" else 0, use_bias=self.norm in PLAIN,
                dtype=DTYPES[self.dtype], kernel_init=he_normal, name=f"conv{i}",
            )(x)  # fmt: skip
            x = normalized(x, self.norm, dtype=self.dtype, name=f"norm{i}")
            x = activations.get(self.activation)(x)
        return x


def _filled_up(x, multiple: int):
    """Zeros below and to the right, so that the grid of the poolings starts at the first pixel."""
    return jnp.pad(x, ((0, 0), *((0, -side % multiple) for side in x.shape[1:3]), (0, 0)))


def _cut(maps, size, stages):
    return [x[:, : -(-size[0] // s.stride), : -(-size[1] // s.stride)] for x, s in zip(maps, stages, strict=True)]


def _head(x, num_classes: int, dtype: str):
    """Logits in float32, or the features themselves; call it in a compact module."""
    if not num_classes:
        return x
    return Conv(num_classes, (1, 1), padding=0, dtype=DTYPES[dtype], name="head")(x).astype(jnp.float32)


def _check(name: str, model) -> None:
    check_image_options(name, model)
    check_least(name, model, width=1)
    activations.get(model.activation)


def shrinkage(model: UNet) -> int:
    """By how many pixels the output is shorter than the input, on both sides together (even)."""
    poolings = 2**model.depth
    return 0 if model.padding == "same" else (10 if model.up == "resize" else 8) * (poolings - 1) + 4 * poolings


def _check_valid(model: UNet, side: int) -> None:
    """All maps that are pooled must have even sides, and the output at least one pixel."""
    step = 2**model.depth
    smallest = -(-(shrinkage(model) + 1 + 4) // step) * step - 4
    below = (side + 4) // step * step - 4
    if side < smallest or side != below:
        near = f"{below} and {below + step} do" if below >= smallest else f"the smallest is {smallest}"
        raise UserError(f"unet: a side of {side} pixels does not fit padding 'valid' and depth {model.depth}; {near}")


def receptive_radius(model: UNet) -> int:
    """How many pixels an output pixel sees at most to any side: the margin for which tiles have no seams.

    The worst of all places on the grid of the poolings. Depth 4: 122 with 'resize', 107 with 'transpose' and 'nearest'.
    """
    near, far = (-2, 2) if model.padding == "same" else (0, 4)  # of two 3x3 convolutions
    offset, worst = shrinkage(model) // 2, 0
    for place in range(2**model.depth):
        low = high = place
        for _ in range(model.depth):
            low, high = low + near, high + far
            if model.up == "resize":
                first = model.padding == "valid"  # whose first row was cut off
                low, high = (low + first - 1) // 2, (high + first + 1) // 2
            else:
                low, high = low // 2, high // 2
        low, high = low + near, high + far
        for _ in range(model.depth):
            low, high = 2 * low + near, 2 * high + 1 + far
        worst = max(worst, place + offset - low, high - place - offset)
    return worst


def make(variant: str = "same", **options) -> UNet:
    """U-Net in one of `VARIANTS`, 'same' or '2015'; further options are those of `UNet`."""
    return UNet(**lookup("unet variant", variant, VARIANTS) | options)


def make_resnet(variant: str, **options) -> UNetResNet:
    """The U-Net called `variant` in `RESNET_VARIANTS`; further options are those of `UNetResNet`."""
    return UNetResNet(**lookup("unet variant", variant, RESNET_VARIANTS) | options)
