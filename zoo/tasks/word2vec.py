"""Word vectors, trained as word2vec does: SGD on the rows that a block of words touches, and on no others.

Sources: Mikolov et al. 2013b, "Distributed representations of words and phrases and their compositionality"
(arXiv:1310.4546), sections 2.1 to 2.3, and the released code (dynamic windows; in CBOW with the mean each context word
takes the whole gradient of the mean). Different from it: the words come in blocks, and the words of a block share
their negatives, so that everything is a matrix product; the loss stays the same in expectation. A block that is too
large learns from stale vectors: 1,024 words reach a third of the quality of 256.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from zoo.data import corpus
from zoo.errors import UserError, lookup
from zoo.models.word2vec import CBOW, SkipGram
from zoo.tasks.supervised import masked_mean, masked_sum
from zoo.types import Task

IN_BOUNDS = {"mode": "promise_in_bounds"}


class Block(NamedTuple):
    """B consecutive words with their neighbours: `window` places before and after, S = B + 2 window in all."""

    token: jax.Array  # int32 [S]
    near: jax.Array  # float32 [B, 2 window], 1 where the neighbour at that offset is in the window of the word


def num_outputs(meta: Mapping, **_) -> int:
    if "counts" not in meta:
        raise UserError(f"task word2vec: data set {meta['name']!r} is not a corpus; use words:<path> or grammar")
    return meta["num_classes"]


def make(
    model: SkipGram | CBOW,
    meta: Mapping,
    *,
    loss: str = "negative",
    window: int = 5,
    negatives: int | None = None,
    power: float | None = None,
    block: int = 256,
    shared: int | None = None,
) -> Task:
    """Metrics of training: the loss in nats per pair. In evaluation (3CosAdd): accuracy over known analogies.

    Args:
      model: skipgram or cbow.
      meta: of the data set; `counts` is read.
      loss: 'negative' sampling, 'hierarchical' softmax (of the Huffman tree) or full 'softmax'.
      window: the most neighbours on each side; each word draws its own number from 1 to this.
      negatives: of loss 'negative': negative words per pair, their weight in the loss; default 5.
      power: of loss 'negative': the words are drawn in proportion to count ** power; default 0.75.
      block: words whose vectors are read together and updated together.
      shared: of loss 'negative': different negatives that are drawn for one block; default 64.
    """
    if not isinstance(model, SkipGram | CBOW):
        raise UserError(f"task word2vec: model {type(model).__name__} has no word vectors; use skipgram or cbow")
    for key, value in {"window": window, "negatives": negatives, "block": block, "shared": shared}.items():
        if value is not None and value < 1:
            raise UserError(f"task word2vec: {key} is {value}; it must be at least 1")
    if block + window > corpus.MARGIN:
        raise UserError(f"task word2vec: block {block} + window {window} must be at most {corpus.MARGIN}")
    sampling = {"negatives": negatives, "power": power, "shared": shared}
    sampling = {key: value for key, value in sampling.items() if value is not None}
    objectives = {
        "negative": lambda: negative_sampling(meta["counts"], **sampling),
        "hierarchical": lambda: hierarchical_softmax(meta["counts"]),
        "softmax": lambda: full_softmax,
    }
    make_objective = lookup("loss of task word2vec", loss, objectives)
    if sampling and loss != "negative":
        key = next(iter(sampling))
        raise UserError(f"task word2vec: {key} is an option of loss negative, and loss is {loss}; leave it out")
    update = (cbow(model.combine) if isinstance(model, CBOW) else skip_gram)(make_objective())

    def step(params, batch, key, lr):
        """One pass over the words of a batch, block by block: (params, metrics)."""

        def body(number, carry):
            tables, total, pairs = carry
            key_window, key_loss = jax.random.split(jax.random.fold_in(key, number))
            found = _block(batch, number * block, block, window, key_window)
            tables, loss, count = update(tables, found, key_loss, lr)
            return tables, total + loss, pairs + count

        blocks, zero = (batch["count"] + block - 1) // block, jnp.float32(0)
        tables = (params["input"], params["output"])
        tables, total, pairs = jax.lax.fori_loop(0, blocks, body, (tables, zero, zero))
        return dict(zip(("input", "output"), tables, strict=True)), {"loss": (total, pairs)}

    def evaluate(params, model_state, batch, key, *, train: bool):  # evaluation alone: `step` trains
        correct = analogy(params["input"], batch["question"]) == batch["question"][:, 3]
        mask = batch["mask"]
        return 1 - masked_mean(correct, mask), (model_state, {"accuracy": masked_sum(correct, mask)})

    return Task(lambda key, batch: model.init(key, batch["token"][:1]), evaluate, step=step)


def analogy(table, question):
    """The answers (3CosAdd, Mikolov et al. 2013c) to a : b = c : ?, int32 [Q]; never one of the three words."""
    unit = table / jnp.maximum(jnp.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    a, b, c = (unit[question[:, i]] for i in range(3))
    similar = (b - a + c) @ unit.T
    rows = jnp.arange(len(question))[:, None]
    return jnp.argmax(similar.at[rows, question[:, :3]].set(-jnp.inf), -1)


def _block(batch, start, size: int, window: int, key) -> Block:
    first = corpus.MARGIN + start - window
    token, segment = (jax.lax.dynamic_slice_in_dim(batch[k], first, size + 2 * window) for k in ("token", "segment"))
    reach = jax.random.randint(key, (size,), 1, window + 1)
    own = segment[window : window + size]  # -1 after the last word
    near = [(abs(o) <= reach) & (segment[window + o : window + o + size] == own) & (own >= 0) for o in _offsets(window)]
    return Block(token, jnp.stack(near, 1).astype(jnp.float32))


def _offsets(window: int) -> list[int]:
    return [o for o in range(-window, window + 1) if o]


def _shifts(x, size: int) -> list[jax.Array]:
    """The neighbours at each offset, [size, D] each, of rows [S, D]."""
    window = (len(x) - size) // 2
    return [x[window + o : window + o + size] for o in _offsets(window)]


def _gather_near(weight, rows):
    """From places to words: sum over offsets of weight[i, o] * rows[i + o]; [B, D].

    As a loop, because XLA computes a sum that is written out anew in each of its uses: CBOW takes twice as long.
    """
    size, window = weight.shape[0], weight.shape[1] // 2
    places = jnp.array([window + o for o in _offsets(window)])

    def add(k, total):
        weight_k = jax.lax.dynamic_slice_in_dim(weight, k, 1, 1)
        return total + weight_k * jax.lax.dynamic_slice_in_dim(rows, places[k], size)

    return jax.lax.fori_loop(0, 2 * window, add, jnp.zeros((size, rows.shape[1])))


def _spread(weight, rows):
    """Back from words to places: sum over offsets of weight[i, o] * rows[i] at place i + o; [S, D]."""
    size, window = len(rows), weight.shape[1] // 2
    pad = ((2 * window, 2 * window), (0, 0))
    weight, rows = jax.lax.optimization_barrier((jnp.pad(weight, pad), jnp.pad(rows, pad)))
    ends = [(window - o, window - o + size + 2 * window) for o in _offsets(window)]
    return sum(weight[a:b, k : k + 1] * rows[a:b] for k, (a, b) in enumerate(ends))


def _dots(a, b):
    """Products of rows [B, D] with rows, as a matrix product: half the time of a sum."""
    return (a * b) @ jnp.ones(a.shape[1])


def logistic(scores):
    """(log(1 + e^s), sigmoid(s)) from one exponential."""
    small = jnp.exp(-jnp.abs(scores))
    return jnp.maximum(scores, 0) + jnp.log(1 + small), jnp.where(scores > 0, 1, small) / (1 + small)


# --- models: how the words of a block meet ----------------------------------------------------------------------


def skip_gram(objective: Callable) -> Callable:
    """(tables, block, key, lr) -> (tables, summed loss, pairs): each word predicts its neighbours.

    The words' own rows of the input table move, and of the output table what `objective` says.
    """

    def update(tables, block: Block, key, lr):
        table, output = tables
        size, window = block.near.shape[0], block.near.shape[1] // 2
        center = block.token[window : window + size]
        hidden = table.at[center].get(**IN_BOUNDS)
        gradient, output, loss = objective(output, hidden, block.token, block.near, key, lr)
        return (table.at[center].add(-lr * gradient, **IN_BOUNDS), output), loss, jnp.sum(block.near)

    return update


def cbow(combine: str) -> Callable[[Callable], Callable]:
    """Like `skip_gram`: the mean or the sum of the neighbours predicts the word."""

    def of(objective: Callable) -> Callable:
        def update(tables, block: Block, key, lr):
            table, output = tables
            size, window = block.near.shape[0], block.near.shape[1] // 2
            count = jnp.sum(block.near, 1)
            share = block.near / jnp.maximum(count, 1)[:, None] if combine == "mean" else block.near
            hidden = _gather_near(share, table.at[block.token].get(**IN_BOUNDS))
            center, real = block.token[window : window + size], (count > 0).astype(jnp.float32)[:, None]
            gradient, output, loss = objective(output, hidden, center, real, key, lr)
            table = table.at[block.token].add(-lr * _spread(block.near, gradient), **IN_BOUNDS)
            return (table, output), loss, jnp.sum(real)

        return update

    return of


# --- losses ------------------------------------------------------------------------------------------------------
# (output table, hidden [B, D], target tokens, weight, key, lr) -> (gradient of hidden [B, D], new output table, loss).
# Either the targets are the words' own, [B], and weight is [B, 1], or all places of the block, [S], and the targets of
# a word are its neighbours, by weight [B, 2 window].


def negative_sampling(counts, *, negatives: int = 5, power: float = 0.75, shared: int = 64) -> Callable:
    """Section 2.2, with `shared` negatives for the block, each of weight negatives / shared per pair."""
    cdf = jnp.asarray(corpus.noise_cdf(counts, power))

    def objective(output, hidden, target, weight, key, lr):
        drawn = jnp.searchsorted(cdf, jax.random.uniform(key, (shared,)), method="scan_unrolled")
        drawn = jnp.minimum(drawn, len(cdf) - 1).astype(jnp.int32)
        rows, noise = output.at[target].get(**IN_BOUNDS), output.at[drawn].get(**IN_BOUNDS)
        shifts = _shifts(rows, len(hidden)) if len(target) > len(hidden) else [rows]
        positive = jnp.stack([_dots(hidden, shift) for shift in shifts], 1)
        # The barriers keep XLA from computing the products anew in each use: 20 % faster.
        positive, negative = jax.lax.optimization_barrier((positive, hidden @ noise.T))
        loss_positive, pull = logistic(-positive)
        share = jnp.sum(weight, 1, keepdims=True) * (negatives / shared)
        small = jnp.exp(-jnp.abs(negative))
        # The logarithms of a row in one: the product of `shared` numbers up to 2, at most 64 at a time.
        grouped = jnp.prod(_groups(1 + small, 64), -1)
        loss_negative = jnp.sum(jnp.maximum(negative, 0), 1) + jnp.sum(jnp.log(grouped), 1)
        pull, push = jax.lax.optimization_barrier(
            (-weight * pull, share * jnp.where(negative > 0, 1, small) / (1 + small))
        )
        gradient = sum(pull[:, k : k + 1] * shift for k, shift in enumerate(shifts)) + push @ noise
        pulled = _spread(pull, hidden) if len(shifts) > 1 else pull * hidden
        change = jnp.concatenate([pulled, push.T @ hidden])
        output = output.at[jnp.concatenate([target, drawn])].add(-lr * change, **IN_BOUNDS)
        return gradient, output, jnp.sum(weight * loss_positive) + jnp.sum(share[:, 0] * loss_negative)

    return objective


def _groups(x, size: int):
    """[B, K] as [B, G, size], filled up with 1."""
    size = min(size, x.shape[1])
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size)), constant_values=1)
    return x.reshape(x.shape[0], -1, size)


def hierarchical_softmax(counts) -> Callable:
    """Section 2.1, with a Huffman tree; the first V - 1 rows of the output table are its inner nodes."""
    points, signs = map(jnp.asarray, corpus.huffman(counts))

    def objective(output, hidden, target, weight, key, lr):
        nodes, sign = points[target], signs[target]
        rows = output.at[nodes].get(**IN_BOUNDS)

        def loss_of(hidden, rows):
            if len(target) > len(hidden):
                scores = jnp.stack([jnp.einsum("bd,bld->bl", hidden, shift) for shift in _shifts(rows, len(hidden))], 1)
                side = jnp.stack(_shifts(sign, len(hidden)), 1)
            else:
                scores, side = jnp.einsum("bd,bld->bl", hidden, rows)[:, None], sign[:, None]
            return jnp.sum(weight * jnp.sum(jnp.abs(side) * jax.nn.softplus(-side * scores), -1))

        loss, (gradient, change) = jax.value_and_grad(loss_of, argnums=(0, 1))(hidden, rows)
        return gradient, output.at[nodes].add(-lr * change, **IN_BOUNDS), loss

    return objective


def full_softmax(output, hidden, target, weight, key, lr):
    """Over all words: for small vocabularies, since every row of the output table moves."""

    def loss_of(hidden, output):
        logits = jax.nn.log_softmax(hidden @ output.T)
        wanted = jnp.stack(_shifts(target, len(hidden)), 1) if len(target) > len(hidden) else target[:, None]
        return -jnp.sum(weight * jnp.take_along_axis(logits, wanted, 1))

    loss, (gradient, change) = jax.value_and_grad(loss_of, argnums=(0, 1))(hidden, output)
    return gradient, output - lr * change, loss
