"""Data sets of tfds come back exactly, without TensorFlow, and every mistake is told in one line."""

import io
import json
import pathlib
import subprocess
import sys
import urllib.error

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from zoo.data import tfds_source
from zoo.errors import UserError

features = tfds.features

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = {
    "image": features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
    "label": features.ClassLabel(names=["zero", "one", "two"]),
    "id": np.int64,
}


def make(folder, columns, splits, *, name="little", version="1.0.0", keys=None):
    """A builder of tfds for these rows: {split: {feature: values}}."""

    class Little(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(columns), supervised_keys=keys)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True))

    Little.name = name
    return Little(data_dir=folder, file_format="array_record")


def prepare(folder, columns, splits, *, shards=1, **options):
    """Prepares the set as tfds does, and gives its folder."""
    builder = make(folder, columns, splits, **options)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    return pathlib.Path(builder.data_dir)


def digits(rows, seed=0):
    """Images with their row number in two pixels, by which tests put the rows back in order."""
    images = np.random.default_rng(seed).integers(0, 256, (rows, 8, 8, 1)).astype(np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(rows), 256)
    return {"image": images, "label": np.arange(rows) % 3, "id": np.arange(rows)}


def in_order(split):
    order = np.argsort(split["image"][:, 0, 0, 0] * 256.0 + split["image"][:, 0, 1, 0])
    return {key: values[order] for key, values in split.items()}


def error(name, folder, capfd):
    """The one line of the UserError, after a look that nothing was printed."""
    capfd.readouterr()
    with pytest.raises(UserError) as caught:
        tfds_source.load(name, data_dir=str(folder))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    return str(caught.value)


def png(array):
    buffer = io.BytesIO()
    (Image.fromarray(array) if isinstance(array, np.ndarray) else array).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_and_labels_come_back(tmp_path, capfd):
    train, test = digits(300), digits(40, seed=1)
    prepare(tmp_path, DIGITS, {"train": train, "test": test}, keys=("image", "label"), shards=3)
    capfd.readouterr()
    source = tfds_source.load("little", data_dir=str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert source.validation is None
    assert source.class_names == ("zero", "one", "two")
    for loaded, put_in in ((source.train, train), (source.test, test)):
        assert loaded.keys() == {"image", "label"}
        assert (loaded["image"].dtype, loaded["label"].dtype) == (np.uint8, np.int32)
        loaded = in_order(loaded)
        np.testing.assert_array_equal(loaded["image"], put_in["image"])
        np.testing.assert_array_equal(loaded["label"], put_in["label"])


@pytest.mark.parametrize("split", ["validation", "valid"])
def test_vectors_and_real_targets_come_back(tmp_path, split):
    columns = {"features": features.Tensor(shape=(5,), dtype=np.float64), "target": np.float32}
    rng = np.random.default_rng(0)
    rows = {
        name: {"features": rng.normal(size=(n, 5)), "target": np.arange(n) / 2}
        for name, n in (("train", 50), (split, 9))
    }
    prepare(tmp_path, columns, rows)
    source = tfds_source.load("little", data_dir=str(tmp_path))
    assert source.test is None
    assert source.class_names is None
    for loaded, put_in in ((source.train, rows["train"]), (source.validation, rows[split])):
        order = np.argsort(loaded["target"])
        assert (loaded["feature"].dtype, loaded["target"].dtype) == (np.float32, np.float32)
        np.testing.assert_array_equal(loaded["feature"][order], put_in["features"].astype(np.float32))
        np.testing.assert_array_equal(loaded["target"][order], put_in["target"])


def test_supervised_keys_decide(tmp_path):
    columns = {
        "left": features.Tensor(shape=(2,), dtype=np.float32),
        "right": features.Tensor(shape=(2,), dtype=np.int64),
        "label": features.ClassLabel(num_classes=2),
        "grade": np.int64,
    }
    rows = {
        "left": np.ones((6, 2), np.float32),
        "right": np.full((6, 2), 7),
        "label": [0] * 6,
        "grade": [3, 4, 5, 5, 4, 3],
    }
    prepare(tmp_path, columns, {"train": rows}, keys=("right", "grade"))
    source = tfds_source.load("little", data_dir=str(tmp_path))
    assert (source.train["feature"] == 7).all()
    assert sorted(source.train["label"]) == [3, 3, 4, 4, 5, 5]
    assert source.class_names == ("0", "1", "2", "3", "4", "5")  # no ClassLabel: the numbers


def test_a_set_may_have_inputs_only(tmp_path):
    prepare(tmp_path, DIGITS, {"train": digits(5)}, keys=("image", "image"))
    assert tfds_source.load("little", data_dir=str(tmp_path)).train.keys() == {"image"}


def test_the_customary_name_decides_between_features(tmp_path):
    columns = {"image": DIGITS["image"], "depth": DIGITS["image"], "label": np.int32, "kind": np.int32}
    images = digits(4)["image"]
    rows = {"image": images, "depth": 255 - images, "label": [0, 1, 0, 1], "kind": [9] * 4}
    prepare(tmp_path, columns, {"train": rows})
    source = tfds_source.load("little", data_dir=str(tmp_path))
    np.testing.assert_array_equal(in_order(source.train)["image"], images)
    assert source.class_names == ("0", "1")


def test_encoded_images_are_decoded_as_tensorflow_does(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    grey = colour[..., 0]
    palette = Image.fromarray(np.stack([grey // 128 * 255, grey // 128 * 90, grey * 0], -1)).quantize(4)
    alpha = np.concatenate([colour, colour[..., :1]], -1)
    grey_in_colour = np.repeat(grey[..., None], 3, -1)
    expected = [colour, grey_in_colour, np.asarray(palette.convert("RGB")), colour, grey_in_colour]
    columns = {"image": features.Image(shape=(None, None, 3)), "label": features.ClassLabel(num_classes=5)}
    encoded = [png(colour), png(grey), png(palette), png(alpha), png(grey * np.uint16(257))]
    rows = {"image": encoded, "label": range(5)}
    prepare(tmp_path, columns, {"train": rows})
    source = tfds_source.load("little", data_dir=str(tmp_path))
    np.testing.assert_array_equal(source.train["image"][np.argsort(source.train["label"])], expected)
    assert len(np.unique(expected[2].reshape(-1, 3), axis=0)) == 2


def test_grey_encoded_images_have_one_channel(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (3, 6, 7)).astype(np.uint8)
    columns = {"image": features.Image(shape=(6, 7, 1)), "label": features.ClassLabel(num_classes=3)}
    prepare(tmp_path, columns, {"train": {"image": [png(one) for one in grey], "label": range(3)}})
    train = tfds_source.load("little", data_dir=str(tmp_path)).train
    np.testing.assert_array_equal(train["image"][np.argsort(train["label"])], grey[..., None])


def test_version_and_default_folder(tmp_path, monkeypatch):
    for version, rows in (("1.0.0", 4), ("1.2.0", 6)):
        prepare(tmp_path / "tfds", DIGITS, {"train": digits(rows)}, version=version)
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    sizes = {name: len(tfds_source.load(name).train["label"]) for name in ("little", "little:1.0.0", "little:1.*.*")}
    assert sizes == {"little": 6, "little:1.0.0": 4, "little:1.*.*": 6}


def test_evaluation_split_without_labels_is_left_out(tmp_path, capfd):
    unknown = {**digits(5), "label": [-1] * 5}
    prepare(tmp_path, DIGITS, {"train": digits(9), "validation": digits(6), "test": unknown})
    source = tfds_source.load("little", data_dir=str(tmp_path))
    assert source.test is None
    assert len(source.validation["label"]) == 6
    prepare(tmp_path, DIGITS, {"train": unknown}, name="unlabelled")
    assert error("unlabelled", tmp_path, capfd) == "tfds:unlabelled has labels -1 to -1 for 3 classes"


def test_neither_tensorflow_nor_output_in_a_fresh_process(tmp_path):
    prepare(tmp_path, DIGITS, {"train": digits(9)})
    program = (
        "import sys; from zoo.data import tfds_source\n"
        "assert 'tensorflow_datasets' not in sys.modules, 'not imported lazily'\n"
        f"source = tfds_source.load('little', data_dir={str(tmp_path)!r})\n"
        "assert len(source.train['label']) == 9\n"
        "assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "name, words",
    [
        ("mnst", "unknown data set 'tfds:mnst'; did you mean 'mnist'"),
        ("litle", "unknown data set 'tfds:litle'; did you mean 'little'"),
        ("qqqqqqqq", "unknown data set 'tfds:qqqqqqqq'; prepared in {folder}: little:1.0.0"),
        ("little:2.0.0", "unknown data set 'tfds:little:2.0.0'; prepared in {folder}: little:1.0.0"),
        ("little/big", "unknown data set 'tfds:little/big'; prepared in {folder}: little:1.0.0"),
        ("kubric:movi", "'tfds:kubric:movi' is not of the form"),
        ("two words", "'tfds:two words' is not of the form"),
        ("", "'tfds:' is not of the form"),
        ("cifar10:9.9.9", "tfds:cifar10:9.9.9 in {folder}/cifar10 cannot be opened: AssertionError: Dataset"),
        ("cifar10/warm", "BuilderConfig warm not found"),
    ],
)
def test_unknown_names(tmp_path, capfd, name, words):
    prepare(tmp_path, DIGITS, {"train": digits(3)})
    assert words.format(folder=tmp_path) in error(name, tmp_path, capfd)


def test_images_cannot_be_prepared_without_tensorflow(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    line = error("mnist", tmp_path, capfd)
    assert line.startswith("tfds:mnist is not prepared: TensorFlow, which encodes its images, is not installed; run `")
    assert "pip install tensorflow" in line
    assert line.endswith(f"copy its prepared array_record folder to {tmp_path}/mnist/3.0.1")


def test_nothing_can_be_downloaded_without_network(tmp_path, capfd, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no such host")

    monkeypatch.setattr(tfds_source.urllib.request, "urlopen", unreachable)
    line = error("iris", tmp_path, capfd)
    assert "tfds:iris is not prepared: it has to be downloaded, and there is no network; run `" in line
    assert line.endswith(f" {tmp_path}/iris/2.1.0")


def test_a_folder_without_a_description_is_not_a_prepared_set(tmp_path, capfd):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    assert f"tfds:mnist is not prepared: {folder} has no dataset_info.json; run" in error("mnist", tmp_path, capfd)


def test_code_that_needs_tensorflow(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    line = error("wine_quality", tmp_path, capfd)
    assert "tfds:wine_quality is not prepared: the Python package 'tensorflow' is not installed; run" in line


def test_a_set_that_can_be_prepared_is_prepared(tmp_path, monkeypatch):
    rows = digits(12)
    monkeypatch.setattr(tfds, "builder", lambda name, **_: make(tmp_path, DIGITS, {"train": rows}))
    source = tfds_source.load("little", data_dir=str(tmp_path))
    np.testing.assert_array_equal(in_order(source.train)["image"], rows["image"])


def test_a_preparation_that_fails_tells_why(tmp_path, monkeypatch):
    rows = {**digits(2), "label": ["zero", "seven"]}
    monkeypatch.setattr(tfds, "builder", lambda name, **_: make(tmp_path, DIGITS, {"train": rows}))
    with pytest.raises(UserError, match=r"tfds:little is not prepared: .*seven") as caught:
        tfds_source.load("little", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file_format", ["tfrecord", "riegeli", "parquet"])
def test_other_file_formats(tmp_path, capfd, file_format):
    path = prepare(tmp_path, DIGITS, {"train": digits(3)}) / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": file_format}))
    line = error("little", tmp_path, capfd)
    assert f"tfds:little in {path.parent} is prepared as {file_format}, and only array_record can be read" in line
    assert "file_format='array_record').download_and_prepare()" in line


def flip(data):
    return data[:1000] + bytes(byte ^ 0xFF for byte in data[1000:1100]) + data[1100:]


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[: 2**16], "0 of its 20 records"),  # reads as empty records, without an error
        (lambda data: data[:-10], "0 of its 20 records"),
        (lambda data: data[:1000], "0 of its 20 records"),
        (lambda data: b"", "0 of its 20 records"),
        (lambda data: b"no records " * 9999, "0 of its 20 records"),
        (flip, "record "),
        (None, "missing; it should hold 20 records"),
    ],
    ids=["one block", "end cut", "short", "empty", "text", "flipped", "missing"],
)
def test_damaged_records_name_the_file(tmp_path, capfd, damage, words):
    folder = prepare(tmp_path, DIGITS, {"train": digits(60)}, shards=3)
    path = folder / "little-train.array_record-00001-of-00003"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    line = error("little", tmp_path, capfd)
    assert line.startswith(f"{path} is {'damaged: ' if damage else ''}{words}")


@pytest.mark.parametrize("content", ['{"a', "{}", "[1]"])
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_descriptions(tmp_path, capfd, file, content):
    folder = prepare(tmp_path, DIGITS, {"train": digits(3)})
    (folder / file).write_text(content)
    assert f"tfds:little in {tmp_path}/little cannot be opened: " in error("little", tmp_path, capfd)


def test_damaged_image_names_the_file(tmp_path, capfd):
    columns = {"image": features.Image(), "label": features.ClassLabel(num_classes=3)}
    whole = png(np.zeros((4, 4, 3), np.uint8))
    folder = prepare(tmp_path, columns, {"train": {"image": [whole, whole[:40], whole], "label": range(3)}})
    line = error("little", tmp_path, capfd)
    assert line.startswith(f"{folder}/little-train.array_record-00000-of-00001 is damaged: record ")


def test_images_of_different_sizes(tmp_path, capfd):
    columns = {"image": features.Image(), "label": features.ClassLabel(num_classes=3)}
    rows = {"image": [png(np.zeros((4, width, 3), np.uint8)) for width in (5, 5, 6)], "label": range(3)}
    prepare(tmp_path, columns, {"train": rows})
    assert "different shapes in 'image', such as (4, 5, 3) and (4, 6, 3)" in error("little", tmp_path, capfd)


VECTOR, WORD = features.Tensor(shape=(2,), dtype=np.float32), features.Text()


@pytest.mark.parametrize(
    "columns, keys, words",
    [
        ({"a": VECTOR, "b": VECTOR, "label": np.int64}, None, "which feature is the feature: 'a' or 'b'"),
        ({"a": VECTOR, "x": np.float32, "y": np.float32}, None, "which feature is the target: 'x' or 'y'"),
        (
            {"x": np.float32, "y": np.float32},
            None,
            "neither an image nor a vector of real numbers, but 'x': ",
        ),
        (
            {"w": WORD, "label": np.int64},
            None,
            "neither an image nor a vector of real numbers, but 'label': ",
        ),
        (
            {"a": VECTOR, "b": VECTOR},
            ("a", "b"),
            "is meant to predict 'b' from 'a'; the zoo predicts a class",
        ),
        ({"w": WORD, "n": np.int64}, ("w", "n"), "'w': Text(shape=(), dtype=string)"),
    ],
)
def test_features_that_do_not_fit(tmp_path, capfd, columns, keys, words):
    row = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32), "w": "word"}
    prepare(tmp_path, columns, {"train": {key: [row.get(key, 1)] * 3 for key in columns}}, keys=keys)
    assert words in error("little", tmp_path, capfd)


def test_no_training_split(tmp_path, capfd):
    prepare(tmp_path, DIGITS, {"test": digits(3), "extra": digits(3)})
    assert error("little", tmp_path, capfd) == "tfds:little has no split 'train'; it has extra, test"
