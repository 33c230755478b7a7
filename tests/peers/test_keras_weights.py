"""The U-Net of orobix/retina-unet (Keras 1 over Theano), as it was published, on its own images."""

import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.models.conv import Conv, max_pool
from zoo.models.unet import Block
from zoo.weights import import_weights

pytest.importorskip("h5py")
DRIVE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "weights" / "unet_drive"
pytestmark = pytest.mark.skipif(not DRIVE.is_dir(), reason=f"needs the real weights in {DRIVE}")


class Drive(nn.Module):
    """U-Net with plain upsampling, 2 poolings, and a rectified head of 2 classes: the layers of ours, put together."""

    @nn.compact
    def __call__(self, x):
        skips = []
        for i in range(2):
            skips.append(Block(32 * 2**i, batch_norm=False, name=f"down{i}")(x))
            x = max_pool(skips[-1], (2, 2), (2, 2))
        x = Block(128, batch_norm=False, name="bottom")(x)
        for i in (1, 0):
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = Block(32 * 2**i, batch_norm=False, name=f"up{i}")(x, skips[i])
        return nn.softmax(nn.relu(Conv(2, (1, 1), name="head")(x)))


@pytest.fixture(scope="module")
def drive():
    done = import_weights(Drive(), DRIVE / "test_best_weights.h5", input=(48, 48, 1))
    assert done.rules == "U-Net in Keras 1 over Theano"
    assert len(done.table) == 22
    assert done.notes == []
    apply = jax.jit(lambda image: Drive().apply(done.variables, image)[0, ..., 1])
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
    model = zoo.create_model("unet", depth=2, width=32, batch_norm=False)
    with pytest.raises(zoo.UserError, match=r"over Theano\): .*up0/up/kernel: no rule fills it"):
        import_weights(model, DRIVE / "test_best_weights.h5", input=(48, 48, 1))
