"""What a data set must be like, refused in one line where it is not."""

from collections.abc import Mapping

import numpy as np

from zoo.data.border_weights import IGNORE
from zoo.errors import UserError
from zoo.types import Source

# key of the model's input -> (what it holds, kinds of dtype, allowed numbers of axes)
INPUTS = {
    "image": ("uint8 or floats [N, H, W, C]", "uf", (4,)),
    "feature": ("floats [N, D] or [N, T, D]", "f", (2, 3)),
    "token": ("integers [N] (running text) or [N, T]", "i", (1, 2)),
    "category": ("strings [N, K]", "UO", (2,)),
}
ANSWERS = {
    "label": ("integers [N], or of each pixel [N, H, W]", "ui", (1, 3)),
    "target": ("floats [N] or [N, K]", "f", (1, 2)),
    "transcript": ("integers [N, L]", "i", (2,)),
}


def check(name: str, source: Source) -> None:
    """Raises UserError unless all splits are arrays that fit each other, with labels that are classes."""
    if not isinstance(source, Source):
        raise UserError(
            f"the data is a {type(source).__name__}; it must be a zoo.Source(train={{'feature': ...}}, ...)"
        )
    for split, arrays in zip(Source._fields[:3], source[:3], strict=True):
        if arrays is not None:
            where = f"data set {name!r}, {split}"
            _check_arrays(where, arrays)
            _check_like(where, arrays, source.train)
            _check_classes(where, arrays, source)


def _check_arrays(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    if not arrays.keys() & INPUTS.keys():
        raise UserError(f"{where} has {', '.join(map(repr, arrays)) or 'nothing'}; it needs one of {', '.join(INPUTS)}")
    for key, array in arrays.items():
        if not (hasattr(array, "dtype") and array.ndim):
            raise UserError(f"{where}: {key!r} is {type(array).__name__}; it must be an array, a row for each example")
        what, kinds, axes = (INPUTS | ANSWERS).get(key, ("", array.dtype.kind, (array.ndim,)))
        wider = key == "image" and array.dtype.kind == "u" and array.dtype != np.uint8
        if array.dtype.kind not in kinds or wider or array.ndim not in axes:
            raise UserError(f"{where}: {key!r} is {array.dtype}{list(array.shape)}; it must be {what}")
    if len(set((rows := {key: len(array) for key, array in arrays.items()}).values())) > 1:
        raise UserError(f"{where}: the arrays have unequal numbers of rows: {rows}")
    if not any(rows.values()):
        raise UserError(f"{where} has no rows; leave the split out, or give it one or more")


def _check_like(where: str, arrays: Mapping[str, np.ndarray], train: Mapping[str, np.ndarray]) -> None:
    if arrays.keys() != train.keys():
        raise UserError(f"{where} has {', '.join(map(repr, arrays))}; train has {', '.join(map(repr, train))}")
    for key, array in arrays.items():
        if array.dtype.kind != train[key].dtype.kind or array.shape[1:] != train[key].shape[1:]:
            found, wanted = (f"{a.dtype}{['N', *a.shape[1:]]}".replace("'", "") for a in (array, train[key]))
            raise UserError(f"{where}: {key!r} is {found}; in train it is {wanted}")


def _check_classes(where: str, arrays: Mapping[str, np.ndarray], source: Source) -> None:
    if source.class_names is None:
        if "label" in arrays:
            raise UserError(f"{where} has labels, but no class_names; name them, one for each class, in order")
        return
    classes = len(source.class_names)
    if "transcript" in arrays:
        _check_transcript(where, arrays["transcript"], classes)
    if "label" not in arrays:
        return
    label = arrays["label"]
    maps = label.ndim > 1
    if maps and ("image" not in arrays or label.shape != arrays["image"].shape[:3]):
        image = list(arrays["image"].shape) if "image" in arrays else "none"
        raise UserError(
            f"{where}: label maps {list(label.shape)} for images {image}; they must be [N, H, W] and [N, H, W, C]"
        )
    wrong = (label < 0) | (label >= classes)
    if maps:
        wrong &= label != IGNORE
    if wrong.any():
        row = int(np.flatnonzero(wrong.reshape(len(label), -1).any(1))[0])
        ignored = f", and {IGNORE} for ignored pixels" if maps else ""
        raise UserError(
            f"{where}: label {label[wrong][0]} in row {row} is out of range; there are {classes} classes, 0 to "
            f"{classes - 1}{ignored}"
        )


def _check_transcript(where: str, transcript: np.ndarray, classes: int) -> None:
    ended = np.pad(transcript < 0, ((0, 0), (1, 0)))[:, :-1]
    wrong = (transcript >= classes) | (ended & (transcript >= 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(1))[0])
        raise UserError(
            f"{where}: the transcript in row {row} is {transcript[row].tolist()}; it must be classes, 0 to "
            f"{classes - 1}, and -1 only behind the last one"
        )
