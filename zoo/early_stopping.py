"""Early stopping (Prechelt 1998): a pure function of the history of one metric, so a resumed run decides the same."""

from collections.abc import Mapping, Sequence
from typing import Any

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
    mode = metrics.mode_of(settings["monitor"], settings["mode"])
    sign, progress = (1 if mode == "max" else -1), -1
    for i in range(len(values)):
        improved = metrics.best_index(values[: i + 1], mode, settings["min_delta"]) == i
        beats = settings["baseline"] is None or sign * values[i] > sign * settings["baseline"]
        if improved and beats:
            progress = i
    return len(values) - 1 - progress >= max(settings["patience"], 1)
