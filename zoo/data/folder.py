"""Images from folders: one folder per class, or pairs of an image and its label map.

| below the root (or below its train/, val/ and test/) | is |
|---|---|
| ants/, bees/, ... | classification: a class is a folder, and its images lie in it at any depth |
| image/ and label/ (or mask/; plurals do too) | segmentation: image/a.jpg and label/a.png belong together |

Anything that Pillow opens is an image; files with other endings, and names that begin with '.' or '__', are left
alone. Images are turned as their EXIF tag says, and become RGB (transparency is dropped), or one channel if all of them
are grey; 16 bits keep their upper 8.
"""

import difflib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from absl import logging
from PIL import ExifTags, Image

from zoo.errors import UserError, did_you_mean, few
from zoo.types import Source

Path = pathlib.Path
SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}  # ours -> folders
IMAGES, LABELS = ("image", "images"), ("label", "labels", "mask", "masks")
HIDDEN = (".", "__")
TURN = Image.Transpose
TURNS = {  # by EXIF's orientation
    2: TURN.FLIP_LEFT_RIGHT, 3: TURN.ROTATE_180, 4: TURN.FLIP_TOP_BOTTOM, 5: TURN.TRANSPOSE, 6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE, 8: TURN.ROTATE_90,
}  # fmt: skip
IGNORE = 255
MOST_GREYS = 32  # label images with more distinct values were probably saved in a lossy format


class Row(NamedTuple):
    image: Path
    label: int | Path  # a class, or the file of a label map


class Broken(NamedTuple):
    file: Path
    why: str


def load(root: str | Path, *, image_size: int = 0, on_error: str = "stop") -> Source:
    """The images below `root`; without train/, all of them are training images.

    Grey values of label images that are 0..n-1 (and 255: ignored) are the classes; any others, such as 0 and 255,
    are numbered in their order. Two classes are called background and foreground, more class0, class1, ...

    Args:
      root: the folder.
      image_size: the shorter side is resized to it (Pillow's antialiased bilinear; label maps: nearest), and the
        square in the middle is kept. 0: as they are, which needs images of one size.
      on_error: at files that cannot be read, 'stop' or 'skip' them with a warning.

    Raises:
      UserError: no such folder, no classes, a file that cannot be read (or too many), images of different sizes,
        an image without a label map or the other way round, or a label map of another size than its image.
    """
    root = Path(root)
    if not root.is_dir():
        missing = next(path for path in [*reversed(root.parents), root] if not path.is_dir())
        siblings = _folders(missing.parent)
        near = difflib.get_close_matches(missing.name, siblings)
        raise UserError(f"folder:{root}: {missing} is not a folder{did_you_mean(missing.name, near) if near else ''}")
    folders = _splits(root)
    if not set(_folders(folders["train"])) & {*IMAGES}:
        names, rows = _class_rows(folders)
        arrays = _read(rows, image_size, on_error)
        missing = np.flatnonzero(np.bincount(arrays["train"]["label"], minlength=len(names)) == 0)
        if len(missing):
            raise UserError(f"{folders['train'] / names[missing[0]]} has no images")
        return Source(**arrays, class_names=names)
    arrays = pairs(folders, image_size=image_size, on_error=on_error)
    table, names = _label_values(arrays, root)
    return Source(**{s: {**a, "label": table[a["label"]]} for s, a in arrays.items()}, class_names=names)


def pairs(folders: Mapping[str, Path], *, image_size: int = 0, on_error: str = "stop") -> dict[str, dict]:
    """Split -> 'image' uint8 [N, H, W, C] and 'label' uint8 [N, H, W], the grey values as they are in the files.

    Args:
      folders: split -> folder with image/ and label/ or mask/.
      image_size, on_error: as in `load`.
    """
    rows = {}
    for split, folder in folders.items():
        images, labels = (_by_stem(folder, names) for names in (IMAGES, LABELS))
        for files, others, kind in ((images, labels, "label map"), (labels, images, "image")):
            for stem, path in files.items():
                if stem not in others:
                    where = next(iter(others.values())).parent
                    raise UserError(f"{path} has no {kind} in {where}; it should be called {stem}.*")
        rows[split] = [Row(path, labels[stem]) for stem, path in images.items()]
    return _read(rows, image_size, on_error)


def _folders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(HIDDEN))


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The images of a folder by name, 2.png before 10.png."""
    opens = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = [p for p in folder.glob(pattern) if p.suffix.lower() in opens and p.is_file()]
    found = [p for p in found if not any(part.startswith(HIDDEN) for part in p.relative_to(folder).parts)]

    def natural(path: Path):
        parts = re.split("([0-9]+)", str(path.relative_to(folder)))
        return [int(part) if index % 2 else part for index, part in enumerate(parts)]

    return sorted(found, key=natural)


def _splits(root: Path) -> dict[str, Path]:
    """Split -> its folder."""
    names = _folders(root)
    known = [name for customary in SPLITS.values() for name in customary]
    if "train" not in names:
        if found := [name for name in names if name in known]:
            raise UserError(f"{root} has a folder {found[0]!r}, but none called 'train'")
        return {"train": root}
    for name in names:
        if name not in known:
            raise UserError(f"{root / name} lies beside train/, and is not a split{did_you_mean(name, known)}")
    folders = {}
    for split, customary in SPLITS.items():
        found = [name for name in customary if name in names]
        if len(found) > 1:
            raise UserError(f"{root} has both {found[0]}/ and {found[1]}/; only one can be the {split} split")
        if found:
            folders[split] = root / found[0]
    return folders


def _class_rows(folders: Mapping[str, Path]) -> tuple[tuple[str, ...], dict[str, list[Row]]]:
    """The classes (of the training split), and the rows of every split."""
    names = tuple(_folders(folders["train"]))
    if not names:
        raise UserError(f"{folders['train']} has no folders of classes, and no image/ with label/ or mask/")
    rows = {}
    for split, folder in folders.items():
        for name in _folders(folder):
            if name not in names:
                raise UserError(f"{folder / name} is not a class of {folders['train']}{did_you_mean(name, names)}")
        rows[split] = [Row(file, i) for i, name in enumerate(names) for file in files_in(folder / name, "**/*")]
    return names, rows


def _by_stem(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """File name less its ending -> file, of the one folder that has one of these names."""
    found = [name for name in names if (folder / name).is_dir()]
    if len(found) != 1:
        what = f"both {found[0]}/ and {found[1]}/" if found else "no folder " + "/, ".join(names) + "/"
        raise UserError(f"{folder} has {what}; a segmentation set has one folder of images and one of label maps")
    files: dict[str, Path] = {}
    for path in files_in(folder / found[0], "*"):
        if path.stem in files:
            raise UserError(f"{files[path.stem]} and {path.name} have the same name less their endings")
        files[path.stem] = path
    if not files:
        raise UserError(f"{folder / found[0]} has no images")
    return files


def _read(rows: Mapping[str, list[Row]], size: int, on_error: str) -> dict[str, dict[str, np.ndarray]]:
    """Split -> {'image', 'label'}, decoded by all cores."""
    every = [row for split in rows.values() for row in split]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = dict(zip(every, pool.map(lambda row: _decoded(row, size), every), strict=True))
    if broken := [result for result in made.values() if isinstance(result, Broken)]:
        line = f"{len(broken)} of {len(every)} images cannot be read, first {broken[0].file}: {broken[0].why}"
        if on_error == "stop":
            raise UserError(f"{line}; repair or remove them, or set config.data.on_error to 'skip'")
        logging.warning("%s; they are left out", line)
    made = {row: result for row, result in made.items() if not isinstance(result, Broken)}
    by_shape = {image.shape[:2]: row.image for row, (image, _) in made.items()}
    if len(by_shape) > 1:
        (one, first), (other, second) = list(by_shape.items())[:2]
        raise UserError(
            f"{first} is {one[1]}x{one[0]} and {second} is {other[1]}x{other[0]}; set config.data.image_size to bring "
            "all images to one size"
        )
    channels = max((image.shape[2] for image, _ in made.values()), default=1)
    arrays = {}
    for split, of_split in rows.items():
        good = [made[row] for row in of_split if row in made]
        if not good:
            raise UserError(f"the {split} split has no images{' that can be read' if of_split else ''}")
        images = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image, _ in good])
        labels = np.stack([label for _, label in good])
        arrays[split] = {"image": images, "label": labels.astype(np.int32 if labels.ndim == 1 else np.uint8)}
    return arrays


def _decoded(row: Row, size: int) -> tuple[np.ndarray, int | np.ndarray] | Broken:
    """The image [H, W, C] of a row and its class or label map [H, W]."""
    files = [(row.image, grey_or_rgb, Image.Resampling.BILINEAR)]
    if isinstance(row.label, Path):
        files.append((row.label, _label_map, Image.Resampling.NEAREST))
    sizes, arrays = [], []
    for path, decode, resample in files:
        try:
            with Image.open(path) as file:
                picture = decode(file)
        except Exception as error:  # anything: Pillow's readers raise what comes up
            return Broken(path, " ".join(str(error).split()) or type(error).__name__)
        sizes.append(picture.size)
        arrays.append(np.asarray(middle_square(picture, size, resample) if size else picture))
    if len({*sizes}) > 1:
        (width, height), (label_width, label_height) = sizes
        raise UserError(f"{row.label} is {label_width}x{label_height}, but its image is {width}x{height}")
    image = arrays[0] if arrays[0].ndim == 3 else arrays[0][..., None]
    return image, arrays[1] if len(arrays) > 1 else row.label


def middle_square(picture: Image.Image, size: int, resample: Image.Resampling, crop: float = 1.0) -> Image.Image:
    """The square in the middle, size x size pixels after resizing; its side is `crop` of the picture's shorter one."""
    shorter, side_of_shorter = min(picture.size), round(size / crop)
    picture = picture.resize(tuple(side_of_shorter * side // shorter for side in picture.size), resample)
    left, top = (round((side - size) / 2) for side in picture.size)
    return picture.crop((left, top, left + size, top + size))


def _upright(file: Image.Image) -> Image.Image:
    """The one picture in a file, turned as its EXIF tag says."""
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format not in ("MPO", "PSD"):  # of these the others are previews or layers of the first
        raise ValueError(f"it has {frames} frames; each must be a file of its own")
    file.load()  # with which a TIFF is upright
    # Not `ImageOps.exif_transpose`, which writes all tags again and raises at one of a wrong type.
    turn = TURNS.get(file.getexif().get(ExifTags.Base.Orientation))
    return file if turn is None else file.transpose(turn)


def grey_or_rgb(file: Image.Image) -> Image.Image:
    """In grey or RGB, upright.

    Raises:
      ValueError: several frames, floating-point numbers, or integers that are not 16 bits of which all are used.
    """
    file = _upright(file)
    if file.mode.startswith("I"):  # which Pillow clips at 255
        values = np.asarray(file)
        low, high = values.min(), values.max()
        if low < 0 or 0 < high < 4096 or high > 65535:  # 12 bits or less: 16 of their greys would be left, or none
            raise ValueError(f"its values are {low} to {high}, but those of 16 bits go up to 65535; save it in 8 bits")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if file.mode == "F":
        raise ValueError("pixels are floating-point numbers")
    if file.mode in ("1", "L", "LA"):
        return file.convert("L")
    return (file.convert("RGBA") if file.mode == "P" else file).convert("RGB")  # Pillow warns at transparent palettes


def _label_map(file: Image.Image) -> Image.Image:
    """The grey values or palette indices, upright."""
    file = _upright(file)
    if file.mode in ("L", "P") or file.mode.startswith("I"):
        values = np.asarray(file)
    else:
        colours = np.asarray(file.convert("RGB"))
        values = colours[..., 0]
        if (colours != values[..., None]).any():
            raise ValueError("it has colours; a label map has grey values or a palette")
    if values.min() < 0 or values.max() > 255:
        raise ValueError(f"its values are {values.min()} to {values.max()}; those of a label map are 0 to 255")
    return Image.fromarray(values.astype(np.uint8))


def _label_values(arrays: Mapping[str, Mapping[str, np.ndarray]], root: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 [256] from the values in the label images to classes, and the names of these."""
    found = np.flatnonzero(sum(np.bincount(split["label"].ravel(), minlength=256) for split in arrays.values()))
    classes, table = found[found != IGNORE], np.arange(256, dtype=np.uint8)
    if len(classes) < 2 or classes[-1] != len(classes) - 1 or len(found) == 256:
        if not 2 <= len(found) <= MOST_GREYS:
            raise UserError(
                f"folder:{root}: the label maps have {len(found)} different values ({few(found)}); they must have at "
                f"least 2 that are 0..n-1, or 2 to {MOST_GREYS} grey values in a lossless format"
            )
        classes, table[found] = found, np.arange(len(found))
        logging.warning("folder:%s: label values %s are classes 0 to %d", root, found.tolist(), len(found) - 1)
    names = ("background", "foreground") if len(classes) == 2 else (f"class{i}" for i in range(len(classes)))
    return table, tuple(names)
