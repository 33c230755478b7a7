"""Normalization: the right numbers, from the training rows and from nothing else."""

import jax
import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from zoo.data import preprocess
from zoo.errors import UserError


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers([0, 40, 200], [256, 90, 210], size=(30, 6, 5, 3))
    return pixels.astype(np.uint8)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return np.float32(rng.standard_normal((50, 3)) * [1, 100, 1e-3] + [5, -30, 0])


def fitted(train, normalize, key):
    run, statistics = preprocess.fit({key: train}, normalize)
    return jax.jit(lambda x: run({key: x, "label": x})), statistics


SCALERS = {"standardize": StandardScaler, "minmax": MinMaxScaler}


@pytest.mark.parametrize("normalize", SCALERS)
def test_features_as_in_sklearn(features, normalize):
    run, _ = fitted(features[:30], normalize, "feature")
    peer = SCALERS[normalize]().fit(np.float64(features[:30]))
    np.testing.assert_allclose(run(features)["feature"], peer.transform(features), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalize", SCALERS)
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_images_by_channel(images, normalize, kind):
    images = images.astype(kind)
    run, _ = fitted(images[:20], normalize, "image")
    peer = SCALERS[normalize]().fit(np.float64(images[:20].reshape(-1, 3)))
    found = np.asarray(run(images)["image"])
    assert found.shape == images.shape
    assert found.dtype == np.float32
    wanted = peer.transform(images.reshape(-1, 3)).reshape(images.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_none(images, features):
    run, statistics = fitted(images, "none", "image")
    np.testing.assert_allclose(run(images)["image"], images / 255, rtol=1e-6)
    assert statistics == {"mean": [0, 0, 0], "std": [1, 1, 1]}
    run, statistics = fitted(features, "none", "feature")
    np.testing.assert_array_equal(run(features)["feature"], features)
    assert statistics == {"mean": [0, 0, 0], "std": [1, 1, 1]}


def test_statistics_of_images_are_on_the_scale_of_0_to_1(images):
    _, statistics = fitted(images, "standardize", "image")
    np.testing.assert_allclose(statistics["mean"], (images / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(statistics["std"], (images / 255).std((0, 1, 2)), rtol=1e-9)
    assert all(type(value) is float for value in statistics["mean"])


def test_the_rest_of_a_batch_is_left_alone(images):
    run, _ = fitted(images, "standardize", "image")
    np.testing.assert_array_equal(run(images)["label"], images)


@pytest.mark.parametrize("normalize", SCALERS)
@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_channel_is_only_centred(images, normalize, value):
    images[..., 1] = value
    run, _ = fitted(images, normalize, "image")
    assert not np.any(run(images)["image"][..., 1])
    other = images.copy()
    other[..., 1] = 0 if value else 255  # elsewhere it may not be constant: then it is on the scale of 0 to 1
    np.testing.assert_allclose(run(other)["image"][..., 1], -value / 255 if value else 1, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [3, 500, 1_000])
def test_a_constant_feature_is_only_centred(kind, rows):
    """0.1 and the like have no exact binary form: in double, the deviation of equal rows is not exactly 0."""
    run, statistics = fitted(np.full((rows, 3), [0.1, 0.3, 0.7], kind), "standardize", "feature")
    assert statistics["std"] == [1, 1, 1]
    found = run(np.float32([[0.1, 0.3, 0.7], [2.1, 2.3, 2.7]]))["feature"]
    np.testing.assert_allclose(found, [[0] * 3, [2] * 3], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2_000, 3, 3, 2)])
def test_moments_of_bytes_are_exact(shape):
    pixels = np.random.default_rng(1).integers(254, 256, size=shape).astype(np.uint8)
    mean, std = preprocess.moments(pixels)
    np.testing.assert_allclose(mean, np.float64(pixels).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, np.float64(pixels).std((0, 1, 2)), rtol=1e-9)


def test_moments_of_floats_are_summed_in_double():
    x = np.full((2**20, 1), 1e4, np.float32) + np.float32([[0.0], [1.0]] * 2**19)
    mean, std = preprocess.moments(x)
    assert mean == pytest.approx(10_000.5, rel=1e-12)
    assert std == pytest.approx(0.5, rel=1e-9)


def test_unknown():
    with pytest.raises(UserError, match=r"unknown normalization 'standardise'; did you mean 'standardize'"):
        preprocess.fit({"feature": np.zeros((2, 2))}, "standardise")
