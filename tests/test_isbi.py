"""ISBI 2012: membranes are class 1, and images are held out whole."""

import numpy as np
import pytest
from PIL import Image

from zoo import config, data
from zoo.errors import UserError


def write(root, rows=12, values=(0, 255)):
    """Images whose grey is their number; membranes (0) in their left quarter."""
    for name in ("image", "label"):
        (root / "isbi2012" / "train" / name).mkdir(parents=True)
    for row in range(rows):
        label = np.full((8, 8), values[1], np.uint8)
        label[:, :2] = values[0]
        for name, pixels in (("image", np.full((8, 8), row, np.uint8)), ("label", label)):
            Image.fromarray(pixels).save(root / "isbi2012" / "train" / name / f"{row}.png")


def test_classes_and_order(tmp_path):
    write(tmp_path)
    source = data.load("isbi2012", str(tmp_path))
    assert source.class_names == ("cell", "membrane")
    assert source.train["image"][:, 0, 0, 0].tolist() == list(range(12))  # 2.png before 10.png
    np.testing.assert_array_equal(source.train["label"][5], [[1, 1, 0, 0, 0, 0, 0, 0]] * 8)
    assert source.test is source.validation is None


def test_held_out_images(tmp_path, mesh):
    write(tmp_path)
    options = config.default().data.to_dict() | {"name": "isbi2012", "dir": str(tmp_path), "batch_size": 4, "test": 4}

    def held_out(split_seed):
        made = data.make(options | {"split_seed": split_seed}, seed=0, mesh=mesh)
        assert made.meta["splits"] == {"train": 8, "test": 4}
        return sorted(int(image[0, 0, 0]) for batch in made.eval("test") for image in np.asarray(batch["image"]))

    assert held_out(0) == held_out(0) != held_out(1)


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path}/isbi2012/train is not a folder; it must have image/ and label/"):
        data.load("isbi2012", str(tmp_path))
    write(tmp_path, values=(0, 254))
    with pytest.raises(UserError, match=r"the labels are 0, 254; they must be 0 \(membrane\) and 255 \(cell\)"):
        data.load("isbi2012", str(tmp_path))


def test_real_isbi2012(shared_data):
    source = data.load("isbi2012", str(shared_data))
    assert source.train["image"].shape == (30, 512, 512, 1)
    assert source.train["label"].shape == (30, 512, 512)
    share = source.train["label"].mean((1, 2))
    assert share.mean() == pytest.approx(0.220, abs=5e-4)  # of membrane
    assert (share.min(), share.max()) == pytest.approx((0.168, 0.270), abs=5e-4)
    membrane = source.train["label"] == 1
    assert source.train["image"][..., 0][membrane].mean() < source.train["image"][..., 0][~membrane].mean() - 30  # dark
