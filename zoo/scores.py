"""Metrics of classification that need all rows of a split at once: scikit-learn's, on the host, where it has them.

The predicted class of a row is that of the largest logit (the first of equal ones, as in the accuracy). Classes that
cannot be judged, for want of rows, are NaN on their own and left out of means.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_expit, log_softmax, logsumexp
from sklearn import metrics as sk

from zoo.errors import lookup
from zoo.metrics import class_words

BINS = 15  # of calibration_error


class Rows(NamedTuple):
    """All rows of a split."""

    label: np.ndarray  # int [N]
    predicted: np.ndarray  # int [N], the class with the largest logit
    log_p: np.ndarray  # float64 [N, C]
    classes: Sequence[str]  # C names
    threshold: float  # of coverage


def confusion_matrix(rows: Rows) -> list[list[int]]:
    """How many rows of each class (first index) are predicted as which (second); a nested list, in report.json."""
    return sk.confusion_matrix(rows.label, rows.predicted, labels=range(len(rows.classes))).tolist()


def roc_auc(rows: Rows) -> float:
    """Area under the ROC curve, of class 1 where there are two; else the mean of each class against the rest."""
    return _against_rest(rows, sk.roc_auc_score)


def pr_auc(rows: Rows) -> float:
    """Area under the precision-recall curve as average precision, without interpolation; means as in roc_auc."""
    return _against_rest(rows, sk.average_precision_score)


def _against_rest(rows: Rows, score: Callable) -> float:
    """The mean of `score(is it this class, how likely)` over the classes that some rows have and some have not."""
    two, found = len(rows.classes) == 2, []
    for k in [1] if two else range(len(rows.classes)):
        here = rows.label == k
        if here.any() and not here.all():
            # log p - log(1 - p) ranks rows as p does, and still where p is 1 in all digits; in single precision, as the
            # logits are, so that what is equal stays equal in whatever order it was added up.
            odds = rows.log_p[:, k] - logsumexp(np.delete(rows.log_p, k, 1), axis=1)
            found.append(score(here, odds.astype(np.float32)))
    return float(np.mean(found)) if found else float("nan")


def calibration_error(rows: Rows) -> float:
    """Expected calibration error: |accuracy - confidence| over 15 equal bins of confidence (Guo et al. 2017, eq. 3)."""
    confidence, correct = np.exp(rows.log_p.max(1)), rows.predicted == rows.label
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # without their lower ends, as in the paper
    return float(np.abs(np.bincount(bins, correct - confidence, BINS)).sum() / len(correct))


def coverage(rows: Rows) -> dict[str, float]:
    """Share of rows whose largest probability is at least task.coverage_threshold, and the accuracy on them."""
    kept = np.exp(rows.log_p.max(1)) >= rows.threshold
    accuracy = np.mean(rows.predicted[kept] == rows.label[kept]) if kept.any() else float("nan")
    return {"coverage": float(kept.mean()), "coverage_accuracy": float(accuracy)}


def coverage_error(rows: Rows) -> float:
    """How many classes one must name, most likely first, to have the right one among them; the mean over the rows."""
    own = np.take_along_axis(rows.log_p, rows.label[:, None], 1)
    return float((rows.log_p >= own).sum(1).mean())


def _precision_recall_f1(rows: Rows, average: str | None, classes=None):
    return sk.precision_recall_fscore_support(
        rows.label, rows.predicted, average=average, labels=classes, zero_division=0.0
    )


def _averaged(index: int, average: str, about: str) -> Callable:
    def score(rows: Rows) -> float:
        return float(_precision_recall_f1(rows, average)[index])

    score.__doc__ = about
    return score


def _per_class(index: int, name: str, about: str) -> Callable:
    def score(rows: Rows) -> dict[str, float]:
        classes = range(len(rows.classes))
        values = _precision_recall_f1(rows, None, classes)[index]
        seen = np.isin(classes, [rows.label, rows.predicted])
        return {
            f"{name}_{word}": float(value) if there else float("nan")
            for word, value, there in zip(rows.classes, values, seen, strict=True)
        }

    score.__doc__ = about
    return score


SCORES: dict[str, Callable[[Rows], float | dict | list]] = {
    "calibration_error": calibration_error,
    "confusion_matrix": confusion_matrix,
    "coverage": coverage,
    "coverage_error": coverage_error,
    "f1_macro": _averaged(2, "macro", "Harmonic mean of precision and recall: the mean over classes."),
    "f1_micro": _averaged(2, "micro", "F1 over all rows together: with one label per row, the accuracy."),
    "f1_per_class": _per_class(2, "f1", "F1 of each class, as f1_<class>."),
    "pr_auc": pr_auc,
    "precision_macro": _averaged(
        0, "macro", "Of the rows predicted as a class, the share that belongs to it: the mean over classes."
    ),
    "precision_micro": _averaged(0, "micro", "Precision over all rows together: with one label per row, the accuracy."),
    "precision_per_class": _per_class(0, "precision", "Precision of each class, as precision_<class>."),
    "recall_macro": _averaged(1, "macro", "Of the rows of a class, the share predicted as it: the mean over classes."),
    "recall_micro": _averaged(1, "micro", "Recall over all rows together: with one label per row, the accuracy."),
    "recall_per_class": _per_class(1, "recall", "Recall of each class, as recall_<class>."),
    "roc_auc": roc_auc,
}


def make(
    names: Sequence[str], meta: Mapping, *, threshold: float, one_vs_rest: bool = False
) -> Callable[..., dict[str, Any]]:
    """`Task.scores`: (logits [N, C], or [N, 1] of class 1 against class 0, label [N]) -> name -> value.

    All numbers are NaN where a logit is. With `one_vs_rest`, each logit is that of its class against the rest.

    Raises:
      UserError: an unknown name.
    """
    chosen = {name: lookup("metric", name, SCORES) for name in names}
    classes = class_words(meta)

    def scores(logits: np.ndarray, label: np.ndarray) -> dict[str, Any]:
        finite, logits = np.isfinite(logits).all(), np.nan_to_num(logits.astype(np.float64))
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        log_p = log_softmax(log_expit(logits) if one_vs_rest else logits, axis=1)
        rows = Rows(label, logits.argmax(1), log_p, classes, threshold)
        values = {}
        for name, score in chosen.items():
            found = score(rows)
            values |= found if isinstance(found, dict) else {name: found}
        return values if finite else {n: v if isinstance(v, list) else float("nan") for n, v in values.items()}

    return scores
