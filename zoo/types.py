"""The few types that every part of the zoo agrees on."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Key = jax.Array  # one typed PRNG key
Params = Any  # nested dict of arrays
ModelState = dict[str, Any]  # the other collections: batch_stats, a recurrent carry, ...; possibly {}
Variables = dict[str, Any]  # {'params': Params, **ModelState}
Batch = dict[str, jax.Array]  # 'image', 'feature', 'label', 'target', 'mask', ...: singular, rows first
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count): added over batches, divided once
Augment = Callable[[Key, Batch], Batch]  # pure jnp, inside the compiled step


class TrainState(NamedTuple):
    """Everything that training changes, and nothing else: arrays only, no functions and no random state."""

    step: jax.Array  # int32 scalar, the number of finished steps
    params: Params
    model_state: ModelState
    opt_state: Any
    average: Variables | None  # {'params', 'batch_stats'}, what is evaluated; None when averaging is off


# (params, model_state, batch, key, *, train) -> (loss, (model_state, metrics))
LossFn = Callable[..., tuple[jax.Array, tuple[ModelState, Metrics]]]


class Task(NamedTuple):
    """What to learn: the only thing the loop knows about a model."""

    init: Callable[[Key, Batch], Variables]
    loss: LossFn
    # host values of one split, name -> mean, to the values reported: adds R2, perplexity and the like
    finalize: Callable[[dict[str, float]], dict[str, float]] = lambda values: values
    # (params, batch, key, lr) -> (params, metrics): a whole training step with an update of its own, in place of
    # gradients of the loss and the optimizer, for gradients that are sparse
    step: Callable[..., tuple[Params, Metrics]] | None = None
    # For metrics that need all rows of a split at once. predict: (params, model_state, batch) -> (output, label) of
    # each row, [B, ...] both; scores: (outputs, labels) of a whole split, on the host -> name -> value (or nested list)
    predict: Callable[..., tuple[jax.Array, jax.Array]] | None = None
    scores: Callable[[np.ndarray, np.ndarray], dict[str, Any]] | None = None


class Source(NamedTuple):
    """A data set as it comes: NumPy arrays by batch key, before any split or normalisation.

    Images are uint8 [N, H, W, C] in 0..255, or floats (in 0..1 if images in files shall be predicted), features float32
    [N, D], labels int32 [N], targets float32 [N] or [N, K]. A table may have NaN among its features, where a value is
    missing, and 'category', strings [N, K], '' where missing. A segmentation set has label maps instead: uint8
    [N, H, W], the class of each pixel, 255 where it does not count. A transcription set has 'transcript', int32 [N, L],
    the class of each symbol, -1 behind the last one.
    A split that the set does not define is None; `zoo.data` then cuts it from the training split.
    """

    train: Mapping[str, np.ndarray]
    validation: Mapping[str, np.ndarray] | None = None
    test: Mapping[str, np.ndarray] | None = None
    class_names: tuple[str, ...] | None = None  # None: not a classification set
    feature_names: tuple[str, ...] | None = None
    category_names: tuple[str, ...] | None = None  # of the columns of 'category'
    vocab: tuple[str, ...] | None = None  # of 'token', int32 [N] (running text) or [N, T] (-1: padding)


class Feed(NamedTuple):
    """Training batches. `batch(fetch(step), step)` is a pure function of the seed and the step.

    `fetch` runs on the host and must not wait for the device; `batch` runs inside the compiled step.
    """

    fetch: Callable[[int], Any]
    batch: Callable[[Any, jax.Array], Batch]
    # (epoch -> int32 row indices, batch after batch) -> this feed in that order; None: the order is fixed
    reorder: Callable[[Callable[[int], np.ndarray]], "Feed"] | None = None


class Dataset(NamedTuple):
    """A prepared data set."""

    train: Feed
    eval: Callable[[str], Iterator[Batch]]  # split -> one exact pass, padded to one shape, 'mask' marks real rows
    preprocess: Callable[[Batch], Batch]  # raw batch -> model input; pure, after augmentation, in the step
    meta: Mapping[str, Any]  # splits, steps_per_epoch, shapes, num_classes, class_names, mean, std, ...
    statistics: Mapping[str, np.ndarray] = {}  # of the training split, see zoo.data.preprocess: what a run keeps
