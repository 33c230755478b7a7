"""`--verify`: an imported model beside the original network in PyTorch or Keras.

Logits, the maps of every stage and, of PyTorch's networks, the loss and all gradients of a training step. In that step
softplus stands for ReLU on both sides: at its kink, a rounding difference becomes another gradient.

What a file cannot tell is no difference: a network that no package holds has the activation, the pooling and the like
of our model, see `zoo.weights.torch_peers`.
"""

import importlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
import optax

from zoo.errors import UserError
from zoo.weights.importing import Import

TOLERANCE = 1e-4  # of the largest value, in float32
# Of the norm; max pooling still sends a gradient elsewhere where rounding decides between two values.
GRADIENT_TOLERANCE = 1e-2
ROUNDING = 1e-6  # of the norm of all gradients: what is smaller on both sides is nothing, as that of a bias before BN
# Without what is random.
STILL = dict.fromkeys(
    ("block_dropout", "dropconnect", "dropout", "dropout_input", "recurrent_dropout", "stochastic_depth"), 0.0
) | {"variational": False}
SIDE = 96
STACK = "layers of Keras in their order"
OWN = "zoo.weights.torch_networks"
# The name of a table -> the package that has the models, and the modules whose outputs are the maps of our stages (of
# Keras: how the names of a stage's layers begin; of networks that we define, the file tells). A stack of layers is in
# its file.
NETWORKS = {
    "CIFAR ResNet in PyTorch": (OWN, ()),
    "LeNet in PyTorch": (OWN, ()),
    "MLP in PyTorch": (OWN, ()),
    "milesial's U-Net": (OWN, ()),
    "mateuszbuda's U-Net": (OWN, ()),
    "recurrent layers of PyTorch": (OWN, ()),
    "torchvision's ResNet": ("torchvision.models", ("relu", "layer1", "layer2", "layer3", "layer4")),
    "torchvision's AlexNet": ("torchvision.models", ("features.1", "features.4", "features.11")),
    "timm's ResNet-D": ("timm.models", ("act1", "layer1", "layer2", "layer3", "layer4")),
    "timm's ResNetV2": ("timm.models", ("stem.conv", "stages.0", "stages.1", "stages.2", "norm")),
    "Keras's ResNet V1": ("keras.applications", ("conv1", "conv2", "conv3", "conv4", "conv5")),
    "Keras's ResNet V2": ("keras.applications", ("conv1", "conv2", "conv3", "conv4", "post")),
    STACK: ("keras.models", ()),
}


class Outputs(NamedTuple):
    """Of one side, for the same inputs and labels."""

    logits: Any
    maps: list[Any]  # of the stages; [] of a model without
    step: tuple[Any, Any] | None  # the loss and, as our parameters, its gradients; None of Keras


def verify(path, model: nn.Module, done: Import, name: str, input: Sequence[int] | None = None) -> str:
    """How far ours is, on random inputs, from the network that the file is from: a line for each part of `Outputs`.

    Args:
      path: the file.
      model, done: ours, and what came of the import.
      name: that of our model.
      input: shape of an example, where the import was given one.

    Raises:
      UserError: no peer to compare with, or something that differs.
    """
    if done.rules not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise UserError(f"--verify: nothing to compare {path} with ({done.rules}); there is for {known}")
    where, stages = NETWORKS[done.rules]
    library = where.partition(".")[0]
    needed = {"keras": "Keras", "zoo": "torch"}.get(library, f"torch and {library}")
    try:
        engine = importlib.import_module("keras" if library == "keras" else "zoo.weights.torch_peers")
        package = importlib.import_module(where)
    except (ImportError, RuntimeError) as error:
        raise UserError(f"--verify needs {needed}: {error}") from None
    head = any(row.path == "head/bias" and row.sources for row in done.table)
    if not head or any("adapted" in row.transform for row in done.table):
        raise UserError("--verify compares whole models; leave num_classes and in_channels as they are in the file")
    rng = np.random.default_rng(0)

    def inputs(shape, tokens: int):
        drawn = rng.integers(0, tokens, shape) if tokens else rng.standard_normal(shape)
        return drawn.astype(np.int32 if tokens else np.float32)

    if library == "keras":
        peer, net = _keras_network(keras=engine, package=package, path=path, done=done, name=name)
        embed = done.variables["params"].get("embed")
        x = inputs([2, *(side or SIDE for side in net.input_shape[1:])], len(embed["embedding"]) if embed else 0)
        wanted = _keras_outputs(engine, net, stages, x)
    else:
        peer = f"{name}d" if done.rules == "timm's ResNet-D" else name
        theirs = engine.network(path, model, done, package=package, name=peer, stages=stages, input=input)
        x = inputs(theirs.batch, theirs.tokens)
        wanted = Outputs(*engine.outputs(theirs, x, labels, model, input))
    whose = "PyTorch" if where == OWN else f"{where}.{peer}"
    return "\n".join(_compared(path, whose, _ours(model, done.variables, wanted, x), wanted))


def labels(logits) -> np.ndarray:
    """Random ones for logits [..., num_classes]; of a single class, 0 and 1."""
    return np.random.default_rng(1).integers(0, max(logits.shape[-1], 2), logits.shape[:-1])


def _compared(path, peer: str, found: Outputs, wanted: Outputs) -> Iterator[str]:
    far = _far(found.logits, wanted.logits)
    yield _checked(f"{path}: logits within {far:.1e} of {peer}'s, relative to the largest", far, TOLERANCE)
    if wanted.maps:
        far = max(map(_far, found.maps, wanted.maps))
        line = f"{path}: maps of {len(wanted.maps)} stages within {far:.1e}, relative to the largest of each"
        yield _checked(line, far, TOLERANCE)
    if wanted.step:
        far = _far(found.step[0], wanted.step[0])
        yield _checked(f"{path}: loss of a training step within {far:.1e}, relative to it", far, TOLERANCE)
        far = _far_by_norm(found.step[1], wanted.step[1])
        line = f"{path}: its gradients within {far:.1e}, relative to the norm of each"
        yield _checked(line, far, GRADIENT_TOLERANCE)


def _far(found, wanted) -> float:
    if np.shape(found) != np.shape(wanted):
        return np.inf
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _far_by_norm(found, wanted) -> float:
    """The farthest of all gradients."""
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    least = ROUNDING * np.linalg.norm([np.linalg.norm(leaf) for leaf in wanted])
    pairs = [pair for pair in zip(found, wanted, strict=True) if max(map(np.linalg.norm, pair)) > least]
    far = (np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), least) for ours, theirs in pairs)
    return float(max(far, default=0.0))


def _checked(line: str, far: float, most: float) -> str:
    if not far <= most:
        raise UserError(f"--verify: {line}; at most {most:.0e} is rounding")
    return line


def _ours(model: nn.Module, variables, wanted: Outputs, x) -> Outputs:
    """With as much in it as `wanted` has."""

    def evaluated(variables):
        maps = model.clone(features_only=True).apply(variables, x) if wanted.maps else []
        return model.apply(variables, x), maps

    def loss(params):
        logits, _ = still.apply({**variables, "params": params}, x, train=True, mutable="batch_stats")
        label = labels(logits)
        if logits.shape[-1] == 1:
            return optax.sigmoid_binary_cross_entropy(logits[..., 0], label).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    quick = {"xla_backend_optimization_level": 0}  # they run once
    logits, maps = jax.device_get(jax.jit(evaluated, compiler_options=quick)(variables))
    if not wanted.step:
        return Outputs(logits, maps, None)
    options = {k: v for k, v in STILL.items() if hasattr(model, k)}
    smooth = {k: "softplus" for k in ("activation", "head_activation") if getattr(model, k, "") == "relu"}
    still = model.clone(**options, **smooth)
    with mock.patch.object(nn, "relu", nn.softplus):
        step = jax.jit(jax.value_and_grad(loss), compiler_options=quick)(variables["params"])
    return Outputs(logits, maps, jax.device_get(step))


def _keras_network(*, keras, package, path, done: Import, name: str):
    """(its name, the model with the file's weights), which gives logits."""
    if not pathlib.Path(path).is_file():
        raise UserError(f"--verify: Keras reads files of this machine only; download {path}")
    if done.rules == STACK:
        if not str(path).endswith(".keras"):
            raise UserError(f"--verify: {path} has weights without their network; save it as .keras")
        try:
            net = package.load_model(path, compile=False)
        except (TypeError, ValueError, OSError) as error:
            raise UserError(f"--verify: {path}: {str(error).splitlines()[0]}") from None
        if hasattr(net.layers[-1], "activation"):
            net.layers[-1].activation = keras.activations.linear
        return "load_model", net
    peer = f"ResNet{name.removeprefix('resnetv2_')}V2" if "V2" in done.rules else name.replace("resnet", "ResNet")
    options = {"weights": None, "classifier_activation": None, "input_shape": (SIDE, SIDE, 3)}
    try:
        net = getattr(package, peer)(classes=done.variables["params"]["head"]["bias"].size, **options)
        net.load_weights(path)
    except (AttributeError, ValueError, OSError) as error:
        raise UserError(f"--verify: {package.__name__}.{peer}: {str(error).splitlines()[0]}") from None
    return peer, net


def _keras_outputs(keras, net, stages, x) -> Outputs:
    ends = [[layer for layer in net.layers if layer.name.startswith(stage)][-1].output for stage in stages]
    outputs = keras.Model(net.inputs, [*net.outputs, *ends])(x, training=False)
    logits, *maps = map(keras.ops.convert_to_numpy, keras.tree.flatten(outputs))  # one is in no list
    return Outputs(logits, maps, None)
