"""scripts/show_segmentation.py: the picture of a run holds the images, the truth and the prediction."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.data import shapes

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
    "model.width=4", "model.depth=1", "total_steps=5", "task.views=8", "data.validation=20",
    "eval_every_steps=5", "checkpoint.best=0",
)  # fmt: skip


def command(workdir, *more):
    settings = [f"--config.{setting}" for setting in SMALL]
    arguments = ["--config=configs/shapes_unet.py", f"--workdir={workdir}", *settings, *more]
    environment = {**os.environ, "XLA_FLAGS": ""}
    script = [sys.executable, "scripts/show_segmentation.py", *arguments]
    return subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_picture(tmp_path):
    """Of test images, where validation images are there, too; as good as the evaluation says, of all views."""
    config = zoo.config.load(ROOT / "configs/shapes_unet.py", [setting.split("=") for setting in SMALL])
    report = zoo.train(config, tmp_path / "run")
    done = command(tmp_path / "run", "--rows=100", f"--output={tmp_path / 'a.png'}")
    assert done.returncode == 0, done.stderr
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (100 * 72, 3 * 72, 3)
    source = shapes.shapes(None)
    np.testing.assert_array_equal(picture[4:68, 4:68, 0], source.test["image"][0, ..., 0])
    np.testing.assert_array_equal(picture[4:68, 76:140].any(-1), source.test["label"][0] > 0)
    truth, prediction = (picture.reshape(100, 72, 3, 72, 3)[:, 4:68, panel, 4:68] for panel in (1, 2))
    accuracy = (truth == prediction).all(-1).mean()
    assert accuracy == pytest.approx(report["metrics"]["test"]["pixel_accuracy"], abs=1e-5)


SMALLER = """
import numpy as np
import show_segmentation
label = show_segmentation.padded(np.ones((2, 4), np.int32), (4, 6))
np.testing.assert_array_equal(label[1:-1, 1:-1], 1)
assert (np.delete(show_segmentation.coloured(label), np.s_[1:3], 0) == 255).all()
"""


def test_a_smaller_prediction():
    """Valid convolutions leave a rim, which is white. In a process of its own: train.py has flags of the same names."""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    subprocess.run([sys.executable, "-c", SMALLER], env=environment, check=True, timeout=120)


def test_a_folder_that_is_no_run(tmp_path):
    done = command(tmp_path / "nothing")
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr
    assert "Traceback" not in done.stderr
