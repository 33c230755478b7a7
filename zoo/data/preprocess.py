"""From raw rows to model input, with statistics of the training split alone.

The statistics are a flat dict of arrays. A run keeps them in its folder (`preprocess.npz`), and every later evaluation
or prediction repeats them, whatever has become of the data:

    settings                         JSON of the settings they were fitted for
    fill, category_fill, levels/<i>  of columns with missing values and of categories, see zoo.data.columns
    normalize/<i>/<name>/<array>     of the i-th normalization
    reversed                         there if images are turned from RGB to BGR first
    float_images                     there if images are floats: whether they are in 0..1, as images in files can be
    image_shape                      height, width and channels of images of which 'pca' or 'lda' makes features
    target                           mean, standard deviation and minimum of the targets, [3] or [3, K]
    class_names, feature_names, category_names
"""

import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from zoo.data import columns, whitening
from zoo.errors import UserError, lookup
from zoo.replacing import replaced
from zoo.types import Batch, Source

Statistics = dict[str, np.ndarray]
Arrays = Mapping[str, np.ndarray]

FILE = "preprocess.npz"
SETTINGS = ("normalize", "statistics", "impute", "categories")  # of config.data
CHUNK = 4096  # rows that are normalized at a time to fit the next normalization


def none(x: np.ndarray) -> Statistics:
    """As it is; images in 0..1."""
    return _affine(x, 0.0, _unit(x))


def standardize(x: np.ndarray) -> Statistics:
    """Mean 0 and standard deviation 1 for each feature or channel."""
    return _affine(x, *moments(x))


def minmax(x: np.ndarray) -> Statistics:
    """Each feature or channel from 0 to 1."""
    return _affine(x, x.min(_all_but_last(x)), np.ptp(x, _all_but_last(x)))


def per_image(x: np.ndarray) -> Statistics:
    """Global contrast normalization: mean 0 and standard deviation 1 for each image (Goodfellow et al. 2016, 12.2.1.1).

    The book's s is 1, lambda 0 and epsilon 1e-8, for images in 0..1: a constant image becomes zeros.
    """
    if x.ndim != 4:
        raise UserError("config.data.normalize: per_image is for images, and this data set has none")
    return {"epsilon": np.float64(1e-8)}


# name -> arrays, from raw training rows [N, ..., channels or features]
SCALINGS = {"none": none, "standardize": standardize, "minmax": minmax, "per_image": per_image}
# name -> arrays, from rows [N, D] in float64, labels [N] or None, and perhaps the number behind the name
LINEAR = {"zca": whitening.zca, "pca": whitening.pca, "lda": whitening.lda}
NORMALIZE: dict[str, Callable[..., Statistics]] = SCALINGS | LINEAR


def _unit(x) -> float:
    """What is 1 in the units of the statistics: 255 of bytes."""
    return 255.0 if x.dtype == np.uint8 else 1.0


def _all_but_last(x) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _affine(x: np.ndarray, shift, scale) -> Statistics:
    """Arrays of x -> (x - shift) / scale; a channel or feature that is constant is only centred."""
    shift, scale = (np.broadcast_to(np.asarray(s, np.float64), x.shape[-1]) for s in (shift, scale))
    constant = scale <= 1e-7 * np.abs(shift)  # for float32; the deviation of equal float64 rounds to about 1e-17
    return {"shift": shift, "scale": np.where(constant, _unit(x), scale)}


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over everything but the last axis, in float64; exact for uint8."""
    if x.dtype == np.uint8:  # a histogram per channel, in pieces: bincount takes 8 bytes per pixel
        channels, values = x.shape[-1], np.arange(256)
        counts = np.zeros((channels, 256), np.int64)
        for rows in np.array_split(x.reshape(-1, channels), x.size // 2**20 + 1):
            counts += np.stack([np.bincount(rows[:, c], minlength=256) for c in range(channels)])
        mean = counts @ values / counts.sum(1)
        return mean, np.sqrt(counts @ values**2 / counts.sum(1) - mean**2)
    return x.mean(_all_but_last(x), dtype=np.float64), x.std(_all_but_last(x), dtype=np.float64)


def parse(setting) -> list[tuple[str, tuple[float, ...]]]:
    """(name, (number,) or ()) of each normalization in `config.data.normalize`.

    Raises:
      UserError: an unknown name, or a number where none belongs.
    """
    steps = []
    for step in [setting] if isinstance(setting, str) else setting if isinstance(setting, tuple | list) else [None]:
        if not isinstance(step, str):
            raise UserError(
                f"config.data.normalize is {setting!r}; it must be a name or a tuple of names, as in "
                "('standardize', 'pca:0.95')"
            )
        name, colon, number = step.partition(":")
        lookup("normalization", name, NORMALIZE)
        if colon and name not in LINEAR:
            raise UserError(f"config.data.normalize: {name} takes no number behind it, in {step!r}")
        try:
            steps.append((name, (float(number),) if colon else ()))
        except ValueError:
            raise UserError(f"config.data.normalize: {number!r} in {step!r} is not a number") from None
    return steps


def fit(
    train: Arrays,
    options: Mapping[str, Any],
    source: Source,
    known: tuple[Sequence[float], Sequence[float], bool] | None = None,
) -> Statistics:
    """All that is learned from the training rows before training.

    Args:
      train: the training rows, and nothing else: 'image' uint8 or floats, 'feature' float32 with NaN where a value is
        missing, 'category' strings [N, K], 'label', 'target'.
      options: `config.data`; SETTINGS are read.
      source: of which the names of classes and columns are kept.
      known: mean and standard deviation to standardize with, in place of those of these rows, and whether they are of
        images in BGR.

    Raises:
      UserError: settings that do not fit the data.
    """
    names = {"class_names": source.class_names, "feature_names": source.feature_names}
    names["category_names"] = source.category_names
    statistics = {"settings": np.array(_settings(options))}
    statistics |= {key: np.array(value) for key, value in names.items() if value}
    statistics |= columns.fit(train, options, source)
    if "target" in train:
        target = train["target"] if train["target"].ndim > 1 else train["target"][:, None]
        found = np.stack([*moments(target), target.min(0)])
        statistics["target"] = found if train["target"].ndim > 1 else found[:, 0]
    steps, x = parse(options["normalize"]), _input(train)
    if x is None:
        return statistics
    if "image" in train and x.dtype != np.uint8:
        statistics["float_images"] = np.array(x.min() >= -1e-3 and x.max() <= 1 + 1e-3)  # resizing rounds
    if known is not None and (options["statistics"] == "weights" or x.shape[-1] == len(known[0])):
        *known, bgr = known
        return statistics | given(train, *known) | turned(bgr and "image" in train)
    if x.dtype == np.uint8 and (not steps or steps[0][0] not in ("standardize", "minmax", "none")):
        steps.insert(0, ("none", ()))
    if "fill" in statistics:
        x = np.where(np.isnan(x), statistics["fill"], x)
    for i, (name, number) in enumerate(steps):
        if name in LINEAR:
            if x.ndim == 4 and name != "zca":
                statistics["image_shape"] = np.array(x.shape[1:])
            arrays = LINEAR[name](x.reshape(len(x), -1).astype(np.float64), train.get("label"), *number)
        else:
            arrays = SCALINGS[name](x)
        statistics |= {f"normalize/{i}/{name}/{key}": array for key, array in arrays.items()}
        if i + 1 < len(steps):
            chunks = (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))
            x = np.concatenate([_apply(name, arrays, jnp.asarray(chunk, jnp.float32)) for chunk in chunks])
    return statistics


def given(train: Arrays, mean: Sequence[float], std: Sequence[float]) -> Statistics:
    """To standardize with a mean and a deviation that are known: one per feature, or per channel of images in 0..1."""
    key, x = "image" if "image" in train else "feature", _input(train)
    if x.shape[-1] != len(mean):
        raise UserError(
            f"config.data.statistics: the weights know the mean of {len(mean)} {key} channels, the data has "
            f"{x.shape[-1]}; set it to 'train'"
        )
    unit = _unit(x)
    return {f"normalize/0/standardize/{name}": np.asarray(m) * unit for name, m in (("shift", mean), ("scale", std))}


def turned(bgr: bool) -> Statistics:
    """To turn images from RGB to BGR first, or nothing."""
    return {"reversed": np.array(True)} if bgr else {}


def _settings(options: Mapping[str, Any]) -> str:
    return json.dumps({key: options[key] for key in SETTINGS})


def _input(batch: Mapping):
    """What is normalized."""
    return next((batch[key] for key in ("image", "feature") if key in batch), None)


def _steps(statistics: Statistics) -> list[tuple[str, Statistics]]:
    """(name, arrays) of each normalization, in order."""
    steps = {}
    for key, array in statistics.items():
        if key.startswith("normalize/"):
            _, i, name, what = key.split("/")
            steps.setdefault((int(i), name), {})[what] = array
    return [(name, arrays) for (_, name), arrays in sorted(steps.items())]


def _apply(name: str, arrays: Statistics, x):
    """One normalization of float32 [N, ...]; of pca and lda comes [N, K]."""
    if name == "per_image":
        axes = tuple(range(1, x.ndim))
        for _ in range(2):  # once leaves of a constant image what float32 rounds off its mean, 10 times epsilon
            x = x - jnp.mean(x, axes, keepdims=True)
        deviation = jnp.sqrt(jnp.mean(jnp.square(x), axes, keepdims=True))
        return x / jnp.maximum(deviation, arrays["epsilon"].astype(np.float32))
    shift = arrays["shift"].astype(np.float32)
    if name in LINEAR:
        rows, matrix = x.reshape(len(x), -1), arrays["matrix"].astype(np.float32)
        if rows.shape[1] != len(shift):
            raise UserError(
                f"config.data.normalize: {name} was fitted to {len(shift)} values of each example, and gets "
                f"{rows.shape[1]}; data.augment.crop does not go with it"
            )
        y = jnp.matmul(rows - shift[None], matrix, precision="highest")
        return y.reshape(x.shape) if name == "zca" else y
    factor, lead = (1 / arrays["scale"]).astype(np.float32), range(x.ndim - 1)
    return (x - jnp.expand_dims(shift, lead)) * jnp.expand_dims(factor, lead)


def make(statistics: Statistics) -> Callable[[Batch], Batch]:
    """The preprocessing of a raw batch, a pure function for the compiled step.

    What comes out has an 'image' [N, H, W, C] or a 'feature' [N, D]: of a table first the numbers, then the categories,
    one-hot or as their numbers (zoo.data.columns). 'pca' and 'lda' make a 'feature' of an image, too.
    """
    steps, fill = _steps(statistics), statistics.get("fill")

    def preprocess(batch: Batch) -> Batch:
        key = "image" if "image" in batch else "feature"
        batch = dict(batch)
        if key in batch:
            x = batch[key].astype(jnp.float32)
            if "reversed" in statistics:
                x = x[..., ::-1]
            if fill is not None:
                x = jnp.where(jnp.isnan(x), jnp.asarray(fill, jnp.float32)[None], x)
            for name, arrays in steps:
                x = _apply(name, arrays, x)
            if key == "image" and x.ndim == 2:
                del batch["image"]
                key = "feature"
            batch[key] = x
        return columns.joined(batch, statistics) if "category" in batch else batch

    return preprocess


def describe(statistics: Statistics, train: Arrays) -> dict[str, Any]:
    """What `meta` says about the statistics.

    'mean' and 'std' by channel or feature, on the scale of 0 to 1 for images, where the input is no more than
    (x - mean) / std, else None, as for float images that are not in 0..1; 'target_mean' and 'target_std', numbers, or
    lists where there are several targets (a deviation of 0 counts as 1); 'target_min' over all; what zoo.data.columns
    tells.
    """
    steps, x = _steps(statistics), _input(train)
    mean = std = None
    if x is not None and len(steps) == 1 and "scale" in steps[0][1] and statistics.get("float_images", True):
        mean, std = ((steps[0][1][key] / _unit(x)).tolist() for key in ("shift", "scale"))
    described = {"mean": mean, "std": std, **dict.fromkeys(("target_mean", "target_std", "target_min"))}
    if "target" in statistics:
        target_mean, target_std, target_min = statistics["target"]
        described["target_mean"], described["target_std"] = (
            target_mean.tolist(),
            np.where(target_std > 0, target_std, 1.0).tolist(),
        )
        described["target_min"] = float(target_min.min())
    described |= columns.describe(statistics)
    return described | ({"feature_names": None} if {"pca", "lda"} & {name for name, _ in steps} else {})


def fits(statistics: Statistics | None, options: Mapping[str, Any]) -> bool:
    """Whether they were fitted for these settings."""
    return statistics is not None and str(statistics["settings"]) == _settings(options)


def save(folder: pathlib.Path, statistics: Statistics) -> None:
    """Writes `preprocess.npz` of a run folder, whole or not at all."""
    with replaced(folder / FILE) as temporary, open(temporary, "wb") as file:
        np.savez(file, **statistics)


def load(folder: str | os.PathLike) -> Statistics | None:
    """The statistics in a run folder, or None where there are none."""
    path = pathlib.Path(folder) / FILE
    if not path.exists():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}); move it away to fit anew") from None
