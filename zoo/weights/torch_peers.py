"""The network of PyTorch that a file is from, with its weights, and what it computes; needs torch.

A network that no package holds is built from the names and shapes in the file. What these cannot tell is taken from
our model: the activation, the kind of pooling, where a normalization stands and its epsilon in an MLP, the convolution
of a bottleneck that strides, the padding of LeNet-5, the activation of the logits.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import numpy as np
import torch
from torch.nn import functional

from zoo.errors import UserError
from zoo.weights import files, importing, torch_networks
from zoo.weights.importing import Import
from zoo.weights.peers import SIDE


class Peer(NamedTuple):
    """A network and what to compare it on."""

    net: torch.nn.Module
    stages: tuple[str, ...]  # the modules whose outputs are the maps of our stages
    batch: tuple[int, ...]  # shape of the inputs, channels last
    tokens: int = 0  # how many there are, where the inputs are such; 0: the inputs are real numbers
    names: tuple[str, ...] = ()  # of the tensors, in the order of the file


def cifar(tensors, sources, model: nn.Module, input) -> Peer:
    places = [re.match(r"layer(\d+)\.(\d+)\.", name) for name in tensors]
    depths: dict[int, int] = {}
    for stage, block in ((int(m[1]), int(m[2])) for m in places if m):
        depths[stage] = max(depths.get(stage, 0), block + 1)
    bottleneck = "layer1.0.conv3.weight" in tensors
    last = "conv3" if bottleneck else "conv2"
    widths = {i: [len(tensors[f"layer{i}.0.{conv}.weight"]) for conv in ("conv1", last)] for i in depths}
    width, channels, side, _ = tensors["conv1.weight"].shape
    net = torch_networks.CifarResNet(
        [(depths[i], *widths[i]) for i in sorted(depths)],
        (channels, width, side),
        len(tensors["linear.bias"]),
        project=any(".shortcut." in name for name in tensors),
        bottleneck=bottleneck,
        strided=2 if bottleneck and model.bottleneck_stride == "3x3" else 1,
        pool=model.global_pool,
    )
    side = 32 if side == 3 else SIDE
    return Peer(net, ("relu", *net.stages), (2, side, side, channels))


def lenet(tensors, sources, model: nn.Module, input) -> Peer:
    channels, classes = tensors["conv1.weight"].shape[1], len(tensors["fc3.bias"])
    side = math.isqrt(tensors["fc1.weight"].shape[1] // 16)
    net = torch_networks.LeNet(channels, classes, side, model.padding, model.activation, model.pool)
    whole = 2 * (2 * side + 4) + 4 - 2 * model.padding
    return Peer(net, ("pool1", "pool2"), (2, whole, whole, channels))


def mlp(tensors, sources, model: nn.Module, input) -> Peer:
    hidden = range(1, len(model.widths) + 1)
    kernels = [sources[f"{layer}/kernel"][0] for layer in (*(f"dense{i}" for i in hidden), "head")]
    norms = [sources[f"norm{i}/scale"][0].removesuffix(".weight") for i in hidden if f"norm{i}/scale" in sources]
    dense = [(name.removesuffix(".weight"), *reversed(tensors[name].shape)) for name in kernels]
    net = torch_networks.mlp(dense, norms, model.activation, model.norm_place, model.pieces, model.norm_eps)
    return Peer(net, (), (8, *(input or dense[0][1:2])))


def milesial(tensors, sources, model: nn.Module, input) -> Peer:
    ups = {name.partition(".")[0] for name in tensors if name.startswith("up")}
    stages = tuple(f"up{i}.conv.double_conv" for i in range(len(ups), 0, -1))
    stem, bias = tensors["inc.double_conv.0.weight"], tensors["outc.conv.bias"]
    return _unet(torch_networks.milesial, stem, bias, stages, model)


def buda(tensors, sources, model: nn.Module, input) -> Peer:
    decoders = {name.partition(".")[0] for name in tensors if name.startswith("decoder")}
    stages = tuple(f"decoder{i}" for i in range(1, len(decoders) + 1))
    stem, bias = tensors["encoder1.enc1conv1.weight"], tensors["conv.bias"]
    return _unet(torch_networks.buda, stem, bias, stages, model)


def _unet(make: Callable, stem, bias, stages: tuple[str, ...], model: nn.Module) -> Peer:
    width, channels, *_ = stem.shape
    side = 4 * 2 ** len(stages)
    net = make(len(stages), width, channels, len(bias), model.activation, model.head_activation)
    return Peer(net, stages, (2, side, side, channels))


def recurrent(tensors, sources, model: nn.Module, input) -> Peer:
    first = sources.get("embed/embedding", [""])[0]
    last = sources["head/bias"][0].removesuffix(".bias")
    cell = sources["recurrent/layer1/input/kernel"][0].removesuffix("weight_ih_l0")
    if not cell:
        raise UserError("recurrent layers that are the whole network: 'weight_ih_l0' without a name before it")
    kernel = tensors[f"{cell}weight_hh_l0"]
    net = torch_networks.recurrent(
        torch_networks.CELLS[len(kernel) // kernel.shape[1]],
        tuple(tensors[first].shape) if first else None,
        kernel.shape[1],
        len(tensors[f"{last}.bias"]),
        inputs=tensors[f"{cell}weight_ih_l0"].shape[1],
        depth=sum(bool(re.fullmatch(r"weight_hh_l\d+", name.removeprefix(cell))) for name in tensors),
        bidirectional=f"{cell}weight_hh_l0_reverse" in tensors,
        tied="head/kernel" not in sources,
        pool=getattr(model, "pool", "none"),
        names=(first.removesuffix(".weight"), cell.removesuffix("."), last),
    )
    return Peer(net, (), (4, *(input or (7,))), len(tensors[first]) if first else 0)


# The name of a table -> a function of (tensors of the file, our path -> the tensors it is from, our model, the shape of
# an example or None).
READERS: dict[str, Callable[..., Peer]] = {
    "CIFAR ResNet in PyTorch": cifar,
    "LeNet in PyTorch": lenet,
    "MLP in PyTorch": mlp,
    "milesial's U-Net": milesial,
    "mateuszbuda's U-Net": buda,
    "recurrent layers of PyTorch": recurrent,
}


def network(path, model: nn.Module, done: Import, *, package, name: str, stages: tuple[str, ...], input) -> Peer:
    """The network of the file, with its weights.

    Args:
      path, model, done, input: as in `peers.verify`.
      package, name, stages: where it is in torchvision or timm, and its modules whose outputs are the maps of our
        stages; of no matter where the file tells.

    Raises:
      UserError: a network that the file and our model do not tell.
    """
    tensors = files.read(path).tensors
    prefix = importing.prefix_of(tensors)
    # NumPy's bfloat16 is unknown to PyTorch.
    tensors = {key.removeprefix(prefix): torch.from_numpy(np.array(t, np.float32)) for key, t in tensors.items()}
    sources = {row.path: row.sources for row in done.table}
    try:
        if done.rules in READERS:
            peer = READERS[done.rules](tensors, sources, model, input)
        else:
            net = getattr(package, name)(num_classes=len(tensors[sources["head/bias"][0]]))
            peer = Peer(net, stages, (2, SIDE, SIDE, 3))
        peer.net.load_state_dict(tensors, strict=True)
    except (AttributeError, KeyError, RuntimeError, UserError) as error:
        why = " ".join(str(error).split())[:300]
        whose = done.rules if done.rules in READERS else f"{package.__name__}.{name}"
        raise UserError(f"--verify: {path} does not fit {whose}: {why}") from None
    return peer._replace(names=tuple(tensors))


def outputs(peer: Peer, x: np.ndarray, labels: Callable, model: nn.Module, input) -> tuple[Any, list, tuple]:
    """(logits, maps, (loss, gradients as our parameters)) for inputs `x`, channels last."""
    net, maps = peer.net, {}
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim == 4 else x))
    hooks = [
        net.get_submodule(stage).register_forward_hook(lambda module, inputs, y, stage=stage: maps.update({stage: y}))
        for stage in peer.stages
    ]
    with torch.no_grad():
        logits = _channels_last(net.eval()(inputs)).numpy()
    for hook in hooks:
        hook.remove()
    for module in net.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with mock.patch.object(functional, "relu", lambda x, inplace=False: functional.softplus(x)):
        found = _channels_last(net(inputs))
    label = torch.from_numpy(labels(logits)).flatten()
    if logits.shape[-1] == 1:
        loss = functional.binary_cross_entropy_with_logits(found.flatten(), label.float())
    else:
        loss = functional.cross_entropy(found.flatten(0, -2), label)
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in net.named_parameters(remove_duplicate=False)}
    if getattr(model, "biases", 2) == 1:  # it is for the sum of PyTorch's two, each of which has its whole gradient
        gradients = {key: g * (0 if "bias_hh_l" in key else 1) for key, g in gradients.items()}
    tensors = net.state_dict() | gradients
    tensors = {key: tensors[key].numpy() for key in peer.names}
    ours = importing.fill(model, "gradients", files.Weights(tensors, {}, "PyTorch"), None, input, 0)
    return (
        logits,
        [_channels_last(maps[stage]).numpy() for stage in peer.stages],
        (loss.item(), ours.variables["params"]),
    )


def _channels_last(tensor):
    return tensor.movedim(1, -1) if tensor.ndim == 4 else tensor
