"""Normalization: the right numbers, from the training rows and from nothing else."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from zoo import config
from zoo.data import preprocess
from zoo.errors import UserError
from zoo.types import Source


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers([0, 40, 200], [256, 90, 210], size=(30, 6, 5, 3))
    return pixels.astype(np.uint8)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return np.float32(rng.standard_normal((50, 3)) * [1, 100, 1e-3] + [5, -30, 0])


def fit(train, normalize):
    return preprocess.fit(train, config.default().data.to_dict() | {"normalize": normalize}, Source(train))


def fitted(train, normalize, key, label=None):
    train = {key: train} | ({} if label is None else {"label": label})
    statistics = fit(train, normalize)
    run = preprocess.make(statistics)
    return jax.jit(lambda x: run({key: x, "label": x})), preprocess.describe(statistics, train)


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
    assert (statistics["mean"], statistics["std"]) == ([0, 0, 0], [1, 1, 1])
    run, statistics = fitted(features, "none", "feature")
    np.testing.assert_array_equal(run(features)["feature"], features)
    assert (statistics["mean"], statistics["std"]) == ([0, 0, 0], [1, 1, 1])


def test_statistics_of_images_are_on_the_scale_of_0_to_1(images):
    _, statistics = fitted(images, "standardize", "image")
    np.testing.assert_allclose(statistics["mean"], (images / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(statistics["std"], (images / 255).std((0, 1, 2)), rtol=1e-9)
    assert all(type(value) is float for value in statistics["mean"])


def test_floats_have_that_scale_if_they_are_in_0_to_1(images):
    _, wanted = fitted(images, "standardize", "image")
    _, found = fitted(images / np.float32(255), "standardize", "image")
    np.testing.assert_allclose([found["mean"], found["std"]], [wanted["mean"], wanted["std"]], rtol=1e-5)
    assert fit({"image": images / np.float32(255)}, "pca")["float_images"]
    for other in (images.astype(np.float32), images / np.float32(255) - 0.5):
        _, found = fitted(other, "standardize", "image")
        assert found["mean"] is found["std"] is None
        assert not fit({"image": other}, "pca")["float_images"]


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


# --- per image, and linear maps ----------------------------------------------------------------------------------


def test_per_image(images):
    """Over height, width and channels together; a constant image becomes zeros."""
    images[3] = 77
    run, told = fitted(images, "per_image", "image")
    x = images.astype(np.float64)
    wanted = (x - x.mean((1, 2, 3), keepdims=True)) / np.maximum(x.std((1, 2, 3), keepdims=True), 1)
    found = np.asarray(run(images)["image"])
    np.testing.assert_allclose(found[3], 0, atol=1e-4)
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(wanted, 3, 0), atol=1e-5)
    assert told["mean"] is told["std"] is None


@pytest.fixture
def mixed():
    """300 rows of 6 correlated features around different means, in 3 classes."""
    rng = np.random.default_rng(0)
    label = np.arange(300, dtype=np.int32) % 3
    mixing = rng.standard_normal((6, 6))
    return np.float32(
        (rng.standard_normal((300, 6)) + label[:, None] * [1, 0, 2, 0, 0, 1]) @ mixing + [9, 0, -5, 1, 1, 3]
    ), label


@pytest.mark.parametrize("normalize, components", [("pca", None), ("pca:2", 2), ("pca:0.8", 0.8), ("pca:1", 1)])
@pytest.mark.parametrize("rows", [30, 200])  # two solvers
def test_pca_as_in_sklearn(mixed, normalize, components, rows):
    x, _ = mixed
    run, told = fitted(x[:rows], normalize, "feature")
    wanted = PCA(components, svd_solver="full").fit(np.float64(x[:rows])).transform(x)
    found = run(x)["feature"]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert told["mean"] is None


@pytest.mark.parametrize("normalize, components", [("lda", None), ("lda:1", 1)])
def test_lda_as_in_sklearn(mixed, normalize, components):
    x, label = mixed
    run, _ = fitted(x[:200], normalize, "feature", label[:200])
    peer = LinearDiscriminantAnalysis(n_components=components).fit(np.float64(x[:200]), label[:200])
    np.testing.assert_allclose(run(x)["feature"], peer.transform(x), atol=1e-4)


def test_lda_takes_collinear_columns(mixed):
    x, label = mixed
    twice = np.concatenate([x, x[:, :1]], 1)
    np.testing.assert_allclose(
        np.abs(fitted(twice, "lda", "feature", label)[0](twice)["feature"]),
        np.abs(fitted(x, "lda", "feature", label)[0](x)["feature"]),
        atol=1e-3,
    )


def test_zca_is_whitened_pca_turned_back(mixed):
    x, _ = mixed
    run, _ = fitted(x, "zca:1e-9", "feature")
    found, peer = np.asarray(run(x)["feature"]), PCA(whiten=True).fit(np.float64(x))
    np.testing.assert_allclose(found, peer.transform(x) @ peer.components_, atol=1e-3)
    np.testing.assert_allclose(np.cov(found, rowvar=False), np.eye(6), atol=1e-3)
    damped = np.asarray(fitted(x, "zca:100", "feature")[0](x)["feature"])  # every variance is s / (s + eps)
    share = np.sort(np.linalg.eigvalsh(np.cov(damped, rowvar=False)))
    np.testing.assert_allclose(share, np.sort(peer.explained_variance_ / (peer.explained_variance_ + 100)), rtol=1e-3)
    default = np.asarray(fitted(x, "zca", "feature")[0](x)["feature"])
    np.testing.assert_array_equal(default, fitted(x, "zca:0.01", "feature")[0](x)["feature"])


def test_zca_of_images_leaves_their_shape(images):
    run, _ = fitted(images, "zca:0.1", "image")
    found = np.asarray(run(images)["image"])
    flat = images.reshape(30, -1) / 255
    variance, directions = np.linalg.eigh(np.cov(flat, rowvar=False))
    wanted = (flat - flat.mean(0)) @ (directions * (variance + 0.1) ** -0.5) @ directions.T
    np.testing.assert_allclose(found, wanted.reshape(images.shape), atol=1e-4)


@pytest.mark.parametrize("normalize, width", [("pca:4", 4), ("lda", 2)])
def test_components_of_images_are_features(images, normalize, width):
    run, _ = fitted(images, normalize, "image", np.arange(30, dtype=np.int32) % 3)
    batch = run(images)
    assert batch["feature"].shape == (30, width)
    assert "image" not in batch


def test_one_after_the_other(mixed, images):
    x, label = mixed
    run, _ = fitted(x[:200], ("standardize", "pca:3", "lda"), "feature", label[:200])
    peer = make_pipeline(StandardScaler(), PCA(3), LinearDiscriminantAnalysis()).fit(np.float64(x[:200]), label[:200])
    np.testing.assert_allclose(run(x)["feature"], peer.transform(x), atol=1e-3)
    run, _ = fitted(images, ("per_image", "minmax"), "image")  # the second is fitted to what the first one gives
    found = np.asarray(run(images)["image"])
    np.testing.assert_allclose(found.min((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.max((0, 1, 2)), 1, atol=1e-6)


def test_chunks_do_not_matter(mixed, monkeypatch):
    x, label = mixed
    whole = fit({"feature": x, "label": label}, ("standardize", "zca"))
    monkeypatch.setattr(preprocess, "CHUNK", 7)
    pieces = fit({"feature": x, "label": label}, ("standardize", "zca"))
    for key in whole:
        np.testing.assert_array_equal(pieces[key], whole[key])


def test_the_statistics_come_back_from_their_file(mixed, tmp_path):
    x, label = mixed
    statistics = fit({"feature": x, "label": label}, ("standardize", "zca"))
    assert preprocess.load(tmp_path) is None
    preprocess.save(tmp_path, statistics)
    again = preprocess.load(tmp_path)
    assert set(again) == set(statistics)
    batch = {"feature": x, "label": label}
    np.testing.assert_array_equal(
        preprocess.make(again)(batch)["feature"], preprocess.make(statistics)(batch)["feature"]
    )
    path = tmp_path / preprocess.FILE
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"preprocess\.npz is damaged"):
        preprocess.load(tmp_path)


@pytest.mark.parametrize(
    "normalize, line",
    [
        ("standardise", r"unknown normalization 'standardise'; did you mean 'standardize'"),
        (("standardize", "pcs"), r"unknown normalization 'pcs'; did you mean 'pca'"),
        (3, r"config\.data\.normalize is 3; it must be a name or a tuple of names"),
        (("pca", 3), r"config\.data\.normalize is \('pca', 3\); it must be"),
        ("standardize:2", r"standardize takes no number behind it"),
        ("pca:many", r"'many' in 'pca:many' is not a number"),
        ("pca:7", r"pca has 7 components; it must be a number of 1 to 2, or a share of the variance below 1"),
        ("pca:1.5", r"pca has 1\.5 components"),
        ("pca:-1", r"pca has -1 components"),
        ("lda", r"lda needs a class for each row"),
        ("zca:0", r"zca has eps 0; it must be more than 0"),
        ("per_image", r"per_image is for images"),
    ],
)
def test_mistakes(normalize, line):
    with pytest.raises(UserError, match=line):
        fit({"feature": np.zeros((4, 2), np.float32)}, normalize)


def test_too_many_discriminants(mixed):
    x, label = mixed
    with pytest.raises(UserError, match=r"lda has 3 components; it must be a number of 1 to 2"):
        fit({"feature": x, "label": label}, "lda:3")
