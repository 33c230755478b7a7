"""Splits: the same seed the same rows, none twice, none lost, classes in proportion."""

import itertools

import numpy as np
import pytest

from zoo.data.splits import split
from zoo.errors import UserError
from zoo.types import Source

ROWS = 203


@pytest.fixture
def source():
    """Each row carries its own number, in every array."""
    label = np.repeat([0, 1, 2], [140, 42, 21]).astype(np.int32)
    return Source({"feature": np.arange(ROWS, dtype=np.float32)[:, None], "label": label, "row": np.arange(ROWS)})


def cut(source, *, validation=0.0, test=0.0, seed=0):
    return split(source, validation=validation, test=test, seed=seed)


def rows(parts):
    return {name: part["row"].tolist() for name, part in parts.items()}


@pytest.mark.parametrize(
    "validation, test, sizes",
    [
        (0.1, 0.2, {"train": 142, "test": 41, "validation": 20}),  # both are shares of all rows
        (0, 0.2, {"train": 162, "test": 41}),
        (30, 40, {"train": 133, "test": 40, "validation": 30}),
        (0.5, 0, {"train": 101, "validation": 102}),
        (0, 0, {"train": 203}),
    ],
)
def test_sizes_and_every_row_once(source, validation, test, sizes):
    parts = cut(source, validation=validation, test=test)
    assert {name: len(part["row"]) for name, part in parts.items()} == sizes
    assert sorted(itertools.chain(*rows(parts).values())) == list(range(ROWS))


def test_rows_stay_together(source):
    for part in cut(source, validation=0.2, test=0.2).values():
        np.testing.assert_array_equal(part["feature"][:, 0], part["row"])
        np.testing.assert_array_equal(part["label"], source.train["label"][part["row"]])
        assert (np.diff(part["row"]) > 0).all()  # in the order of the source


def test_seed_decides(source):
    first = rows(cut(source, validation=0.1, test=0.2))
    assert rows(cut(source, validation=0.1, test=0.2)) == first
    other = rows(cut(source, validation=0.1, test=0.2, seed=1))
    for name in first:
        assert other[name] != first[name]


def test_the_test_rows_do_not_depend_on_the_validation_share(source):
    assert rows(cut(source, validation=0.3, test=0.2))["test"] == rows(cut(source, test=0.2))["test"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_classes_keep_their_proportions(source, seed):
    for part in cut(source, validation=0.2, test=0.3, seed=seed).values():
        share = np.bincount(part["label"], minlength=3) / len(part["label"])
        np.testing.assert_allclose(share, np.array([140, 42, 21]) / ROWS, atol=0.013)


def test_targets_are_not_classes(source):
    """Regression: nothing to stratify, and nothing breaks because every target is another."""
    source = Source({"row": source.train["row"], "target": np.linspace(0, 1, ROWS, dtype=np.float32)})
    parts = cut(source, validation=0.1, test=0.2)
    assert sorted(itertools.chain(*rows(parts).values())) == list(range(ROWS))


def test_splits_that_the_set_brings_are_kept(source):
    own = {"row": np.array([900, 901])}
    parts = cut(source._replace(test=own), validation=0.1, test=0.2)
    assert rows(parts)["test"] == [900, 901]
    assert len(parts["validation"]["row"]) == 20
    assert len(parts["train"]["row"]) == ROWS - 20
    parts = cut(source._replace(test=own, validation=own), validation=0.1, test=0.2)
    assert len(parts["train"]["row"]) == ROWS


def test_a_small_share_is_at_least_a_row(source):
    unlabelled = Source({"row": source.train["row"]})
    assert len(cut(unlabelled, test=1e-6)["test"]["row"]) == 1


@pytest.mark.parametrize("which", ["validation", "test"])
@pytest.mark.parametrize("share", [-0.1, -1e-9, -5, 203, 1e9, 0.999, float("nan"), float("inf")])
def test_shares_that_make_no_sense(source, which, share):
    with pytest.raises(UserError, match=rf"^config\.data\.{which} is {share}; it must be a share in \[0, 1\)"):
        cut(source, **{which: share})


def test_nothing_left_for_training(source):
    with pytest.raises(UserError, match=r"config\.data\.validation is 0\.6; .* of the 203 rows"):
        cut(source, validation=0.6, test=0.5)


def test_fewer_rows_than_classes(source):
    with pytest.raises(UserError, match=r"^config\.data\.test is 2: .*classes"):
        cut(source, test=2)


def test_rows_per_class(source):
    source = source._replace(class_names=("a", "b", "c"))
    whole = split(source, validation=0.1, test=0.2, seed=3)
    found = {n: split(source, validation=0.1, test=0.2, seed=3, per_class=n) for n in (3, 5)}
    for n, parts in found.items():
        assert np.bincount(parts["train"]["label"]).tolist() == [n, n, n]
        assert set(parts["train"]["row"]) <= set(whole["train"]["row"])
        for name in ("validation", "test"):
            np.testing.assert_array_equal(parts[name]["row"], whole[name]["row"])
    assert set(found[3]["train"]["row"]) < set(found[5]["train"]["row"])  # more labels, not other ones
    other = split(source, validation=0.1, test=0.2, seed=4, per_class=3)
    assert set(other["train"]["row"]) != set(found[3]["train"]["row"])


@pytest.mark.parametrize(
    "per_class, names, line",
    [
        (22, ("a", "b", "c"), r"per_class is 22, but class 'c' has 21 training rows"),
        (-1, ("a", "b", "c"), r"per_class is -1, but it must be 0 \(all\) or more"),
        (2, None, r"per_class is 2, but the data set has no class for each row"),
    ],
)
def test_rows_per_class_that_there_are_not(source, per_class, names, line):
    with pytest.raises(UserError, match=line):
        split(source._replace(class_names=names), validation=0, test=0, seed=0, per_class=per_class)
