"""Early stopping: when, for whom, and that it is a function of the history alone."""

import pytest

from zoo import early_stopping
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
