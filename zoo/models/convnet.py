"""Plain convolutional networks: for images (`convnet2d`), and along sequences of vectors (`convnet1d`).

Stages of convolution, activation and pooling, then global pooling and one dense layer (Goodfellow et al. 2016, "Deep
Learning", chapter 9; along time as Waibel et al. 1989, "Phoneme recognition using time-delay neural networks", and Kim
2014, arXiv:1408.5882, who takes the maximum over time: `global_pool='max'`).

Input: images [B, H, W, C], or sequences [B, T, D] of equal length (a signal, text embeddings); each axis at least
`pool_size ** len(widths)` long, or of any length with pool 'stride'.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn

from zoo import activations, initializers
from zoo.errors import UserError, lookup
from zoo.models import dropout as dropouts
from zoo.models import layers, normalization
from zoo.models.conv import Conv, avg_pool, max_pool
from zoo.models.layers import DTYPES, Stage
from zoo.models.normalization import PLAIN, normalized, standardized_conv
from zoo.options import check_choices, check_least, check_rate

VARIANTS = {"convnet1d": {"dims": 1}, "convnet2d": {"dims": 2}}
POOLS = ("max", "avg", "stride")


class ConvNet(nn.Module):
    """Images [B, H, W, C] (dims 2) or sequences [B, T, D] (dims 1) to logits [B, num_classes].

    Attributes, beside those of `zoo.models.layers` (for sequences `in_channels` is D, and a stride is one in time):
      dims: axes to convolve over, 1 or 2.
      widths: channels of each stage.
      depth: convolutions in each stage.
      kernel_size: along every axis; padding keeps the size (an even kernel reaches one further forward than back).
      pool: how a stage ends, 'max' or 'avg' over windows (what fills none is dropped); 'stride' starts it instead with
        a convolution at that stride, which keeps a rest.
      pool_size: the window, and the stride.
      activation: a name of `zoo.activations`.
      norm: after every convolution, a name of `zoo.models.normalization` ('batch': eps 1e-5, momentum 0.9).
      norm_place: 'before' or 'after' the activation; before it, the convolution has no bias of its own.
      weight_standardization: of the convolutions' kernels; needs a norm.
      block_dropout: rate after every stage.
      dropout_kind: what it drops, a name of `zoo.models.dropout`.
      kernel_init: a name of `zoo.initializers`.
    """

    dims: int
    num_classes: int = 10
    widths: Sequence[int] = (32, 64, 128)
    depth: int = 1
    kernel_size: int = 3
    pool: str = "max"
    pool_size: int = 2
    activation: str = "relu"
    norm: str = "none"
    norm_place: str = "before"
    weight_standardization: bool = False
    block_dropout: float = 0.0
    dropout_kind: str = "unit"
    kernel_init: str | float = "he_normal"
    in_channels: int | None = None
    features_only: bool = False
    global_pool: str = "avg"
    dropout: float = 0.0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.dims not in (1, 2):
            raise UserError(f"convnet: dims is {self.dims}; it must be 1 (sequences) or 2 (images)")
        layers.check_image_options(self._what, self)
        check_rate(self._what, block_dropout=self.block_dropout)
        dropouts.check(self._what, self.dropout_kind, self.block_dropout)
        activations.get(self.activation)
        initializers.get(self.kernel_init)
        if not self.widths or min(self.widths) < 1:
            raise UserError(f"{self._what}: widths is {tuple(self.widths)}; every stage needs at least 1 channel")
        check_least(self._what, self, depth=1, kernel_size=1, pool_size=1)
        check_choices(self._what, self, pool=POOLS, norm_place=("before", "after"))
        normalization.check(
            self._what, self.norm, place=self.norm_place, weight_standardization=self.weight_standardization
        )

    @property
    def _what(self) -> str:
        return f"convnet{self.dims}d"

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(Stage(self.pool_size**i, width) for i, width in enumerate(self.widths, start=1))

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        self._check(x)
        x, maps = x.astype(DTYPES[self.dtype]), []
        stage = nn.remat(ConvStage) if self.remat else ConvStage
        for i, width in enumerate(self.widths, start=1):
            x = stage(
                width=width,
                depth=self.depth,
                kernel_size=self.kernel_size,
                pool=self.pool,
                pool_size=self.pool_size,
                activation=self.activation,
                norm=self.norm,
                norm_place=self.norm_place,
                weight_standardization=self.weight_standardization,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"layer{i}",
            )(x)
            x = dropouts.DROPOUTS[self.dropout_kind](x, self.block_dropout, train=train, name=f"dropout{i}")
            maps.append(x)
        if self.features_only:
            return maps
        return layers.head(
            x if self.dims == 2 else x[:, :, None],
            num_classes=self.num_classes,
            global_pool=self.global_pool,
            dropout=self.dropout,
            dtype=self.dtype,
            train=train,
        )

    def _check(self, x):
        smallest = 1 if self.pool == "stride" else self.pool_size ** len(self.widths)
        if self.dims == 2:
            return layers.check_images(self._what, x, self.in_channels, smallest)
        if x.ndim != 3:
            raise UserError(f"{self._what}: the input has shape {x.shape}; it must be [B, T, D]")
        if self.in_channels not in (None, x.shape[2]):
            raise UserError(f"{self._what}: the vectors have {x.shape[2]} entries; the model takes {self.in_channels}")
        if x.shape[1] < smallest:
            raise UserError(f"{self._what}: the sequences have {x.shape[1]} steps; the network needs {smallest}")


class ConvStage(nn.Module):
    """Convolutions and pooling: [B, ..., C] to [B, ... / pool_size, width]. The attributes are those of `ConvNet`."""

    width: int
    depth: int
    kernel_size: int
    pool: str
    pool_size: int
    activation: str
    norm: str
    norm_place: str
    weight_standardization: bool
    kernel_init: str | float
    dtype: str

    @nn.compact
    def __call__(self, x):
        dims = x.ndim - 2
        pad = ((self.kernel_size - 1) // 2, self.kernel_size // 2)
        for i in range(1, self.depth + 1):
            stride = self.pool_size if self.pool == "stride" and i == 1 else 1
            x = Conv(
                self.width,
                (self.kernel_size,) * dims,
                (stride,) * dims,
                (pad,) * dims,
                use_bias=self.norm in PLAIN or self.norm_place == "after",  # else the norm's offset is one
                dtype=DTYPES[self.dtype],
                kernel_init=initializers.get(self.kernel_init),
                name=f"conv{i}",
                **({"conv_general_dilated": standardized_conv} if self.weight_standardization else {}),
            )(x)
            norm = functools.partial(normalized, norm=self.norm, dtype=self.dtype, name=f"norm{i}")
            x = norm(x) if self.norm_place == "before" else x
            x = activations.get(self.activation)(x)
            x = norm(x) if self.norm_place == "after" else x
        window = (self.pool_size,) * dims
        if self.pool == "max":
            return max_pool(x, window, window)
        return avg_pool(x, window, window) if self.pool == "avg" else x


def make(variant: str, **options) -> ConvNet:
    """The network called `variant` in `VARIANTS`; further options are those of `ConvNet`."""
    return ConvNet(**lookup("convnet variant", variant, VARIANTS) | options)
