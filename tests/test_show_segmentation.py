"""scripts/show_segmentation.py: the picture of a run holds the images, the truth and the prediction."""

import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

import zoo
from zoo.data import shapes

ROOT = pathlib.Path(__file__).parent.parent
SMALL = ("model.width=4", "model.depth=1", "total_steps=2", "checkpoint.best=0")


def command(workdir, *more):
    settings = [f"--config.{setting}" for setting in SMALL]
    arguments = ["--config=configs/shapes_unet.py", f"--workdir={workdir}", *settings, *more]
    environment = {**os.environ, "XLA_FLAGS": ""}
    script = [sys.executable, "scripts/show_segmentation.py", *arguments]
    return subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_picture(tmp_path):
    config = zoo.config.load(ROOT / "configs/shapes_unet.py", [setting.split("=") for setting in SMALL])
    zoo.train(config, tmp_path / "run")
    done = command(tmp_path / "run", "--rows=2", f"--output={tmp_path / 'a.png'}")
    assert done.returncode == 0, done.stderr
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (2 * 72, 3 * 72, 3)
    source = shapes.shapes(None)
    np.testing.assert_array_equal(picture[4:68, 4:68, 0], source.test["image"][0, ..., 0])
    np.testing.assert_array_equal(picture[4:68, 76:140].any(-1), source.test["label"][0] > 0)


def test_a_folder_that_is_no_run(tmp_path):
    done = command(tmp_path / "nothing")
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr
    assert "Traceback" not in done.stderr
