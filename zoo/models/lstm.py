"""Recurrent networks for sequences: a language model, and a classifier with attention over the states.

`lstm_lm` is the network of Zaremba et al. 2014 (arXiv:1409.2329): embedding, layers of LSTM with dropout on all but
the recurrent connections, and a softmax over the vocabulary. Parameters with its 10,000 words of the Penn Treebank:

| | width | parameters | test perplexity in the paper |
|---|---|---|---|
| small | 200 | 4,651,600 | 114.5 |
| medium | 650 | 19,775,200 | 82.7 |
| large | 1500 | 66,022,000 | 78.4 |

`lstm_classifier` pools the states of one or both directions, by default with additive attention (Bahdanau et al.
2015, arXiv:1409.0473, with the last state in place of the decoder's). Sequences may be of different lengths: token
-1 is padding, which changes no state and gets no weight.
"""

# ruff: noqa: N803  arguments have shape suffixes, such as x_BTH

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.errors import UserError
from zoo.models import recurrent
from zoo.models.layers import DTYPES
from zoo.models.recurrent import Recurrent, dense_product, product, uniform
from zoo.options import check_choices, check_least

POOLS = ("last", "mean", "max", "additive", "dot", "none")


SHARED = (
    "width", "depth", "cell", "biases", "forget_bias", "init_scale", "dropout", "variational", "recurrent_dropout",
    "dtype",
)  # fmt: skip


def _shared(model) -> dict:
    """The options that a model and its `Recurrent` layers have in common."""
    return {key: getattr(model, key) for key in SHARED}


def dense(model, features: int, **options) -> nn.Dense:
    """A dense layer in the dtype of the model."""
    return nn.Dense(features, dot_general=dense_product(model.dtype), **options)


class TiedHead(nn.Module):
    """x [B, T, D] times the embedding [V, D], and a bias."""

    dtype: str

    @nn.compact
    def __call__(self, x_BTD, embedding_VD):
        bias = self.param("bias", nn.initializers.zeros, embedding_VD.shape[:1])
        return product(x_BTD, embedding_VD.T, DTYPES[self.dtype]) + bias[None, None]


class LSTMLanguageModel(nn.Module):
    """Tokens [B, T] to the logits of the next ones [B, T, num_classes].

    Attributes, beside those of `zoo.models.recurrent.Recurrent` (which has no bidirectional language model):
      num_classes: size of the vocabulary; 0 returns the states [B, T, width] before the head, for `embed_size` tokens.
      embed_dim: of the embedding; None: width.
      embed_size: tokens of the embedding; None: num_classes.
      tied: the head's kernel is the embedding (Press & Wolf 2017, arXiv:1608.05859); needs embed_dim = width.
    """

    num_classes: int = 10_000
    width: int = 200
    depth: int = 2
    cell: str = "lstm"
    embed_dim: int | None = None
    embed_size: int | None = None
    tied: bool = False
    biases: int = 1
    forget_bias: float = 0.0
    init_scale: float | None = None
    dropout: float = 0.0
    variational: bool = False
    recurrent_dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        recurrent.check_options("lstm_lm", self)
        check_least("lstm_lm", self, embed_dim=1, embed_size=1)
        if not (self.embed_size or self.num_classes):
            raise UserError("lstm_lm: num_classes is 0 (features), so embed_size must tell the size of the vocabulary")
        if self.tied and self.embed_dim not in (None, self.width):
            raise UserError(f"lstm_lm: tied needs embed_dim {self.width}, as the width; it is {self.embed_dim}")
        if self.tied and self.embed_size not in (None, self.num_classes):
            raise UserError(f"lstm_lm: tied needs embed_size {self.num_classes}, as the head; it is {self.embed_size}")

    def initial_carry(self, rows: int):
        """The state before the first token of `rows` sequences: zeros, {'layer1': {'h': [rows, width], ...}, ...}."""
        return Recurrent(**_shared(self), parent=None).initial_carry(rows)

    @nn.compact
    def __call__(self, token_BT, carry=None, *, train: bool = False, return_carry: bool = False):
        """Logits float32, or (logits, carry after the last token); `carry` None: `initial_carry`."""
        recurrent.tokens("lstm_lm", token_BT)
        init = uniform(self.init_scale or self.width**-0.5)
        size = self.embed_size or self.num_classes
        embed = nn.Embed(size, self.embed_dim or self.width, embedding_init=init, name="embed")
        carry, x_BTH = Recurrent(**_shared(self), name="recurrent")(embed(jnp.maximum(token_BT, 0)), carry, train=train)
        if not self.num_classes:
            logits = x_BTH
        elif self.tied:
            logits = TiedHead(self.dtype, name="head")(x_BTH, embed.embedding)
        else:
            logits = dense(self, self.num_classes, kernel_init=init, name="head")(x_BTH)
        return (logits, carry) if return_carry else logits


class LSTMClassifier(nn.Module):
    """Tokens [B, T] (-1: padding) or vectors float [B, T, D] to logits [B, num_classes], or [B, T, num_classes].

    Attributes, beside those of `zoo.models.recurrent.Recurrent`:
      num_classes: width of the head; 0 returns the (pooled) states before it.
      vocab_size: tokens of the embedding; None: the input is vectors.
      embed_dim: of the embedding.
      pool: what stands for the whole sequence: its 'last' state (of both directions), the 'mean' or the 'max' of all
        states, or their mean weighted by attention: 'additive', or 'dot' (scaled by 1 / sqrt(width)). Its query is
        the last state. 'none': nothing does, and every step has logits of its own (those of padding mean nothing).
    """

    num_classes: int = 2
    vocab_size: int | None = None
    embed_dim: int = 128
    width: int = 128
    depth: int = 1
    cell: str = "lstm"
    bidirectional: bool = True
    pool: str = "additive"
    biases: int = 1
    forget_bias: float = 0.0
    init_scale: float | None = None
    dropout: float = 0.0
    variational: bool = False
    recurrent_dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        recurrent.check_options("lstm_classifier", self)
        check_choices("lstm_classifier", self, pool=POOLS)
        if self.vocab_size is not None and self.vocab_size < 2:
            raise UserError(f"lstm_classifier: vocab_size is {self.vocab_size}; it must be at least 2, or None")
        check_least("lstm_classifier", self, embed_dim=1)

    @nn.compact
    def __call__(self, x, *, train: bool = False, return_weights: bool = False):
        """Logits; with `return_weights` (attention only), (logits, weights [B, T]), which add up to 1 per row."""
        keep_BT = None
        if self.vocab_size is not None:
            recurrent.tokens("lstm_classifier", x)
            keep_BT = x >= 0
            init = uniform(self.init_scale or self.width**-0.5)
            x = nn.Embed(self.vocab_size, self.embed_dim, embedding_init=init, name="embed")(jnp.maximum(x, 0))
        elif x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"lstm_classifier: the input is {x.dtype}{list(x.shape)}; it must be vectors float [B, T, D], or set "
                "vocab_size for tokens [B, T]"
            )
        stack = Recurrent(**_shared(self), bidirectional=self.bidirectional, name="recurrent")
        carry, h_BTH = stack(x, keep_BT=keep_BT, train=train)
        top = f"layer{self.depth}"
        last = [carry[top]["h"]] + ([carry[f"{top}_reverse"]["h"]] if self.bidirectional else [])
        last_BH = nn.Dropout(self.dropout, deterministic=not train, name="dropout_last")(jnp.concatenate(last, axis=-1))
        pooled, weights = self._pool(h_BTH, last_BH, keep_BT)
        if return_weights and weights is None:
            raise UserError(f"lstm_classifier: pool {self.pool!r} has no weights to return; use 'additive' or 'dot'")
        logits = dense(self, self.num_classes, name="head")(pooled) if self.num_classes else pooled
        return (logits, weights) if return_weights else logits

    def _pool(self, h_BTH, last_BH, keep_BT):
        if self.pool in ("last", "none"):
            return last_BH if self.pool == "last" else h_BTH, None
        keep_BT = jnp.ones(h_BTH.shape[:2], bool) if keep_BT is None else keep_BT
        if self.pool == "mean":  # states of padding are zeros
            return h_BTH.sum(1) / jnp.maximum(keep_BT.sum(1, keepdims=True), 1), None
        if self.pool == "max":
            greatest_BH = jnp.max(h_BTH, axis=1, where=keep_BT[..., None], initial=-jnp.inf)
            return jnp.where(keep_BT.any(1, keepdims=True), greatest_BH, 0), None  # 0 of an empty sequence
        query = dense(self, self.width, use_bias=False, name="query")(last_BH)
        key = dense(self, self.width, use_bias=self.pool == "additive", name="key")(h_BTH)
        if self.pool == "additive":
            score_BT = dense(self, 1, use_bias=False, name="score")(jnp.tanh(key + query[:, None]))[..., 0]
        else:
            score_BT = jnp.einsum("bth,bh->bt", key, query) * self.width**-0.5
        weights = jax.nn.softmax(score_BT, axis=-1, where=keep_BT)
        return jnp.einsum("bt,bth->bh", weights, h_BTH), weights
