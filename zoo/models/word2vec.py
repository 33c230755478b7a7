"""Skip-gram and CBOW: two tables of word vectors, `input` and `output`.

Source: Mikolov et al. 2013a, "Efficient estimation of word representations in vector space" (arXiv:1301.3781), with
the initial values of the released code: input vectors uniform in +-0.5 / features, output vectors 0. The recipes
`skipgram` and `cbow` report their results; training is in `zoo.tasks.word2vec`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.errors import UserError
from zoo.options import check_choices, check_least


def _input_init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -0.5, 0.5) / shape[1]


class SkipGram(nn.Module):
    """Each word predicts each of its neighbours: words, int32 [B], to logits of a neighbour [B, num_classes].

    Attributes:
      num_classes: words of the vocabulary.
      features: length of the vectors.
    """

    num_classes: int = 10_000
    features: int = 100

    def __post_init__(self):
        super().__post_init__()
        check_least("skipgram", self, num_classes=2, features=1)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        _check_words("skipgram", x, {1: "[B]"})
        table, output = _tables(self)
        return table[x] @ output.T


class CBOW(nn.Module):
    """The neighbours of a word together predict it: int32 [B, C] (-1: no word) or [B], to its logits [B, num_classes].

    Attributes:
      num_classes: words of the vocabulary.
      features: length of the vectors.
      combine: 'mean' or 'sum' of the vectors of the neighbours.
    """

    num_classes: int = 10_000
    features: int = 100
    combine: str = "mean"

    def __post_init__(self):
        super().__post_init__()
        check_least("cbow", self, num_classes=2, features=1)
        check_choices("cbow", self, combine=("mean", "sum"))

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        _check_words("cbow", x, {1: "[B]", 2: "[B, C]"})
        table, output = _tables(self)
        x = x.reshape(len(x), -1)
        real = (x >= 0)[..., None]
        hidden = jnp.sum(jnp.where(real, table[jnp.maximum(x, 0)], 0), 1)
        if self.combine == "mean":
            hidden /= jnp.maximum(jnp.sum(real, 1), 1)
        return hidden @ output.T


def _check_words(name: str, x, forms: dict[int, str]) -> None:
    if x.ndim not in forms or not jnp.issubdtype(x.dtype, jnp.integer):
        wanted = " or ".join(forms.values())
        raise UserError(f"{name}: the input is {x.dtype}{list(x.shape)}; it must be words, integers {wanted}")


def _tables(module):
    shape = (module.num_classes, module.features)
    return module.param("input", _input_init, shape), module.param("output", nn.initializers.zeros, shape)
