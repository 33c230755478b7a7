"""The weight map of the U-Net paper, against equation 2 written out pixel by pixel."""

import numpy as np
import pytest
from scipy import ndimage

from zoo.data.border_weights import border_weights


def naive(label, *, separator, w0, sigma):
    """Equation 2 by the distances from every pixel to all pixels of every object."""
    valid = label != 255
    classes = np.unique(label[valid])
    weights = np.zeros(label.shape)
    for value in classes:
        weights[label == value] = valid.sum() / (len(classes) * (label == value).sum())
    for n, row in enumerate(label):
        places = np.stack(np.mgrid[: row.shape[0], : row.shape[1]], -1).reshape(-1, 2)
        distances = []
        for value in set(classes) - {separator}:
            objects, number = ndimage.label(row == value)
            for index in range(1, number + 1):
                apart = places[:, None] - np.argwhere(objects == index)[None]
                distances.append(np.sqrt((apart**2).sum(-1)).min(1))
        if len(distances) > 1:
            d1, d2 = np.sort(distances, 0)[:2]
            border = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)).reshape(row.shape)
            weights[n] += np.where(row == 255, 0, border)
    return weights


def scene(seed, classes, shape=(3, 26, 31)):
    """Blobs of some classes, and a few ignored pixels."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 1.5, 1.5))
    label = np.digitize(smooth, np.quantile(smooth, np.linspace(0, 1, classes + 1)[1:-1])).astype(np.uint8)
    label[rng.random(shape) < 0.01] = 255
    return label


@pytest.mark.parametrize("classes, separator", [(2, 0), (2, 1), (3, 0), (3, 2)])
@pytest.mark.parametrize("w0, sigma", [(10.0, 5.0), (3.0, 0.8)])
def test_as_the_equation_says(classes, separator, w0, sigma):
    label = scene(7 * classes + separator, classes)
    found = border_weights(label, separator=separator, w0=w0, sigma=sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive(label, separator=separator, w0=w0, sigma=sigma), rtol=1e-5, atol=1e-6)


def test_the_middle_of_a_gap():
    """Two objects 4 pixels apart: between them d1 + d2 is 5 from one side to the other, and all is symmetric."""
    label = np.zeros((1, 9, 30), np.uint8)
    label[0, :, 5:12], label[0, :, 16:23] = 1, 1
    border = border_weights(label) - border_weights(label, w0=0)
    np.testing.assert_allclose(border[0, 4, 12:16], 10 * np.exp(-(5**2) / 50), rtol=1e-5)
    np.testing.assert_allclose(border[0, :, :28], border[0, :, 27::-1], atol=1e-5)


def test_one_object_has_no_border():
    label = np.zeros((2, 8, 8), np.uint8)
    label[0, 2:5, 2:5] = 1
    np.testing.assert_array_equal(border_weights(label), border_weights(label, w0=0))


def test_classes_are_balanced():
    """Each class weighs the same in all, the mean is 1, and ignored pixels weigh nothing."""
    label = scene(0, 3)
    weights = np.float64(border_weights(label, w0=0))
    sums = [weights[label == value].sum() for value in range(3)]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-5)
    assert weights[label != 255].mean() == pytest.approx(1, rel=1e-6)
    assert not weights[label == 255].any()


def test_touching_objects_of_two_classes_are_two():
    label = np.ones((1, 8, 8), np.uint8)
    label[0, :, 4:] = 2
    border = border_weights(label) - border_weights(label, w0=0)
    np.testing.assert_allclose(border[0, 0, 3:5], 10 * np.exp(-1 / 50), rtol=1e-5)


def test_far_objects_are_not_forgotten():
    """The reach of an object is cut, but never where its term would show."""
    label = np.zeros((1, 3, 80), np.uint8)
    label[0, 1, [10, 40]] = 1, 1
    border = np.float64(border_weights(label, w0=1e6)) - border_weights(label, w0=0)
    np.testing.assert_allclose(border[0, 1, 10:41], 1e6 * np.exp(-(30**2) / 50), rtol=0.1)
    assert not border[0, 1, 75].any()
