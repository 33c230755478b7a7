"""Language modelling: the next token of a text, from all before it.

Training is truncated back-propagation through time: every batch continues the streams of the one before, the state
that it ended in is `model_state['carry']`, and no gradient goes back into it. `batch['start']` [B] marks the rows whose
stream begins, with a state of zeros.

Evaluation: a split is cut into as many contiguous streams as the evaluation batch has rows, as equal as can be; each
starts with a state of zeros and is read from end to end, and each token of the split counts once.

Batch: 'token' int32 [B, n * length + 1], each but the first the answer to the ones before (-1: padding, only at the end
of evaluation streams), 'start' bool [B] in training, and 'mask' [B], the real rows of an evaluation.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from zoo.errors import UserError
from zoo.types import Task


def num_outputs(meta: Mapping, **_) -> int:
    if meta.get("length") is None:
        raise UserError(f"task language_model: data set {meta['name']!r} is not running text; use text:<path> or ptb")
    return len(meta["vocab"])


def make(model, meta: Mapping) -> Task:
    """Metrics: loss (nats per token), accuracy, perplexity, and bits_per_character or bits_per_word.

    Args:
      model: `lstm_lm`, or another module with `initial_carry` and the same call.
      meta: of a data set of `zoo.data.streams`.
    """
    if not hasattr(model, "initial_carry"):
        raise UserError(f"task language_model: {type(model).__name__} has no state to carry on; use model lstm_lm")
    length, unit = meta["length"], meta["unit"]

    def init(key, batch):
        variables = model.init({"params": key}, batch["token"][:, :length], train=False)
        return {**variables, "carry": model.initial_carry(meta["batch_size"])}

    def count(logits, target, valid):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(target, 0))
        tokens = jnp.sum(valid, dtype=jnp.int32)
        return {
            "loss": (jnp.sum(jnp.where(valid, losses, 0)), tokens),
            "accuracy": (jnp.sum((jnp.argmax(logits, -1) == target) & valid, dtype=jnp.int32), tokens),
        }

    def train_loss(params, model_state, batch, key):
        carry = jax.tree.map(lambda x: jnp.where(batch["start"][:, None], 0, x), model_state["carry"])
        token, target = batch["token"][:, :-1], batch["token"][:, 1:]
        logits, carry = model.apply(
            {"params": params},
            token,
            jax.lax.stop_gradient(carry),
            train=True,
            return_carry=True,
            rngs={"dropout": key},
        )
        metrics = count(logits, target, target >= 0)
        total, tokens = metrics["loss"]
        return total / tokens, ({**model_state, "carry": jax.lax.stop_gradient(carry)}, metrics)

    def evaluate(params, batch):
        """The whole of each row, `length` tokens at a time, so that the logits of no more are in memory."""
        rows = batch["token"].shape[0]
        target = batch["token"][:, 1:]
        valid = target >= 0
        if "mask" in batch:
            valid &= batch["mask"][:, None]
        windows = [
            part.reshape(rows, -1, length).swapaxes(0, 1) for part in (batch["token"][:, :-1], target, valid)
        ]  # each [windows, B, length]

        def step(carry, window):
            token, target, valid = window
            logits, carry = model.apply({"params": params}, token, carry, train=False, return_carry=True)
            return carry, count(logits, target, valid)

        _, metrics = jax.lax.scan(step, model.initial_carry(rows), windows)
        return jax.tree.map(lambda x: x.sum(0), metrics)

    def loss(params, model_state, batch, key, *, train: bool):
        if train:
            return train_loss(params, model_state, batch, key)
        metrics = evaluate(params, batch)
        total, tokens = metrics["loss"]
        return total / jnp.maximum(tokens, 1), (model_state, metrics)

    def finalize(values: dict[str, float]) -> dict[str, float]:
        nats = values["loss"]
        perplexity = math.exp(nats) if nats < 700 else math.inf
        return values | {"perplexity": perplexity, f"bits_per_{unit}": nats / math.log(2)}

    return Task(init, loss, finalize)
