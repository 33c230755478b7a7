"""The learning-rate range test: which rate to train with, by one short run (Smith 2015, arXiv:1506.01186, section 3.3).

A recipe is trained from its own start while the rate grows exponentially, until the loss explodes. The loss falls
fastest at a rate that is safe to train with; where it is lowest is the most that a cycle should reach.
"""

import copy
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from zoo import config as configs
from zoo import initial
from zoo.errors import UserError
from zoo.run import prepare
from zoo.types import Source

BETA = 0.9  # of the moving average of the loss
EXPLODED = 4  # times the lowest smoothed loss
WINDOW = 20  # steps over which the fall of the smoothed loss is measured


class RangeTest(NamedTuple):
    """What a range test saw, and what it suggests."""

    rates: np.ndarray  # float64 [N], of each step
    losses: np.ndarray  # float64 [N], of the training batch of each step
    smoothed: np.ndarray  # float64 [N]
    exploded: bool  # else the loss was still fine at the highest rate
    suggestion: float  # the rate at which the smoothed loss fell fastest
    maximum: float  # the rate at which it was lowest


def range_test(
    config: ConfigDict, *, low: float = 1e-6, high: float = 10.0, steps: int = 200, source: Source | None = None
) -> RangeTest:
    """Trains `steps` steps of a recipe with a rate that grows from `low` to `high`; nothing is written.

    The recipe's own `optim.lr`, schedule and length do not matter; its data, augmentation, model, task, optimizer and
    initial weights are used as in training.

    Raises:
      UserError: a range that makes no sense, or a loss that never fell in it.
    """
    if not 0 < low < high < float("inf"):
        raise UserError(f"the rates go from {low:g} to {high:g}; they must be positive, and the second the larger one")
    if steps < 2 * WINDOW:
        raise UserError(f"{steps} steps are too few for a range test; take at least {2 * WINDOW}")
    config = copy.deepcopy(config)
    configs.override(config, [("total_steps", steps), ("log_every_steps", 1), ("loop.steps_per_call", 1)])
    config.optim.lr = low
    config.schedule = {"name": "exponential", "end": high / low}
    for group in ("averaging", "early_stopping", "plateau", "checkpoint"):  # what needs evaluations, or a longer run
        config[group] = configs.default()[group]
    run = prepare(config, source)
    state, window = initial.state(run, initial.weights(run))
    seed = jax.device_put(np.uint32(config.seed), window.lr.sharding)
    rates, losses, exploded = [], [], False
    for step in range(steps):
        state, window = run.train_step(state, window, run.dataset.train.fetch(step), seed)
        window_values = jax.device_get(window)
        total, count = window_values.metrics["loss"]
        exploded = bool(window_values.bad_step >= 0)
        if not exploded:
            rates.append(float(window_values.lr))
            losses.append(float(total / count))
            smoothed = smooth(losses)
            exploded = bool(smoothed[-1] - smoothed.min() > (EXPLODED - 1) * abs(smoothed.min()))
        if exploded:
            break
    if not losses:
        raise UserError(f"the loss is NaN or infinite at the first step, at a rate of {low:g}")
    rates = np.array(rates)
    return RangeTest(rates, np.array(losses), smoothed, exploded, *suggest(rates, smoothed))


def smooth(losses) -> np.ndarray:
    """The exponential moving average, corrected for its start at zero as in Adam (Kingma & Ba 2015, section 3)."""
    average, result = 0.0, []
    for t, loss in enumerate(losses, start=1):
        average = BETA * average + (1 - BETA) * loss
        result.append(average / (1 - BETA**t))
    return np.array(result)


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> tuple[float, float]:
    """(the rate at which the loss falls fastest over the logarithm of the rate, the rate at which it is lowest).

    The fall is that over `WINDOW` steps, of which the rate in the middle is given: from step to step it is noise.
    """
    lowest = int(np.argmin(smoothed))
    if lowest < WINDOW:
        raise UserError(
            f"the loss never fell between rates of {rates[0]:g} and {rates[-1]:g}; start lower, or look at the recipe"
        )
    falls = smoothed[: lowest + 1 - WINDOW] - smoothed[WINDOW : lowest + 1]
    return float(rates[np.argmax(falls) + WINDOW // 2]), float(rates[lowest])
