"""The networks of PyTorch that the tests compare ours with: torchvision's, timm's, and the layouts people publish.

All call `torch.nn.functional.relu`, so that a test can put another function in its place.
"""

import importlib.util
import pathlib
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
networks = importlib.import_module("zoo.weights.torch_networks")
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


NUMBERS = {"fc1": "1", "bn1": "2", "fc2": "4", "bn2": "5", "fc3": "7"}


def numbered(name):
    """As in a Sequential of the same layers."""
    layer, _, leaf = name.partition(".")
    return f"{NUMBERS[layer]}.{leaf}"


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
    "cifar": Peer("resnet20_cifar", {}, networks.CifarResNet, CIFAR, "cifar", (16, 16, 3), STAGES[:4]),
    "cifar b": Peer(  # as several GPUs save it
        "resnet20_cifar", {"shortcut": "B"}, partial(networks.CifarResNet, project=True), CIFAR, "cifar", (17, 16, 3),
        STAGES[:4], "module.{}".format,
    ),
    "alexnet": Peer(
        "alexnet", {"num_classes": 7, "hidden": 32, "dropout": 0.0}, alexnet, "torchvision's AlexNet", "torchvision",
        (80, 72, 3), ("features.1", "features.4", "features.11"),
    ),
    "lenet": Peer("lenet5", {}, networks.LeNet, "LeNet in PyTorch", "torch", (28, 28, 3), ("pool1", "pool2")),
    "mlp": Peer(
        "mlp", MLP, partial(networks.mlp, [("fc1", 60, 9), ("fc2", 9, 8), ("fc3", 8, 3)], ("bn1", "bn2")),
        "MLP in PyTorch", "torch", (4, 5, 3), renamed=numbered,
    ),
    "milesial": Peer(
        "unet", UNET, networks.milesial, "milesial's U-Net", "milesial", (16, 16, 3),
        ("up2.conv.double_conv", "up1.conv.double_conv"),
    ),
    "buda": Peer("unet", UNET, networks.buda, "mateuszbuda's U-Net", "buda", (16, 16, 3), ("decoder1", "decoder2")),
}  # fmt: skip
WHOLE = {
    "resnet50": Peer("resnet50", SEVEN, partial(torchvision, "resnet50"), RESNET, "torchvision", ODD),
    "wide_resnet50_2": Peer(
        "wide_resnet50_2", SEVEN, partial(torchvision, "wide_resnet50_2"), RESNET, "torchvision", ODD
    ),
    "resnet50d": Peer("resnet50", SEVEN | D, partial(timm, "resnet50d"), RESNET_D, "timm", ODD),
    "resnetv2_50": Peer("resnetv2_50", SEVEN, partial(timm, "resnetv2_50"), RESNET_V2, "timm", ODD),
    "resnet32_cifar": Peer(
        "resnet32_cifar", {}, partial(networks.CifarResNet, ((5, 16, 16), (5, 32, 32), (5, 64, 64))), CIFAR, "cifar",
        (16, 16, 3),
    ),
}  # fmt: skip
LM = {"num_classes": 11, "width": 5, "embed_dim": 6}
CLASSIFIER = LM | {"vocab_size": 11, "depth": 2}
# (our model, its options, a function that makes theirs: with the names of PyTorch's example of a language model)
_lstm = partial(networks.recurrent, nn.LSTM, (11, 6), classes=11)
RECURRENT = {
    "lstm": ("lstm_lm", LM, partial(_lstm, 5)),
    "lstm, two biases": ("lstm_lm", LM | {"biases": 2}, partial(_lstm, 5)),
    "gru": ("lstm_lm", LM | {"cell": "gru", "biases": 2}, partial(networks.recurrent, nn.GRU, (11, 6), 5, 11)),
    "rnn": ("lstm_lm", LM | {"cell": "rnn"}, partial(networks.recurrent, nn.RNN, (11, 6), 5, 11)),
    "tied": ("lstm_lm", LM | {"width": 6, "tied": True}, partial(_lstm, 6, tied=True)),
    **{
        f"both ways, {pool}": (
            "lstm_classifier", CLASSIFIER | {"pool": pool}, partial(_lstm, 5, bidirectional=True, pool=pool)
        )
        for pool in ("none", "last", "mean", "max")
    },
}  # fmt: skip


def randomized(net):
    """Statistics, scales and biases that no mistake leaves as they are."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(getattr(module, "bias", None), nn.Parameter):  # of a recurrent layer it is a bool
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
