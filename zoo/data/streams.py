"""Running text for a language model: contiguous streams, a window of each in every batch.

The training text is cut into `batch_size` streams of equal length, which are read side by side, `length` tokens per
step; after an epoch they begin again (Zaremba et al. 2014 and everybody since). What does not fill a window is left
out. Of the other splits nothing is: see zoo.tasks.language_model.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from zoo.data import feed, text
from zoo.errors import UserError
from zoo.types import Dataset, Feed, Source

LEAST_STREAM = 1000  # tokens of an evaluation stream; its first ones are harder, for lack of a past


def is_stream(source: Source) -> bool:
    return "token" in source.train and source.train["token"].ndim == 1


def make(options: Mapping[str, Any], source: Source, *, mesh: Mesh, keep: bool) -> Dataset:
    """The data set of `config.data` for a source of running text.

    Args:
      options: `validation` and `test`, shares (or numbers, if >= 1) of the training text's end where the set has no
        such split; `length`, tokens in a window; `batch_size`, streams of training; `eval_batch_size`, streams of an
        evaluation (fewer where they would be shorter than LEAST_STREAM).
      keep: the text lives on the devices.

    Raises:
      UserError: a text that has no window for each stream, or a vocabulary without an end of line.
    """
    vocab, length, batch_size = source.vocab, options["length"], options["batch_size"]
    unit = "word" if text.EOS in vocab else "character"
    boundary = text.EOS if unit == "word" else "\n"
    if boundary not in vocab:
        raise UserError(
            f"data set {options['name']!r}: its vocabulary has neither {text.EOS!r} (words) nor '\\n' (characters), "
            "the token before the first one"
        )
    texts = _split(source, options["validation"], options["test"], vocab.index(boundary))
    tokens = {name: len(part) - 1 for name, part in texts.items()}
    windows = tokens["train"] // batch_size // length
    if not windows:
        raise UserError(
            f"data set {options['name']!r}: {tokens['train']:,} {unit}s of training text are less than batch_size "
            f"{batch_size} streams of {length}; lower config.data.batch_size or config.data.length"
        )
    starts = tokens["train"] // batch_size * np.arange(batch_size)
    train = texts["train"][starts[:, None] + np.arange(windows * length + 1)]
    others = {name: part for name, part in texts.items() if name != "train"}
    least = min((tokens[name] for name in others), default=0)
    streams = max(min(options["eval_batch_size"], least // LEAST_STREAM), 1)
    arrays = {name: {"token": _streams(part, streams, length)} for name, part in others.items()}
    meta = {
        "name": options["name"],
        "batch_size": batch_size,
        "eval_batch_size": -(-streams // mesh.size) * mesh.size,
        "steps_per_epoch": windows,
        "splits": tokens,
        "shapes": {"token": (length + 1,), "start": ()},
        "dtypes": {"token": "int32", "start": "bool"},
        "bytes": train.nbytes + sum(split["token"].nbytes for split in arrays.values()),
        "on_device": keep,
        "length": length,
        "unit": unit,
        "vocab": vocab,
        **dict.fromkeys(("num_classes", "class_names", "class_counts", "feature_names")),
        **dict.fromkeys(("target_mean", "target_std", "target_min", "mean", "std")),
    }
    evaluation = feed.evaluation(arrays, meta["eval_batch_size"], mesh, keep=keep)
    return Dataset(_feed(train, length, mesh, keep=keep), evaluation, lambda batch: batch, meta)


def _split(source: Source, validation: float, test: float, boundary: int) -> dict[str, np.ndarray]:
    """Each split with the token in front that its first one follows: the one before the cut, else an end of line."""
    text_of = {"train": np.concatenate([[boundary], source.train["token"]]).astype(np.int32)}
    total = len(source.train["token"])
    for name, share, own in (("test", test, source.test), ("validation", validation, source.validation)):
        if own is not None:
            text_of[name] = np.concatenate([[boundary], own["token"]]).astype(np.int32)
            continue
        number = int(max(round(share * total), 1) if 0 < share < 1 else share)
        left = len(text_of["train"]) - 1 - number
        if share < 0 or left < 1:
            raise UserError(
                f"config.data.{name} is {share}; it must be a share in [0, 1) or a number of tokens, and leave some of "
                f"the {total:,} for training"
            )
        if number:
            text_of["train"], text_of[name] = text_of["train"][: left + 1], text_of["train"][left:]
    return text_of


def _streams(part: np.ndarray, streams: int, length: int) -> np.ndarray:
    """[streams, n * length + 1], the last column of one row the first of the next; -1 fills the ends."""
    tokens = len(part) - 1
    each = -(-tokens // streams)
    index = each * np.arange(streams)[:, None] + np.arange(-(-each // length) * length + 1)
    real = (np.arange(index.shape[1]) <= each) & (index <= tokens)
    return np.where(real, part[np.minimum(index, tokens)], -1)


def _feed(train: np.ndarray, length: int, mesh: Mesh, *, keep: bool) -> Feed:
    windows, sharding = train.shape[1] // length, feed.sharded(mesh)
    resident = jax.device_put(train, sharding) if keep else None

    def fetch(step: int):
        if keep:
            return resident
        start = step % windows * length
        return jax.device_put(train[:, start : start + length + 1], sharding)

    def batch(fetched, step):
        window = step % windows
        if keep:
            fetched = jax.lax.dynamic_slice_in_dim(fetched, window * length, length + 1, axis=1)
        return {"token": fetched, "start": jnp.full(len(train), window == 0)}

    return Feed(fetch, batch)
