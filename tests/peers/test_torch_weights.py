"""Files that PyTorch itself wrote, of the models people have: imported, they give the same logits."""

import collections
import importlib.util
import pathlib
import subprocess
import sys
import warnings
from functools import partial

import jax
import numpy as np
import pytest

import zoo
from zoo.weights import files, import_weights, safetensors

torch = pytest.importorskip("torch")
nn = torch.nn
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these programs run once
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT.parent / "shared" / "tools"


def package(name):
    """torchvision's or timm's models; skips where they are not installed."""
    if importlib.util.find_spec("torchvision") is None or importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (TOOLS / "torchvision_cpu.py").exists() and str(TOOLS) not in sys.path:
            sys.path.insert(0, str(TOOLS))
            import torchvision_cpu  # noqa: F401
        return importlib.import_module(f"{name}.models")


def torchvision_resnet(block, **options):
    resnet = package("torchvision").resnet
    return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=7, **options)


def timm_resnet(name, **options):
    return getattr(package("timm"), name)(layers=(1, 1, 1, 1), num_classes=7, **options)


def cifar_resnet():
    """torchvision's network under the names of the usual ResNets for CIFAR, wrapped for several GPUs."""
    net = torchvision_resnet("BasicBlock")
    new = (("downsample", "shortcut"), ("fc.", "linear."))
    net.names = lambda name: "module." + [name := name.replace(*pair) for pair in new][-1]
    return net


def lenet():
    parts = {"conv1": nn.Conv2d(3, 6, 5, padding=2), "conv2": nn.Conv2d(6, 16, 5), "fc1": nn.Linear(400, 120)}
    net = nn.ModuleDict(parts | {"fc2": nn.Linear(120, 84), "fc3": nn.Linear(84, 10)})

    def forward(x):
        for conv in (net["conv1"], net["conv2"]):
            x = nn.functional.max_pool2d(conv(x).relu(), 2)
        return net["fc3"](net["fc2"](net["fc1"](x.flatten(1)).relu()).relu())

    net.forward = forward
    return net


def sequential():
    """Over images, which PyTorch flattens as [C, H, W]; with normalization between."""
    norms = [nn.BatchNorm1d(9), nn.BatchNorm1d(8)]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 4 * 5, 9),
        norms[0],
        nn.ReLU(),
        nn.Linear(9, 8),
        norms[1],
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def unnumbered():
    """Layers whose names are in another order than the layers, and whose shapes are the same."""
    return nn.Sequential(
        collections.OrderedDict(
            input=nn.Linear(16, 16),
            relu=nn.ReLU(),
            hidden=nn.Linear(16, 16),
            relu2=nn.ReLU(),
            output=nn.Linear(16, 3),
        )
    )


class Double(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        convs = (nn.Conv2d(n, after, 3, padding=1, bias=False) for n in (before, after))
        norms, relus = (nn.BatchNorm2d(after) for _ in range(2)), (nn.ReLU() for _ in range(2))
        self.double_conv = nn.Sequential(*(part for parts in zip(convs, norms, relus, strict=True) for part in parts))

    def forward(self, x):
        return self.double_conv(x)


class Milesial(nn.Module):
    """The layout of milesial/Pytorch-UNet: 2 poolings, 4 channels; the skip comes first."""

    def __init__(self):
        super().__init__()
        self.inc = Double(3, 4)
        for i, width in ((1, 8), (2, 16)):
            down = nn.Module()
            down.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), Double(width // 2, width))
            up = nn.Module()
            up.up, up.conv = nn.ConvTranspose2d(32 // 2**i, 16 // 2**i, 2, 2), Double(32 // 2**i, 16 // 2**i)
            setattr(self, f"down{i}", down)
            setattr(self, f"up{i}", up)
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(4, 5, 1)

    def forward(self, x):
        skips = [self.inc(x)]
        for down in (self.down1, self.down2):
            skips.append(down.maxpool_conv(skips[-1]))
        x = skips.pop()
        for up in (self.up1, self.up2):
            x = up.conv(torch.cat([skips.pop(), up.up(x)], 1))
        return self.outc.conv(x)


class Buda(nn.Module):
    """The layout of mateuszbuda/brain-segmentation-pytorch: 2 poolings, 4 channels; the skip comes last."""

    def __init__(self):
        super().__init__()
        self.encoder1, self.encoder2 = self.block(3, 4, "enc1"), self.block(4, 8, "enc2")
        self.bottleneck = self.block(8, 16, "bottleneck")
        self.upconv2, self.upconv1 = nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.decoder2, self.decoder1 = self.block(16, 8, "dec2"), self.block(8, 4, "dec1")
        self.conv = nn.Conv2d(4, 5, 1)

    def block(self, before, after, name):
        net = nn.Sequential()
        for i, inputs in ((1, before), (2, after)):
            net.add_module(f"{name}conv{i}", nn.Conv2d(inputs, after, 3, padding=1, bias=False))
            net.add_module(f"{name}norm{i}", nn.BatchNorm2d(after))
            net.add_module(f"{name}relu{i}", nn.ReLU())
        return net

    def forward(self, x):
        first = self.encoder1(x)
        second = self.encoder2(nn.functional.max_pool2d(first, 2))
        x = self.bottleneck(nn.functional.max_pool2d(second, 2))
        x = self.decoder2(torch.cat([self.upconv2(x), second], 1))
        return self.conv(self.decoder1(torch.cat([self.upconv1(x), first], 1)))


ONE = {"depths": (1, 1, 1, 1), "num_classes": 7}
UNET = {"depth": 2, "width": 4, "num_classes": 5, "up": "transpose"}
# name -> (our model, theirs, its name for the rules, shape of an image)
PEERS = {
    "basic": ("resnet18", ONE, partial(torchvision_resnet, "BasicBlock"), "torchvision's ResNet", (33, 33, 3)),
    "bottleneck": ("resnet50", ONE, partial(torchvision_resnet, "Bottleneck"), "torchvision's ResNet", (33, 33, 3)),
    "wide": (
        "wide_resnet50_2", ONE, partial(torchvision_resnet, "Bottleneck", width_per_group=128), "torchvision's ResNet",
        (33, 33, 3),
    ),
    "cifar": ("resnet18", ONE, cifar_resnet, "CIFAR ResNet in PyTorch", (33, 33, 3)),
    "timm": ("resnet18", ONE, partial(timm_resnet, "resnet18"), "torchvision's ResNet", (33, 33, 3)),
    "timm d": (
        "resnet50", ONE | {"stem": "deep", "shortcut": "D"}, partial(timm_resnet, "resnet50d"), "timm's ResNet-D",
        (33, 33, 3),
    ),
    "timm v2 basic": ("resnetv2_18", ONE, partial(timm_resnet, "resnetv2_18"), "timm's ResNetV2", (33, 33, 3)),
    "timm v2": ("resnetv2_50", ONE, partial(timm_resnet, "resnetv2_50"), "timm's ResNetV2", (33, 33, 3)),
    "lenet": ("lenet5", {}, lenet, "LeNet in PyTorch", (28, 28, 3)),
    "mlp": (
        "mlp", {"widths": (9, 8), "num_classes": 3, "norm": "batch"}, sequential, "MLP in PyTorch", (4, 5, 3),
    ),
    "unnumbered": ("mlp", {"widths": (16, 16), "num_classes": 3}, unnumbered, "MLP in PyTorch", (16,)),
    "milesial": ("unet", UNET, Milesial, "milesial's U-Net", (16, 16, 3)),
    "buda": ("unet", UNET, Buda, "mateuszbuda's U-Net", (16, 16, 3)),
}  # fmt: skip


def randomized(net):
    """Statistics, scales and biases that no mistake leaves as they are."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.1)
    return net.eval()


def compare(model, variables, net, shape):
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x)).numpy()
    if wanted.ndim == 4:
        wanted = wanted.transpose(0, 2, 3, 1)
    found = jit(model.apply)(variables, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", PEERS)
def test_logits(tmp_path, name):
    ours, options, theirs, rules, shape = PEERS[name]
    model, net = zoo.create_model(ours, **options), randomized(theirs())
    names = getattr(net, "names", str)
    torch.save({names(key): tensor for key, tensor in net.state_dict().items()}, tmp_path / "x.pth")
    done = import_weights(model, tmp_path / "x.pth", input=shape)
    assert done.rules == rules
    compare(model, done.variables, net, shape)


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
    torch.save(Milesial().state_dict(), tmp_path / "x.pth")
    model = zoo.create_model("unet", **UNET | {"up": "resize"})
    with pytest.raises(zoo.UserError, match=r"milesial's U-Net; the model must have up='transpose', not 'resize'"):
        import_weights(model, tmp_path / "x.pth")


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


def test_safetensors_of_layers_without_numbers_are_refused(tmp_path):
    """The library sorts by name, so that nothing tells which layer is first."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(unnumbered().state_dict(), tmp_path / "x.safetensors")
    model = zoo.create_model("mlp", widths=(16, 16), num_classes=3)
    with pytest.raises(zoo.UserError, match="the order of the layers hidden, input, output cannot be told"):
        import_weights(model, tmp_path / "x.safetensors", input=(16,))


def verify(path, *flags):
    command = [sys.executable, "scripts/import_weights.py", path, *flags, "--verify"]
    code = "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); import runpy, importlib.util as i; "
    code += "i.find_spec('torchvision_cpu') and __import__('torchvision_cpu'); sys.argv.pop(0); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command[1:2] = ["-W", "ignore", "-c", code, f"{ROOT}:{TOOLS}", "scripts/import_weights.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=140)


def test_verify(tmp_path):
    net = randomized(package("torchvision").resnet18(num_classes=3))
    torch.save(net.state_dict(), tmp_path / "x.pth")
    done = verify(tmp_path / "x.pth", "--model=resnet18", "--option=num_classes=3")
    assert done.returncode == 0, done.stderr
    assert "of torchvision.models.resnet18's, relative to the largest" in done.stdout
    done = verify(tmp_path / "x.pth", "--model=resnet18", "--option=num_classes=4")
    assert done.returncode == 2
    assert "--verify compares whole models" in done.stderr
