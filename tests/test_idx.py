"""idx files: the good ones exactly, every bad one in one line that names the file."""

import gzip
import pathlib

import numpy as np
import pytest

from zoo import data
from zoo.data import idx
from zoo.errors import UserError

CLASSES = ("a", "b", "c")


def idx_bytes(array, magic=None):
    array = np.asarray(array, np.uint8)
    header = [magic if magic is not None else 8 * 256 + array.ndim, *array.shape]
    return b"".join(n.to_bytes(4, "big") for n in header) + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(256, size=(7, 5, 4)),
        "train-labels-idx1-ubyte": np.array([0, 1, 2, 0, 1, 2, 2]),
        "t10k-images-idx3-ubyte": rng.integers(256, size=(3, 5, 4)),
        "t10k-labels-idx1-ubyte": np.array([2, 1, 0]),
    }


def write(folder, arrays, zipped=True) -> pathlib.Path:
    for name, array in arrays.items():
        put(folder, name, array if isinstance(array, bytes) else idx_bytes(array), zipped)
    return folder


def put(folder, name, content: bytes, zipped=True):
    if zipped:
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [True, False])
def test_good_files(tmp_path, arrays, zipped):
    source = idx.load(write(tmp_path, arrays, zipped), CLASSES)
    for split, prefix in ((source.train, "train"), (source.test, "t10k")):
        assert split["image"].dtype == np.uint8
        assert split["label"].dtype == np.int32
        np.testing.assert_array_equal(split["image"], arrays[f"{prefix}-images-idx3-ubyte"][..., None])
        np.testing.assert_array_equal(split["label"], arrays[f"{prefix}-labels-idx1-ubyte"])
    assert source.validation is None
    assert source.class_names == CLASSES


def test_some_zipped_and_some_not(tmp_path, arrays):
    names = list(arrays)
    write(tmp_path, {name: arrays[name] for name in names[:2]})
    write(tmp_path, {name: arrays[name] for name in names[2:]}, zipped=False)
    assert len(idx.load(tmp_path, CLASSES).test["label"]) == 3


@pytest.mark.parametrize("name, loader", [("mnist", idx.mnist), ("fashion_mnist", idx.fashion_mnist)])
def test_folders_of_the_data_sets(tmp_path, arrays, monkeypatch, name, loader):
    (tmp_path / name).mkdir()
    write(tmp_path / name, arrays)
    assert len(loader(tmp_path).train["label"]) == 7
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    assert len(data.load(name).train["label"]) == 7  # found by the environment
    monkeypatch.setenv("ZOO_DATA_DIR", "/nowhere")
    assert len(data.load(name, str(tmp_path)).train["label"]) == 7  # the setting comes first
    with pytest.raises(UserError, match=rf"^/nowhere/{name} is not a folder"):
        data.load(name)


def broken(tmp_path, arrays, name, content: bytes, *, zipped=True) -> str:
    """The error line for a folder whose file `name` has this content."""
    put(write(tmp_path, arrays, zipped), name, content, zipped)
    return refused(tmp_path)


def refused(folder) -> str:
    with pytest.raises(UserError) as error:
        idx.load(folder, CLASSES)
    assert "\n" not in str(error.value)
    return str(error.value)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", [IMAGES, "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:9], lambda b: b[:4]])
def test_truncated_or_too_long(tmp_path, arrays, name, change, zipped):
    line = broken(tmp_path, arrays, name, change(idx_bytes(arrays[name])), zipped=zipped)
    assert line.startswith(f"{tmp_path / name}{'.gz' * zipped} is truncated or too long")


def test_truncated_says_what_is_there(tmp_path, arrays):
    line = broken(tmp_path, arrays, IMAGES, idx_bytes(arrays[IMAGES])[:-13])
    assert line.endswith("the header announces 7 x 5 x 4 bytes, 127 follow")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "name, content, magic",
    [
        (IMAGES, idx_bytes(np.zeros((7, 5, 4)), magic=2050), "2050, not 2051"),
        (IMAGES, idx_bytes(np.zeros(7)), "2049, not 2051"),  # labels where the images should be
        (LABELS, idx_bytes(np.zeros((7, 5, 4))), "2051, not 2049"),
        (LABELS, idx_bytes(np.zeros(7), magic=13 * 256 + 1), "3329, not 2049"),  # of floats
        (LABELS, b"\x08\x01", "134283264, not 2049"),
        (LABELS, b"\0\0\x08", "2048, not 2049"),
        (LABELS, b"", "0, not 2049"),
        (LABELS, b"<html>not found</html>", "1013478509, not 2049"),
    ],
)
def test_wrong_magic_number(tmp_path, arrays, name, content, magic, zipped):
    line = broken(tmp_path, arrays, name, content, zipped=zipped)
    assert line.startswith(f"{tmp_path / name}{'.gz' * zipped}: ")
    assert f"the magic number is {magic}" in line


def test_counts_that_disagree(tmp_path, arrays):
    line = broken(tmp_path, arrays, LABELS, idx_bytes([0, 1, 2]))
    assert line == f"{tmp_path / IMAGES}.gz has 7 images but {LABELS}.gz has 3 labels"


@pytest.mark.parametrize("content", [b"hello", b"\x1f", idx_bytes(np.zeros(7))])
def test_not_gzip(tmp_path, arrays, content):
    (write(tmp_path, arrays) / f"{LABELS}.gz").write_bytes(content)
    line = refused(tmp_path)
    assert line.startswith(f"{tmp_path / LABELS}.gz is not a whole gzip file")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30], lambda b: b[:10] + b"\xff" * 9 + b[19:]])
def test_damaged_gzip(tmp_path, arrays, damage):
    path = write(tmp_path, arrays) / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert refused(tmp_path).startswith(f"{path} is not a whole gzip file: ")


@pytest.mark.parametrize("name", [LABELS, "t10k-labels-idx1-ubyte"])
def test_label_out_of_range(tmp_path, arrays, name):
    labels = arrays[name].copy()
    labels[1] = 3
    line = broken(tmp_path, arrays, name, idx_bytes(labels))
    assert line == f"{tmp_path / name}.gz: label 3 of row 1 is out of range; there are 3 classes, 0 to 2"


def test_missing_folder(tmp_path):
    line = refused(tmp_path / "mnist")
    assert line.startswith(f"{tmp_path / 'mnist'} is not a folder; put the idx files there, or set ZOO_DATA_DIR")


@pytest.mark.parametrize("name", [IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_missing_file(tmp_path, arrays, name):
    write(tmp_path, {other: array for other, array in arrays.items() if other != name})
    assert refused(tmp_path).startswith(f"{tmp_path} has no file {name}[.gz]; put the idx files there")


# --- the real ones -----------------------------------------------------------------------------------------------


def test_real_mnist(shared_data):
    source = data.load("mnist", str(shared_data))
    assert source.train["image"].shape == (60_000, 28, 28, 1)
    assert source.test["image"].shape == (10_000, 28, 28, 1)
    # The counts that are printed for MNIST everywhere; the sums are those of the official files.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(source.train["label"]).tolist() == counts
    assert np.bincount(source.test["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert source.train["label"][:5].tolist() == [5, 0, 4, 1, 9]
    assert source.train["image"].mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert source.train["image"].std() / 255 == pytest.approx(0.3081, abs=5e-5)
    assert len(source.class_names) == 10


def test_real_fashion_mnist(shared_data):
    source = data.load("fashion_mnist", str(shared_data))
    assert source.train["image"].shape == (60_000, 28, 28, 1)
    assert np.bincount(source.train["label"]).tolist() == [6_000] * 10
    assert np.bincount(source.test["label"]).tolist() == [1_000] * 10
    assert source.train["image"].mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert source.class_names[source.train["label"][0]] == "Ankle boot"
