"""Early stopping: when, for whom, and that it is a function of the history alone."""

import numpy as np
import pytest

from zoo import early_stopping, metrics
from zoo.errors import UserError

DEFAULT = {
    "monitor": "validation/loss",
    "patience": 3,
    "min_delta": 0.0,
    "mode": "auto",
    "baseline": None,
    "restore_best": True,
}


def stops_after(values, **settings):
    """The number of evaluations after which a run with this history stops; None: it does not."""
    for n in range(len(values) + 1):
        if early_stopping.should_stop(values[:n], DEFAULT | settings):
            return n
    return None


@pytest.mark.parametrize(
    "values, settings, n",
    [
        ([5, 4, 3, 2, 1, 0], {}, None),
        ([5, 4, 6, 6, 6, 6], {}, 5),  # three evaluations after the second
        ([5, 4, 6, 6, 3, 6, 6, 6], {}, 8),  # progress starts the count again
        ([5, 4, 4, 4, 4], {}, 5),  # equal is no progress
        ([5, 4, 6], {"patience": 1}, 3),
        ([5, 4, 6], {"patience": 0}, 3),
        ([1, 2, 3, 2, 2, 2], {"monitor": "validation/accuracy"}, 6),
        ([1, 2, 3, 2, 2, 2], {"mode": "max"}, 6),
        ([1, 2, 3, 2, 2, 2], {"mode": "min"}, 4),
        ([1.0, 0.95, 0.91, 0.85, 0.8, 0.76], {"min_delta": 0.1}, None),  # 0.85 is progress over 1.0
        ([1.0, 0.95, 0.92, 0.91, 0.5], {"min_delta": 0.1}, 4),
        ([float("nan")] * 3, {}, 3),
        ([5, float("nan"), 4, float("nan"), float("nan"), float("nan")], {}, 6),
        ([], {}, None),
    ],
)
def test_when(values, settings, n):
    assert stops_after(values, **settings) == n


@pytest.mark.parametrize(
    "values, settings, n",
    [
        ([5, 4, 3, 2, 1], {"baseline": 2.5}, 3),  # 4 and 3 are better, but not than the baseline
        ([5, 4, 2, 1.5, 1, 0.5], {"baseline": 2.5}, None),
        ([5, 4, 2.5, 1], {"baseline": 2.5}, 3),  # equal does not beat it
        ([2, 3, 3, 3], {"baseline": 2.5}, 4),
        ([0.1, 0.2, 0.3, 0.4], {"baseline": 0.5, "mode": "max"}, 3),
        ([0.1, 0.2, 0.6, 0.7, 0.8], {"baseline": 0.5, "mode": "max"}, None),
    ],
)
def test_baseline(values, settings, n):
    assert stops_after(values, **settings) == n


def last_improvement(signed, min_delta):
    """Where the last improvement by more than `min_delta` was, if any; higher is better, NaN improves nothing."""
    best, index = -np.inf, None
    for i, value in enumerate(signed):
        if value > best + (min_delta if index is not None else 0):
            best, index = value, i
    return index


def by_definition(values, settings):
    """An improvement is where the last one of the history until then is."""
    mode = metrics.mode_of(settings["monitor"], settings["mode"])
    sign, progress = (1 if mode == "max" else -1), -1
    for i in range(len(values)):
        improved = last_improvement([sign * value for value in values[: i + 1]], settings["min_delta"]) == i
        if improved and (settings["baseline"] is None or sign * values[i] > sign * settings["baseline"]):
            progress = i
    return len(values) - 1 - progress >= max(settings["patience"], 1)


def test_one_pass_decides_as_the_definition():
    rng = np.random.default_rng(0)
    stopped = 0
    for _ in range(300):
        choices = [*rng.normal(size=6).round(1), np.nan, np.inf, -np.inf]
        values = rng.choice(choices, rng.integers(12), p=[0.15] * 6 + [0.05, 0.03, 0.02])
        settings = DEFAULT | {
            "patience": int(rng.integers(5)),
            "min_delta": rng.choice([0.0, 0.1, 0.5]),
            "mode": rng.choice(["min", "max"]),
            "baseline": rng.choice([None, 0.0, 0.5]),
        }
        assert early_stopping.should_stop(values, settings) == by_definition(values, settings), (values, settings)
        stopped += early_stopping.should_stop(values, settings)
    assert 30 < stopped < 270


def test_a_long_history_is_read_once():
    class Values(list):
        reads = 0

        def __iter__(self):
            Values.reads += len(self)
            return super().__iter__()

        def __getitem__(self, index):
            Values.reads += len(self) if isinstance(index, slice) else 1
            return super().__getitem__(index)

    assert not early_stopping.should_stop(Values(range(100, 0, -1)), DEFAULT)
    assert Values.reads == 100


def test_defaults_are_sensible():
    early_stopping.check(DEFAULT)
    early_stopping.check(DEFAULT | {"patience": 0, "min_delta": 0.0, "mode": "max"})


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"patience": -1}, r"config\.early_stopping\.patience is -1; it must be zero or more"),
        ({"min_delta": -0.1}, r"config\.early_stopping\.min_delta is -0\.1"),
    ],
)
def test_mistakes(settings, line):
    with pytest.raises(UserError, match=line):
        early_stopping.check(DEFAULT | settings)
