"""Tables for Keras: ResNet50, 101, 152 and their V2, and plain stacks of layers (embedding, recurrent, dense).

Keras has the shapes of ours, so nothing is transposed. Its files name a layer in one of two ways: by what it is called
(.h5: `conv2_block1_1_conv/kernel`), or by its class and its number among those of its class (.weights.h5 and .keras:
`layers/conv2d_3/vars/0`), for which the order of the layers must be known.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from zoo.errors import UserError
from zoo.weights.rules import Rule, Table
from zoo.weights.transforms import SAME


class Layer(NamedTuple):
    """One layer with weights."""

    ours: str
    kind: str  # class in Keras, a key of LEAVES
    name: str  # what Keras calls it; '': its kind and number


# class in Keras -> (our leaf, theirs), in the order of their variables
LEAVES = {
    "batch_normalization": (("scale", "gamma"), ("bias", "beta"), ("mean", "moving_mean"), ("var", "moving_variance")),
    "conv2d": (("kernel", "kernel"), ("bias", "bias")),
    "dense": (("kernel", "kernel"), ("bias", "bias")),
    "embedding": (("embedding", "embeddings"),),
    "lstm": (("input/kernel", "kernel"), ("recurrent/kernel", "recurrent_kernel"), ("input/bias", "bias")),
}
LEAVES["simple_rnn"] = LEAVES["lstm"]
LEAVES["layer_normalization"] = LEAVES["group_normalization"] = LEAVES["batch_normalization"][:2]
KINDS = {"embed": "embedding", "dense": "dense", "head": "dense", "conv": "conv2d"}
CELLS = {"lstm": "lstm", "rnn": "simple_rnn"}
SIDES = {"": ("forward_layer", "forward"), "_reverse": ("backward_layer", "backward")}


def candidates(model: nn.Module, paths: Mapping[str, str], names: Sequence[str]) -> list[Table]:
    """Tables for both ways of naming; none for models that Keras does not have."""
    fields = {}
    if "layer1_0/conv1/kernel" in paths:
        v2 = "layer1_0/norm1/scale" in paths and "stem_norm/scale" not in paths
        layers, name = list(_resnet(paths, v2)), f"Keras's ResNet V{1 + v2}"
        requires = {"conv_bias": True, "bn_eps": 1.001e-5, "bottleneck_stride": "3x3" if v2 else "1x1"}
        requires |= {"stage_stride": "last", "zero_padded_pool": True} if v2 else {"stage_stride": "first"}
        requires |= {"shortcut": "B", "weight_standardization": False}
        fields = {"requires": requires, "usual": {"global_pool": "avg"}, "norms": ("batch",)}
    else:
        layers, name = _stack(model, paths), "layers of Keras in their order"
        if any(layer.ours.startswith("norm") for layer in layers):
            fields = {"usual": {"norm_eps": 1e-3}}
    if not layers:
        return []
    by_class = Table(name, tuple(_by_class(layers, paths)), layouts=("keras",), **fields)
    return [by_class, by_class._replace(rules=tuple(_by_name(layers, paths, names)), layouts=("keras h5",))]


def told(table: Table, metadata: Mapping[str, Any], model: nn.Module) -> Table:
    """The table with the epsilon of the normalizations, where the file also holds the network itself.

    Raises:
      UserError: normalizations of another kind or with other groups than the model's, or with several epsilons.
    """
    if "norm_eps" not in table.usual:
        return table
    try:
        config = json.loads(metadata.get("config.json") or metadata.get("model_config") or "{}")
        found = {(kind, norm.get("groups"), norm["epsilon"]) for kind, norm in _normalizations(config)}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return table  # whatever is there, it is not what Keras writes
    kind, _, groups = model.norm.partition(":")
    wanted = f"{kind.capitalize()}Normalization", int(groups or 32) if kind == "group" else None
    if other := [norm[:2] for norm in found if norm[:2] != wanted]:
        shown = " and ".join(f"{name}({f'groups={n}' if n else ''})" for name, n in sorted(set(other), key=str))
        raise UserError(f"its normalizations are {shown}; the model has norm={model.norm!r}")
    epsilons = sorted({epsilon for *_, epsilon in found})
    if len(epsilons) > 1:
        raise UserError(
            f"its normalizations have epsilons of {' and '.join(map(str, epsilons))}, the model one norm_eps"
        )
    return table._replace(requires={"norm_eps": epsilons[0]}, usual={}) if epsilons else table


def _normalizations(config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class, options) of those in what Keras writes of a network, however deep; not `Normalization` of the input."""
    if isinstance(config, dict) and str(config.get("class_name")).endswith("Normalization"):
        if "epsilon" in config["config"]:
            yield config["class_name"], config["config"]
    elif isinstance(config, dict | list):
        for part in config.values() if isinstance(config, dict) else config:
            yield from _normalizations(part)


def _resnet(paths: Mapping[str, str], v2: bool) -> Iterator[Layer]:
    """In the order of keras.applications: the projection stands before the last convolution of its block."""
    yield Layer("stem", "conv2d", "conv1_conv")
    if not v2:
        yield Layer("stem_norm", "batch_normalization", "conv1_bn")
    blocks = {(int(m[1]), int(m[2])) for path in paths if (m := re.match(r"layer(\d+)_(\d+)/", path))}
    for stage, number in sorted(blocks):
        ours, theirs = f"layer{stage}_{number}", f"conv{stage + 1}_block{number + 1}"
        if v2:
            yield Layer(f"{ours}/norm1", "batch_normalization", f"{theirs}_preact_bn")
        for i in (1, 2):
            yield Layer(f"{ours}/conv{i}", "conv2d", f"{theirs}_{i}_conv")
            yield Layer(f"{ours}/norm{i + v2}", "batch_normalization", f"{theirs}_{i}_bn")
        projected = f"{ours}/proj/kernel" in paths
        if projected:
            yield Layer(f"{ours}/proj", "conv2d", f"{theirs}_0_conv")
        yield Layer(f"{ours}/conv3", "conv2d", f"{theirs}_3_conv")
        if not v2:
            if projected:
                yield Layer(f"{ours}/proj_norm", "batch_normalization", f"{theirs}_0_bn")
            yield Layer(f"{ours}/norm3", "batch_normalization", f"{theirs}_3_bn")
    if v2:
        yield Layer("norm", "batch_normalization", "post_bn")
    yield Layer("head", "dense", "predictions")


def _stack(model: nn.Module, paths: Mapping[str, str]) -> list[Layer]:
    """A model that is one layer after the other, as far as weights go; [] for others, attention or a GRU in it.

    (Keras keeps both biases of a GRU in one array.)
    """
    layers = []
    for layer in sorted({re.match(r"recurrent/layer\d+|[^/]+", path)[0] for path in paths}, key=_place):
        known, word = KINDS, re.match(r"[a-z]+", layer)[0]
        if word == "recurrent":
            known, word = CELLS, model.cell
        elif word == "norm":
            known = {word: f"{model.norm.partition(':')[0]}_normalization"}
        if word not in known:
            return []
        layers.append(Layer(layer, known[word], ""))
    return layers


def _place(layer: str) -> tuple:
    """embed, then conv1, norm1, .., dense1, .., the recurrent layers and the head."""
    order = ("embed", "conv", "dense", "recurrent", "head")
    word, number = re.match(r"(?:recurrent/)?([a-z]+)(\d*)", layer).groups()
    word = "recurrent" if layer.startswith("recurrent/") else word
    group = "dense" if word == "norm" else word
    return order.index(group) if group in order else len(order), int(number or 0), word == "norm"


def _numbered(layers: Sequence[Layer], paths: Mapping[str, str]) -> Iterator[tuple[Layer, str, int, str]]:
    """(layer in one direction, its class, its number in its class, '', 'forward' or 'backward' as in SIDES)."""
    count = Counter()
    for layer in layers:
        both = any(path.startswith(f"{layer.ours}_reverse/") for path in paths)
        kind = "bidirectional" if both else layer.kind
        for side in SIDES if both else ("",):
            yield layer._replace(ours=layer.ours + side), kind, count[kind], side
        count[kind] += 1


def _by_class(layers: Sequence[Layer], paths: Mapping[str, str]) -> Iterator[Rule]:
    for layer, kind, number, side in _numbered(layers, paths):
        place = f"layers/{kind}" + (f"_{number}" if number else "")
        if kind == "bidirectional":
            place += f"/{SIDES[side][0]}"
        if layer.ours.startswith("recurrent/"):
            place += "/cell"
        for i, (leaf, _) in enumerate(LEAVES[layer.kind]):
            yield Rule(re.escape(f"{layer.ours}/{leaf}"), (f"{place}/vars/{i}",), *SAME)


def _by_name(layers: Sequence[Layer], paths: Mapping[str, str], names: Sequence[str]) -> Iterator[Rule]:
    """`group/../leaf`; the group of a layer without a name of its own is told by its place in the file."""
    groups = _groups(layers, paths, names)
    for layer, kind, number, side in _numbered(layers, paths):
        made = kind + (f"_{number}" if number else "")
        group = layer.name or groups.get(layer.ours.removesuffix("_reverse"), made)
        inside = f"{SIDES[side][1]}_" if kind == "bidirectional" else ""
        for leaf, theirs in LEAVES[layer.kind]:
            found = [n for n in names if re.fullmatch(rf"{re.escape(group)}/(.*/)?{inside}(.*/)?{theirs}", n)]
            name = (
                found[0]
                if len(found) == 1
                else f"{group}/{inside}{layer.kind}/{theirs}"
                if inside
                else f"{group}/{theirs}"
            )
            yield Rule(re.escape(f"{layer.ours}/{leaf}"), (name.replace("\\", r"\\"),), *SAME)


def _groups(layers: Sequence[Layer], paths: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Our layer -> its group: the next one with the same weights, in the order of the file, whatever it is called.

    In a file that keeps no order, where a bias comes before its kernel, it is told by its kind and number.
    """
    leaves: dict[str, list[str]] = {}
    for name in names:
        leaves.setdefault(name.split("/")[0], []).append(name.rpartition("/")[2])
    kept = any(found[:2] == ["kernel", "bias"] for found in leaves.values())
    numbered = sorted(leaves, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    found: dict[str, str] = {}
    for layer in layers:
        both = any(path.startswith(f"{layer.ours}_reverse/") for path in paths)
        kind = "bidirectional" if both else layer.kind
        wanted = sorted(theirs for leaf, theirs in LEAVES[layer.kind] if f"{layer.ours}/{leaf}" in paths) * (1 + both)
        for group in leaves if kept else numbered:
            alike = sorted(leaves[group]) == sorted(wanted) if kept else re.fullmatch(rf"{kind}(_\d+)?", group)
            if alike and group not in found.values():
                found[layer.ours] = group
                break
    return found
