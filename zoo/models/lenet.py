"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.B).

What has how many parameters, for one channel and 10 classes:

| part | full | 1998 |
|---|---|---|
| conv1, 6 maps of 5x5 | 156 | 156 |
| pool1, a scale and a bias per map | | 12 |
| conv2, 16 maps of 5x5 | 2,416 | 1,516, by the paper's table I: each map sees 3, 4 or 6 of the 6 |
| pool2, a scale and a bias per map | | 32 |
| dense1 (conv3 in the paper) 120, dense2 84 | 48,120 + 10,164 | the same |
| head | 850 | 850 |
| **all** | **61,706** | **60,850** |

61,706 is the common form, with max or plain average pooling and a fully connected conv2; with the trainable pooling
of 1998 it has 61,750. The 1998 network counts 60,000 because its output layer, distances to fixed 7x12 bitmaps of
the characters, is not trained; ours ends in a dense softmax head (a deviation: 850 more parameters). The modern
variant (relu, max pooling) is what people train today; recipe `mnist_lenet` reaches 99.45 % and more with it.

Input: images [B, H, W, C] of at least 12x12; 28x28 images are padded by 2 as in the paper's 32x32 frames.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from zoo import activations, initializers
from zoo.errors import UserError, lookup
from zoo.models import dropout as dropouts
from zoo.models import layers
from zoo.models.conv import NHWC, Conv, avg_pool, conv, max_pool
from zoo.models.layers import DTYPES, Stage
from zoo.options import check_choices, check_rate

# Table I of the paper: which maps of pool1 feed each of the 16 maps of conv2.
TABLE_1 = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# What the two networks are made of; every option can also be set on its own.
VARIANTS = {
    "modern": {"activation": "relu", "pool": "max", "connections": "full"},
    "1998": {"activation": "lecun_tanh", "pool": "trainable", "connections": "table"},
}


class LeNet5(nn.Module):
    """LeNet-5: images [B, H, W, C] to logits [B, num_classes].

    Attributes, beside those of `zoo.models.layers`:
      num_classes: width of the head; 0 returns the 84 features before it.
      activation: a name of `zoo.activations`.
      pool: 'max', 'avg', or 'trainable': the average times a scale plus a bias per map, squashed again (S2, S4).
      connections: of conv2, 'full' or the paper's 'table' (only for 6 input maps, which conv1 gives).
      padding: of conv1, on each side: 2 for 28x28 images as in the paper's 32x32 frames, 0 for 32x32.
      block_dropout: rate after each pooling (not in the paper, nor the next two).
      dropout_kind: what it drops, a name of `zoo.models.dropout`.
      dropout: rate on the two hidden dense layers.
      kernel_init: a name of `zoo.initializers`.
      remat: the blocks are the convolutions with their pooling.
    """

    num_classes: int = 10
    activation: str = "relu"
    pool: str = "max"
    connections: str = "full"
    padding: int = 2
    block_dropout: float = 0.0
    dropout_kind: str = "unit"
    dropout: float = 0.0
    kernel_init: str = "lecun_uniform"
    in_channels: int | None = None
    features_only: bool = False
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        layers.check_image_options("lenet5", self)
        activations.get(self.activation)
        initializers.get(self.kernel_init)
        check_rate("lenet5", block_dropout=self.block_dropout)
        dropouts.check("lenet5", self.dropout_kind, self.block_dropout)
        if self.padding < 0:
            raise UserError(f"lenet5: padding is {self.padding}; it must be zero or more")
        check_choices("lenet5", self, pool=("max", "avg", "trainable"), connections=("full", "table"))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """After each pooling; the second map is 2 pixels smaller than H / 4 (3 with padding 0), a rest is dropped."""
        return Stage(2, 6), Stage(4, 16)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        layers.check_images("lenet5", x, self.in_channels, 16 - 2 * self.padding)
        block = nn.remat(LeNet5._convolution, static_argnums=(2,)) if self.remat else LeNet5._convolution
        x, maps = x.astype(DTYPES[self.dtype]), []
        for number in (1, 2):
            x = block(self, x, number)
            x = dropouts.DROPOUTS[self.dropout_kind](x, self.block_dropout, train=train, name=f"pool{number}_dropout")
            maps.append(x)
        if self.features_only:
            return maps
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((120, 84), start=1):
            x = activations.get(self.activation)(nn.Dense(width, name=f"dense{i}", **self._options())(x))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
        if not self.num_classes:
            return x
        return nn.Dense(self.num_classes, name="head", **self._options())(x).astype(jnp.float32)

    def _options(self) -> dict:
        return {"kernel_init": initializers.get(self.kernel_init), "dtype": DTYPES[self.dtype]}

    def _convolution(self, x, number: int):
        """With its activation and pooling."""
        if number == 1:
            x = Conv(6, (5, 5), padding=self.padding, name="conv1", **self._options())(x)
        elif self.connections == "table":
            x = TableConv(name="conv2", **self._options())(x)
        else:
            x = Conv(16, (5, 5), padding="VALID", name="conv2", **self._options())(x)
        return self._pool(activations.get(self.activation)(x), f"pool{number}")

    def _pool(self, x, name: str):
        if self.pool == "max":
            return max_pool(x, (2, 2), (2, 2))
        x = avg_pool(x, (2, 2), (2, 2))
        if self.pool == "trainable":
            x = activations.get(self.activation)(ScaleBias(DTYPES[self.dtype], name=name)(x))
        return x


class ScaleBias(nn.Module):
    """One trainable scale and bias per channel: the subsampling units' own parameters (S2 and S4)."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(self.dtype)
        return x * jnp.expand_dims(scale, range(x.ndim - 1)) + jnp.expand_dims(bias, range(x.ndim - 1))


class TableConv(nn.Module):
    """A valid 5x5 convolution from 6 to 16 maps with the connections of table I: 60 kernels, 1,516 parameters."""

    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        if x.shape[-1] != 6:
            raise UserError(f"lenet5: table I connects 6 maps, the input of conv2 has {x.shape[-1]}")
        sources = np.concatenate(TABLE_1)
        targets = np.repeat(np.arange(16), [len(row) for row in TABLE_1])

        def init(key, shape):  # as the full convolution, whose fan-in the 60 kernels on their own do not show
            return self.kernel_init(key, (5, 5, 6, 16))[:, :, sources, targets].reshape(shape)

        kernels = self.param("kernel", init, (5, 5, len(sources))).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (16,)).astype(self.dtype)
        kernel = jnp.zeros((5, 5, 6, 16), kernels.dtype).at[:, :, sources, targets].set(kernels)
        y = conv(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)
        return y + jnp.expand_dims(bias, (0, 1, 2))


def make(variant: str = "modern", **options) -> LeNet5:
    """LeNet-5 in one of `VARIANTS`, 'modern' or '1998'; further options are those of `LeNet5`."""
    return LeNet5(**lookup("lenet5 variant", variant, VARIANTS) | options)
