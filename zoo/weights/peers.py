"""The proof for one file: what the model it is from computes in PyTorch or Keras, beside ours.

Logits, the maps of every stage and, of PyTorch's networks, the loss and all gradients of a training step. In that step
softplus stands for ReLU on both sides: at its kink, a rounding difference becomes another gradient.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
import optax

from zoo.errors import UserError
from zoo.weights import files, importing
from zoo.weights.importing import Import

TOLERANCE = 1e-4  # of the largest value, in float32
# Of the norm; max pooling still sends a gradient elsewhere where rounding decides between two values.
GRADIENT_TOLERANCE = 1e-2
SIDE = 96
STACK = "layers of Keras in their order"
# The name of a table -> the package that has the models, and the modules whose outputs are the maps of our stages (of
# Keras: how the names of a stage's layers begin). A stack of layers is in its file.
NETWORKS = {
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


def verify(path, model: nn.Module, done: Import, name: str) -> str:
    """How far ours is, on random inputs, from the package that the file is from: a line for each part of `Outputs`.

    Raises:
      UserError: no peer to compare with, or something that differs.
    """
    if done.rules not in NETWORKS:
        raise UserError(f"--verify: no package has the model of {path} ({done.rules}); known: {', '.join(NETWORKS)}")
    where, stages = NETWORKS[done.rules]
    library = where.partition(".")[0]
    try:
        engine = importlib.import_module("keras" if library == "keras" else "torch")
        package = importlib.import_module(where)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"--verify needs {'Keras' if library == 'keras' else f'torch and {library}'}: {error}"
        ) from None
    head = [row.sources for row in done.table if row.path == "head/bias" and row.sources]
    if not head or any("adapted" in row.transform for row in done.table):
        raise UserError("--verify compares whole models; leave num_classes and in_channels as they are in the file")
    rng = np.random.default_rng(0)
    if library == "keras":
        peer, net = _keras_network(keras=engine, package=package, path=path, done=done, name=name)
        shape = [side or SIDE for side in net.input_shape[1:]]
        if "embed" in done.variables["params"]:
            x = rng.integers(0, len(done.variables["params"]["embed"]["embedding"]), (2, *shape)).astype(np.int32)
        else:
            x = rng.standard_normal((2, *shape)).astype(np.float32)
        labels, wanted = None, _keras_outputs(engine, net, stages, x)
    else:
        peer, net = _torch_network(torch=engine, package=package, path=path, done=done, name=name, bias=head[0][0])
        x = rng.standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
        labels = rng.integers(0, model.num_classes, 2)
        wanted = _torch_outputs(engine, net, stages, x, labels, lambda tensors: _as_ours(path, model, tensors))
    return "\n".join(_compared(path, f"{where}.{peer}", _ours(model, done.variables, wanted, x, labels), wanted))


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
        far = max(jax.tree.leaves(jax.tree.map(_far_by_norm, found.step[1], wanted.step[1])))
        line = f"{path}: its gradients within {far:.1e}, relative to the norm of each"
        yield _checked(line, far, GRADIENT_TOLERANCE)


def _far(found, wanted) -> float:
    if np.shape(found) != np.shape(wanted):
        return np.inf
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _far_by_norm(found, wanted) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _checked(line: str, far: float, most: float) -> str:
    if not far <= most:
        raise UserError(f"--verify: {line}; at most {most:.0e} is rounding")
    return line


def _ours(model: nn.Module, variables, wanted: Outputs, x, labels) -> Outputs:
    """With as much in it as `wanted` has."""

    def evaluated(variables):
        maps = model.clone(features_only=True).apply(variables, x) if wanted.maps else []
        return model.apply(variables, x), maps

    def loss(params):
        logits, _ = still.apply({**variables, "params": params}, x, train=True, mutable="batch_stats")
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    quick = {"xla_backend_optimization_level": 0}  # they run once
    logits, maps = jax.device_get(jax.jit(evaluated, compiler_options=quick)(variables))
    if not wanted.step:
        return Outputs(logits, maps, None)
    still = model.clone(**{k: 0.0 for k in ("dropout", "block_dropout", "stochastic_depth") if hasattr(model, k)})
    with mock.patch.object(nn, "relu", nn.softplus):
        step = jax.jit(jax.value_and_grad(loss), compiler_options=quick)(variables["params"])
    return Outputs(logits, maps, jax.device_get(step))


def _torch_network(*, torch, package, path, done: Import, name: str, bias: str):
    """(its name, the module with the file's weights); `bias` is the name of the head's in the file."""
    tensors = files.read(path).tensors
    prefix = next(key for key in tensors if key.endswith(bias)).removesuffix(bias)
    peer = f"{name}d" if done.rules == "timm's ResNet-D" else name
    # NumPy's bfloat16 is unknown to PyTorch.
    tensors = {key.removeprefix(prefix): torch.from_numpy(np.array(t, np.float32)) for key, t in tensors.items()}
    try:
        net = getattr(package, peer)(num_classes=len(tensors[bias]))
        net.load_state_dict(tensors, strict=True)
    except (AttributeError, RuntimeError) as error:
        raise UserError(f"--verify: {package.__name__}.{peer}: {str(error).splitlines()[0]}") from None
    return peer, net


def _torch_outputs(torch, net, stages, images, labels, as_ours: Callable) -> Outputs:
    functional, x, maps = torch.nn.functional, torch.from_numpy(images.transpose(0, 3, 1, 2)), {}
    hooks = [
        net.get_submodule(stage).register_forward_hook(lambda module, inputs, y, stage=stage: maps.update({stage: y}))
        for stage in stages
    ]
    with torch.no_grad():
        logits = net.eval()(x).numpy()
    for hook in hooks:
        hook.remove()
    for module in net.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with mock.patch.object(functional, "relu", lambda x, inplace=False: functional.softplus(x)):
        loss = functional.cross_entropy(net(x), torch.from_numpy(labels))
    loss.backward()
    grads = as_ours(net.state_dict() | {key: parameter.grad for key, parameter in net.named_parameters()})
    return Outputs(logits, [maps[stage].numpy().transpose(0, 2, 3, 1) for stage in stages], (loss.item(), grads))


def _as_ours(path, model: nn.Module, tensors):
    """Tensors of PyTorch, all that its state_dict has, as our parameters."""
    weights = files.Weights({key: tensor.numpy() for key, tensor in tensors.items()}, {}, "PyTorch")
    return importing.fill(model, path, weights, None, None, 0).variables["params"]


def _keras_network(*, keras, package, path, done: Import, name: str):
    """(its name, the model with the file's weights), which gives logits."""
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
