"""Import tables for the files people have: torchvision, timm, the usual LeNet, MLP and U-Net layouts.

Which one is used is told by the names in the file: the one that fits both sides best.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from zoo.weights.rules import Rule, Table


def same(x):
    return x


def torch_kernel(w):
    """[out, in] to [in, out], or [out, in, H, W] to [H, W, in, out]."""
    return np.moveaxis(w, (0, 1), (-1, -2)) if w.ndim > 1 else w


def torch_up_kernel(w):
    """ConvTranspose2d's [in, out, H, W] to `UpConv`'s [H, W, in, out], rotated by 180 degrees as in flax."""
    return w.transpose(2, 3, 0, 1)[::-1, ::-1]


def torch_kernel_1x1(w):
    """A 1x1 convolution [out, in, 1, 1] as a dense kernel [in, out]."""
    return w[:, :, 0, 0].T


def torch_kernel_after_flatten(w, bias):
    """[out, C H W] to [H W C, out]; `bias` is that of the last convolution, which has C channels; H = W."""
    side = math.isqrt(w.shape[1] // bias.size)
    return _from_chw(w, (side, side, bias.size))


def torch_kernel_skip_last(w):
    """A 3x3 kernel whose input is [up, skip], for ours of [skip, up]; there are as many skipped as output channels."""
    kernel, up = torch_kernel(w), w.shape[1] - w.shape[0]
    return np.concatenate([kernel[:, :, up:], kernel[:, :, :up]], axis=2)


def theano_kernel(w):
    """[out, in, H, W] of a true convolution, whose kernels are rotated by 180 degrees, to [H, W, in, out]."""
    return torch_kernel(w[:, :, ::-1, ::-1])


def theano_kernel_skip_last(w):
    return torch_kernel_skip_last(w[:, :, ::-1, ::-1])


def _from_chw(w, shape):
    height, width, channels = shape
    if height * width * channels != w.shape[1]:
        return torch_kernel(w)  # of another shape than the model's, which is told
    return w.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


def torch_layers(*pairs, kernel=torch_kernel) -> tuple[Rule, ...]:
    """Rules for all leaves of layers: (regex on our layer, its name in PyTorch) each."""
    leaves = (
        ("kernel", "weight", kernel),
        ("scale", "weight", same),
        ("bias", "bias", same),
        ("mean", "running_mean", same),
        ("var", "running_var", same),
    )
    return tuple(Rule(f"{p}/{ours}", (f"{s}.{theirs}",), f) for p, s in pairs for ours, theirs, f in leaves)


COUNTERS = (r".*num_batches_tracked",)


def _resnet(name: str, head: str, proj: tuple[str, str], stem=(("stem", "conv1"), ("stem_norm", "bn1"))):
    block = r"layer(\d+)_(\d+)/"
    layers = torch_layers(
        *stem,
        (block + r"(conv\d)", r"layer\1.\2.\3"),
        (block + r"norm(\d)", r"layer\1.\2.bn\3"),
        (block + "proj", rf"layer\1.\2.{proj[0]}"),
        (block + "proj_norm", rf"layer\1.\2.{proj[1]}"),
        ("head", head),
    )
    return Table(name, layers, COUNTERS)


_DEEP = (
    ("stem1", "conv1.0"), ("stem_norm1", "conv1.1"), ("stem2", "conv1.3"), ("stem_norm2", "conv1.4"),
    ("stem3", "conv1.6"), ("stem_norm3", "bn1"),
)  # fmt: skip
RESNETS = (
    _resnet("torchvision's ResNet", "fc", ("downsample.0", "downsample.1")),
    _resnet("CIFAR ResNet in PyTorch", "linear", ("shortcut.0", "shortcut.1")),
    _resnet("timm's ResNet-D", "fc", ("downsample.1", "downsample.2"), _DEEP),
)

TIMM_RESNETV2 = Table(
    "timm's ResNetV2",
    torch_layers(
        ("stem", "stem.conv"),
        *((rf"layer{i + 1}_(\d+)/((?:conv|norm)\d)", rf"stages.{i}.blocks.\1.\2") for i in range(4)),
        *((rf"layer{i + 1}_(\d+)/proj", rf"stages.{i}.blocks.\1.downsample.conv") for i in range(4)),
        ("norm", "norm"),
    )
    + (
        Rule("head/kernel", ("head.fc.weight",), torch_kernel_1x1),
        Rule("head/bias", ("head.fc.bias",), same),
    ),
    COUNTERS,
)


def _flattened(ours: str, theirs: str, conv: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}/kernel", (f"{theirs}.weight", f"{conv}.bias"), torch_kernel_after_flatten),
        Rule(f"{ours}/bias", (f"{theirs}.bias",), same),
    )


ALEXNET = Table(
    "torchvision's AlexNet",
    torch_layers(
        *((f"conv{i}", f"features.{n}") for i, n in enumerate((0, 3, 6, 8, 10), start=1)),
        ("dense2", "classifier.4"),
        ("head", "classifier.6"),
    )
    + _flattened("dense1", "classifier.1", "features.10"),
    requires={"response_norm": "none"},
)
LENET = Table(
    "LeNet in PyTorch",
    torch_layers((r"(conv\d)", r"\1"), ("dense2", "fc2"), ("head", "fc3")) + _flattened("dense1", "fc1", "conv2"),
)

_UNET = {"up": "transpose", "padding": "same"}


def unet_milesial(depth: int) -> Table:
    """milesial/Pytorch-UNet: inc, down1.., up1.., outc; without its bilinear option."""
    blocks = [("down0", "inc.double_conv")]
    blocks += [(f"down{i}", f"down{i}.maxpool_conv.1.double_conv") for i in range(1, depth)]
    blocks += [("bottom", f"down{depth}.maxpool_conv.1.double_conv")]
    blocks += [(f"up{depth - i}", f"up{i}.conv.double_conv") for i in range(1, depth + 1)]
    parts = (("conv1", 0), ("norm1", 1), ("conv2", 3), ("norm2", 4))
    layers = torch_layers(*((f"{ours}/{p}", f"{theirs}.{n}") for ours, theirs in blocks for p, n in parts))
    ups = [(f"up{depth - i}/up", f"up{i}.up") for i in range(1, depth + 1)]
    head = torch_layers(("head", r"outc.conv"))
    return Table(
        "milesial's U-Net", layers + torch_layers(*ups, kernel=torch_up_kernel) + head, COUNTERS, requires=_UNET
    )


def unet_buda(depth: int) -> Table:
    """mateuszbuda/brain-segmentation-pytorch: encoder1.enc1conv1, .., upconv4, decoder4.dec4conv1, .., conv."""
    blocks = [(f"down{i}", f"encoder{i + 1}.enc{i + 1}") for i in range(depth)] + [("bottom", "bottleneck.bottleneck")]
    ups = [(f"up{i}", f"decoder{i + 1}.dec{i + 1}") for i in range(depth)]
    rules = torch_layers(*((rf"{ours}/((?:conv|norm)\d)", rf"{theirs}\1") for ours, theirs in blocks))
    rules += torch_layers(*((rf"{ours}/(norm\d|conv2)", rf"{theirs}\1") for ours, theirs in ups))
    rules += torch_layers(*((f"{ours}/conv1", f"{theirs}conv1") for ours, theirs in ups), kernel=torch_kernel_skip_last)
    rules += torch_layers(*((f"up{i}/up", f"upconv{i + 1}") for i in range(depth)), kernel=torch_up_kernel)
    return Table("mateuszbuda's U-Net", rules + torch_layers(("head", "conv")), COUNTERS, requires=_UNET)


def unet_theano(depth: int) -> Table:
    """Keras 1 over Theano: layers in order of their numbers, two to a block; plain upsampling, [up, skip]."""
    blocks = [*(f"down{i}" for i in range(depth)), "bottom", *(f"up{i}" for i in reversed(range(depth)))]
    rules = []
    for n, ours in enumerate([*(f"{block}/conv{i}" for block in blocks for i in (1, 2)), "head"], start=1):
        theirs = f"convolution2d_{n}/convolution2d_{n}"
        kernel = theano_kernel_skip_last if re.fullmatch(r"up\d+/conv1", ours) else theano_kernel
        rules += [Rule(f"{ours}/kernel", (f"{theirs}_W",), kernel), Rule(f"{ours}/bias", (f"{theirs}_b",), same)]
    return Table("U-Net in Keras 1 over Theano", tuple(rules))


def mlp(names: Sequence[str], paths: Sequence[str], input: Sequence[int] | None) -> Table:
    """Any numbered dense layers of PyTorch, in their order: fc1, fc2, ..; 0, 2, 4 of a Sequential; then head or fc.

    The first kernel is taken as seeing a flattened [C, H, W] where `input` is an image [H, W, C].
    """
    names = set(names)
    weights = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    norms = sorted((name for name in weights if f"{name}.running_mean" in names), key=_natural)
    dense = sorted((name for name in weights if name not in norms), key=_natural)
    hidden = sorted({path.split("/")[0] for path in paths if path.startswith("dense")}, key=_natural)
    ours = [*hidden, *(["head"] if "head/kernel" in paths else [])]
    pairs = list(zip(ours, dense, strict=False))

    def torch_kernel_of_image(w):
        return _from_chw(w, input)

    rules = list(torch_layers(*((re.escape(o), _literal(t)) for o, t in pairs)))
    if pairs and input is not None and len(input) == 3:
        rules[0] = rules[0]._replace(transform=torch_kernel_of_image)
    rules += torch_layers(*((f"norm{i}", _literal(name)) for i, name in enumerate(norms, start=1)))
    if len(dense) == len(ours) + 1:  # the model ends before the head
        rules += torch_layers(("head", _literal(dense[-1])))
    return Table("MLP in PyTorch", tuple(rules), COUNTERS)


def own(paths: Mapping[str, str]) -> Table:
    """What `save_weights` wrote and what a run folder holds; `paths` is path -> path with its collection."""
    rules = [Rule(re.escape(path), (_literal(full),), same) for path, full in paths.items()]
    if "head/kernel" not in paths:
        rules += [Rule(f"head/{leaf}", (f"params/head/{leaf}",), same) for leaf in ("kernel", "bias")]
    # Where a run left off reading a text is no weight.
    return Table("our own names", tuple(rules), ignore=(r"carry/.*",))


STEMS = ("encoder/stem/", "stem/", "stem1/", "down0/conv1/", "conv1/", "dense1/", "head/")


def stem(paths: Sequence[str]) -> str:
    """The kernel that sees the input, '' where it is none that we know."""
    return next((f"{layer}kernel" for layer in STEMS if f"{layer}kernel" in paths), "")


def candidates(paths: Mapping[str, str], names: Sequence[str], input: Sequence[int] | None) -> list[Table]:
    """All tables that may fit; `paths` is path -> path with its collection."""
    depth = len({path.split("/")[0] for path in paths if re.match(r"down\d+/", path)})
    tables = [own(paths), *RESNETS, TIMM_RESNETV2, ALEXNET, LENET, mlp(names, list(paths), input)]
    return tables + ([unet_milesial(depth), unet_buda(depth), unet_theano(depth)] if depth else [])


def _natural(name: str) -> list:
    """fc2 before fc10; words that name the last layer come last."""
    last = name.rpartition(".")[2] in ("head", "out", "output", "classifier", "fc", "logits")
    return [last, *((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))]


def _literal(name: str) -> str:
    return name.replace("\\", r"\\")
