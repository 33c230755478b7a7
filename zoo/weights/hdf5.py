"""Keras weights: `.h5` of any version (weights alone or the full model), `.weights.h5`, and `.keras` archives."""

import importlib
import io
import os
from typing import Any

import numpy as np

from zoo.errors import UserError

SPARE = 2**26  # bytes that compressed data sets may grow to, or 4 times the file


def read(file) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every data set by its path, and the attributes of the file; `file` is a path or a binary file."""
    try:
        h5py = importlib.import_module("h5py")  # an extra: only these files need it
    except ImportError:
        raise UserError("reading Keras weights needs h5py: pip install 'jax-model-zoo[keras]'") from None
    size = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else os.path.getsize(file)
    room, tensors = max(SPARE, 4 * size), {}
    with h5py.File(file, "r") as root:

        def visit(name, item) -> None:
            nonlocal room
            if not isinstance(item, h5py.Dataset):
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
        metadata = {name: _word(value) for name, value in root.attrs.items()}
    return tensors, metadata


def read_keras(files: dict[str, memoryview]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The same of the members of a `.keras` archive, with its 'config.json' and 'metadata.json'."""
    tensors, metadata = read(io.BytesIO(files["model.weights.h5"]))
    texts = {name: bytes(files[name]).decode() for name in ("config.json", "metadata.json") if name in files}
    return tensors, metadata | texts


def _word(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else value
