"""Sums are exact over uneven batches, and the best value is the right one."""

import numpy as np
import pytest

from zoo import metrics
from zoo.errors import UserError


def test_mean_over_uneven_batches():
    rng = np.random.default_rng(0)
    values = rng.random(1_003).astype(np.float32)
    batches = np.split(values, [100, 101, 700])
    sums = metrics.total({"loss": (np.sum(b), np.float32(len(b)))} for b in batches)
    assert sums["loss"][1] == 1_003
    assert metrics.divide(sums)["loss"] == pytest.approx(values.mean(), rel=1e-6)
    mean_of_means = np.mean([b.mean() for b in batches])
    assert abs(metrics.divide(sums)["loss"] - mean_of_means) > 1e-3  # what a wrong mean would be


def test_sums_are_double():
    """In float32, a count of 2**24 does not grow any more."""
    one = {"accuracy": (np.float32(1), np.float32(1))}
    start = {"accuracy": (np.float32(2**24), np.float32(2**24))}
    assert metrics.total([start, one, one, one]) == {"accuracy": (2.0**24 + 3, 2.0**24 + 3)}


def test_total_gives_plain_floats():
    ((total, count),) = metrics.total([{"x": (np.float32(1), np.int32(2))}]).values()
    assert type(total) is float
    assert type(count) is float


def test_nothing_counted_is_nan():
    assert np.isnan(metrics.divide({"loss": (0.0, 0.0)})["loss"])
    assert metrics.total([]) == {}


@pytest.mark.parametrize(
    "name, mode",
    [
        ("validation/accuracy", "max"),
        ("validation/top5_accuracy", "max"),
        ("test/r2", "max"),
        ("validation/loss", "min"),
        ("validation/mse", "min"),
        ("validation/perplexity", "min"),
        ("validation/roc_auc", "max"),
        ("validation/f1_per_class", "max"),
        ("validation/coverage", "max"),
        ("validation/coverage_error", "min"),
        ("validation/calibration_error", "min"),
        ("accuracy", "max"),
        ("accuracy/loss", "min"),  # the name counts, not the split
    ],
)
def test_mode_of(name, mode):
    assert metrics.mode_of(name) == mode
    assert metrics.mode_of(name, "min") == "min"
    assert metrics.mode_of(name, "max") == "max"


def test_check_mode():
    for mode in ("min", "max", "auto"):
        metrics.check_mode(mode, "config.checkpoint.mode")
    with pytest.raises(UserError, match=r"config\.checkpoint\.mode is 'lowest'; it must be 'min', 'max' or 'auto'"):
        metrics.check_mode("lowest", "config.checkpoint.mode")


def test_real_rows():
    batches = [
        (np.arange(6).reshape(3, 2), np.arange(3), np.array([True, True, True])),
        (10 + np.arange(6).reshape(3, 2), 10 + np.arange(3), np.array([True, False, False])),
    ]
    outputs, labels = metrics.real_rows(batches)
    assert outputs.tolist() == [[0, 1], [2, 3], [4, 5], [10, 11]]
    assert labels.tolist() == [0, 1, 2, 10]


def test_numbers_and_text():
    values = {"loss": 0.123456, "confusion_matrix": [[1, 0], [0, 2]], "accuracy": 1.0}
    assert metrics.numbers(values) == {"loss": 0.123456, "accuracy": 1.0}
    assert metrics.text(values) == "loss 0.1235, confusion_matrix [[1, 0], [0, 2]], accuracy 1.0000"


def test_class_words():
    assert metrics.class_words({"class_names": ("T-shirt/top", "a b")}) == ["T_shirt_top", "a_b"]
    assert metrics.class_words({"class_names": ("a b", "a-b")}) == ["a_b_0", "a_b_1"]
    assert metrics.class_words({"num_classes": 2}) == ["class0", "class1"]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "values, mode, indices",
    [
        ([3, 1, 2], "min", [1, 2, 0]),
        ([3, 1, 2], "max", [0, 2, 1]),
        ([1, 0, 1, 0], "min", [1, 3, 0, 2]),  # the first of equals
        ([1, 0, 1, 0], "max", [0, 2, 1, 3]),
        ([NAN, 2, NAN, 1, NAN], "min", [3, 1]),
        ([NAN, NAN], "max", []),
        ([INF, 2], "min", [1]),
        ([INF, 2], "max", [0, 1]),
        ([], "min", []),
    ],
)
def test_ranked(values, mode, indices):
    assert metrics.ranked(values, mode) == indices
