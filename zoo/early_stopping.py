"""Early stopping (Prechelt 1998): a pure function of the history of one metric, so a resumed run decides the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo import metrics
from zoo.errors import UserError


def check(settings: Mapping[str, Any]) -> None:
    """Refuses settings of `config.early_stopping` that make no sense."""
    for key in ("patience", "min_delta"):
        if settings[key] < 0:
            raise UserError(f"config.early_stopping.{key} is {settings[key]}; it must be zero or more")


def should_stop(values: Sequence[float], settings: Mapping[str, Any]) -> bool:
    """Whether to stop after these evaluations.

    An evaluation is an improvement when it beats the last improvement by more than `min_delta`, and progress when
    it beats `baseline` as well, where one is set; after `patience` evaluations without progress, stop.
    """
    sign = 1 if metrics.mode_of(settings["monitor"], settings["mode"]) == "max" else -1
    best, progress = None, -1
    for i, value in enumerate(values):
        if sign * value > (-np.inf if best is None else best + settings["min_delta"]):  # NaN improves nothing
            best = sign * value
            if settings["baseline"] is None or best > sign * settings["baseline"]:
                progress = i
    return len(values) - 1 - progress >= max(settings["patience"], 1)
