"""Weights of other ecosystems in and out: `load_weights`, `save_weights`, `load_model`.

Nothing but NumPy is needed (h5py for Keras files): neither torch nor TensorFlow nor Keras.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from zoo import rules as tree
from zoo.errors import UserError
from zoo.run_folder import read_json
from zoo.types import Variables
from zoo.weights import export, files, header, importing, safetensors, vectors
from zoo.weights.importing import Import
from zoo.weights.rules import Table

OTHERS = (".bin", ".ckpt", ".h5", ".hdf5", ".keras", ".npz", ".pt", ".pth", ".th")  # endings of what is not our own


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    rules: Sequence | Table | None = None,
    *,
    input: Sequence[int] | jax.Array | np.ndarray | None = None,
    words: Sequence[str] | None = None,
    seed: int = 0,
) -> Variables:
    """The variables of `model` from a file of weights, complete or refused; every adaptation is printed.

    Adapted are: another number of classes, by a new head; a stem kernel for 3 channels, summed for 1, repeated and
    scaled by 3 / n for n; 16-bit and float64 sources, to float32; a residual network's file for a `unet_resnet*`, whose
    encoder it fills; word vectors for a model over words, whose embedding they fill.

    Args:
      model: a module of the zoo.
      source: safetensors, PyTorch, npz, Keras or word vectors (detected from the bytes); a run folder;
        hf:owner/repo[/file][@revision]; https://...#sha256=<64 hex digits>.
      rules: your own, (regex on our path, a name or names in the file, function) each; default: the table that fits.
      input: shape of one example, such as (32, 32, 3), or a batch (its shape and dtype are used); default: what the
        model and the file say.
      words: of the model's vocabulary. Of word vectors each word's row is its vector, the others are made anew;
        default: the file's words in their order. Other weights that say their vocabulary must have this one.
      seed: of what is made anew.

    Raises:
      UserError: a file that cannot be read, or one line with all that does not fit, on both sides.
    """
    done = import_weights(model, source, rules, input=input, words=words, seed=seed)
    for note in done.notes:
        print(f"{source}: {note}", flush=True)
    return done.variables


def load_model(source: str | os.PathLike) -> tuple[nn.Module, Variables, dict[str, Any]]:
    """(model, variables, metadata) of a file that `save_weights` wrote, or of a run folder: both say what they hold."""
    info = metadata(source)
    if not info:
        raise UserError(
            f"{source} is not a run folder with a model.json, and has no header of this zoo; use "
            "load_weights(model, ...)"
        )
    model = header.model_of(source, info)
    return model, importing.fill(model, source, files.read(source), None, info["input_size"], 0).variables, info


def metadata(source: str | os.PathLike) -> dict[str, Any]:
    """What a file of `save_weights` or a run folder says of its weights (see `header.Metadata`), or {}."""
    if os.path.isdir(source):
        return read_json(pathlib.Path(source, "model.json")) or {}
    weights = files.read(source)
    return header.read(source, weights) if "zoo" in weights.metadata else {}


def save_weights(
    path: str | os.PathLike,
    model: nn.Module,
    variables: Variables,
    *,
    layout: str = "zoo",
    input: Sequence[int] | None = None,
    **metadata,
) -> None:
    """Writes safetensors whose header says what the weights mean, for `load_model` and `load_weights`; or a file of
    another ecosystem, under its names; what these do not tell of an unusual ResNet or U-Net is printed.

    Args:
      path: the file; replaced in one move. Its ending tells the format of other layouts: .pth (also .pt, .th),
        .safetensors or .npz for those of PyTorch, .weights.h5 or .h5 (by the order of the layers) for Keras.
      model: a module that `create_model` can make.
      variables: as `model.init` gives them.
      layout: whose names: 'zoo', or one of `zoo.weights.export.LAYOUTS`, such as 'torchvision', which
        `load_state_dict(..., strict=True)` takes.
      input: [H, W, C] of the images that an MLP flattens, where its layout is PyTorch's, which flattens [C, H, W].
      **metadata: of layout 'zoo', names and types of `zoo.weights.header.Metadata`: input_size, mean, std,
        channel_order, crop, interpolation, class_names, source, source_sha256, licence.

    Raises:
      UserError: other names, values of other types, a model that the layout has not, or a path that cannot be written.
    """
    arrays = {name: np.asarray(array) for name, array in tree.flatten(variables).items()}
    if layout == "zoo" and input is not None:
        raise UserError(
            "save_weights: input is for a layout of PyTorch; say input_size=(...) of weights in our own files"
        )
    if layout == "zoo" and pathlib.Path(path).suffix in OTHERS:
        raise UserError(f"{path}: layout 'zoo' writes safetensors; for others say layout={'|'.join(export.LAYOUTS)}")
    if layout == "zoo":
        safetensors.write(path, arrays, header.describe(model, arrays, metadata))
    else:
        export.write(path, model, arrays, layout, input, metadata)


def import_weights(model: nn.Module, source, rules=None, *, input=None, words=None, seed: int = 0) -> Import:
    """`load_weights` with everything that it found out, and silent."""
    weights = files.read(source)
    if "words" in weights.metadata:
        return vectors.fill(model, source, weights, words, input, seed)
    run = os.path.isdir(source)
    if info := metadata(source) if run else "zoo" in weights.metadata and header.read(source, weights):
        header.check_options(source, info, model)
        header.check_vocabulary(source, info, words)
    return importing.fill(model, source, weights, rules, input, seed)
