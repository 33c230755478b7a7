"""Transcription: a sequence of symbols from a longer input, without knowing which step says which of them.

The model gives every step a distribution over the symbols and a blank, the last of its outputs. The loss is
connectionist temporal classification (Graves et al. 2006, `zoo.losses.ctc`). What is read is the best path (section
3.2): the likeliest output of every step, repetitions merged, blanks left out.

Batch: 'feature' float [B, T, D] or 'token' int32 [B, T], 'transcript' int32 [B, L] (-1: padding, at the end, in both),
and 'mask' [B], the real rows of an evaluation. All steps of features count: zeros behind their end are input too. A row
whose transcript no alignment gives, because it has more symbols (and repetitions) than steps, has a loss of about 1e5.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from zoo import losses
from zoo.errors import UserError
from zoo.tasks.supervised import apply_model, check_outputs, fitting, init_model, masked_mean, masked_sum
from zoo.types import Task


def num_outputs(meta: Mapping) -> int:
    if "transcript" not in meta["shapes"]:
        raise UserError(f"task transcription: data set {meta['name']!r} has no transcripts; use task {fitting(meta)}")
    if meta["num_classes"] is None:
        raise UserError(f"task transcription: data set {meta['name']!r} does not say the class_names of its symbols")
    return meta["num_classes"] + 1


def make(model, meta: Mapping) -> Task:
    """Metrics: loss (nats per row), and in evaluation accuracy (rows right from end to end) and error_rate.

    error_rate is insertions, deletions and substitutions over the symbols of the whole split: the label error rate.

    Args:
      model: module to logits [B, T, num_outputs], such as `lstm_classifier` with pool 'none'.
      meta: of the data set; `num_classes` is read.
    """
    blank = num_outputs(meta) - 1

    def loss_fn(params, model_state, batch, key, *, train: bool):
        logits, model_state = apply_model(model, params, model_state, batch, key, train=train)
        check_outputs("transcription", logits, 3, "lstm_classifier with pool='none'")
        transcript, mask = batch["transcript"], batch.get("mask")
        keep = batch["token"] >= 0 if "token" in batch else None
        each = losses.ctc(logits, transcript, keep, blank=blank)
        metrics = {"loss": masked_sum(each, mask)}
        if not train:  # one more scan over the steps
            read = best_path(logits, blank)
            errors = edit_distance(read if keep is None else jnp.where(keep, read, -1), transcript)
            wrong, _ = masked_sum(errors, mask)
            symbols, _ = masked_sum(jnp.sum(transcript >= 0, axis=1), mask)
            metrics |= {"accuracy": masked_sum(errors == 0, mask), "error_rate": (wrong, symbols)}
        return masked_mean(each, mask), (model_state, metrics)

    return Task(init_model(model), loss_fn)


def best_path(logits, blank: int):
    """Logits [B, T, C] to the symbols that are read, int32 [B, T], with -1 where a step adds none."""
    best = jnp.argmax(logits, axis=-1)
    before = jnp.pad(best, ((0, 0), (1, 0)), constant_values=blank)[:, :-1]
    return jnp.where((best != blank) & (best != before), best, -1)


def edit_distance(read, transcript):
    """Insertions, deletions and substitutions between rows of symbols (Levenshtein 1966).

    Args:
      read: int [B, T], -1 anywhere for nothing.
      transcript: int [B, L], -1 behind the end.

    Returns:
      int32 [B].
    """
    place = jnp.arange(transcript.shape[1] + 1)[None]

    def step(distance, symbol):
        """From `distance` [B, L + 1] between what was read and every beginning of the transcript, with one more."""
        substituted = distance[:, :-1] + (transcript != symbol[:, None])
        reached = jnp.minimum(distance + 1, jnp.pad(substituted, ((0, 0), (1, 0)), constant_values=jnp.iinfo("i4").max))
        # A deletion goes on from the place before at a cost of 1: the least over all places before, in one sweep.
        longer = jax.lax.cummin(reached - place, axis=1) + place
        return jnp.where(symbol[:, None] >= 0, longer, distance), None

    start = jnp.broadcast_to(place, (transcript.shape[0], place.shape[1])).astype(jnp.int32)
    distance, _ = jax.lax.scan(step, start, read.T)
    length = jnp.sum(transcript >= 0, axis=1)
    return jnp.take_along_axis(distance, length[:, None], axis=1)[:, 0]
