"""The networks of PyTorch that the tests compare ours with: torchvision's, timm's, and the layouts people publish.

Activations are modules, so that a test can put another function in their place.
"""

import importlib.util
import pathlib
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these programs run once
TOOLS = pathlib.Path(__file__).resolve().parents[3] / "shared" / "tools"


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


def torchvision(name, **options):
    return getattr(package("torchvision"), name)(num_classes=7, **options)


def small_torchvision(block, **options):
    resnet = package("torchvision").resnet
    return resnet.ResNet(getattr(resnet, block), SMALL["depths"], num_classes=7, **options)


def timm(name, **options):
    return getattr(package("timm"), name)(num_classes=7, **options)


def small_timm(name):
    return timm(name, layers=SMALL["depths"])


def alexnet():
    """torchvision's, with dense layers that are narrow and drop nothing."""
    net = torchvision("alexnet", dropout=0.0)
    net.classifier[1], net.classifier[4], net.classifier[6] = nn.Linear(9216, 32), nn.Linear(32, 32), nn.Linear(32, 7)
    return net


class CifarBlock(nn.Module):
    """Of the usual ResNets for CIFAR. Shortcut A is every second pixel, and zeros for the new channels."""

    def __init__(self, before, after, project):
        super().__init__()
        stride = after // before
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        if project and stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        new = y.shape[1] - x.shape[1]
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        elif new:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new // 2, new // 2))
        return self.relu(x + y)


class Cifar(nn.Module):
    """ResNet-20 and its like, section 4.2 of the paper, with the names that published weights have."""

    def __init__(self, depth=3, project=False):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        for i, width in ((1, 16), (2, 32), (3, 64)):
            before = [16 if i == 1 else width // 2] + [width] * (depth - 1)
            setattr(self, f"layer{i}", nn.Sequential(*(CifarBlock(n, width, project) for n in before)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def lenet():
    block = lambda *convolution, **more: (nn.Conv2d(*convolution, **more), nn.ReLU(), nn.MaxPool2d(2))  # noqa: E731
    names = ("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc1", "relu3", "fc2", "relu4", "fc3")
    dense = nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
    parts = *block(3, 6, 5, padding=2), *block(6, 16, 5), nn.Flatten(), *dense
    return nn.Sequential(OrderedDict(zip(names, parts, strict=True)))


NUMBERS = {"flatten": "0", "fc1": "1", "bn1": "2", "relu1": "3", "fc2": "4", "bn2": "5", "relu2": "6", "fc3": "7"}


def perceptron():
    """Over images, which PyTorch flattens as [C, H, W]; with normalization between."""
    hidden = (nn.Linear(60, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(OrderedDict(zip(NUMBERS, (nn.Flatten(), *hidden, nn.Linear(8, 3)), strict=True)))


def numbered(name):
    """As in a Sequential of the same layers."""
    layer, _, leaf = name.partition(".")
    return f"{NUMBERS[layer]}.{leaf}"


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


class Peer(NamedTuple):
    """A network of theirs, and what it is here."""

    ours: str  # name of our model
    options: dict[str, Any]
    make: Callable  # () -> their network
    rules: str  # the table of its import
    layout: str  # of its export
    shape: tuple[int, int, int]  # of an image
    stages: tuple[str, ...] = ()  # their modules whose outputs are our `features_only`
    renamed: Callable[[str], str] = str  # a name of theirs -> the one in the file


SEVEN = {"num_classes": 7}
SMALL = {"depths": (1, 2, 1, 1), "num_classes": 7}  # every kind of block
UNET = {"depth": 2, "width": 4, "num_classes": 5, "up": "transpose"}
MLP = {"widths": (9, 8), "num_classes": 3, "norm": "batch"}
RESNET, RESNET_D, RESNET_V2 = "torchvision's ResNet", "timm's ResNet-D", "timm's ResNetV2"
CIFAR = "CIFAR ResNet in PyTorch"
STAGES = ("relu", "layer1", "layer2", "layer3", "layer4")
STAGES_TIMM = ("act1", *STAGES[1:])
STAGES_V2 = ("stem.conv", "stages.0", "stages.1", "stages.2", "norm")
D = {"stem": "deep", "shortcut": "D"}
ODD, EVEN = (45, 38, 3), (64, 64, 3)

PEERS = {
    "basic": Peer("resnet18", SEVEN, partial(torchvision, "resnet18"), RESNET, "torchvision", ODD, STAGES),
    "bottleneck": Peer("resnet50", SMALL, partial(small_torchvision, "Bottleneck"), RESNET, "torchvision", ODD, STAGES),
    "wide": Peer(
        "wide_resnet50_2", SMALL, partial(small_torchvision, "Bottleneck", width_per_group=128), RESNET, "torchvision",
        EVEN, STAGES,
    ),
    "timm": Peer("resnet18", SMALL, partial(small_timm, "resnet18"), RESNET, "timm", EVEN, STAGES_TIMM),
    "timm d": Peer("resnet50", SMALL | D, partial(small_timm, "resnet50d"), RESNET_D, "timm", ODD, STAGES_TIMM),
    "timm v2 basic": Peer("resnetv2_18", SMALL, partial(small_timm, "resnetv2_18"), RESNET_V2, "timm", EVEN, STAGES_V2),
    "timm v2": Peer("resnetv2_50", SMALL, partial(small_timm, "resnetv2_50"), RESNET_V2, "timm", ODD, STAGES_V2),
    "cifar": Peer("resnet20_cifar", {}, Cifar, CIFAR, "cifar", (16, 16, 3), STAGES[:4]),
    "cifar b": Peer(  # as several GPUs save it
        "resnet20_cifar", {"shortcut": "B"}, partial(Cifar, project=True), CIFAR, "cifar", (17, 16, 3),
        STAGES[:4], "module.{}".format,
    ),
    "alexnet": Peer(
        "alexnet", {"num_classes": 7, "hidden": 32, "dropout": 0.0}, alexnet, "torchvision's AlexNet", "torchvision",
        (80, 72, 3), ("features.1", "features.4", "features.11"),
    ),
    "lenet": Peer("lenet5", {}, lenet, "LeNet in PyTorch", "torch", (28, 28, 3), ("pool1", "pool2")),
    "mlp": Peer("mlp", MLP, perceptron, "MLP in PyTorch", "torch", (4, 5, 3), renamed=numbered),
    "milesial": Peer("unet", UNET, Milesial, "milesial's U-Net", "milesial", (16, 16, 3), ("up2.conv", "up1.conv")),
    "buda": Peer("unet", UNET, Buda, "mateuszbuda's U-Net", "buda", (16, 16, 3), ("decoder1", "decoder2")),
}  # fmt: skip
WHOLE = {
    "resnet50": Peer("resnet50", SEVEN, partial(torchvision, "resnet50"), RESNET, "torchvision", ODD),
    "wide_resnet50_2": Peer(
        "wide_resnet50_2", SEVEN, partial(torchvision, "wide_resnet50_2"), RESNET, "torchvision", ODD
    ),
    "resnet50d": Peer("resnet50", SEVEN | D, partial(timm, "resnet50d"), RESNET_D, "timm", ODD),
    "resnetv2_50": Peer("resnetv2_50", SEVEN, partial(timm, "resnetv2_50"), RESNET_V2, "timm", ODD),
    "resnet32_cifar": Peer("resnet32_cifar", {}, partial(Cifar, 5), CIFAR, "cifar", (16, 16, 3)),
}


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


def to_torch(images):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def to_numpy(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def evaluated(net, images, stages=()):
    """(the outputs of the modules `stages`, logits), channels last."""
    found = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: found.update({name: out}))
        for name in stages
    ]
    with torch.no_grad():
        logits = net.eval()(to_torch(images))
    for hook in hooks:
        hook.remove()
    return [to_numpy(found[name]) for name in stages], to_numpy(logits)
