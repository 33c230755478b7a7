"""Writing a PyTorch file (the zip format) without PyTorch: what `torch.save(state_dict, path)` would give.

`torch.load(path, weights_only=True)` reads it. The pickle is written by hand, because Python's pickler would want to
import what it names: an OrderedDict of tensors, each a call of `_rebuild_tensor_v2` on a storage beside the pickle.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping

import numpy as np

from zoo.replacing import replaced
from zoo.weights.pytorch import STORAGES


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the file in one move; every tensor has a storage of its own."""
    with replaced(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(tensors))
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(tensors.values()):
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as file:
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        archive.writestr("archive/version", "3\n")


def pickled(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The state_dict as a pickle of protocol 2, whose storages are called 0, 1, .. in the order of the tensors."""
    kinds = {dtype: name.removeprefix("torch.") for name, dtype in STORAGES.items()}
    parts = [pickle.PROTO + b"\x02", _ordered_dict(), pickle.MARK]
    for key, (name, array) in enumerate(tensors.items()):
        storage = [
            _word("storage"),
            _global("torch", kinds[array.dtype]),
            _word(str(key)),
            _word("cpu"),
            _int(array.size),
        ]
        strides = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
        parts += [_word(name), _global("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        parts += [_tuple(*storage), pickle.BINPERSID, _int(0), _sizes(array.shape), _sizes(strides)]
        parts += [pickle.NEWFALSE, _ordered_dict(), pickle.TUPLE, pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _word(text: str) -> bytes:
    content = text.encode()
    return pickle.BINUNICODE + len(content).to_bytes(4, "little") + content


def _int(number: int) -> bytes:
    return pickle.LONG1 + b"\x08" + int(number).to_bytes(8, "little", signed=True)


def _sizes(numbers) -> bytes:
    return _tuple(*map(_int, numbers))


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE
