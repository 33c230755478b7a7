"""The proof for one file: the logits of the model it is from, in PyTorch, beside ours."""

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
}


def verify(path, model, done: Import, name: str) -> str:
    """One line: how far our logits are from PyTorch's on random images.

    Raises:
      UserError: no peer to compare with, or logits that differ.
    """
    if done.rules not in PACKAGES:
        raise UserError(f"--verify: no package has the model of {path} ({done.rules}); known: {', '.join(PACKAGES)}")
    try:
        torch, package = importlib.import_module("torch"), importlib.import_module(PACKAGES[done.rules])
    except (ImportError, RuntimeError) as error:
        raise UserError(f"--verify needs torch and {PACKAGES[done.rules].partition('.')[0]}: {error}") from None
    sources = {row.path: row.sources for row in done.table}
    if not sources.get("head/bias") or any("adapted" in row.transform for row in done.table):
        raise UserError("--verify compares whole models; leave num_classes and in_channels as they are in the file")
    tensors, bias = files.read(path).tensors, sources["head/bias"][0]
    full = next(key for key in tensors if key.endswith(bias))
    peer_name = f"{name}d" if done.rules == "timm's ResNet-D" else name
    wanted = {key.removeprefix(full.removesuffix(bias)): torch.from_numpy(np.array(t)) for key, t in tensors.items()}
    try:
        make = getattr(package, peer_name)
        net = make(num_classes=len(tensors[full]))
        net.load_state_dict(wanted, strict=True)
    except (AttributeError, RuntimeError) as error:
        raise UserError(f"--verify: {PACKAGES[done.rules]}.{peer_name}: {str(error).splitlines()[0]}") from None
    images = np.random.default_rng(0).standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = net.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    ours = np.asarray(jax.jit(model.apply)(done.variables, images))
    far = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    line = f"{path}: logits within {far:.1e} of {PACKAGES[done.rules]}.{peer_name}'s, relative to the largest"
    if not far <= TOLERANCE:
        raise UserError(f"--verify: {line}; at most {TOLERANCE:.0e} is rounding")
    return line
