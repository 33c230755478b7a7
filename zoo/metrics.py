"""Metrics are (sum, count) pairs: added over batches in float64 on the host, divided once at the end."""

from collections.abc import Iterable, Sequence

import numpy as np

from zoo.errors import UserError

# Words in the names of metrics that are better when they are higher; everything else is better when lower.
HIGHER_IS_BETTER = ("accuracy", "r2", "auc", "f1", "dice", "iou", "precision", "recall")


def total(batches: Iterable[dict]) -> dict[str, tuple[float, float]]:
    """The sum over host metrics of several batches."""
    sums: dict[str, np.ndarray] = {}
    for metrics in batches:
        for name, pair in metrics.items():
            sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
    return {name: (float(s), float(c)) for name, (s, c) in sums.items()}


def divide(sums: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {name: s / c if c else float("nan") for name, (s, c) in sums.items()}


def mode_of(name: str, mode: str = "auto") -> str:
    """'max' or 'min': whether a metric such as 'validation/accuracy' is better when higher."""
    if mode != "auto":
        return mode
    return "max" if any(word in name.rpartition("/")[2] for word in HIGHER_IS_BETTER) else "min"


def check_mode(mode: str, setting: str) -> None:
    if mode not in ("min", "max", "auto"):
        raise UserError(f"{setting} is {mode!r}; it must be 'min', 'max' or 'auto'")


def best_index(values: Sequence[float], mode: str, min_delta: float = 0.0) -> int | None:
    """Where the last improvement by more than `min_delta` was; NaN never improves anything."""
    sign, best, index = (1 if mode == "max" else -1), -np.inf, None
    for i, value in enumerate(values):
        if sign * value > best + (min_delta if index is not None else 0):
            best, index = sign * value, i
    return index
