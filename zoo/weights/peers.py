"""The proof for one file: the logits of the model it is from, in PyTorch or Keras, beside ours."""

import importlib

import jax
import numpy as np

from zoo.errors import UserError
from zoo.weights import files
from zoo.weights.importing import Import

TOLERANCE = 1e-4  # of the largest logit, in float32
SIDE = 96
# The name of a table -> the package that has the models, and where.
PACKAGES = {
    "torchvision's ResNet": "torchvision.models",
    "torchvision's AlexNet": "torchvision.models",
    "timm's ResNet-D": "timm.models",
    "timm's ResNetV2": "timm.models",
    "Keras's ResNet V1": "keras.applications",
    "Keras's ResNet V2": "keras.applications",
}


def verify(path, model, done: Import, name: str) -> str:
    """One line: how far our logits are on random images from those of the package that the file is from.

    Raises:
      UserError: no peer to compare with, or logits that differ.
    """
    if done.rules not in PACKAGES:
        raise UserError(f"--verify: no package has the model of {path} ({done.rules}); known: {', '.join(PACKAGES)}")
    library, needs = PACKAGES[done.rules].partition(".")[0], PACKAGES[done.rules]
    try:
        engine = importlib.import_module("keras" if library == "keras" else "torch")
        package = importlib.import_module(needs)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"--verify needs {'Keras' if library == 'keras' else f'torch and {library}'}: {error}"
        ) from None
    sources = {row.path: row.sources for row in done.table}
    if not sources.get("head/bias") or any("adapted" in row.transform for row in done.table):
        raise UserError("--verify compares whole models; leave num_classes and in_channels as they are in the file")
    images = np.random.default_rng(0).standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
    logits = _keras if library == "keras" else _torch
    peer_name, theirs = logits(engine, package, path, done, name, sources["head/bias"][0], images)
    ours = np.asarray(jax.jit(model.apply)(done.variables, images))
    far = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    line = f"{path}: logits within {far:.1e} of {needs}.{peer_name}'s, relative to the largest"
    if not far <= TOLERANCE:
        raise UserError(f"--verify: {line}; at most {TOLERANCE:.0e} is rounding")
    return line


def _torch(torch, package, path, done: Import, name: str, bias: str, images):
    tensors = files.read(path).tensors
    full = next(key for key in tensors if key.endswith(bias))
    peer_name = f"{name}d" if done.rules == "timm's ResNet-D" else name
    wanted = {key.removeprefix(full.removesuffix(bias)): torch.from_numpy(np.array(t)) for key, t in tensors.items()}
    try:
        net = getattr(package, peer_name)(num_classes=len(tensors[full]))
        net.load_state_dict(wanted, strict=True)
    except (AttributeError, RuntimeError) as error:
        raise UserError(f"--verify: {package.__name__}.{peer_name}: {str(error).splitlines()[0]}") from None
    with torch.no_grad():
        return peer_name, net.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


def _keras(keras, package, path, done: Import, name: str, bias: str, images):
    peer_name = f"ResNet{name.removeprefix('resnetv2_')}V2" if "V2" in done.rules else name.replace("resnet", "ResNet")
    classes = done.variables["params"]["head"]["bias"].size
    try:
        make = getattr(package, peer_name)
        net = make(weights=None, classes=classes, classifier_activation=None, input_shape=images.shape[1:])
        if str(path).endswith(".keras"):
            net = keras.models.load_model(path, compile=False)
        else:
            net.load_weights(path)
    except (AttributeError, ValueError, OSError) as error:
        raise UserError(f"--verify: {package.__name__}.{peer_name}: {str(error).splitlines()[0]}") from None
    return peer_name, np.asarray(keras.ops.convert_to_numpy(net(images, training=False)))
