"""The safetensors format: 8 bytes with the length of a JSON header, the header, the tensors one after the other.

Specification: https://huggingface.co/docs/safetensors. Written here because the library's NumPy interface does not
know bfloat16 and float8; `tests/peers` reads our files with the library and its files with ours.
"""

import json
import math
import os
import struct
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from zoo.errors import UserError
from zoo.replacing import replaced

DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn), "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
MOST_HEADER = 100_000_000  # bytes, the specification's limit


def header(data) -> tuple[dict, dict[str, str], int]:
    """(name -> entry, metadata, where the tensors start) of a file's bytes."""
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(len(data) - 8, MOST_HEADER):
        raise UserError(f"not a whole safetensors file: a header of {size} bytes in a file of {len(data)}")
    entries = json.loads(bytes(data[8 : 8 + size]), object_pairs_hook=_unique)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError("safetensors: __metadata__ must hold words only")
    return entries, metadata, 8 + size


def read(data) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors (views of `data`) and metadata; the tensors must cover the file without a gap, as specified."""
    entries, metadata, start = header(data)
    tensors, at = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in DTYPES:
            raise UserError(f"safetensors: {name!r} has the unknown dtype {entry['dtype']!r}")
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise UserError(f"safetensors: {name!r} has shape {shape} at {begin}..{end}")
        size = math.prod(shape)
        if begin != at or end - begin != size * dtype.itemsize or start + end > len(data):
            raise UserError(
                f"safetensors: {name!r}, {entry['dtype']}{shape}, cannot lie at bytes {begin}..{end} of "
                f"{len(data) - start}; the file is damaged or cut off"
            )
        tensors[name], at = np.frombuffer(data, dtype, size, start + begin).reshape(shape), end
    if start + at != len(data):
        raise UserError(f"safetensors: {len(data) - start - at} bytes after the last tensor")
    return tensors, metadata


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the file in one move; big items first, so that every tensor starts at a multiple of its item's size."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    entries, at = {"__metadata__": dict(metadata)}, 0
    for name, array in ordered:
        offsets, at = [at, at + array.nbytes], at + array.nbytes
        entries[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replaced(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _unique(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UserError("safetensors: a name stands twice in the header")
    return found
