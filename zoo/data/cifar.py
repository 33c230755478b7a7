"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the binary version of https://www.cs.toronto.edu/~kriz/cifar.html.

A record is its labels, a byte each (CIFAR-10: one; CIFAR-100: coarse, then fine), and 3,072 bytes: 32x32 of red, of
green, of blue. Files may be compressed: `data_batch_1.bin`, `data_batch_1.bin.gz` or `data_batch_1.bin.xz`.
"""

import gzip
import lzma
import pathlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zoo.errors import UserError
from zoo.types import Source

SIDE, CHANNELS = 32, 3
OPEN = {"": bytes, ".gz": gzip.decompress, ".xz": lzma.decompress}


def cifar10(data_dir: pathlib.Path) -> Source:
    """50,000 training and 10,000 test images [32, 32, 3], 10 classes; in `data_dir`/cifar10."""
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return load(data_dir / "cifar10", train, ["test_batch.bin"], names="batches.meta.txt", classes=(10,))


def cifar100(data_dir: pathlib.Path) -> Source:
    """50,000 training and 10,000 test images [32, 32, 3], 100 (fine) classes; in `data_dir`/cifar100."""
    names = "fine_label_names.txt"
    return load(data_dir / "cifar100", ["train.bin"], ["test.bin"], names=names, classes=(20, 100), column=1)


def cifar100_coarse(data_dir: pathlib.Path) -> Source:
    """The images of CIFAR-100 with its 20 superclasses."""
    names = "coarse_label_names.txt"
    return load(data_dir / "cifar100", ["train.bin"], ["test.bin"], names=names, classes=(20, 100), column=0)


def load(
    folder: pathlib.Path,
    train: Sequence[str],
    test: Sequence[str],
    *,
    names: str,
    classes: Sequence[int],
    column: int = 0,
) -> Source:
    """Record files of a folder.

    Args:
      train, test: names of the files, less .gz or .xz.
      names: text file with a class name per line; without it the classes are called by their numbers.
      classes: how many classes each label byte of a record has.
      column: which label byte is the label.

    Raises:
      UserError: a missing, truncated or damaged file, or a label outside the classes.
    """
    paths = [_find(folder, name) for name in (*train, *test)]
    with ThreadPoolExecutor() as pool:  # decompressing is nearly all of the time, and runs without the interpreter
        parts = list(pool.map(lambda path: read(path, classes), paths))
    splits = []
    for part in (parts[: len(train)], parts[len(train) :]):
        images, labels = map(np.concatenate, zip(*part, strict=True))
        splits.append({"image": images, "label": labels[:, column]})
    return Source(splits[0], test=splits[1], class_names=_class_names(folder / names, classes[column]))


def read(path: pathlib.Path, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels int32 [N, len(classes)] of one file."""
    try:
        data = OPEN[path.suffix if path.suffix in OPEN else ""](path.read_bytes())
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} is not a whole {path.suffix[1:]} file: {error}") from None
    record = len(classes) + CHANNELS * SIDE * SIDE
    if not data or len(data) % record:
        raise UserError(f"{path} is damaged: {len(data)} bytes are not a whole number of records of {record} bytes")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    for column, number in enumerate(classes):
        if rows[:, column].max() >= number:
            row = int(np.argmax(rows[:, column] >= number))
            raise UserError(
                f"{path}: label {rows[row, column]} of row {row} is out of range; there are {number} classes, "
                f"0 to {number - 1}"
            )
    planes = rows[:, len(classes) :].reshape(-1, CHANNELS, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), rows[:, : len(classes)].astype(np.int32)


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    for ending in OPEN:
        if (path := folder / f"{name}{ending}").is_file():
            return path
    what = f"has no file {name}[.gz|.xz]" if folder.is_dir() else "is not a folder"
    raise UserError(f"{folder} {what}; put the binary version there, or set ZOO_DATA_DIR to the folder above it")


def _class_names(path: pathlib.Path, number: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(map(str, range(number)))
    names = tuple(line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip())
    if len(names) != number:
        raise UserError(f"{path} has {len(names)} class names; there are {number} classes")
    return names
