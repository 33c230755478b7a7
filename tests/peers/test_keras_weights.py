"""The U-Net of orobix/retina-unet (Keras 1 over Theano), as it was published, on its own images."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.weights import import_weights

pytest.importorskip("h5py")
DRIVE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "weights" / "unet_drive"
pytestmark = pytest.mark.skipif(not DRIVE.is_dir(), reason=f"needs the real weights in {DRIVE}")


OPTIONS = {"depth": 2, "width": 32, "norm": "none", "up": "nearest", "head_activation": "relu"}


@pytest.fixture(scope="module")
def drive():
    model = zoo.create_model("unet", in_channels=1, **OPTIONS)
    done = import_weights(model, DRIVE / "test_best_weights.h5")
    assert done.rules == "U-Net in Keras 1 over Theano"
    assert len(done.table) == 22
    assert done.notes == []
    apply = jax.jit(lambda image: jax.nn.softmax(model.apply(done.variables, image))[0, ..., 1])
    return lambda image: np.asarray(apply(image[None, ..., None].astype(np.float32) / 255))


def test_the_stored_patch(drive):
    stored = np.load(DRIVE / "reference.npz")
    np.testing.assert_allclose(drive(stored["patch_input"]), stored["patch_prob"], atol=1e-4)


@pytest.mark.slow
def test_the_published_predictions(drive, shared_data):
    told = json.loads((DRIVE / "expected.json").read_text())["measured_full_image_forward"]
    for number in range(5):
        images = {
            kind: np.asarray(Image.open(shared_data / f"drive_unet/{kind}/{number:02}.png").convert("L"))
            for kind in ("image", "repo_prediction")
        }
        height, width = images["image"].shape
        found = drive(np.pad(images["image"], ((0, -height % 4), (0, -width % 4))))[:height, :width]
        if number == 0:
            stored = np.load(DRIVE / "reference.npz")["full_prob_image0"]
            np.testing.assert_allclose(found, stored, atol=1e-3)  # float16
        published = images["repo_prediction"]
        everywhere = np.corrcoef(found.ravel(), published.ravel())[0, 1]
        print(number, everywhere, told[number]["corr_with_repo_prediction"])
        assert everywhere > 0.995


def test_a_unet_with_up_convolutions_is_refused():
    model = zoo.create_model("unet", **OPTIONS | {"up": "resize"})
    with pytest.raises(zoo.UserError, match=r"over Theano; the model must have up='nearest', not 'resize'"):
        import_weights(model, DRIVE / "test_best_weights.h5", input=(48, 48, 1))
