"""The contact sheet: its size, and that its rows show what they say."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zoo import config, contact_sheet
from zoo.contact_sheet import GAP, TITLE
from zoo.data import augment
from zoo.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/show_augment.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def cells(picture, side, columns):
    """[rows, columns, side, side, 3], and the titles [rows, TITLE, width, 3]"""
    step = TITLE + side + GAP
    rows = len(picture) // step
    assert picture.shape == (rows * step, GAP + columns * (side + GAP), 3)
    tops, lefts = np.arange(rows) * step, GAP + np.arange(columns) * (side + GAP)
    found = np.stack([[picture[t + TITLE : t + TITLE + side, x : x + side] for x in lefts] for t in tops])
    return found, np.stack([picture[t : t + TITLE] for t in tops])


def test_every_augmentation_on_the_digits(tmp_path):
    output = tmp_path / "sheet.png"
    done = run(f"--output={output}", "--draws=4")
    assert (done.returncode, done.stdout.strip()) == (0, f"wrote {output}"), done.stderr
    found, titles = cells(np.asarray(Image.open(output)), 64, 5)
    assert len(found) == len(augment.AUGMENTS)
    for name, row in zip(augment.AUGMENTS, found, strict=True):
        np.testing.assert_array_equal(row[0], found[0, 0], err_msg=name)  # the original, unchanged
        assert (row[1:] != row[:1]).any(), name
        assert (row[1:] != row[1:2]).any(), name  # several draws
    assert ((titles < 128).sum((1, 2, 3)) > 50).all()  # something is written
    assert len({title.tobytes() for title in titles}) == len(titles)


def test_a_recipe_one_by_one_and_together(tmp_path):
    output = tmp_path / "sheet.png"
    recipe = ["--config=configs/mnist_lenet.py", "--config.data.augment.rotate=0"]
    done = run(*recipe, "--data=digits", "--draws=2", f"--output={output}")
    assert done.returncode == 0, done.stderr
    found, _ = cells(np.asarray(Image.open(output)), 64, 3)
    zoom, shift, both = found[:, 1:]
    assert (both != zoom).any()
    assert (both != shift).any()


def test_label_maps_lie_over_a_second_copy():
    rng = np.random.default_rng(0)
    maps = {
        "image": rng.integers(0, 128, (3, 32, 48, 1)).astype(np.uint8),
        "label": np.tile(np.uint8([0, 0, 1, 255]), (3, 32, 12)),
    }
    picture, left_out = contact_sheet.draw(maps, [{"flip": 1.0}, {"mixup": 1.0}, {"crop": 16}], 0)
    assert len(left_out) == 1
    assert left_out[0].startswith("config.data.augment.mixup")
    picture, step = np.asarray(picture), TITLE + 64 + GAP
    assert picture.shape == (2 * step, GAP + 6 * (96 + GAP), 3)
    image, over, flipped, flipped_over = (
        picture[TITLE : TITLE + 64, GAP + i * (96 + GAP) :][:, :96][::2, ::2].astype(int) for i in range(4)
    )
    np.testing.assert_array_equal(image, np.repeat(maps["image"][0], 3, -1))
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    np.testing.assert_array_equal(flipped_over, over[:, ::-1])
    label = maps["label"][0]
    np.testing.assert_array_equal(over[label == 0], image[label == 0])
    for value in (1, 255):
        colour = contact_sheet.COLOURS[value % len(contact_sheet.COLOURS)].astype(int)
        np.testing.assert_array_equal(over[label == value], image[label == value] // 2 + colour // 2)
    smaller = picture[step + TITLE : 2 * step, GAP + 2 * (96 + GAP) :][:, :96]
    assert (smaller[:32, :32] < 128).all()
    assert (smaller[32:] == 255).all()


def test_png_of_a_single_draw():
    image = np.random.default_rng(0).integers(0, 256, (2, 70, 80, 3)).astype(np.uint8)
    picture, _ = contact_sheet.draw({"image": image}, [{"flip": 1.0}], 0)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    assert Image.open(buffer).size == (GAP + 2 * (80 + GAP), TITLE + 70 + GAP)  # not enlarged


def test_data_without_images():
    settings = config.override(config.default(), [("data.name", "iris")])
    with pytest.raises(UserError, match="data set 'iris' has no images"):
        contact_sheet.read(settings, 3)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--config=configs/iris_mlp.py"], "configs/iris_mlp.py has no augmentation"),
        (["--config.data.augment.crop=9"], "crop is 9, larger than the images (8x8)"),
        (
            ["--config.data.augment.flip=1", "--draws=1", "--output=no/such/folder.png"],
            "cannot write --output=no/such/folder.png: No such file or directory",
        ),
    ],
)
def test_mistakes(arguments, line):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert line in done.stderr
