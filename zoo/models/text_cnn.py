"""Convolutions over the words of a sentence, each with the maximum over time (Kim 2014, arXiv:1408.5882).

The paper's CNN-rand: random embeddings, 100 filters each of 3, 4 and 5 words, dropout 0.5 before the head; 82.7 % on
SST-2 when trained on all phrases. Deviations: no bound on the norm of the head's columns (weight decay does that), and
a window may reach into padding, where embeddings are zero.
"""

# ruff: noqa: N803  arguments have shape suffixes, such as x_BTH

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from zoo import activations
from zoo.errors import UserError
from zoo.models import recurrent
from zoo.models.conv import Conv
from zoo.options import check_least, check_rate


class TextCNN(nn.Module):
    """Tokens [B, T] (-1: padding) to logits [B, num_classes].

    Attributes:
      num_classes: width of the head; 0 returns the maxima before it.
      vocab_size: tokens of the embedding.
      embed_dim: of the embedding.
      kernel_sizes: words that a filter sees; one group of filters for each.
      filters: of each size.
      activation: a name of `zoo.activations`.
      embed_dropout, dropout: rates on the embedded words and on the maxima.
    """

    num_classes: int = 2
    vocab_size: int = 10_000
    embed_dim: int = 128
    kernel_sizes: Sequence[int] = (3, 4, 5)
    filters: int = 100
    activation: str = "relu"
    embed_dropout: float = 0.0
    dropout: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        activations.get(self.activation)
        check_rate("text_cnn", embed_dropout=self.embed_dropout, dropout=self.dropout)
        if not self.kernel_sizes or min(self.kernel_sizes) < 1:
            raise UserError(f"text_cnn: kernel_sizes is {tuple(self.kernel_sizes)}; each must be at least 1")
        check_least("text_cnn", self, num_classes=0, vocab_size=2, embed_dim=1, filters=1)

    @nn.compact
    def __call__(self, token_BT, *, train: bool = False):
        recurrent.tokens("text_cnn", token_BT)
        embed = nn.Embed(self.vocab_size, self.embed_dim, embedding_init=recurrent.uniform(0.25), name="embed")
        x_BTD = jnp.where(token_BT[..., None] >= 0, embed(jnp.maximum(token_BT, 0)), 0)
        x_BTD = nn.Dropout(self.embed_dropout, deterministic=not train, name="embed_dropout")(x_BTD)
        maxima = []
        for size in self.kernel_sizes:
            # Padded so that a sentence shorter than the filter has a window too.
            y = Conv(self.filters, (size,), padding=((size // 2, size // 2),), name=f"conv{size}")(x_BTD)
            maxima.append(activations.get(self.activation)(y).max(1))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(jnp.concatenate(maxima, axis=-1))
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x
