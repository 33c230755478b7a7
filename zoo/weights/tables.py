"""Tables for the files people have: torchvision, timm, the usual LeNet, MLP and U-Net layouts; both ways.

An import uses the table that best fits the names in the file and in the model; an export uses that of `layout`.
"""

import itertools
import re
from collections.abc import Mapping, Sequence

import flax.linen as nn

from zoo.errors import UserError
from zoo.weights import keras_tables, recurrent_tables
from zoo.weights.rules import Rule, Table
from zoo.weights.transforms import (
    SAME,
    THEANO,
    THEANO_SKIP_LAST,
    TORCH,
    TORCH_1X1,
    TORCH_FLATTENED,
    TORCH_SKIP_LAST,
    TORCH_UP,
    Pair,
    torch_kernel_of_image,
)


def torch_layers(*pairs, kernel: Pair = TORCH) -> tuple[Rule, ...]:
    """Rules for all leaves of layers: (regex on our layer, its name in PyTorch) each."""
    leaves = (
        ("kernel", "weight", kernel),
        ("scale", "weight", SAME),
        ("bias", "bias", SAME),
        ("mean", "running_mean", SAME),
        ("var", "running_var", SAME),
    )
    return tuple(Rule(f"{p}/{ours}", (f"{s}.{theirs}",), *f) for p, s in pairs for ours, theirs, f in leaves)


COUNTERS = (r".*num_batches_tracked",)


_STEM = ("stem", "conv1"), ("stem_norm", "bn1")
_TORCH_RESNET = {
    "bn_eps": 1e-5, "conv_bias": False, "shortcut": "B", "stage_stride": "first", "zero_padded_pool": False,
}  # fmt: skip
_NORMS = ("batch", "layer", "group", "instance")  # by their norm_layer; on import, the file has them or not
_D = _TORCH_RESNET | {"shortcut": "D"}
_PLAIN = {"weight_standardization": False}
_USUAL = {"bottleneck_stride": "3x3", "global_pool": "avg"} | _PLAIN  # the paper's own networks stride in the 1x1


def _resnet(name: str, head: str, proj: tuple[str, str], layouts: tuple[str, ...], stem=_STEM, **fields):
    block = r"layer(\d+)_(\d+)/"
    layers = torch_layers(
        *stem,
        (block + r"(conv\d)", r"layer\1.\2.\3"),
        (block + r"norm(\d)", r"layer\1.\2.bn\3"),
        (block + "proj", rf"layer\1.\2.{proj[0]}"),
        (block + "proj_norm", rf"layer\1.\2.{proj[1]}"),
        ("head", head),
    )
    fields = {"requires": _TORCH_RESNET, "usual": _USUAL} | fields
    return Table(name, layers, COUNTERS, norms=_NORMS, layouts=layouts, **fields)


_DEEP = (
    ("stem1", "conv1.0"), ("stem_norm1", "conv1.1"), ("stem2", "conv1.3"), ("stem_norm2", "conv1.4"),
    ("stem3", "conv1.6"), ("stem_norm3", "bn1"),
)  # fmt: skip
RESNETS = (
    _resnet("torchvision's ResNet", "fc", ("downsample.0", "downsample.1"), ("torchvision", "timm")),
    _resnet("CIFAR ResNet in PyTorch", "linear", ("shortcut.0", "shortcut.1"), ("cifar",), usual=_PLAIN),
    _resnet("timm's ResNet-D", "fc", ("downsample.1", "downsample.2"), ("timm",), _DEEP, requires=_D),
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
        Rule("head/kernel", ("head.fc.weight",), *TORCH_1X1),
        Rule("head/bias", ("head.fc.bias",), *SAME),
    ),
    COUNTERS,
    requires=_TORCH_RESNET,
    usual=_USUAL,
    norms=_NORMS,
    layouts=("timm",),
)


def _flattened(ours: str, theirs: str, conv: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}/kernel", (f"{theirs}.weight", f"{conv}.bias"), *TORCH_FLATTENED),
        Rule(f"{ours}/bias", (f"{theirs}.bias",), *SAME),
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
    layouts=("torchvision",),
)
LENET = Table(
    "LeNet in PyTorch",
    torch_layers((r"(conv\d)", r"\1"), ("dense2", "fc2"), ("head", "fc3")) + _flattened("dense1", "fc1", "conv2"),
    layouts=("torch",),
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
        "milesial's U-Net", layers + torch_layers(*ups, kernel=TORCH_UP) + head, COUNTERS,
        requires=_UNET, usual={"activation": "relu", "head_activation": "linear"}, norms=("batch",),
        layouts=("milesial",),
    )  # fmt: skip


def unet_buda(depth: int) -> Table:
    """mateuszbuda/brain-segmentation-pytorch: encoder1.enc1conv1, .., upconv4, decoder4.dec4conv1, .., conv."""
    blocks = [(f"down{i}", f"encoder{i + 1}.enc{i + 1}") for i in range(depth)] + [("bottom", "bottleneck.bottleneck")]
    ups = [(f"up{i}", f"decoder{i + 1}.dec{i + 1}") for i in range(depth)]
    rules = torch_layers(*((rf"{ours}/((?:conv|norm)\d)", rf"{theirs}\1") for ours, theirs in blocks))
    rules += torch_layers(*((rf"{ours}/(norm\d|conv2)", rf"{theirs}\1") for ours, theirs in ups))
    rules += torch_layers(*((f"{ours}/conv1", f"{theirs}conv1") for ours, theirs in ups), kernel=TORCH_SKIP_LAST)
    rules += torch_layers(*((f"up{i}/up", f"upconv{i + 1}") for i in range(depth)), kernel=TORCH_UP)
    rules += torch_layers(("head", "conv"))
    return Table(
        "mateuszbuda's U-Net", rules, COUNTERS, requires=_UNET, usual={"activation": "relu"}, norms=("batch",),
        layouts=("buda",),
    )  # fmt: skip


def unet_theano(depth: int) -> Table:
    """Keras 1 over Theano: layers in order of their numbers, two to a block; plain upsampling, [up, skip]."""
    blocks = [*(f"down{i}" for i in range(depth)), "bottom", *(f"up{i}" for i in reversed(range(depth)))]
    rules = []
    for n, ours in enumerate([*(f"{block}/conv{i}" for block in blocks for i in (1, 2)), "head"], start=1):
        theirs = f"convolution2d_{n}/convolution2d_{n}"
        kernel = THEANO_SKIP_LAST if re.fullmatch(r"up\d+/conv1", ours) else THEANO
        rules += [Rule(f"{ours}/kernel", (f"{theirs}_W",), *kernel), Rule(f"{ours}/bias", (f"{theirs}_b",), *SAME)]
    return Table("U-Net in Keras 1 over Theano", tuple(rules), requires={"up": "nearest", "padding": "same"})


def mlp(names: Sequence[str], paths: Sequence[str], input: Sequence[int] | None) -> Table:
    """Any dense layers of PyTorch, in their order: by their numbers (fc1, fc2, .., or 0, 2, 4), else that of the file.

    The first kernel is taken as seeing a flattened [C, H, W] where `input` is an image [H, W, C]. Without names (an
    export) they are fc1, fc2, .. and bn1, bn2, ..

    Raises:
      UserError: layers for an MLP, whose order neither their names nor the file tell.
    """
    place = {name: i for i, name in enumerate(names)}
    weights = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    norms = [name for name in weights if f"{name}.running_mean" in place]
    dense = [name for name in weights if name not in norms]
    hidden = sorted({path.split("/")[0] for path in paths if path.startswith("dense")}, key=_natural)
    ours = [*hidden, *(["head"] if "head/kernel" in paths else [])]
    if not names:
        dense = [f"fc{i}" for i in range(1, len(ours) + 1)]
        norms = [f"bn{i}" for i in range(1, len(hidden) + 1)]
    elif all(re.match("dense|norm|head/", path) for path in paths) and len(dense) in (len(ours), len(ours) + 1):
        # In a state_dict the weight of a layer comes before its bias; else something has sorted the names.
        kept = all(place[f"{name}.weight"] < place.get(f"{name}.bias", 0) for name in dense)
        dense, norms = _ordered(dense, kept), _ordered(norms, kept)
    pairs = list(zip(ours, dense, strict=False))
    rules = list(torch_layers(*((re.escape(o), _literal(t)) for o, t in pairs)))
    if pairs and input is not None and len(input) == 3:
        transform, inverse = torch_kernel_of_image(input)
        rules[0] = rules[0]._replace(transform=transform, inverse=inverse)
    rules += torch_layers(*((f"norm{i}", _literal(name)) for i, name in enumerate(norms, start=1)))
    if len(dense) == len(ours) + 1:  # the model ends before the head
        rules += torch_layers(("head", _literal(dense[-1])))
    return Table("MLP in PyTorch", tuple(rules), COUNTERS, usual={"norm_eps": 1e-5}, layouts=("torch",))


def own(paths: Mapping[str, str]) -> Table:
    """What `save_weights` wrote and what a run folder holds; `paths` is path -> path with its collection."""
    collections: dict[str, list[str]] = {}
    for path, full in paths.items():
        collections.setdefault(full.partition("/")[0], []).append(re.escape(path))
    rules = [Rule(f"({'|'.join(some)})", (rf"{name}/\1",), *SAME) for name, some in collections.items()]
    if "head/kernel" not in paths:
        rules += [Rule(f"head/{leaf}", (f"params/head/{leaf}",), *SAME) for leaf in ("kernel", "bias")]
    # Where a run left off reading a text is no weight.
    return Table("our own names", tuple(rules), ignore=(r"carry/.*",))


STEMS = ("encoder/stem/", "encoder/stem1/", "stem/", "stem1/", "down0/conv1/", "conv1/", "dense1/", "head/")


def stem(paths: Sequence[str]) -> str:
    """The kernel that sees the input, '' where it is none that we know."""
    return next((f"{layer}kernel" for layer in STEMS if f"{layer}kernel" in paths), "")


def candidates(
    model: nn.Module, paths: Mapping[str, str], names: Sequence[str], input: Sequence[int] | None
) -> list[Table]:
    """All tables that may fit, the likely ones first; `paths` is path -> path with its collection.

    `names` are those in the file; () for an export.
    """
    if any(name.startswith("params/") for name in names):
        return [own(paths)]
    depth = len({path.split("/")[0] for path in paths if re.match(r"down\d+/", path)})
    tables = [*_resnets(model, names), mlp(names, list(paths), input)]
    tables += [ALEXNET if "conv5/kernel" in paths else LENET] if "conv2/kernel" in paths else []
    tables += [unet_milesial(depth), unet_buda(depth), unet_theano(depth)] if depth else []
    tables += recurrent_tables.candidates(model, paths, names)
    if not names or any("/" in name for name in names):  # as no file of PyTorch has
        tables += keras_tables.candidates(model, paths, names)
    return tables


def _resnets(model: nn.Module, names: Sequence[str]) -> list[Table]:
    """Of shortcut 'A', which has no tensors, the names in a file tell; of the packages' own networks, none has it."""
    tables = [*RESNETS, TIMM_RESNETV2]
    if getattr(model, "shortcut", "") != "A":
        return tables
    told = {"requires": _TORCH_RESNET | {"shortcut": "A"}}
    return [table._replace(**told) if names or "cifar" in table.layouts else table for table in tables]


def _ordered(layers: list[str], kept: bool) -> list[str]:
    """Layers in the order in which they run; `kept`: they are given in that of the network's definition."""
    numbered = sorted(layers, key=_natural)
    if len({_kind(name) for name in layers}) <= 1:
        return numbered
    if kept:
        pairs = [(a, b) for a, b in itertools.combinations(layers, 2) if _kind(a) == _kind(b) or _is_last(a)]
        if all(_natural(a) < _natural(b) for a, b in pairs):
            return layers
    elif len({_kind(name) for name in numbered[:-1]}) == 1 and _is_last(numbered[-1]):
        return numbered
    why = "their numbers and the file's order differ" if kept else "they are not numbered, and the file is sorted"
    raise UserError(f"the order of the layers {', '.join(layers)} cannot be told: {why}; give rules of your own")


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _is_last(name: str) -> bool:
    """Whether the name is a word for the last layer."""
    return name.rpartition(".")[2] in ("head", "out", "output", "classifier", "logits")


def _natural(name: str) -> list:
    """fc2 before fc10; words that name the last layer come last."""
    parts = re.split(r"(\d+)", name)
    return [_is_last(name), *((int(part), "") if part.isdigit() else (-1, part) for part in parts)]


def _literal(name: str) -> str:
    return name.replace("\\", r"\\")
