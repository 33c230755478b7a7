"""Curriculum learning: the easiest examples first, and a growing share of the harder ones (Bengio et al. 2009).

Every step draws its batch from the easiest rows, whose share of all rows grows with the step (the pacing function of
Hacohen & Weinshall 2019, arXiv:1904.03626, section 2); within them, all are equally likely. When it has reached all
rows, the epochs go on as without a curriculum, a permutation each. (seed, step) decides the rows.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zoo.data import feed
from zoo.errors import UserError, lookup
from zoo.types import Dataset


def linear(start: float, progress: float) -> float:
    """The share grows evenly."""
    return start + (1 - start) * progress


def root(start: float, progress: float) -> float:
    """Its square grows evenly, so that new rows come slower the more there are (Platanios et al. 2019, eq. 7)."""
    return math.sqrt(start**2 + (1 - start**2) * progress)


def step(start: float, progress: float) -> float:
    """The start's share until the end of the curriculum, then all (single-step pacing of Hacohen & Weinshall)."""
    return start if progress < 1 else 1.0


PACES: dict[str, Callable[[float, float], float]] = {"linear": linear, "root": root, "step": step}


def make(
    options: Mapping[str, Any], dataset: Dataset, difficulty: Callable[[], np.ndarray], *, full: int, seed: int
) -> Dataset:
    """`dataset` with the training batches of `config.data.curriculum`.

    Args:
      options: start_share, the share of the rows that the first step draws from, and pace, a name of PACES.
      difficulty: gives one number per training row, asked for when the first batch is.
      full: the step from which on all rows are drawn.

    Raises:
      UserError: an unknown pace, or a share that is none.
    """
    start, pace = options["start_share"], lookup("pace (config.data.curriculum.pace)", options["pace"], PACES)
    if not 0 < start <= 1:
        raise UserError(f"config.data.curriculum.start_share is {start}; it is a share of the rows, in (0, 1]")
    rows, batch_size = dataset.meta["splits"]["train"], dataset.meta["batch_size"]
    steps = dataset.meta["steps_per_epoch"]

    @functools.cache
    def easiest_first() -> np.ndarray:
        return np.argsort(difficulty(), kind="stable").astype(np.int32)

    def order(epoch: int) -> np.ndarray:
        if epoch * steps >= full:
            return feed.epoch_order(rows, batch_size, seed, epoch)
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        shares = [pace(start, min(step / full, 1)) for step in range(epoch * steps, (epoch + 1) * steps)]
        known = [max(math.ceil(share * rows), batch_size) for share in shares]
        return np.concatenate([easiest_first()[rng.choice(n, batch_size, replace=False)] for n in known])

    return dataset._replace(train=dataset.train.reorder(order))


def from_column(dataset: Dataset, name: str) -> Callable[[], np.ndarray]:
    """The difficulty that the data set itself knows: its numbers called `name`, one per training row."""
    shape = lookup("column (config.data.curriculum.by)", name, dataset.meta["shapes"])
    if shape != ():
        raise UserError(f"config.data.curriculum.by: {name!r} has the shape {list(shape)} in each row, not one number")
    return lambda: of_rows(dataset, lambda batch: batch[name])


def of_rows(dataset: Dataset, score: Callable) -> np.ndarray:
    """`score` of batches of training rows, one number per row, for all of them in their order."""
    found = [(np.asarray(score(batch)), np.asarray(batch["mask"])) for batch in dataset.eval("train")]
    return np.concatenate([scores[mask] for scores, mask in found])
