"""MNIST and its relatives from idx files (LeCun's format, http://yann.lecun.com/exdb/mnist), gzipped or not.

A file is big endian: two zero bytes, the type (8: unsigned byte), the number of dimensions, one uint32 per dimension,
then the bytes.
"""

import gzip
import math
import pathlib
import zlib

import numpy as np

from zoo.errors import UserError
from zoo.types import Source

MNIST_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def mnist(data_dir: pathlib.Path) -> Source:
    """60,000 training and 10,000 test images [28, 28, 1], 10 classes; in `data_dir`/mnist."""
    return load(data_dir / "mnist", MNIST_CLASSES)


def fashion_mnist(data_dir: pathlib.Path) -> Source:
    """Fashion-MNIST (Xiao et al. 2017), the same shapes as MNIST; in `data_dir`/fashion_mnist."""
    return load(data_dir / "fashion_mnist", FASHION_CLASSES)


def load(folder: pathlib.Path, class_names: tuple[str, ...]) -> Source:
    """The four idx files `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]` of a folder.

    Raises:
      UserError: a missing, truncated or damaged file, counts that disagree, or a label outside the classes.
    """
    splits = {}
    for split in ("train", "t10k"):
        image_file, label_file = (_find(folder, f"{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        images, labels = read(image_file, dimensions=3), read(label_file, dimensions=1)
        if len(images) != len(labels):
            raise UserError(f"{image_file} has {len(images)} images but {label_file.name} has {len(labels)} labels")
        if len(labels) and labels.max() >= len(class_names):
            row = int(np.argmax(labels >= len(class_names)))
            raise UserError(
                f"{label_file}: label {labels[row]} of row {row} is out of range; "
                f"there are {len(class_names)} classes, 0 to {len(class_names) - 1}"
            )
        splits[split] = {"image": images[..., None], "label": labels.astype(np.int32)}
    return Source(splits["train"], test=splits["t10k"], class_names=class_names)


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    what = f"has no file {name}[.gz]" if folder.is_dir() else "is not a folder"
    raise UserError(f"{folder} {what}; put the idx files there, or set ZOO_DATA_DIR to the folder above it")


def read(path: pathlib.Path, *, dimensions: int) -> np.ndarray:
    """The uint8 array of one idx file with this number of dimensions."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}") from None
    header = 4 + 4 * dimensions
    magic = 8 << 8 | dimensions
    found = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
    if found != magic:
        raise UserError(
            f"{path}: the magic number is {found}, not {magic}; this is not an idx file of {dimensions}-dimensional "
            "bytes"
        )
    shape = tuple(np.frombuffer(data[4:header], ">u4").tolist()) if len(data) >= header else ()
    if len(shape) != dimensions or len(data) - header != math.prod(shape):
        raise UserError(
            f"{path} is truncated or too long: the header announces {' x '.join(map(str, shape)) or 'more'} bytes, "
            f"{max(len(data) - header, 0)} follow"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
