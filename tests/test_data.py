"""A data set made ready: what it tells about itself, and that nothing but the training rows is learned from."""

import jax
import numpy as np
import pytest

from zoo import config, data
from zoo.errors import UserError
from zoo.types import Source

ROWS = 103


@pytest.fixture
def images():
    """Images whose brightness is their row, so that rows can be told apart, and moments differ between splits."""
    rng = np.random.default_rng(0)
    pixels = (2 * np.arange(ROWS)[:, None, None, None] + rng.integers(40, size=(ROWS, 5, 4, 2))).astype(np.uint8)
    label = np.arange(ROWS, dtype=np.int32) % 3
    return Source({"image": pixels, "label": label}, class_names=("a", "b", "c"))


@pytest.fixture
def numbers():
    rng = np.random.default_rng(0)
    target = np.float32(rng.gamma(3, 20, ROWS))
    return Source({"feature": np.float32(rng.random((ROWS, 6))), "target": target}, feature_names=tuple("abcdef"))


def make(source, mesh, *, seed=0, augment=None, **changed):
    options = config.default().data.to_dict() | {"name": "mine", "batch_size": 8, "augment": augment or {}} | changed
    return data.make(options, seed=seed, mesh=mesh, source=source)


def test_what_it_tells(images, mesh):
    dataset = make(images, mesh, validation=0.1, test=0.2)
    meta = dataset.meta
    assert meta["splits"] == {"train": 72, "test": 21, "validation": 10}
    assert meta["batch_size"] == 8
    assert meta["steps_per_epoch"] == 9
    assert meta["eval_batch_size"] == 24  # the 21 test rows, over 4 devices
    assert meta["shapes"] == {"image": (5, 4, 2), "label": ()}
    assert meta["dtypes"] == {"image": "uint8", "label": "int32"}
    assert meta["bytes"] == ROWS * (5 * 4 * 2 + 4)
    assert meta["num_classes"] == 3
    assert meta["class_names"] == ("a", "b", "c")
    assert meta["target_mean"] is meta["target_std"] is None
    sample = data.sample(dataset, 7)
    assert {key: (value.shape, value.dtype.name) for key, value in sample.items()} == {
        "image": ((7, 5, 4, 2), "uint8"),
        "label": ((7,), "int32"),
    }


def test_statistics_are_of_the_training_rows(images, mesh):
    dataset = make(images, mesh, validation=0.2, test=0.3)
    held_out = np.concatenate(
        [np.asarray(b["image"])[np.asarray(b["mask"])] for s in ("validation", "test") for b in dataset.eval(s)]
    )
    known = {image.tobytes() for image in held_out}
    train = np.stack([image for image in images.train["image"] if image.tobytes() not in known])
    assert len(train) == dataset.meta["splits"]["train"]
    np.testing.assert_allclose(dataset.meta["mean"], (train / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(dataset.meta["std"], (train / 255).std((0, 1, 2)), rtol=1e-9)
    whole = images.train["image"] / 255
    assert np.abs(dataset.meta["mean"] - whole.mean((0, 1, 2))).max() > 1e-4


@pytest.mark.parametrize("normalize", ["standardize", "minmax"])
def test_held_out_rows_change_nothing_and_training_rows_do(numbers, mesh, normalize):
    """Where the set brings its own splits: other test and validation rows, the same statistics."""
    rng = np.random.default_rng(1)

    def learned(train, held_out):
        dataset = make(Source(train, validation=held_out, test=held_out), mesh, normalize=normalize)
        assert dataset.meta["splits"]["train"] == ROWS
        probe = {"feature": np.float32([[0.5] * 6]), "target": np.float32([1])}
        told = [dataset.meta[key] for key in ("mean", "std", "target_mean", "target_std")]
        return told, np.asarray(dataset.preprocess(probe)["feature"]).tolist()

    train = numbers.train
    first, other = (
        {"feature": np.float32(scale * rng.random((20, 6))), "target": np.float32(scale * rng.random(20))}
        for scale in (1, 1_000)
    )
    assert learned(train, first) == learned(train, other)
    told, probe = learned(train, first)
    changed, changed_probe = learned({key: 2 * value for key, value in train.items()}, first)
    for before, after in zip(told, changed, strict=True):
        assert np.all(np.not_equal(before, after))
    assert probe != changed_probe


def test_targets(numbers, mesh):
    meta = make(numbers, mesh, test=0).meta
    assert meta["target_mean"] == pytest.approx(np.float64(numbers.train["target"]).mean(), rel=1e-9)
    assert meta["target_std"] == pytest.approx(np.float64(numbers.train["target"]).std(), rel=1e-9)
    assert meta["num_classes"] is None
    assert meta["feature_names"] == tuple("abcdef")


def test_targets_that_are_all_equal(numbers, mesh):
    train = numbers.train | {"target": np.full(ROWS, 7, np.float32)}
    assert make(Source(train), mesh).meta["target_std"] == 1


@pytest.mark.parametrize("device", ["yes", "no", "auto"])
def test_where_it_is_kept(images, mesh, device, monkeypatch):
    """And both places give the same batches."""
    dataset = make(images, mesh, device=device)
    assert dataset.meta["on_device"] == (device != "no")
    reference = make(images, mesh, device="yes")

    def rows(dataset, step):
        batch = jax.jit(dataset.train.batch)(dataset.train.fetch(step), np.int32(step))
        return jax.tree.map(np.asarray, batch)

    for step in (0, 12):
        jax.tree.map(np.testing.assert_array_equal, rows(dataset, step), rows(reference, step))
    monkeypatch.setattr(data, "ON_DEVICE_BYTES", dataset.meta["bytes"] - 1)
    assert make(images, mesh, device=device).meta["on_device"] == (device == "yes")


def test_two_seeds_for_two_things(images, mesh):
    """`split_seed` decides the rows held out, `seed` the order of the others."""

    def held_out(dataset):
        return [np.asarray(batch["image"]).tolist() for batch in dataset.eval("test")]

    def first_batch(dataset):
        return np.asarray(jax.jit(dataset.train.batch)(dataset.train.fetch(0), np.int32(0))["image"]).tolist()

    base, order, split = make(images, mesh), make(images, mesh, seed=1), make(images, mesh, split_seed=1)
    assert held_out(base) == held_out(order) != held_out(split)
    assert first_batch(base) != first_batch(order)


def test_evaluation_covers_every_split_exactly(images, mesh):
    dataset = make(images, mesh, validation=0.1, test=0.2, eval_batch_size=9)
    assert dataset.meta["eval_batch_size"] == 12
    seen = []
    for split, rows in dataset.meta["splits"].items():
        batches = [jax.device_get(batch) for batch in dataset.eval(split)]
        assert {batch["image"].shape for batch in batches} == {(12, 5, 4, 2)}
        real = [image.tobytes() for batch in batches for image in batch["image"][batch["mask"]]]
        assert len(real) == rows
        seen += real
    assert sorted(seen) == sorted(image.tobytes() for image in images.train["image"])


def test_image_size(images, mesh):
    dataset = make(images, mesh, image_size=10)
    assert dataset.meta["shapes"]["image"] == (10, 10, 2)
    assert next(iter(dataset.eval("test")))["image"].shape[1:] == (10, 10, 2)
    assert dataset.meta["bytes"] == ROWS * (10 * 10 * 2 + 4)


def test_data_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_DATA_DIR", "/somewhere")
    assert str(data.data_dir()) == "/somewhere"
    assert str(data.data_dir("/else")) == "/else"
    monkeypatch.delenv("ZOO_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.data_dir() == tmp_path / ".cache" / "zoo" / "data"
    assert data.data_dir("~/x") == tmp_path / "x"


@pytest.mark.parametrize(
    "changed, line",
    [
        ({"batch_size": 0}, r"config\.data\.batch_size is 0; it must be at least 1"),
        ({"batch_size": -8}, r"config\.data\.batch_size is -8; it must be at least 1"),
        ({"eval_batch_size": 0}, r"config\.data\.eval_batch_size is 0"),
        ({"batch_size": 84}, r"config\.data\.batch_size is 84, larger than the 82 training rows"),
        ({"batch_size": 10}, r"config\.data\.batch_size is 10, not divisible by the 4 devices; 8 is"),
        ({"batch_size": 1}, r"config\.data\.batch_size is 1, not divisible by the 4 devices; 4 is"),
        ({"batch_size": 82}, r"config\.data\.batch_size is 82, not divisible by the 4 devices; 80 is"),
        ({"image_size": -1}, r"config\.data\.image_size is -1"),
        ({"augment": {"filp": 1}}, r"unknown augmentation 'filp'; did you mean 'flip'"),
        ({"normalize": "standardise"}, r"unknown normalization 'standardise'; did you mean 'standardize'"),
        ({"device": "gpu"}, r"unknown place \(config\.data\.device\) 'gpu'; known: auto, no, yes"),
        ({"validation": 0.5, "test": 0.5}, r"config\.data\.validation is 0\.5"),
    ],
)
def test_mistakes(images, mesh, changed, line):
    with pytest.raises(UserError, match=line) as error:
        make(images, mesh, **changed)
    assert "\n" not in str(error.value)


def test_the_batch_size_it_proposes_is_taken(images, mesh):
    for batch_size in (1, 2, 3, 5, 6, 7, 9, 81, 83):  # of 83 training rows
        with pytest.raises(UserError) as error:
            make(images, mesh, batch_size=batch_size, test=20)
        proposed = int(str(error.value).split(";")[1].split()[0])
        assert make(images, mesh, batch_size=proposed, test=20).meta["batch_size"] == proposed


def test_images_are_needed_to_augment(numbers, mesh):
    with pytest.raises(UserError, match=r"config\.data\.augment: data set 'mine' has no images"):
        make(numbers, mesh, augment={"flip": 0.5})
    assert make(numbers, mesh, augment={"flip": 0.0}).meta["splits"]["train"] == 82


def test_images_are_needed_to_resize(numbers, mesh):
    with pytest.raises(UserError, match=r"config\.data\.image_size: data set 'mine' has no images"):
        make(numbers, mesh, image_size=8)


@pytest.mark.parametrize("name, near", [("mnits", "mnist"), ("digit", "digits"), ("breast-cancer", "breast_cancer")])
def test_unknown_data_set(name, near):
    with pytest.raises(UserError, match=rf"unknown data set '{name}'; did you mean .*'{near}'"):
        data.load(name)
