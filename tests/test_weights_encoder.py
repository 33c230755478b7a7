"""A residual network's weights as the encoder of a U-Net; the expanding path is made anew, and told."""

import jax
import numpy as np
import pytest
import weight_files as make
from test_weights_import import torch_names

import zoo
from zoo import rules as tree
from zoo.errors import UserError
from zoo.weights import import_weights, shapes, tables

ENCODER = zoo.create_model("resnet18", num_classes=5)


@pytest.fixture(scope="module")
def theirs():
    return torch_names(ENCODER, np.zeros((1, 32, 32, 3), np.float32), tables.RESNETS[0])


@pytest.fixture(scope="module")
def model():
    return zoo.create_model("unet_resnet18", width=2, in_channels=1)


NOTE = "new: head, up0, up1, up2, up3, up4 (52 parameters)"


def test_from_torchvision(theirs, model, tmp_path):
    (tmp_path / "x.npz").write_bytes(make.npz(theirs))
    done = import_weights(model, tmp_path / "x.npz", seed=2)
    assert done.notes == [
        f"the encoder from torchvision's ResNet; {NOTE}",
        "encoder/stem/kernel: 3 input channels summed to 1",
    ]
    found = tree.flatten(done.variables)
    kernel = theirs["layer2.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found["params/encoder/layer2_0/conv1/kernel"], kernel)
    variance = found["batch_stats/encoder/layer2_0/proj_norm/var"]
    np.testing.assert_array_equal(variance, theirs["layer2.0.downsample.1.running_var"])
    assert jax.tree.structure(done.variables) == jax.tree.structure(shapes.of(model)[0])
    rows = {row.path: row.transform for row in done.table}
    assert {path.split("/")[0] for path, how in rows.items() if how == "new"} == {"head", *(f"up{i}" for i in range(5))}
    assert len(rows) == len(found)
    assert found["params/up0/conv1/kernel"].std() > 0.1


def test_from_our_own_file(theirs, model, tmp_path):
    (tmp_path / "x.npz").write_bytes(make.npz(theirs))
    variables = zoo.load_weights(ENCODER, tmp_path / "x.npz")
    zoo.save_weights(tmp_path / "ours", ENCODER, variables)
    done = import_weights(model.clone(in_channels=3), tmp_path / "ours")
    assert done.notes == [f"the encoder from our own names; {NOTE}"]
    inner = {name: tree.flatten(done.variables[name]["encoder"]) for name in variables}
    for name, found in inner.items():
        for path, array in found.items():
            np.testing.assert_array_equal(array, tree.flatten(variables[name])[path])


def test_of_another_network_or_another_function(theirs, model, tmp_path):
    (tmp_path / "x.npz").write_bytes(make.npz({k: v for k, v in theirs.items() if k != "layer3.0.bn1.bias"}))
    with pytest.raises(UserError, match=r"does not fit the model"):
        import_weights(model, tmp_path / "x.npz")
    other = zoo.create_model("resnet18", num_classes=5, bn_eps=1e-3)
    (tmp_path / "x.npz").write_bytes(make.npz(theirs))
    variables = zoo.load_weights(ENCODER, tmp_path / "x.npz")
    zoo.save_weights(tmp_path / "ours", other, variables)
    with pytest.raises(UserError, match=r"was saved with bn_eps=0.001; the model has 1e-05"):
        import_weights(model, tmp_path / "ours")


def test_a_wide_resnet_with_options(tmp_path):
    """From a file of the encoder alone, and from one of the whole model, whose header tells the options."""
    own = {"norm": "group:2", "depths": (1, 1)}
    encoder = zoo.create_model("wrn16_2", **own, num_classes=3)
    model = zoo.create_model("unet_resnet18", encoder_name="wrn16_2", encoder_options=own, width=2, in_channels=3)
    normal = np.random.default_rng(0).standard_normal
    variables = jax.tree.map(lambda leaf: np.float32(normal(leaf.shape)), shapes.of(encoder)[0])
    zoo.save_weights(tmp_path / "encoder", encoder, variables)
    found = zoo.load_weights(model, tmp_path / "encoder")
    kernel = found["params"]["encoder"]["layer2_0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, variables["params"]["layer2_0"]["conv1"]["kernel"])
    zoo.save_weights(tmp_path / "whole", model, found)
    again = zoo.load_weights(model, tmp_path / "whole")
    np.testing.assert_array_equal(again["params"]["encoder"]["layer2_0"]["conv1"]["kernel"], kernel)
    with pytest.raises(UserError, match=r"was saved with norm='group:2'; the model has 'batch'"):
        zoo.load_weights(model.clone(encoder_options={"depths": (1, 1)}), tmp_path / "encoder")
