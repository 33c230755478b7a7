"""Metrics are (sum, count) pairs: added over batches in float64 on the host, divided once at the end.

Those of `zoo.scores` need all rows of a split at once.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zoo.errors import UserError

# Words in the names of metrics that are better when they are higher; everything else is better when lower.
HIGHER_IS_BETTER = ("accuracy", "r2", "auc", "f1", "dice", "iou", "precision", "recall", "coverage")
LOWER_IS_BETTER = ("coverage_error",)  # whole names, in spite of their words


def total(batches: Iterable[dict]) -> dict[str, tuple[float, float]]:
    """The sum over host metrics of several batches."""
    sums: dict[str, np.ndarray] = {}
    for metrics in batches:
        for name, pair in metrics.items():
            sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
    return {name: (float(s), float(c)) for name, (s, c) in sums.items()}


def divide(sums: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {name: s / c if c else float("nan") for name, (s, c) in sums.items()}


def real_rows(batches: Iterable[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """(output, label) of all rows of a split, from (output, label, mask) of its batches."""
    outputs, labels = zip(*((output[mask], label[mask]) for output, label, mask in batches), strict=True)
    return np.concatenate(outputs), np.concatenate(labels)


def numbers(values: Mapping) -> dict[str, float]:
    """Those of `values` that are numbers: all but the confusion matrix."""
    return {name: value for name, value in values.items() if not isinstance(value, list)}


def text(values: Mapping) -> str:
    """`accuracy 0.9876, loss 0.0123`."""
    shown = {name: value if isinstance(value, list) else f"{value:.4f}" for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def class_words(meta: Mapping) -> list[str]:
    """The class names of a data set as parts of the names of metrics, all different."""
    names = meta.get("class_names") or [f"class{k}" for k in range(meta["num_classes"])]
    words = [re.sub(r"\W+", "_", str(name)) for name in names]
    return words if len(set(words)) == len(words) else [f"{word}_{k}" for k, word in enumerate(words)]


def mode_of(name: str, mode: str = "auto") -> str:
    """'max' or 'min': whether a metric such as 'validation/accuracy' is better when higher."""
    if mode != "auto":
        return mode
    name = name.rpartition("/")[2]
    return "max" if name not in LOWER_IS_BETTER and any(word in name for word in HIGHER_IS_BETTER) else "min"


def check_mode(mode: str, setting: str) -> None:
    if mode not in ("min", "max", "auto"):
        raise UserError(f"{setting} is {mode!r}; it must be 'min', 'max' or 'auto'")


def ranked(values: Sequence[float], mode: str) -> list[int]:
    """The indices of the values, the best first, of equals the first; without NaN and infinitely bad ones."""
    sign = 1 if mode == "max" else -1
    return sorted((i for i, value in enumerate(values) if sign * value > -np.inf), key=lambda i: -sign * values[i])
