"""Files of weights as named NumPy arrays; the format is detected from the bytes, not from the name.

Nothing in a file is executed, and nothing is taken at its word: lengths, shapes and offsets are checked before memory
is asked for. Arrays are read-only views of the mapped file wherever the format stores them plainly.
"""

import codecs
import mmap
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from zoo import checkpoint, words
from zoo import rules as paths
from zoo.errors import UserError
from zoo.weights import archives, download, hdf5, hub, pytorch, safetensors


class Weights(NamedTuple):
    """What a file holds."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]  # what the file says of itself: a safetensors header, numbers beside a state_dict, words
    format: str


# format -> reader of (mapped file, path) -> (tensors, metadata)
READERS: dict[str, Callable] = {
    "safetensors": lambda data, path: safetensors.read(data),
    "PyTorch": lambda data, path: pytorch.read_legacy(data),
    "HDF5": lambda data, path: hdf5.read(path),
    "PyTorch zip": lambda data, path: pytorch.read_zip(archives.members(data)),
    "npz": lambda data, path: (archives.npz(archives.members(data)), {}),
    "Keras": lambda data, path: hdf5.read_keras(archives.members(data)),
    "word vectors": lambda data, path: _word_vectors(words.load(path)),
}
NUMBER = rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


def read(source: str | os.PathLike) -> Weights:
    """The weights of a file, of `hf:owner/repo[/file][@revision]` or `https://...#sha256=...`, or of a run folder.

    Formats: safetensors; PyTorch zip and legacy (.pth, .pt, .th, .bin); npz; Keras .h5, .weights.h5 and .keras (with
    h5py installed); word vectors (`zoo.words.load`).

    Raises:
      UserError: no such file, an unknown format, damage, or a pickle that holds anything but data.
    """
    path = pathlib.Path(_local(str(source)))
    if path.is_dir():
        tree = paths.flatten(checkpoint.load_variables(path))
        return Weights({name: np.asarray(array) for name, array in tree.items()}, {}, "run folder")
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise UserError(f"{path} is empty; it holds no weights")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from None
    name = "weights"
    try:
        name = detect(data)
        tensors, metadata = READERS[name](data, path)
    except UserError as error:
        raise UserError(str(error) if name == "word vectors" else f"{path}: {error}") from None
    except Exception as error:  # whatever damaged bytes make the parsers of NumPy, zipfile, json and h5py raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{path} is not a whole {name} file: {first}") from None
    if not tensors:
        raise UserError(f"{path} holds no tensor")
    return Weights(tensors, metadata, name)


def _local(source: str) -> str | pathlib.Path:
    if source.startswith("hf:"):
        return hub.download(source)
    if source.startswith("http://"):
        raise UserError(f"{source}: weights are fetched by https:// only")
    return download.download(source) if source.startswith("https://") else source


def _word_vectors(vectors: words.Vectors) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tables = {"vectors": vectors.table} | ({} if vectors.output is None else {"output": vectors.output})
    return tables, {"words": vectors.words}


def detect(data: mmap.mmap) -> str:
    """The name in READERS of what the bytes are."""
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        return "HDF5"
    if data[:4] == b"PK\x03\x04":
        names = archives.names(data)
        if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
            return "PyTorch zip"
        if "model.weights.h5" in names:
            return "Keras"
        if {"words.npy", "vectors.npy"} == set(names) - {"output.npy"}:
            return "word vectors"
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
        raise UserError(f"a zip archive of {', '.join(names[:3]) or 'nothing'}; no PyTorch, NumPy or Keras weights")
    if data[8:9] == b"{":  # first: the length before it may start with any byte
        return "safetensors"
    if data[:1] == b"\x80":
        return "PyTorch"
    first = data[: 2**16].removeprefix(codecs.BOM_UTF8).partition(b"\n")[0].split()
    numbers = [bool(re.fullmatch(NUMBER, part)) for part in first]
    if data[:2] == b"\x1f\x8b" or (len(first) > 1 and all(numbers[-2:])):  # word2vec's two numbers, or GloVe's many
        return "word vectors"
    raise UserError(
        f"unknown format (it starts with {data[:8]!r}); known are safetensors, PyTorch, npz, "
        "Keras .h5 or .keras, and word vectors"
    )
