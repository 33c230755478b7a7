"""The drawn set: always the same, touching objects of both kinds, and no pixel that tells its class on its own."""

import numpy as np
import pytest
from scipy import ndimage

from zoo import data
from zoo.data import shapes


@pytest.fixture(scope="module")
def source():
    return data.load("shapes")


def test_arrays(source):
    for split, rows in ((source.train, 400), (source.test, 100)):
        assert split["image"].shape == (rows, 64, 64, 1)
        assert split["label"].shape == (rows, 64, 64)
        assert {array.dtype for array in split.values()} == {np.dtype(np.uint8)}
        share = np.bincount(split["label"].ravel(), minlength=3) / split["label"].size
        assert share.min() > 0.1  # background, discs and rings
    assert source.class_names == ("background", "disc", "ring")


def test_always_the_same(source):
    """Also on other machines: the sums stand for the set that published figures were measured on."""
    again = shapes.shapes()
    np.testing.assert_array_equal(again.train["image"], source.train["image"])
    assert not np.array_equal(source.train["label"][:100], source.test["label"])
    assert int(source.train["label"].sum()) == 665_995
    assert int(source.test["label"].sum()) == 165_605


def test_objects_touch(source):
    """Most images have objects of different classes side by side."""
    beside = ndimage.grey_dilation(source.train["label"], (1, 3, 3))
    touching = ((source.train["label"] == 1) & (beside == 2)).any((1, 2))
    assert touching.mean() > 0.6


def test_a_ring_has_a_hole(source):
    filled = [ndimage.binary_fill_holes(label == 2) & (label == 0) for label in source.train["label"]]
    assert np.mean([hole.any() for hole in filled]) > 0.8


def test_brightness_tells_objects_and_not_their_kind(source):
    image, label = source.train["image"][..., 0], source.train["label"]
    threshold = ((image > 115) == (label > 0)).mean()
    assert 0.97 < threshold < 0.999  # noise: not all
    disc, ring = image[label == 1], image[label == 2]
    bins = [np.histogram(pixels, 32, (0, 256))[0] / pixels.size for pixels in (disc, ring)]
    assert np.minimum(*bins).sum() > 0.9
