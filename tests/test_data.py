"""A data set made ready: what it tells about itself, and that nothing but the training rows is learned from."""

import jax
import numpy as np
import pytest

from zoo import config, data
from zoo.data import border_weights, feed
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


@pytest.fixture
def maps():
    """Images with label maps of 3 classes, of which a few pixels are ignored; each image has its row in a corner."""
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=(20, 8, 12)).astype(np.uint8)
    label[:, 0, 1] = 255
    image = np.repeat(label[..., None] * np.uint8(40), 2, -1)
    image[:, 0, 0] = np.arange(20)[:, None]
    return Source({"image": image, "label": label}, class_names=("background", "disc", "ring"))


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
    assert meta["class_counts"] == (24, 24, 24)  # stratified
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


# --- label maps --------------------------------------------------------------------------------------------------


def batches(dataset, split):
    """All real rows of a split by key."""
    made = [jax.device_get(batch) for batch in dataset.eval(split)]
    return {key: np.concatenate([batch[key][batch["mask"]] for batch in made]) for key in made[0]}


def test_label_maps(maps, mesh):
    """Cut as whole images, and fed with them."""
    dataset = make(maps, mesh, test=6, batch_size=4)
    assert dataset.meta["splits"] == {"train": 14, "test": 6}
    assert dataset.meta["shapes"] == {"image": (8, 12, 2), "label": (8, 12)}
    assert dataset.meta["dtypes"] == {"image": "uint8", "label": "uint8"}
    assert dataset.meta["num_classes"] == 3
    train = batches(dataset, "train")["label"]
    assert dataset.meta["class_counts"] == tuple(np.sum(train == c) for c in range(3))
    assert sum(dataset.meta["class_counts"]) < train.size  # some pixels are ignored
    sample = data.sample(dataset, 2)
    assert sample["label"].shape == (2, 8, 12)
    assert sample["label"].dtype == np.uint8
    test, train = batches(dataset, "test"), batches(dataset, "train")
    assert sorted([*test["image"][:, 0, 0, 0], *train["image"][:, 0, 0, 0]]) == list(range(20))
    np.testing.assert_array_equal(test["label"], maps.train["label"][test["image"][:, 0, 0, 0]])
    batch = jax.device_get(jax.jit(dataset.train.batch)(dataset.train.fetch(0), np.int32(0)))
    np.testing.assert_array_equal(batch["label"], maps.train["label"][batch["image"][:, 0, 0, 0]])


def test_label_maps_leave_the_statistics_alone(maps, mesh):
    train = batches(dataset := make(maps, mesh, test=6, batch_size=4), "train")
    np.testing.assert_allclose(dataset.meta["mean"], (train["image"] / 255).mean((0, 1, 2)), rtol=1e-9)
    batch = dataset.preprocess({"image": train["image"], "label": train["label"]})
    np.testing.assert_array_equal(batch["label"], train["label"])


def test_label_maps_are_resized_to_the_nearest(mesh):
    """Where the image is bright is the class, at every size; ignored pixels stay ignored."""
    label = np.zeros((8, 12, 12), np.uint8)
    label[:, :, 6:] = 1
    label[:, :3, :3] = 255
    source = Source({"image": label[..., None] % 255 * np.uint8(200), "label": label}, class_names=("a", "b"))
    for size in (4, 6, 7, 24):
        train = batches(make(source, mesh, test=0, batch_size=4, image_size=size), "train")
        assert train["label"].shape == (8, size, size)
        np.testing.assert_array_equal(train["label"] == 1, train["image"][..., 0] >= 100)
        np.testing.assert_array_equal(train["label"], jax.image.resize(label, (8, size, size), "nearest"))
        assert (train["label"] == 255).any()


def test_border_weights(maps, mesh):
    """Of the training maps alone, as they are fed, by three settings."""
    chosen = {"border_weight": 4.0, "border_sigma": 2.0, "border_class": 1}
    dataset = make(maps, mesh, test=6, batch_size=4, image_size=6, **chosen)
    assert dataset.meta["shapes"]["weight"] == (6, 6)
    assert dataset.meta["dtypes"]["weight"] == "float32"
    assert dataset.meta["bytes"] == 20 * 6 * 6 * 3 + 14 * 6 * 6 * 4
    assert "weight" not in batches(dataset, "test")
    train = batches(dataset, "train")
    wanted = border_weights.border_weights(train["label"], separator=1, w0=4.0, sigma=2.0)
    np.testing.assert_array_equal(train["weight"], wanted)
    for key, other in (("border_weight", 5.0), ("border_sigma", 3.0), ("border_class", 0)):
        changed = make(maps, mesh, test=6, batch_size=4, image_size=6, **chosen | {key: other})
        assert np.abs(batches(changed, "train")["weight"] - wanted).max() > 0.1
    assert "weight" not in make(maps, mesh, test=6, batch_size=4).meta["shapes"]  # the default


@pytest.mark.parametrize(
    "changed, line",
    [
        ({"border_weight": -1.0}, r"config\.data\.border_weight is -1\.0; it must be more than 0"),
        ({"border_sigma": 0.0}, r"config\.data\.border_sigma is 0\.0; it must be more than 0"),
        ({"border_class": 3}, r"config\.data\.border_class is 3; the classes are 0 background, 1 disc, 2 ring"),
        ({"border_class": -1}, r"config\.data\.border_class is -1; the classes are"),
    ],
)
def test_border_settings_that_make_no_sense(maps, mesh, changed, line):
    with pytest.raises(UserError, match=line):
        make(maps, mesh, batch_size=4, **{"border_weight": 10.0} | changed)


def test_label_maps_are_needed_for_border_weights(images, numbers, mesh):
    for source in (images, numbers):
        with pytest.raises(UserError, match=r"border_weight is 10\.0; data set 'mine' has no label maps"):
            make(source, mesh, border_weight=10.0)


def test_labels_out_of_range(images, maps, mesh):
    label = maps.train["label"].copy()
    label[7, 2, 2] = 3
    wrong = maps._replace(train=maps.train | {"label": label})
    with pytest.raises(UserError) as error:
        make(wrong, mesh, batch_size=4)
    line = "data set 'mine', train: label 3 in row 7 is out of range; there are 3 classes, 0 to 2"
    assert str(error.value) == f"{line}, and 255 for ignored pixels"
    for value in (-1, 3, 255):
        held_out = {"image": images.train["image"][:5], "label": np.int32([0, 1, value, 2, 0])}
        with pytest.raises(UserError, match=rf"'mine', test: label {value} in row 2 is out of range; .* 0 to 2$"):
            make(images._replace(test=held_out), mesh)
    with pytest.raises(UserError, match=r"label maps \[20, 8, 11\] for images \[20, 8, 12, 2\]; they must be"):
        make(maps._replace(train=maps.train | {"label": label[:, :, 1:]}), mesh)


X, Y = np.zeros((40, 6), np.float32), np.arange(40, dtype=np.int32) % 2


@pytest.mark.parametrize(
    "train, line",
    [
        ({"features": X, "labels": Y}, r"train has 'features', 'labels'; it needs one of image,"),
        ({"feature": X, "label": Y[:30]}, r"unequal numbers of rows: .*40, .*30"),
        ({"feature": X, "label": Y[:, None]}, r"'label' is int32\[40, 1\]; it must be integers \[N"),
        ({"feature": X, "label": Y > 0}, r"'label' is bool\[40\]; it must be integers"),
        ({"feature": X, "label": Y / 1}, r"'label' is float64\[40\]; it must be integers"),
        ({"feature": X, "label": Y.astype(str)}, r"'label' is <U11\[40\]; it must be integers"),
        ({"feature": X[:, 0], "label": Y}, r"'feature' is float32\[40\]; it must be floats \[N, D\]"),
        ({"feature": X.tolist(), "label": Y}, r"'feature' is list; it must be an array"),
        ({"image": X, "target": Y / 2}, r"'image' is float32\[40, 6\]; it must be uint8 or floats \[N, H, W, C\]"),
        (
            {"image": np.zeros((40, 2, 2, 1), np.uint16), "label": Y},
            r"'image' is uint16\[40, 2, 2, 1\]; it must be uint8 or floats",
        ),
        ({"feature": X, "label": np.zeros((40, 2, 2), int)}, r"label maps \[40, 2, 2\] for images none"),
    ],
)
def test_arrays_that_make_no_data_set(mesh, train, line):
    with pytest.raises(UserError, match=line) as error:
        make(Source(train, class_names=("a", "b")), mesh)
    assert "\n" not in str(error.value)


def test_splits_that_do_not_fit_each_other(mesh):
    numbers = Source({"feature": X, "target": Y / 2})
    with pytest.raises(UserError, match=r"'mine', test: 'feature' is float32\[N, 4\]; in train it is float32\[N, 6\]"):
        make(numbers._replace(test={"feature": X[:, :4], "target": Y / 2}), mesh)
    with pytest.raises(UserError, match=r"'mine', test has 'feature'; train has 'feature', 'target'"):
        make(numbers._replace(test={"feature": X}), mesh)
    with pytest.raises(UserError, match=r"'mine', test has no rows; leave the split out, or give it one or more"):
        make(numbers._replace(test={"feature": X[:0], "target": Y[:0] / 2}), mesh)


def test_what_is_no_source(mesh):
    with pytest.raises(UserError, match=r"the data is a dict; it must be a zoo\.Source\(train="):
        make({"train": {"feature": X, "label": Y}}, mesh)
    with pytest.raises(UserError, match=r"train has labels, but no class_names; name them"):
        make(Source({"feature": X, "label": Y}), mesh)


def test_the_data_of_a_caller_is_not_called_by_the_name_of_another_set(mesh):
    with pytest.raises(UserError, match=r"^data set '\(given\)', train has labels"):
        make(Source({"feature": X, "label": Y}), mesh, name="digits")


def test_many_images_are_resized_in_parts(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (11, 6, 5, 3), np.uint8)
    whole = feed.resized(image, 9)
    monkeypatch.setattr(feed, "RESIZED", 4)
    np.testing.assert_array_equal(feed.resized(image, 9), whole)
    assert whole.std() > 30


def test_drawn_shapes(mesh):
    dataset = data.make(config.default().data.to_dict() | {"name": "shapes"}, seed=0, mesh=mesh)
    assert dataset.meta["splits"] == {"train": 400, "test": 100}
    assert dataset.meta["shapes"] == {"image": (64, 64, 1), "label": (64, 64)}
