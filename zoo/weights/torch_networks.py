"""The networks of PyTorch that no package holds, by the names that people's files have; needs torch.

For proofs alone (`zoo.weights.peers`, the tests): nothing else imports this module. Images are [B, C, H, W].
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from zoo.errors import lookup

# By the names of `zoo.activations`, without its 'step', whose gradient is none of PyTorch's; channels are axis 1. ReLU
# is looked up when it is called, so that another function can stand in its place.
ACTIVATIONS: dict[str, Callable] = {
    "elu": functional.elu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "leaky_relu": functional.leaky_relu,
    "lecun_tanh": lambda x: 1.7159 * torch.tanh(2 / 3 * x),
    "linear": lambda x: x,
    "relu": lambda x: functional.relu(x),
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "softmax": partial(torch.softmax, dim=1),
    "softplus": functional.softplus,
    "swish": functional.silu,
    "tanh": torch.tanh,
}
POOLS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
CELLS = {1: nn.RNN, 3: nn.GRU, 4: nn.LSTM}  # by their number of gates


def activation(name: str) -> Callable:
    return lookup("activation in PyTorch", name, ACTIVATIONS)


class Named(nn.Module):
    """Layers under any names, such as 'features.0', and the function of x that runs them."""

    def __init__(self, layers: dict[str, nn.Module], run: Callable):
        super().__init__()
        for name, layer in layers.items():
            *folders, last = name.split(".")
            place = self
            for folder in folders:
                if folder not in place._modules:
                    place.add_module(folder, nn.Module())
                place = place._modules[folder]
            place.add_module(last, layer)
        self._run = run

    def forward(self, x):
        return self._run(x)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` 1x1, 3x3 and 1x1. Shortcut A: every second pixel, zeros for the rest.

    `strided`: the number of the convolution that strides.
    """

    def __init__(self, before: int, inner: int, after: int, stride: int, project: bool, bottleneck: bool, strided: int):
        super().__init__()
        sides, self.relu, self.stride = (1, 3, 1) if bottleneck else (3, 3), nn.ReLU(), stride
        widths = [before, *[inner] * (len(sides) - 1), after]
        for i, side in enumerate(sides, start=1):
            step = stride if i == strided else 1
            conv = nn.Conv2d(widths[i - 1], widths[i], side, step, padding=side // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(widths[i]))
        self.depth = len(sides)
        if project and (stride > 1 or before != after):
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = self.relu(y) if i < self.depth else y
        if hasattr(self, "shortcut"):
            return self.relu(self.shortcut(x) + y)
        new = y.shape[1] - x.shape[1]
        x = x[:, :, :: self.stride, :: self.stride]
        return self.relu(functional.pad(x, (0, 0, 0, 0, new // 2, new // 2)) + y)


class CifarResNet(nn.Module):
    """ResNet-20 and its like (He et al. 2015, section 4.2), and their relatives with the same names.

    Args:
      stages: (blocks, channels inside of them, channels of their output) each; all after the first halve the map.
      stem: channels of the images, of the first convolution, and its side: 3, or 7 at stride 2 and with max pooling.
      project: shortcut B in place of A.
      pool: 'avg' or 'max' over the whole last map.
    """

    def __init__(
        self, stages=((3, 16, 16), (3, 32, 32), (3, 64, 64)), stem=(3, 16, 3), classes: int = 10,
        project: bool = False, bottleneck: bool = False, strided: int = 1, pool: str = "avg",
    ):  # fmt: skip
        super().__init__()
        channels, before, side = stem
        self.conv1 = nn.Conv2d(channels, before, side, 2 if side > 3 else 1, padding=side // 2, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(before), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if side > 3 else nn.Identity()
        self.stages, self.pool = [f"layer{i}" for i in range(1, len(stages) + 1)], pool
        for name, (depth, inner, after) in zip(self.stages, stages, strict=True):
            strides = [1 if name == "layer1" else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(CifarBlock(before, inner, after, stride, project, bottleneck, strided))
                before = after
            self.add_module(name, nn.Sequential(*blocks))
        self.linear = nn.Linear(before, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.linear(x.mean((2, 3)) if self.pool == "avg" else x.amax((2, 3)))


class LeNet(nn.Module):
    """LeNet-5; `side` is that of the map which is flattened."""

    def __init__(self, channels=3, classes=10, side=5, padding=2, act: str = "relu", pool: str = "max"):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5, padding=padding), nn.Conv2d(6, 16, 5)
        self.pool1, self.pool2 = POOLS[pool](2), POOLS[pool](2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * side**2, 120), nn.Linear(120, 84), nn.Linear(84, classes)
        self.act = activation(act)

    def forward(self, x):
        x = self.pool1(self.act(self.conv1(x)))
        x = self.pool2(self.act(self.conv2(x))).flatten(1)
        return self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))


def mlp(
    dense: Sequence[tuple[str, int, int]], norms: Sequence[str] = (), act: str = "relu", norm_place: str = "before",
    pieces: int = 2, norm_eps: float = 1e-5,
) -> Named:  # fmt: skip
    """Dense layers, (name, inputs, outputs) each, with batch normalizations `norms` before or after the activation.

    `act` may also be 'maxout', the largest of `pieces` neighbours.
    """
    maxout = act == "maxout"
    act = (lambda x: x.unflatten(1, (-1, pieces)).amax(2)) if maxout else activation(act)
    layers = {name: nn.Linear(inputs, outputs) for name, inputs, outputs in dense}
    # Maxout leaves fewer values than the layer has outputs: those that the next one takes.
    before = norm_place == "before"
    widths = [outputs for _, _, outputs in dense[:-1]] if before else [inputs for _, inputs, _ in dense[1:]]
    layers |= {name: nn.BatchNorm1d(width, norm_eps) for name, width in zip(norms, widths, strict=False)}
    names = [name for name, *_ in dense]

    def run(x):
        x = x.flatten(1)
        for i, name in enumerate(names[:-1]):
            normed = layers[norms[i]] if norms else nn.Identity()
            x = act(normed(layers[name](x))) if before else normed(act(layers[name](x)))
        return layers[names[-1]](x)

    return Named(layers, run)


class Double(nn.Module):
    """Two 3x3 convolutions, each with its normalization and activation; `names` are those of the four layers."""

    def __init__(self, before: int, after: int, names: Sequence[str], act: Callable):
        super().__init__()
        self.names, self.act = names, act
        for conv, norm, inputs in ((*names[:2], before), (*names[2:], after)):
            self.add_module(conv, nn.Conv2d(inputs, after, 3, padding=1, bias=False))
            self.add_module(norm, nn.BatchNorm2d(after))

    def forward(self, x):
        conv1, norm1, conv2, norm2 = map(self.get_submodule, self.names)
        return self.act(norm2(conv2(self.act(norm1(conv1(x))))))


def milesial(depth=2, width=4, channels=3, classes=5, act: str = "relu", head_activation: str = "linear") -> Named:
    """milesial/Pytorch-UNet without its bilinear option; in a concatenation, the skip comes first."""
    block = lambda *widths: Double(*widths, ("0", "1", "3", "4"), activation(act))  # noqa: E731
    layers = {"inc.double_conv": block(channels, width)}
    for i in range(1, depth + 1):
        layers[f"down{i}.maxpool_conv.1.double_conv"] = block(width * 2 ** (i - 1), width * 2**i)
    for i in range(1, depth + 1):
        wide = width * 2 ** (depth - i)
        layers[f"up{i}.up"] = nn.ConvTranspose2d(2 * wide, wide, 2, 2)
        layers[f"up{i}.conv.double_conv"] = block(2 * wide, wide)
    layers["outc.conv"] = nn.Conv2d(width, classes, 1)

    def run(x):
        skips = [layers["inc.double_conv"](x)]
        for i in range(1, depth + 1):
            skips.append(layers[f"down{i}.maxpool_conv.1.double_conv"](functional.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for i in range(1, depth + 1):
            x = torch.cat([skips.pop(), layers[f"up{i}.up"](x)], 1)
            x = layers[f"up{i}.conv.double_conv"](x)
        return activation(head_activation)(layers["outc.conv"](x))

    return Named(layers, run)


def buda(depth=2, width=4, channels=3, classes=5, act: str = "relu", head_activation: str = "linear") -> Named:
    """mateuszbuda/brain-segmentation-pytorch, whose last activation is 'sigmoid'; the skip comes last."""

    def block(before: int, after: int, name: str) -> Double:
        return Double(
            before, after, [f"{name}{part}" for part in ("conv1", "norm1", "conv2", "norm2")], activation(act)
        )

    layers = {}
    for i in range(1, depth + 1):
        wide = width * 2 ** (i - 1)
        layers[f"encoder{i}"] = block(channels if i == 1 else wide // 2, wide, f"enc{i}")
    layers["bottleneck"] = block(wide, 2 * wide, "bottleneck")
    for i in range(depth, 0, -1):
        wide = width * 2 ** (i - 1)
        layers[f"upconv{i}"] = nn.ConvTranspose2d(2 * wide, wide, 2, 2)
        layers[f"decoder{i}"] = block(2 * wide, wide, f"dec{i}")
    layers["conv"] = nn.Conv2d(width, classes, 1)

    def run(x):
        skips = []
        for i in range(1, depth + 1):
            skips.append(layers[f"encoder{i}"](x))
            x = functional.max_pool2d(skips[-1], 2)
        x = layers["bottleneck"](x)
        for i in range(depth, 0, -1):
            x = layers[f"decoder{i}"](torch.cat([layers[f"upconv{i}"](x), skips[i - 1]], 1))
        return activation(head_activation)(layers["conv"](x))

    return Named(layers, run)


def recurrent(
    cell: type[nn.RNNBase], embed: tuple[int, int] | None, width: int, classes: int, *, inputs: int = 0, depth: int = 2,
    bidirectional: bool = False, tied: bool = False, pool: str = "none", names=("encoder", "rnn", "decoder"),
) -> Named:  # fmt: skip
    """nn.LSTM, nn.GRU or nn.RNN between an embedding and a dense layer, from a state of zeros.

    Args:
      cell: one of CELLS.
      embed: tokens of the embedding, and its width; None: x is vectors [B, T, inputs].
      width: of the states, in each direction.
      tied: the dense layer's kernel is the embedding.
      pool: 'last', 'mean' or 'max' of the states has the logits, or with 'none' every state.
      names: of the three layers.
    """
    first, middle, last = names
    inputs = embed[1] if embed else inputs
    layers = {first: nn.Embedding(*embed)} if embed else {}
    layers[middle] = cell(inputs, width, depth, batch_first=True, bidirectional=bidirectional)
    layers[last] = nn.Linear(width * (2 if bidirectional else 1), classes)
    if tied:
        layers[last].weight = layers[first].weight

    def run(x):
        states, carry = layers[middle](layers[first](x) if embed else x)
        h = carry[0] if cell is nn.LSTM else carry
        pools = {
            "none": lambda: states,
            "last": lambda: torch.cat([*h[-2:]], -1) if bidirectional else h[-1],
            "mean": lambda: states.mean(1),
            "max": lambda: states.amax(1),
        }
        return layers[last](lookup("pool in PyTorch", pool, pools)())

    return Named(layers, run)
