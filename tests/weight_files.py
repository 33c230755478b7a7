"""Writes weights in the formats of others, PyTorch's without PyTorch: its pickles name functions that stand in here."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import jax.numpy as jnp
import numpy as np

STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C


def arrays(seed=0) -> dict[str, np.ndarray]:
    """A few tensors of several kinds, a scalar and an empty one among them."""
    rng = np.random.default_rng(seed)
    return {
        "conv1.weight": rng.standard_normal((6, 1, 5, 5)).astype(np.float32),
        "conv1.bias": rng.standard_normal(6),
        "bn.num_batches_tracked": np.array(7),
        "half": rng.standard_normal((3, 4)).astype(np.float16),
        "empty": np.zeros((0, 5), np.float32),
    }


class Tensor:
    """Pickled like a torch.Tensor."""

    def __init__(self, array, strides=None, offset=0, key=None, shape=None):
        self.array, self.key, self.offset = array, key, offset
        self.shape = array.shape if shape is None else shape
        self.strides = strides or tuple(s // array.itemsize for s in array.strides)


def _pickler(storages):
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}

    def _rebuild_tensor_v2(*args):
        raise AssertionError("ran while pickling")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    modules["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
    kinds = {}
    for dtype, name in STORAGES.items():
        kinds[dtype] = type(name, (), {"__module__": "torch"})
        setattr(modules["torch"], name, kinds[dtype])

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return obj[1] if type(obj) is tuple and obj and obj[0] == "a storage" else None

        def reducer_override(self, obj):
            if not isinstance(obj, Tensor):
                return NotImplemented
            key = obj.key or str(len(storages))
            storages[key] = obj.array
            storage = ("a storage", ("storage", kinds[obj.array.dtype.name], key, "cpu", obj.array.size))
            arguments = (storage, obj.offset, tuple(obj.shape), obj.strides, False, collections.OrderedDict())
            return _rebuild_tensor_v2, arguments

    return Pickler, mock.patch.dict(sys.modules, modules)


def pickled(value) -> tuple[bytes, dict[str, np.ndarray]]:
    """PyTorch's pickle of nested containers with `Tensor` in them, and its storages by key."""
    storages, buffer = {}, io.BytesIO()
    pickler, modules = _pickler(storages)
    with modules:
        pickler(buffer, 2).dump(value)
    return buffer.getvalue(), storages


def torch_zip(value, method=zipfile.ZIP_STORED) -> bytes:
    pickle_bytes, storages = pickled(value)
    return zipped(
        {
            "archive/data.pkl": pickle_bytes,
            "archive/byteorder": b"little",
            **{f"archive/data/{key}": array.tobytes() for key, array in storages.items()},
            "archive/version": b"3\n",
        },
        method,
    )


def torch_legacy(value) -> bytes:
    pickle_bytes, storages = pickled(value)
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2), pickle_bytes]
    parts += [pickle.dumps(sorted(storages), 2)]
    parts += [struct.pack("<q", storages[key].size) + storages[key].tobytes() for key in sorted(storages)]
    return b"".join(parts)


def state_dict(tensors) -> collections.OrderedDict:
    found = collections.OrderedDict((name, Tensor(array)) for name, array in tensors.items())
    found._metadata = {"": {"version": 1}}
    return found


def npz(tensors, compressed=False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **tensors)
    return buffer.getvalue()


def zipped(files, method=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def bfloat16(array) -> np.ndarray:
    return np.asarray(array).astype(jnp.bfloat16)
