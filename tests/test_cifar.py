"""CIFAR's records: pixels where they belong, in every compression, and every bad file in one line that names it."""

import gzip
import lzma

import numpy as np
import pytest

from zoo import data
from zoo.data import cifar
from zoo.errors import UserError

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lambda content: lzma.compress(content, preset=0)}
BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]


def records(rng, rows, classes):
    """Images [rows, 32, 32, 3], labels [rows, len(classes)], and the bytes that hold them."""
    images = rng.integers(256, size=(rows, 32, 32, 3)).astype(np.uint8)
    labels = np.stack([rng.integers(n, size=rows) for n in classes], 1)
    content = b"".join(
        bytes(label.tolist()) + b"".join(image[..., channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )
    return images, labels, content


@pytest.fixture
def cifar10(tmp_path):
    """A small CIFAR-10 below tmp_path, each file compressed in another way, and what is in it."""
    rng = np.random.default_rng(0)
    (tmp_path / "cifar10").mkdir()
    parts = {}
    for index, name in enumerate([*BATCHES, "test_batch.bin"]):
        images, labels, content = records(rng, 3 + index, (10,))
        ending = [*PACK][index % 3]
        (tmp_path / "cifar10" / f"{name}{ending}").write_bytes(PACK[ending](content))
        parts[name] = images, labels
    return parts


def refused(folder, name="cifar10") -> str:
    with pytest.raises(UserError) as error:
        data.load(name, str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_cifar10(tmp_path, cifar10):
    source = data.load("cifar10", str(tmp_path))
    train = [cifar10[name] for name in BATCHES]  # in the order of the batches
    for split, parts in ((source.train, train), (source.test, [cifar10["test_batch.bin"]])):
        assert split["image"].dtype == np.uint8
        assert split["label"].dtype == np.int32
        np.testing.assert_array_equal(split["image"], np.concatenate([images for images, _ in parts]))
        np.testing.assert_array_equal(split["label"], np.concatenate([labels[:, 0] for _, labels in parts]))
    assert source.validation is None
    assert source.class_names == tuple("0123456789")


def test_class_names(tmp_path, cifar10):
    path = tmp_path / "cifar10" / "batches.meta.txt"
    path.write_text("\n".join("abcdefghij") + "\n\n")  # the official file ends in an empty line
    assert data.load("cifar10", str(tmp_path)).class_names == tuple("abcdefghij")
    path.write_text("a\nb\n")
    assert refused(tmp_path) == f"{path} has 2 class names; there are 10 classes"


@pytest.mark.parametrize("name, column, number", [("cifar100", 1, 100), ("cifar100_coarse", 0, 20)])
def test_cifar100(tmp_path, name, column, number):
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar100"
    folder.mkdir()
    images, labels, content = records(rng, 40, (20, 100))
    (folder / "train.bin.xz").write_bytes(PACK[".xz"](content))
    (folder / "test.bin").write_bytes(records(rng, 5, (20, 100))[2])
    source = data.load(name, str(tmp_path))
    np.testing.assert_array_equal(source.train["image"], images)
    np.testing.assert_array_equal(source.train["label"], labels[:, column])
    assert len(source.test["label"]) == 5
    assert source.class_names == tuple(map(str, range(number)))
    for kind, classes in (("fine", 100), ("coarse", 20)):
        (folder / f"{kind}_label_names.txt").write_text("\n".join(f"{kind}_{i}" for i in range(classes)))
    names = data.load(name, str(tmp_path)).class_names
    assert names == tuple(f"{'fine' if column else 'coarse'}_{i}" for i in range(number))


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 5 * 3073 - 1])
def test_truncated(tmp_path, size):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(UserError) as error:
        cifar.read(path, (10,))
    wanted = f"{path} is damaged: {size} bytes are not a whole number of records of 3073 bytes"
    assert str(error.value) == wanted


@pytest.mark.parametrize("ending", [".gz", ".xz"])
@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:5], lambda b: b"hello", lambda b: b""])
def test_damaged_compression(tmp_path, cifar10, ending, damage):
    (path,) = (tmp_path / "cifar10").glob(f"data_batch_[123].bin{ending}")
    path.write_bytes(damage(path.read_bytes()))
    line = refused(tmp_path)
    assert line.startswith(f"{path} is {'not a whole ' + ending[1:] if line[-5:] != 'bytes' else 'damaged'}")


def test_label_out_of_range(tmp_path, cifar10):
    path = tmp_path / "cifar10" / "data_batch_4.bin"
    content = bytearray(path.read_bytes())
    content[2 * 3073] = 10
    path.write_bytes(content)
    assert refused(tmp_path) == f"{path}: label 10 of row 2 is out of range; there are 10 classes, 0 to 9"


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_missing_file(tmp_path, cifar10, name):
    for path in (tmp_path / "cifar10").glob(f"{name}*"):
        path.unlink()
    assert refused(tmp_path).startswith(f"{tmp_path / 'cifar10'} has no file {name}[.gz|.xz]; put the binary version")


def test_missing_folder(tmp_path):
    assert refused(tmp_path, "cifar100").startswith(f"{tmp_path / 'cifar100'} is not a folder; put the binary version")


def test_real_cifar10(shared_data):
    source = data.load("cifar10", str(shared_data))
    assert source.train["image"].shape == (50_000, 32, 32, 3)
    assert source.test["image"].shape == (10_000, 32, 32, 3)
    assert np.bincount(source.train["label"]).tolist() == [5_000] * 10
    assert np.bincount(source.test["label"]).tolist() == [1_000] * 10
    assert [source.class_names[label] for label in source.train["label"][:4]] == ["frog", "truck", "truck", "deer"]
    # The means and deviations that are printed for CIFAR-10 everywhere.
    mean, std = data.preprocess.moments(source.train["image"])
    np.testing.assert_allclose(mean / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(std / 255, [0.2470, 0.2435, 0.2616], atol=5e-5)
