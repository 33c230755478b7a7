"""Keras weights: `.h5` of any version (weights alone or the full model), `.weights.h5`, and `.keras` archives."""

import importlib
import io
import itertools
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.replacing import replaced

SPARE = 2**26  # bytes that compressed data sets may grow to, or 4 times the file


def read(file) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every data set by its path, and the attributes of the file; `file` is a path or a binary file.

    A full model has its weights below 'model_weights/', which is left out, and Keras 2 a ':0' behind every name. Where
    the file lists its layers and their weights, as .h5 does, they are in that order; else by name.
    """
    h5py = _h5py()
    size = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else os.path.getsize(file)
    room, tensors, listed = max(SPARE, 4 * size), {}, {}
    with h5py.File(file, "r") as root:

        def visit(name, item) -> None:
            nonlocal room
            if not isinstance(item, h5py.Dataset):
                listed[name] = _list(item.attrs, "layer_names"), _list(item.attrs, "weight_names")
                return
            if item.external or item.is_virtual or item.dtype.kind not in "fiub":
                if item.dtype.kind in "SOUV":
                    return  # words beside the weights
                raise UserError(f"{name} lies in another file")
            room -= item.nbytes
            if room < 0:
                raise UserError(f"{name} has the shape {item.shape}, in a file of {size:,} bytes")
            tensors[name] = item[()] if item.shape else np.asarray(item[()])

        root.visititems(visit)
        listed[""] = _list(root.attrs, "layer_names"), ()
        metadata = {name: _word(value) for name, value in root.attrs.items()}
    model = "model_weights" if "model_weights" in listed else ""
    inside = f"{model}/" if model else ""
    layers = [inside + layer for layer in listed[model][0]]
    order = [f"{layer}/{name}" for layer in layers if layer in listed for name in listed[layer][1]]
    tensors = {name: tensors[name] for name in order if name in tensors} | tensors
    beside = [name for name in tensors if not name.startswith(inside) or re.match(_BESIDE, name)]
    if beside:
        metadata["left_out"] = {"optimizer and the like": len(beside)}
        tensors = {name: array for name, array in tensors.items() if name not in beside}
    return {name.removeprefix(inside).removesuffix(":0"): array for name, array in tensors.items()}, metadata


_BESIDE = r"optimizer/|(.*/)?seed_generator/"


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the file in one move: `layer/../leaf` data sets, and their order, which is how Keras loads .h5 files."""
    h5py, modern = _h5py(), str(path).endswith(".weights.h5")
    layers = list(dict.fromkeys(name.split("/")[0] for name in tensors))
    with replaced(path) as temporary, h5py.File(temporary, "w", track_order=True) as root:
        for name, array in tensors.items():
            root.create_dataset(name, data=array)
        if not modern:
            root.attrs["layer_names"] = [layer.encode() for layer in layers]
            for layer in layers:
                inside = [name.partition("/")[2].encode() for name in tensors if name.split("/")[0] == layer]
                root[layer].attrs["weight_names"] = inside


def _h5py():
    try:
        return importlib.import_module("h5py")  # an extra: only these files need it
    except ImportError:
        raise UserError("a file of Keras needs h5py: pip install -e '.[keras]'") from None


def read_keras(files: dict[str, memoryview]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The same of the members of a `.keras` archive, with its 'config.json' and 'metadata.json'."""
    tensors, metadata = read(io.BytesIO(files["model.weights.h5"]))
    texts = {name: bytes(files[name]).decode() for name in ("config.json", "metadata.json") if name in files}
    return tensors, metadata | texts


def _list(attributes, name: str) -> list[str]:
    """A list of names, which Keras cuts into `name`0, `name`1, .. where it is long."""
    keys = (
        [name]
        if name in attributes
        else itertools.takewhile(attributes.__contains__, (f"{name}{i}" for i in itertools.count()))
    )
    return [_word(word) for key in keys for word in attributes[key]]


def _word(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else value
