"""Folders of images: classes, pairs, sizes, modes, and every mistake in one line that names the file."""

import pathlib
import struct

import numpy as np
import pytest
from absl import logging
from PIL import Image

from zoo import config, data
from zoo.data import folder
from zoo.errors import UserError


@pytest.fixture
def said(monkeypatch):
    """The warnings that were given."""
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


def save(path, pixels, mode=None) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(path)
    return path


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(256, size=shape).astype(np.uint8)


def refused(root, **options) -> str:
    with pytest.raises(UserError) as error:
        data.load(f"folder:{root}", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- classes -----------------------------------------------------------------------------------------------------


def test_classes(tmp_path):
    wanted = {}
    for index, name in enumerate(["b/10.png", "b/2.bmp", "a/x.PNG", "c/deep/er/y.tiff", "b/z.webp"]):
        wanted[name] = noise(index, 5, 7, 3)
        save(tmp_path / name, wanted[name])
    Image.fromarray(wanted["b/z.webp"]).save(tmp_path / "b/z.webp", lossless=True)
    hidden = ("a/.hidden.png", "a/__x.png", "a/.ipynb_checkpoints/x.png", "c/deep/__MACOSX/x.png")
    for left_alone in ("a/notes.txt", "__MACOSX/a.png", ".git/a.png", *hidden):
        (tmp_path / left_alone).parent.mkdir(exist_ok=True)
        (tmp_path / left_alone).write_text("no image")
    source = data.load(f"folder:{tmp_path}")
    assert source.class_names == ("a", "b", "c")
    assert source.train["label"].tolist() == [0, 1, 1, 1, 2]
    assert source.train["label"].dtype == np.int32
    order = ["a/x.PNG", "b/2.bmp", "b/10.png", "b/z.webp", "c/deep/er/y.tiff"]
    np.testing.assert_array_equal(source.train["image"], np.stack([wanted[name] for name in order]))
    assert source.test is source.validation is None


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_splits(tmp_path, validation):
    for split, names in (("train", "aabb"), (validation, "b"), ("test", "ab")):
        for index, name in enumerate(names):
            save(tmp_path / split / name / f"{index}.png", noise(index, 4, 4, 3))
    source = data.load(f"folder:{tmp_path}")
    assert source.train["label"].tolist() == [0, 0, 1, 1]
    assert source.validation["label"].tolist() == [1]  # a class of the training split keeps its number
    assert source.test["label"].tolist() == [0, 1]


def test_modes(tmp_path):
    """16 bits keep their upper 8, palettes become colours, transparency goes; grey ones join the colours."""
    colour = noise(0, 6, 6, 3)
    grey = np.arange(36, dtype=np.uint8).reshape(6, 6)
    save(tmp_path / "a/1.png", colour)
    save(tmp_path / "a/2.png", np.dstack([colour, noise(1, 6, 6)]))
    save(tmp_path / "a/3.png", grey)
    save(tmp_path / "a/4.png", grey.astype(np.uint16) * 256 + 7)
    save(tmp_path / "a/5.png", grey > 9)
    palette = Image.fromarray(colour // 128 * 255).quantize(8)
    palette.save(tmp_path / "a/6.png", transparency=bytes([0, 9, 255, 255, 255, 255, 255, 255]))
    images = data.load(f"folder:{tmp_path}").train["image"]
    wanted = [colour, colour, grey, grey, (grey > 9) * np.uint8(255), colour // 128 * 255]
    for found, right in zip(images, wanted, strict=True):
        np.testing.assert_array_equal(found, right if right.ndim == 3 else np.dstack([right] * 3))


@pytest.mark.parametrize("most, dtype", [(255, np.uint16), (4095, np.uint16), (255, np.int32), (2**20, np.int32)])
def test_integers_of_an_unknown_range(tmp_path, most, dtype):
    """Their upper 8 of 16 bits are nothing or little of the picture."""
    path = save(tmp_path / "a/1.tiff", np.linspace(0, most, 36).reshape(6, 6).astype(dtype))
    line = (
        f"1 of 1 images cannot be read, first {path}: its values are 0 to {most}, but those of 16 bits go up to 65535"
    )
    assert refused(tmp_path).startswith(line)


def test_black_of_16_bits(tmp_path):
    save(tmp_path / "a/1.png", np.zeros((6, 6), np.uint16))
    assert not data.load(f"folder:{tmp_path}").train["image"].any()


@pytest.mark.parametrize("ending", ["tiff", "gif"])
def test_several_images_in_a_file(tmp_path, ending):
    first, *more = [Image.fromarray(noise(seed, 6, 6)) for seed in range(3)]
    (tmp_path / "a").mkdir()
    first.save(tmp_path / f"a/1.{ending}", save_all=True, append_images=more)
    line = f"first {tmp_path}/a/1.{ending}: it has 3 frames; each must be a file of its own"
    assert line in refused(tmp_path)


def test_the_previews_of_a_camera(tmp_path):
    """A JPEG with more views of the picture behind it, as many telephones write them."""
    first, more = [Image.fromarray(noise(seed, 8, 8, 3)) for seed in range(2)]
    (tmp_path / "a").mkdir()
    first.save(tmp_path / "a/1.jpg", format="MPO", save_all=True, append_images=[more])
    first.save(tmp_path / "a/2.jpg")
    image = data.load(f"folder:{tmp_path}").train["image"]
    np.testing.assert_array_equal(image[0], image[1])


def test_all_grey_is_one_channel(tmp_path):
    save(tmp_path / "a/1.png", noise(0, 6, 6))
    save(tmp_path / "b/2.png", noise(1, 6, 6), mode="LA")
    assert data.load(f"folder:{tmp_path}").train["image"].shape == (2, 6, 6, 1)


def test_sizes(tmp_path):
    first = save(tmp_path / "a/1.png", noise(0, 20, 30, 3))
    save(tmp_path / "a/2.png", noise(1, 20, 30, 3))
    second = save(tmp_path / "b/3.png", noise(2, 50, 24, 3))
    line = refused(tmp_path)
    assert f"{second} is 24x50; set config.data.image_size to bring all images to one size" in line
    assert "is 30x20 and " in line
    assert str(first.parent) in line
    assert data.load(f"folder:{tmp_path}", image_size=12).train["image"].shape == (3, 12, 12, 3)


@pytest.mark.parametrize("height, width", [(20, 33), (33, 20)])
def test_the_middle_is_kept(tmp_path, height, width):
    """Wide or high, the shorter side becomes image_size, and as much goes on either side of the longer one."""
    pixels = np.zeros((height, width), np.uint8)
    middle = [slice((side - 20) // 2, (side - 20) // 2 + 20) for side in (height, width)]
    pixels[tuple(middle)] = 200
    save(tmp_path / "a/1.png", pixels)
    image = data.load(f"folder:{tmp_path}", image_size=10).train["image"][0, ..., 0]
    assert (image[1:-1, 1:-1] == 200).all()
    save(tmp_path / "a/1.png", np.where(np.indices((40, 40)).sum(0) % 2, 255, 0).astype(np.uint8))
    image = data.load(f"folder:{tmp_path}", image_size=10).train["image"]
    assert np.ptp(image) < 40  # antialiased: a chequerboard turns grey


@pytest.mark.parametrize(
    "damage, why",
    [
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: b"<html>not found</html>", "cannot identify image file"),
        (lambda content: b"", "cannot identify image file"),
    ],
)
def test_broken_images(tmp_path, said, damage, why):
    for index in range(6):
        save(tmp_path / "ab"[index % 2] / f"{index}.png", noise(index, 16, 16, 3))
    for name in ("a/2.png", "b/3.png"):
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))
    line = refused(tmp_path)
    assert line.startswith(f"2 of 6 images cannot be read, first {tmp_path}/a/2.png: ")
    assert why in line
    assert line.endswith("; repair or remove them, or set config.data.on_error to 'skip'")
    assert not said
    source = data.load(f"folder:{tmp_path}", on_error="skip")
    assert source.train["label"].tolist() == [0, 0, 1, 1]
    assert len(said) == 1
    assert said[0].startswith(f"2 of 6 images cannot be read, first {tmp_path}/a/2.png: ")


def test_nothing_left(tmp_path, said):
    save(tmp_path / "a/1.png", noise(0, 4, 4))
    (tmp_path / "b").mkdir()
    assert refused(tmp_path) == f"{tmp_path}/b has no images"
    (tmp_path / "b" / "2.png").write_text("no image")
    assert refused(tmp_path, on_error="skip") == f"{tmp_path}/b has no images"
    (tmp_path / "a" / "1.png").write_text("no image")
    assert refused(tmp_path, on_error="skip") == "the train split has no images that can be read"


def test_wrong_folders(tmp_path):
    photos = tmp_path / "photos"
    save(photos / "ants" / "1.png", noise(0, 4, 4))
    assert refused(tmp_path / "photso") == (
        f"folder:{tmp_path}/photso: {tmp_path}/photso is not a folder; did you mean 'photos'?"
    )
    assert refused(tmp_path / "phot" / "ants").endswith(f": {tmp_path}/phot is not a folder; did you mean 'photos'?")
    assert refused(tmp_path / "qqq").endswith(f": {tmp_path}/qqq is not a folder")
    assert refused(photos / "ants").startswith(f"{photos}/ants has no folders of classes, and no image/ with label/")
    save(photos / "val" / "ants" / "1.png", noise(0, 4, 4))
    assert refused(photos) == f"{photos} has a folder 'val', but none called 'train'"
    (photos / "ants").rename(photos / "extra")
    save(photos / "train" / "ants" / "1.png", noise(0, 4, 4))
    assert refused(photos).startswith(f"{photos}/extra lies beside train/, and is not a split")
    (photos / "extra").rename(photos / "validation")
    assert refused(photos) == f"{photos} has both val/ and validation/; only one can be the validation split"
    (photos / "validation" / "1.png").unlink()
    (photos / "validation").rmdir()
    save(photos / "val" / "ant" / "1.png", noise(0, 4, 4))
    assert refused(photos) == f"{photos}/val/ant is not a class of {photos}/train; did you mean 'ants'?"


def test_names(tmp_path, monkeypatch):
    save(tmp_path / "here" / "a" / "1.png", noise(0, 4, 4))
    monkeypatch.chdir(tmp_path)
    assert len(data.load("folder:here").train["label"]) == 1
    monkeypatch.chdir("/")
    assert len(data.load("folder:here", str(tmp_path)).train["label"]) == 1  # below config.data.dir
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    assert len(data.load("folder:here").train["label"]) == 1
    for name, line in (
        ("foldr:/x", "unknown kind of data set 'foldr'; did you mean 'folder'"),
        ("folder:", "data set 'folder:' has no path"),
        ("folder", "unknown data set 'folder'"),
    ):
        with pytest.raises(UserError, match=line):
            data.load(name)


def test_on_error_is_checked():
    with pytest.raises(UserError, match=r"config\.data\.on_error is 'ignore'; it must be 'stop' or 'skip'"):
        data.load("digits", on_error="ignore")
    with pytest.raises(UserError, match=r"config\.data\.on_error is 'skip', which only folder: data sets support"):
        data.load("digits", on_error="skip")


# --- pairs -------------------------------------------------------------------------------------------------------


def pair(root, stem, image, label, kinds=("image", "label")):
    save(root / kinds[0] / f"{stem}.png", image)
    save(root / kinds[1] / f"{stem}.tiff", label)


@pytest.mark.parametrize("kinds", [("image", "label"), ("images", "masks"), ("image", "mask")])
def test_pairs(tmp_path, said, kinds):
    labels = {stem: noise(int(stem), 6, 5) % 3 for stem in ("2", "10", "7")}
    labels["7"][0, 0] = 255
    for stem, label in labels.items():
        pair(tmp_path / ("val" if stem == "7" else "train"), stem, noise(int(stem), 6, 5, 3), label, kinds)
    source = data.load(f"folder:{tmp_path}")
    assert source.class_names == ("class0", "class1", "class2")
    np.testing.assert_array_equal(source.train["label"], np.stack([labels["2"], labels["10"]]))
    np.testing.assert_array_equal(source.validation["label"], labels["7"][None])
    np.testing.assert_array_equal(source.train["image"][1], noise(10, 6, 5, 3))
    assert source.train["label"].dtype == np.uint8
    assert not said


@pytest.mark.parametrize(
    "values, classes, names",
    [
        ((0, 255), (0, 1), ("background", "foreground")),
        ((0, 1), (0, 1), ("background", "foreground")),
        ((0, 1, 255), (0, 1, 255), ("background", "foreground")),
        ((0, 128, 255), (0, 1, 2), ("class0", "class1", "class2")),
        ((1, 2), (0, 1), ("background", "foreground")),
    ],
)
def test_values(tmp_path, said, values, classes, names):
    pair(tmp_path, "a", noise(0, 4, 6), np.resize(values, (4, 6)).astype(np.uint8))
    source = data.load(f"folder:{tmp_path}")
    assert source.class_names == names
    np.testing.assert_array_equal(source.train["label"][0], np.resize(classes, (4, 6)))
    mapped = values != classes
    assert said == [f"folder:{tmp_path}: label values {[*values]} are classes 0 to {len(values) - 1}"] * mapped


def test_kinds_of_label_images(tmp_path, said):
    """Palettes count by index, black and white as 0 and 255, grey in three channels as grey."""
    classes = noise(0, 4, 6) % 2
    palette = Image.fromarray(classes)
    palette.putpalette([90, 0, 0, 0, 80, 0])
    for stem in "abcd":
        save(tmp_path / "image" / f"{stem}.png", noise(1, 4, 6))
    palette.save(tmp_path / "image" / "unused.png")
    (tmp_path / "image" / "unused.png").unlink()
    (tmp_path / "label").mkdir()
    palette.save(tmp_path / "label" / "a.png")
    save(tmp_path / "label" / "b.png", np.dstack([classes] * 3))
    save(tmp_path / "label" / "c.png", classes.astype(np.uint16))
    save(tmp_path / "label" / "d.png", np.dstack([classes] * 4))
    labels = data.load(f"folder:{tmp_path}").train["label"]
    np.testing.assert_array_equal(labels, np.stack([classes] * 4))
    for path in (tmp_path / "label").iterdir():
        save(path, classes > 0)
    np.testing.assert_array_equal(data.load(f"folder:{tmp_path}").train["label"], np.stack([classes] * 4))


@pytest.mark.parametrize("orientation, turned", [(1, lambda x: x), (3, lambda x: x[::-1, ::-1]), (6, np.rot90)])
def test_images_are_turned_as_their_tag_says(tmp_path, orientation, turned):
    """The label map, drawn on what was seen, has no tag."""
    label = noise(0, 6, 4) % 2
    pair(tmp_path, "a", label, label)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned(label * np.uint8(200)))).save(tmp_path / "image/a.png", exif=exif)
    train = data.load(f"folder:{tmp_path}").train
    np.testing.assert_array_equal(train["image"][..., 0] > 100, train["label"])


def test_a_turned_image_with_a_tag_of_a_wrong_type(tmp_path):
    """The width as a word, which Pillow cannot write again."""
    tags = struct.pack("<HHI4sHHIHH", 0x100, 2, 2, b"2", 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tags + bytes(4)
    Image.fromarray(noise(0, 4, 6)).save(tmp_path / "x.jpg", exif=exif)
    with Image.open(tmp_path / "x.jpg") as file:
        stored = np.asarray(file)
    with Image.open(tmp_path / "x.jpg") as file:
        np.testing.assert_array_equal(folder.grey_or_rgb(file), np.rot90(stored, -1))


def test_pairs_are_resized_together(tmp_path):
    """Labels by the nearest pixel, and where their pixels are."""
    label = np.zeros((40, 64), np.uint8)
    label[:, 32:] = 1
    pair(tmp_path, "a", label * 200, label)
    train = data.load(f"folder:{tmp_path}", image_size=20).train
    assert train["image"].shape == (1, 20, 20, 1)
    assert np.unique(train["label"]).tolist() == [0, 1]
    np.testing.assert_array_equal(train["label"], train["image"][..., 0] > 100)


def test_wrong_pairs(tmp_path):
    pair(tmp_path, "a", noise(0, 4, 6), noise(0, 4, 6) % 2)
    extra = save(tmp_path / "image" / "b.png", noise(1, 4, 6))
    assert refused(tmp_path) == f"{extra} has no label map in {tmp_path}/label; it should be called b.*"
    extra.unlink()
    extra = save(tmp_path / "label" / "c.png", noise(1, 4, 6))
    assert refused(tmp_path) == f"{extra} has no image in {tmp_path}/image; it should be called c.*"
    extra.unlink()
    extra = save(tmp_path / "image" / "a.bmp", noise(1, 4, 6))
    assert refused(tmp_path) == f"{extra} and a.png have the same name less their endings"
    extra.unlink()
    save(tmp_path / "label" / "a.tiff", noise(0, 6, 4) % 2)
    assert refused(tmp_path, image_size=4) == f"{tmp_path}/label/a.tiff is 4x6, but its image is 6x4"
    save(tmp_path / "label" / "a.tiff", noise(0, 4, 6, 3))
    assert f"first {tmp_path}/label/a.tiff: it has colours; a label map has grey values" in refused(tmp_path)
    save(tmp_path / "label" / "a.tiff", np.full((4, 6), 300, np.uint16))
    assert f"{tmp_path}/label/a.tiff: its values are 300 to 300; those of a label map are 0 to 255" in refused(tmp_path)
    for number in (1, 33, 256):  # nothing to tell apart; marks of a lossy format, with and without gaps
        values = np.linspace(0, 255, number).astype(np.uint8).reshape(1, -1)
        pair(tmp_path, "a", values, values)
        line = refused(tmp_path)
        assert line.startswith(f"folder:{tmp_path}: the label maps have {number} different values (0")
        assert (", ...)" in line) == (number > 5)
    (tmp_path / "mask").mkdir()
    assert refused(tmp_path).startswith(f"{tmp_path} has both label/ and mask/; a segmentation set has one folder")
    for name in ("mask", "label"):
        (tmp_path / name).rename(tmp_path.parent / f"{tmp_path.name}_{name}")
    assert refused(tmp_path).startswith(f"{tmp_path} has no folder label/, labels/, mask/, masks/; a segmentation set")


def test_a_broken_label_map_takes_its_image_along(tmp_path, said):
    for stem in "abc":
        pair(tmp_path, stem, noise(ord(stem), 4, 6), noise(0, 4, 6) % 2)
    (tmp_path / "label" / "b.tiff").write_text("no image")
    assert refused(tmp_path).startswith(f"1 of 3 images cannot be read, first {tmp_path}/label/b.tiff: ")
    images = data.load(f"folder:{tmp_path}", on_error="skip").train["image"][..., 0]
    np.testing.assert_array_equal(images, np.stack([noise(ord(stem), 4, 6) for stem in "ac"]))


# --- the real ones -----------------------------------------------------------------------------------------------


def test_through_the_settings(tmp_path, mesh, said):
    """Images of any size, a broken one: two settings, and they reach the reader."""
    for index in range(9):
        save(tmp_path / "ab"[index % 2] / f"{index}.png", noise(index, 8 + index, 10, 3))
    (tmp_path / "a" / "0.png").write_text("no image")
    options = config.default().data.to_dict() | {"name": f"folder:{tmp_path}", "batch_size": 4, "test": 0}
    options |= {"image_size": 6, "on_error": "skip"}
    meta = data.make(options, seed=0, mesh=mesh).meta
    assert meta["shapes"] == {"image": (6, 6, 3), "label": ()}
    assert meta["splits"] == {"train": 8}
    assert meta["class_names"] == ("a", "b")


def test_real_hymenoptera(shared_data):
    source = data.load("folder:hymenoptera128", str(shared_data))
    assert source.train["image"].shape == (244, 128, 128, 3)
    assert np.bincount(source.train["label"]).tolist() == [123, 121]
    assert np.bincount(source.validation["label"]).tolist() == [70, 83]
    assert source.class_names == ("ants", "bees")


def test_real_drive(shared_data, said):
    source = data.load("folder:drive_unet", str(shared_data))
    assert source.train["image"].shape == (5, 584, 565, 1)
    assert 0.05 < source.train["label"].mean() < 0.15  # vessels
    assert source.class_names == ("background", "foreground")
    assert len(said) == 1
