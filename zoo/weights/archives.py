"""Zip archives of arrays: members as bytes, and NumPy's npz."""

import io
import math
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from zoo.errors import UserError
from zoo.replacing import replaced

SPARE = 2**26  # a compressed archive may grow to this many bytes, or to 4 times its size


def names(data: mmap.mmap) -> list[str]:
    """Names of the members, without folders."""
    with zipfile.ZipFile(data) as archive:
        return [info.filename for info in archive.infolist() if not info.is_dir()]


def members(data: mmap.mmap) -> dict[str, memoryview]:
    """Name -> bytes, with their checksums verified; stored members are views of `data`.

    Raises:
      UserError: a zip bomb, an encrypted or overlapping member, or damage.
    """
    with zipfile.ZipFile(data) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    expanded = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
    if expanded > max(SPARE, 4 * len(data)) or sum(info.compress_size for info in infos) > len(data):
        raise UserError(f"an archive of {len(data):,} bytes that expands to {expanded:,}: a zip bomb?")
    if len({info.filename for info in infos}) != len(infos):
        raise UserError("a zip archive with two members of one name")
    view = memoryview(data)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # checksums are computed without Python's lock
        contents = list(pool.map(partial(_member, view), infos))
    return {info.filename: content for info, content in zip(infos, contents, strict=True)}


def _member(view: memoryview, info: zipfile.ZipInfo) -> memoryview:
    signature, flags, name, extra = struct.unpack_from("<4s2xH18xHH", view, info.header_offset)
    start = info.header_offset + 30 + name + extra
    content = view[start : start + info.compress_size]
    if signature != b"PK\x03\x04" or flags & 1 or len(content) != info.compress_size:
        raise UserError(f"the zip member {info.filename!r} is encrypted or damaged")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        content = memoryview(_inflated(content, info.file_size))
    elif info.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"the zip member {info.filename!r} is compressed in a way that npz and PyTorch never use")
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise UserError(f"the zip member {info.filename!r} is damaged: its length or checksum is wrong")
    return content


def _inflated(content: memoryview, size: int) -> bytearray:
    """In small parts, so that nothing is in memory twice; one byte more than `size` where there is more."""
    done, stream = bytearray(), zlib.decompressobj(-15)
    for at in range(0, len(content), 2**12):  # deflate grows at most 1032 times
        done += stream.decompress(content[at : at + 2**12])[: size + 1 - len(done)]
    return done


def npz(files: dict[str, memoryview], kinds: str = "fiub") -> dict[str, np.ndarray]:
    """Arrays of the .npy members, by name; `kinds` of NumPy's dtypes are allowed."""
    return {name.removesuffix(".npy"): _npy(name, content, kinds) for name, content in files.items()}


def write_npz(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the file in one move."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **tensors)


def _npy(name: str, content: memoryview, kinds: str) -> np.ndarray:
    start = io.BytesIO(content[: 2**16])  # NumPy's own limit for a header is 10,000 bytes
    version = np.lib.format.read_magic(start)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise UserError(f"{name}: npy version {version} is for structured arrays; weights are plain ones")
    shape, fortran, dtype = headers[version](start)
    if dtype.kind not in kinds:
        raise UserError(f"{name} holds {dtype}; weights are numbers (pickled objects are never read)")
    size, start = math.prod(shape), start.tell()
    if any(n < 0 for n in shape) or size * dtype.itemsize != len(content) - start:
        raise UserError(f"{name}: {len(content) - start} bytes cannot be {dtype}{list(shape)}")
    return np.frombuffer(content, dtype, size, start).reshape(shape, order="F" if fortran else "C")
