"""Files that PyTorch itself wrote, of the models people have: imported, they give the same logits."""

from collections import OrderedDict

import numpy as np
import pytest
from torch_networks import (
    PEERS,
    SMALL,
    UNET,
    D,
    evaluated,
    jit,
    networks,
    nn,
    package,
    randomized,
    small_timm,
    small_torchvision,
    torch,
)

import zoo
from zoo.weights import files, import_weights, safetensors


def compare(model, variables, net, shape, stages=()):
    """Logits, and the maps of all stages where `stages` are the modules of `net` that give them."""
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    maps, logits = evaluated(net, x, stages)
    close(jit(model.apply)(variables, x), logits)
    if stages:
        found = jit(model.clone(features_only=True).apply)(variables, x)
        assert [m.shape for m in found] == [m.shape for m in maps]
        assert [m.shape[-1] for m in found] == [stage.width for stage in model.stages]
        for ours, theirs in zip(found, maps, strict=True):
            close(ours, theirs)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", PEERS)
def test_maps_and_logits(tmp_path, name):
    peer = PEERS[name]
    model, net = zoo.create_model(peer.ours, **peer.options), randomized(peer.make())
    torch.save({peer.renamed(key): tensor for key, tensor in net.state_dict().items()}, tmp_path / "x.pth")
    done = import_weights(model, tmp_path / "x.pth", input=peer.shape)
    assert done.rules == peer.rules
    assert bool(peer.stages) == hasattr(model, "features_only")
    compare(model, done.variables, net, peer.shape, peer.stages)


def test_alexnet(tmp_path):
    """A third of its memory, by half precision in the file, which is also told."""
    net = randomized(package("torchvision").alexnet(num_classes=7))
    net = net.half().float()
    torch.save({key: tensor.half() for key, tensor in net.state_dict().items()}, tmp_path / "x.pth")
    model = zoo.create_model("alexnet", num_classes=7)
    done = import_weights(model, tmp_path / "x.pth")
    assert (done.rules, done.notes) == ("torchvision's AlexNet", ["16 tensors are float16; float32 from here on"])
    compare(model, done.variables, net, (80, 72, 3))


def test_a_unet_that_upsamples_otherwise_is_refused(tmp_path):
    torch.save(networks.milesial().state_dict(), tmp_path / "x.pth")
    model = zoo.create_model("unet", **UNET | {"up": "resize"})
    with pytest.raises(zoo.UserError, match=r"milesial's U-Net; the model must have up='transpose', not 'resize'"):
        import_weights(model, tmp_path / "x.pth")


def test_a_shortcut_that_pools_is_told_by_the_names(tmp_path):
    torch.save(small_timm("resnet18d").state_dict(), tmp_path / "x.pth")
    model = zoo.create_model("resnet18", **SMALL | D | {"shortcut": "B"})
    with pytest.raises(zoo.UserError, match=r"timm's ResNet-D; the model must have shortcut='D', not 'B'"):
        import_weights(model, tmp_path / "x.pth")


def test_the_stride_of_a_bottleneck_is_told_by_nothing(tmp_path, capsys):
    """The paper's network, as Caffe has it: the stride is that of the 1x1, which the model says."""
    net = randomized(small_torchvision("Bottleneck"))
    for block in (module for module in net.modules() if hasattr(module, "conv3")):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    torch.save(net.state_dict(), tmp_path / "x.pth")
    model = zoo.create_model("resnet50", **SMALL, bottleneck_stride="1x1")
    done = import_weights(model, tmp_path / "x.pth")
    (note,) = done.notes
    assert note.startswith("bottleneck_stride='3x3' is usual for torchvision's ResNet; the model has '1x1', and the")
    compare(model, done.variables, net, (45, 38, 3))
    zoo.save_weights(tmp_path / "ours.pth", model, done.variables, layout="torchvision")
    assert capsys.readouterr().out == f"{tmp_path / 'ours.pth'}: {note}\n"


@pytest.mark.parametrize("legacy", [False, True])
def test_every_kind_of_tensor(tmp_path, legacy):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:, ::2],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
        "low": torch.arange(5).bfloat16() / 8,
        "half": torch.ones(3).half(),
        "double": torch.rand(3, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(3).byte(),
    }
    checkpoint = {"model": tensors, "best": 0.5, "size": torch.Size([1, 2]), "optimizer": {"state": [base.clone()]}}
    torch.save(checkpoint, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    found = files.read(tmp_path / "x")
    assert found.metadata == {"best": 0.5, "left_out": {"optimizer": 1}}
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        array = found.tensors[name]
        assert array.shape == tuple(tensor.shape)
        assert f"torch.{array.dtype.name}" == str(tensor.dtype)
        np.testing.assert_array_equal(array.astype(np.float64), tensor.detach().double().numpy(), err_msg=name)


def test_safetensors_both_ways(tmp_path):
    peer = pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.rand(2, 3), "low": torch.rand(4).bfloat16(), "n": torch.tensor(3), "tiny": torch.zeros(0, 2)}
    tensors["eight"] = torch.rand(5).to(torch.float8_e4m3fn)
    peer.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    found = files.read(tmp_path / "theirs")
    assert found.metadata == {"format": "pt"}
    safetensors.write(tmp_path / "ours", found.tensors, {"é": "ü"})
    again = peer.load_file(tmp_path / "ours")
    assert again.keys() == tensors.keys() == found.tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name].float(), tensor.float())


def unnumbered():
    """Layers whose names are in another order than the layers, and whose shapes are the same."""
    layers = {"input": nn.Linear(16, 16), "relu": nn.ReLU(), "hidden": nn.Linear(16, 16), "relu2": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers | {"output": nn.Linear(16, 3)}))


def test_layers_without_numbers_are_in_the_order_of_the_file(tmp_path):
    net = randomized(unnumbered())
    torch.save(net.state_dict(), tmp_path / "x.pth")
    model = zoo.create_model("mlp", widths=(16, 16), num_classes=3)
    done = import_weights(model, tmp_path / "x.pth", input=(16,))
    x = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    close(model.apply(done.variables, x), net(torch.from_numpy(x)).detach().numpy())


def test_safetensors_of_layers_without_numbers_are_refused(tmp_path):
    """The library sorts by name, so that nothing tells which layer is first."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(unnumbered().state_dict(), tmp_path / "x.safetensors")
    model = zoo.create_model("mlp", widths=(16, 16), num_classes=3)
    with pytest.raises(zoo.UserError, match="the order of the layers hidden, input, output cannot be told"):
        import_weights(model, tmp_path / "x.safetensors", input=(16,))
