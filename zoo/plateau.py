"""A lower learning rate when a metric stops getting better: a pure function of the history of that metric.

The rule is that of Keras, PyTorch and optax.contrib (`ReduceLROnPlateau`, with an absolute `min_delta`). It is computed
from the evaluations in `metrics.jsonl`, as early stopping is, so a resumed run has the rate of one never stopped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo import metrics
from zoo.errors import UserError


def check(settings: Mapping[str, Any]) -> None:
    """Refuses settings of `config.plateau` that make no sense."""
    if not 0 < settings["factor"] < 1:
        raise UserError(f"config.plateau.factor is {settings['factor']}; it must be in (0, 1)")
    if settings["patience"] < 1:
        raise UserError(f"config.plateau.patience is {settings['patience']}; it must be at least 1")
    for key in ("min_delta", "cooldown"):
        if settings[key] < 0:
            raise UserError(f"config.plateau.{key} is {settings[key]}; it must be zero or more")
    if not 0 <= settings["min_scale"] < 1:
        raise UserError(f"config.plateau.min_scale is {settings['min_scale']}; it must be in [0, 1)")


def scale(values: Sequence[float], settings: Mapping[str, Any]) -> float:
    """What the learning rate is multiplied by after these evaluations.

    `factor` once more whenever `patience` evaluations in a row did not beat the best one by more than `min_delta`, but
    never below `min_scale`; the `cooldown` evaluations after that are not counted. A NaN beats nothing.
    """
    sign = 1 if metrics.mode_of(settings["monitor"], settings["mode"]) == "max" else -1
    result, best, waited, cooling = 1.0, -np.inf, 0, 0
    for value in values:
        improved = sign * value > best + settings["min_delta"]
        best, waited = (sign * value, 0) if improved else (best, waited + 1)
        if cooling:
            cooling, waited = cooling - 1, 0
        elif waited == settings["patience"]:
            result = max(result * settings["factor"], settings["min_scale"])
            cooling, waited = settings["cooldown"], 0
    return result
