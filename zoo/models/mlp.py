"""Multi-layer perceptrons: with no hidden layer, linear, logistic and softmax regression.

Sources: Goodfellow et al. 2016, "Deep Learning", chapter 6; maxout from Goodfellow et al. 2013, "Maxout networks"
(arXiv:1302.4389); dropout rates of 0.2 for the input and 0.5 for hidden layers from Srivastava et al. 2014, section
6. The recipe `mnist_mlp` reaches 98.7 % and more on MNIST.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from zoo import activations, initializers
from zoo.errors import UserError
from zoo.models import normalization
from zoo.models.dropout import dropconnect
from zoo.models.normalization import EPSILON, PLAIN, normalized
from zoo.options import check_choices, check_rate


class MLP(nn.Module):
    """Dense layers with one activation, from any input [B, ...], which is flattened, to [B, num_classes].

    Attributes:
      num_classes: width of the head; 0 returns the last hidden features [B, widths[-1]].
      widths: widths of the hidden layers; () leaves the head alone.
      activation: a name of `zoo.activations`, or 'maxout'.
      pieces: linear pieces of each maxout unit (k in the paper); only for maxout.
      norm: of every hidden layer, a name of `zoo.models.normalization` (the momentum of 'batch' is 0.9).
      norm_place: 'before' or 'after' the activation.
      norm_eps: added to every variance, whatever the norm; Keras's layers have 1e-3.
      dropout_input, dropout: rates on the input and on every hidden layer's output.
      dropconnect: rate on the hidden layers' weights.
      kernel_init, bias_init: names of `zoo.initializers`, or a number for a constant.
      cardinalities: of columns of categories, which are the last of the input, as numbers from 0; each is embedded in
        `embed_dim` values, all zeros for a number past the last (Guo & Berkhahn 2016, arXiv:1604.06737).
      embed_dim: width of the embeddings; 0 without cardinalities.
    """

    num_classes: int = 10
    widths: Sequence[int] = (512, 512)
    activation: str = "relu"
    pieces: int = 2
    norm: str = "none"
    norm_place: str = "before"
    norm_eps: float = EPSILON
    dropout_input: float = 0.0
    dropout: float = 0.0
    dropconnect: float = 0.0
    kernel_init: str | float = "he_normal"
    bias_init: str | float = "zeros"
    cardinalities: Sequence[int] = ()
    embed_dim: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.norm == "instance":
            raise UserError("mlp: norm 'instance' needs feature maps; use 'layer' or 'batch'")
        check_choices("mlp", self, norm_place=("before", "after"))
        normalization.check("mlp", self.norm, place=self.norm_place)
        if not self.norm_eps > 0:
            raise UserError(f"mlp: norm_eps is {self.norm_eps}; it must be more than 0")
        if self.norm_eps != EPSILON and self.norm in PLAIN:
            raise UserError(f"mlp: norm_eps is {self.norm_eps}, but norm {self.norm!r} has no variance; leave it out")
        if self.activation != "maxout":
            activations.get(self.activation)
            if self.pieces != type(self).pieces:
                raise UserError(
                    f"mlp: pieces is {self.pieces}, an option of activation 'maxout'; activation is {self.activation!r}"
                )
        elif self.pieces < 2:
            raise UserError(f"mlp: pieces is {self.pieces}; maxout takes the largest of at least 2")
        if any(width < 1 for width in self.widths):
            raise UserError(f"mlp: widths is {tuple(self.widths)}; every layer needs at least 1 unit")
        check_rate("mlp", dropout_input=self.dropout_input, dropout=self.dropout, dropconnect=self.dropconnect)
        initializers.get(self.kernel_init)
        initializers.get_bias(self.bias_init)
        if self.embed_dim < 0 or bool(self.embed_dim) != bool(self.cardinalities):
            raise UserError(
                f"mlp: embed_dim is {self.embed_dim} for {len(self.cardinalities)} columns of categories; it must be "
                "at least 1 with config.data.categories='embed', and 0 without"
            )
        if self.num_classes < 0:
            raise UserError(f"mlp: num_classes is {self.num_classes}; it must be at least 1, or 0 for features")

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        inits = {
            "kernel_init": initializers.get(self.kernel_init),
            "bias_init": initializers.get_bias(self.bias_init),
        }
        x = x.reshape(x.shape[0], -1)
        if self.cardinalities:
            x = self._embedded(x)
        x = nn.Dropout(self.dropout_input, deterministic=not train, name="dropout_input")(x)
        maxout = self.activation == "maxout"
        norm = functools.partial(normalized, norm=self.norm, epsilon=self.norm_eps)
        for i, width in enumerate(self.widths, start=1):
            dense = {"name": f"dense{i}", **inits}
            if self.dropconnect:
                dense["dot_general"] = dropconnect(self.dropconnect, train=train, name=f"dropconnect{i}")
            x = nn.Dense(width * (self.pieces if maxout else 1), **dense)(x)
            if self.norm_place == "before":
                x = norm(x, name=f"norm{i}")
            x = activations.maxout(x, self.pieces) if maxout else activations.get(self.activation)(x)
            if self.norm_place == "after":
                x = norm(x, name=f"norm{i}")
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
        if not self.num_classes:
            return x
        return nn.Dense(self.num_classes, name="head", **inits)(x)

    def _embedded(self, x):
        """[B, D + K] whose last K columns are categories -> [B, D + K * embed_dim]."""
        numbers, ids = jnp.split(x, [x.shape[1] - len(self.cardinalities)], axis=1)
        parts, ids = [numbers], ids.astype(jnp.int32)
        for i, levels in enumerate(self.cardinalities):
            column = ids[:, i, None]
            vectors = nn.Embed(levels, self.embed_dim, name=f"embed{i}")(jnp.minimum(column[:, 0], levels - 1))
            parts.append(jnp.where(column < levels, vectors, 0))
        return jnp.concatenate(parts, axis=1)
