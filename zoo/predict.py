"""Prediction from raw files (images, tables, texts), preprocessed as in training.

Input size, crop, channel order, mean, vocabulary and class names come from the header of the weights, or from
`model.json` of a run folder (zoo.weights.header.Metadata lists them all).
"""

import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import special

from zoo import activations, models, options, tiling, weights
from zoo.data import columns, csv_table, feed, folder, preprocess, text
from zoo.errors import UserError, did_you_mean, lookup
from zoo.models import unet
from zoo.tasks.supervised import model_input
from zoo.types import Variables
from zoo.weights import header

INTERPOLATIONS = {kind.name.lower(): kind for kind in Image.Resampling}
TASKS = ("classification", "regression", "segmentation")
WHOLE = 2**20  # pixels of an image that is segmented in one piece; larger ones in tiles
TILE, CONTEXT = 512, 128  # of networks whose receptive field is not known, in pixels


class Predictor(NamedTuple):
    """Weights that are ready to predict."""

    name: str  # where the weights come from, for error lines
    model: nn.Module
    variables: Variables
    info: Mapping[str, Any]  # the names of zoo.weights.header.Metadata, all of them; None: unknown
    apply: Callable  # batch of raw inputs -> outputs float32: the two that follow, which are compiled
    normalize: Callable  # batch of raw inputs -> inputs of the model
    network: Callable  # -> outputs
    statistics: preprocess.Statistics | None = None  # of the training rows, if a run kept them

    @property
    def task(self) -> str:
        segments = isinstance(self.model, unet.UNet | unet.UNetResNet)
        return self.info["task"] or ("segmentation" if segments else "classification")


def load(source, model: str | None = None, model_options: Mapping[str, Any] | None = None, **given) -> Predictor:
    """Weights of a run folder, a file of `save_weights`, or, with the name of a model, any that `load_weights` reads.

    Args:
      source: the file or folder.
      model, model_options: for `create_model`, where the weights do not say which model they are of.
      **given: metadata that the weights lack or have wrong; see zoo.weights.header.Metadata.

    Raises:
      UserError: something that is needed is not known, or does not fit.
    """
    options.check("prediction", header.Metadata, given)
    known = weights.metadata(source)
    info = {name: known.get(name) for name in header.Metadata._fields} | given
    if info["task"] not in (None, *TASKS):
        raise UserError(f"{source} is for the task {info['task']}; prediction is for {', '.join(TASKS)}")
    if model is not None:
        module = models.create_model(model, **(model_options or {}))
        done = weights.import_weights(module, source, input=info["input_size"])
        if any(row.transform == "new" for row in done.table):
            raise UserError(f"{source}: {'; '.join(done.notes)}; set num_classes to what the file has")
        variables = done.variables
    elif known:
        module, variables, _ = weights.load_model(source)
    else:
        raise UserError(f"{source} does not say which model it is; give the model, input_size, mean and std")
    outputs, names = getattr(module, "num_classes", None), info["class_names"]
    if names and outputs and len(names) != outputs and (len(names), outputs) != (2, 1):
        raise UserError(f"{source}: {len(names)} class names for {outputs} outputs")
    statistics = preprocess.load(source) if not given.keys() & {"mean", "std"} else None
    needed = ("input_size",) if info["vocab"] or statistics else ("input_size", "mean", "std")
    if missing := [name for name in needed if not info[name]]:
        raise UserError(f"{source} does not say the {', '.join(missing)} of its input; give them")
    if statistics and "image_shape" in statistics:  # the model sees features of them
        info["input_size"] = statistics["image_shape"].tolist()
        if list(given.get("input_size", info["input_size"])) != info["input_size"]:
            raise UserError(f"{source} was trained on images of {info['input_size']}; leave input_size out")
    variables = jax.device_put(variables)
    normalize = jax.jit(_normalization(info, statistics))

    @jax.jit
    def network(variables, x):
        return module.apply(variables, x, train=False).astype(jnp.float32)

    network = partial(network, variables)
    functions = (lambda batch: network(normalize(batch))), normalize, network
    return Predictor(str(source), module, variables, info, *functions, statistics)


def _normalization(info: Mapping[str, Any], statistics: preprocess.Statistics | None) -> Callable:
    if info["vocab"]:
        return lambda batch: batch
    key, dtype = ("image", np.uint8) if len(info["input_size"]) == 3 else ("feature", np.float32)
    if statistics is None:
        channels, moments = info["input_size"][-1], [info["mean"], info["std"]]
        if any(len(values) not in (1, channels) for values in moments):
            raise UserError(
                f"mean and std have {' and '.join(str(len(m)) for m in moments)} numbers for {channels} channels"
            )
        moments = [tuple(values) * (channels // len(values)) for values in moments]
        statistics = preprocess.given({key: np.zeros((1, channels), dtype)}, *moments)
    statistics = {name: array for name, array in statistics.items() if name != "reversed"}
    normalize = preprocess.make(statistics | preprocess.turned(info["channel_order"] == "BGR"))
    if "category_names" in statistics:  # of a row of `table` the last columns
        numbers = len(statistics.get("feature_names", ()))
        parts = {"feature": slice(numbers), "category": slice(numbers, None)}
        parts = {key: part for key, part in parts.items() if numbers or key == "category"}
        return lambda batch: normalize({key: batch[:, part] for key, part in parts.items()})["feature"]
    in_unit = statistics.get("float_images", False)  # the model knows images in 0..1; those of files are bytes
    return lambda batch: model_input(normalize({key: batch / 255 if in_unit and batch.dtype == np.uint8 else batch}))


def outputs(predictor: Predictor, inputs: Sequence[np.ndarray], batch_size: int = 32) -> np.ndarray:
    """Probabilities [N, classes], or numbers of regression, [N] or [N, targets], for inputs of one shape."""
    rows = []
    for batch in feed.padded({"input": np.stack(inputs)}, min(batch_size, len(inputs))):
        rows.append(np.asarray(predictor.apply(batch["input"]))[batch["mask"]])
    raw = np.concatenate(rows).astype(np.float64)
    if predictor.task == "regression":
        mean, std = (np.float64(predictor.info[key] or other) for key, other in (("target_mean", 0), ("target_std", 1)))
        values = np.exp(raw) * mean if predictor.info["target_link"] == "log" else raw * std + mean
        return values if mean.ndim else values[:, 0]
    logits = raw / (predictor.info["temperature"] or 1.0)
    if predictor.info["target_link"] == "logit":
        logits = special.log_expit(logits)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def masks(predictor: Predictor, images: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
    """The class of every pixel, uint8 [H, W], of each image [H, W, C].

    In one piece, or where that is large or the convolutions are not padded, in tiles that overlap: without seams for
    `unet`; `unet_resnet*` see further than the overlap. Where a norm is over the whole map, such as 'instance', large
    images are predicted in one piece too, and a line says so, unless the convolutions are not padded. What is
    normalized by image is so before it is cut.
    """
    tiles, norm = _tiles(predictor), _norm_over_maps(predictor.model)
    whole = max(WHOLE, tiles["tile"] ** 2) if "margin" in tiles else 0
    by_image = any("/per_image/" in key for key in predictor.statistics or ())
    behind_head = activations.get(getattr(predictor.model, "head_activation", "linear"))
    threshold = float(behind_head(np.zeros(1, np.float32))[0])  # of one class: what it makes of a logit of 0, p = 1/2
    for image in images:
        large = image.shape[0] * image.shape[1] > whole
        if large and norm and whole:
            print(f"{predictor.name}: norm {norm!r} is over whole maps: large images in one piece", flush=True)
            whole, large = math.inf, False
        if not large:
            logits = np.asarray(predictor.apply(image[None]))[0]
        elif by_image:
            (logits,) = tiling.predict(predictor.network, np.asarray(predictor.normalize(image[None])), **tiles)
        else:
            (logits,) = tiling.predict(predictor.apply, [image], **tiles)
        yield (logits.argmax(-1) if logits.shape[-1] > 1 else logits[..., 0] > threshold).astype(np.uint8)


def _tiles(predictor: Predictor) -> dict[str, int]:
    """Arguments of `tiling.predict`; those of valid convolutions are as large as the images of the training."""
    model = predictor.model
    if getattr(model, "padding", "same") == "valid":
        return {"tile": predictor.info["input_size"][0], "multiple": 2**model.depth}
    multiple, margin = 32, CONTEXT
    if isinstance(model, unet.UNet):
        multiple, margin = 2**model.depth, unet.receptive_radius(model)
    tile = max(TILE, 4 * multiple * -(-margin // multiple))  # of which a quarter is kept, at least
    return {"tile": tile, "margin": margin, "multiple": multiple, "batch_size": max(1, WHOLE // tile**2)}


def _norm_over_maps(model: nn.Module) -> str | None:
    """The norm of the convolutions, if each pixel sees all others by it."""
    norm = getattr(model.make_encoder(parent=None) if hasattr(model, "make_encoder") else model, "norm", "none")
    return norm if norm.partition(":")[0] in ("layer", "group", "instance") else None


def names(predictor: Predictor, number: int) -> list[str]:
    """Names of the classes; where the weights do not know them, numbers."""
    return [str(name) for name in predictor.info["class_names"] or (f"class {k}" for k in range(number))]


def read(predictor: Predictor, arguments: Sequence[str]) -> tuple[list[str], list[np.ndarray]]:
    """(what each example is called, its raw input) of images and folders of them, tables, or texts."""
    called, inputs = _read(predictor, arguments)
    if not inputs:
        raise UserError(f"nothing to predict in {', '.join(arguments)}")
    return called, inputs


def _read(predictor: Predictor, arguments: Sequence[str]) -> tuple[list[str], list[np.ndarray]]:
    size = predictor.info["input_size"]
    if predictor.info["vocab"]:
        sentences = [line for argument in arguments for line in _lines(argument)]
        return sentences, [encoded(sentence, predictor.info) for sentence in sentences]
    if len(size) == 3:
        if not (predictor.statistics or {}).get("float_images", True):
            raise UserError(
                f"{predictor.name} was trained on float images that are not in 0..1, and files have no such; train on "
                "uint8 or on floats in 0..1"
            )
        paths = [path for argument in arguments for path in _images(pathlib.Path(argument))]
        return list(map(str, paths)), [image(path, predictor.info, predictor.task) for path in paths]
    if len(size) != 1:
        raise UserError(
            f"{predictor.name} takes inputs of shape {list(size)}; images, rows of a table and texts are known"
        )
    tables = [(argument, table(argument, predictor.info, predictor.statistics)) for argument in arguments]
    called = [f"{argument}:{number}" for argument, rows in tables for number in rows]
    return called, [row for _, rows in tables for row in rows.values()]


def _images(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.is_dir():
        return [path]
    if not (found := folder.files_in(path, "**/*")):
        raise UserError(f"{path} has no images")
    return found


def image(path: str | pathlib.Path, info: Mapping[str, Any], task: str = "classification") -> np.ndarray:
    """uint8 [H, W, C], of the size that the model was trained with; for segmentation, as large as the file's.

    Raises:
      UserError: a file that cannot be read as an image, or of another number of channels. Grey becomes colour, and
        colour grey where its channels are equal.
    """
    height, width, channels = info["input_size"]
    resample = lookup("interpolation", info["interpolation"] or "bilinear", INTERPOLATIONS)
    try:
        with Image.open(path) as file:
            picture = folder.grey_or_rgb(file)
    except Exception as error:  # anything: Pillow's readers raise errors of all kinds
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None
    if task != "segmentation":
        if height == width and info["crop"] != 0:
            picture = folder.middle_square(picture, width, resample, info["crop"] or 1.0)
        else:
            picture = picture.resize((width, height), resample)
    array = np.asarray(picture)
    array = array if array.ndim == 3 else array[..., None]
    if channels == 1 and (array == array[..., :1]).all():
        array = array[..., :1]
    if array.shape[-1] not in (1, channels):
        raise UserError(f"{path} has {array.shape[-1]} channels ({picture.mode}); the model takes {channels}")
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], channels)))


def _lines(argument: str) -> list[str]:
    """The argument is a text; or a file of them, one per line."""
    if not argument.endswith((".txt", ".txt.gz", ".txt.xz")):
        return [argument]
    return [line for line in text.read(pathlib.Path(argument)).splitlines() if line.strip()]


def encoded(sentence: str, info: Mapping[str, Any]) -> np.ndarray:
    """Token ids int32 [length], -1 behind the end."""
    (length,) = info["input_size"]
    tokens = (list(sentence) if info["tokens"] == "characters" else sentence.split())[:length]
    return np.pad(text.encode(tokens, info["vocab"]), (0, length - len(tokens)), constant_values=-1)


def table(path: str, info: Mapping[str, Any], statistics: preprocess.Statistics | None = None) -> dict[int, np.ndarray]:
    """Line number -> float32 [features] of a CSV or TSV file; categories as numbers behind the rest.

    A first line that is not all numbers names the columns: then the model's features are looked up by name, in any
    order and among others. Of a model that was trained with header=no, they are the columns at the same places, or all
    that there are; what else the run says of reading (`csv_options`) is repeated, too.

    Raises:
      UserError: what `csv_table.read` refuses, a column that is not there, or a missing value where training had none.
    """
    (width,), kept = info["input_size"], statistics or {"feature_names": info["feature_names"] or ()}
    numbers, words = ([str(name) for name in kept.get(f"{kind}_names", ())] for kind in ("feature", "category"))
    known = numbers + words or [str(k) for k in range(width)]
    query, ordered = info.get("csv_options") or "", not (numbers and words)
    found = csv_table.read_new(pathlib.Path(path), query, known, ordered=ordered)
    if not numbers + words:
        numbers = list(found.columns)[:width]
        if len(numbers) < width:
            raise UserError(f"{path} has {len(numbers)} columns; the model takes {width}")
    for name in numbers + words:
        if name not in found.columns:
            raise UserError(f"{path} has no column {name!r}{did_you_mean(name, found.columns)}")
    arrays = columns.encode(csv_table.inputs(found, numbers, words), kept)
    rows = np.concatenate([array.astype(np.float32) for array in arrays.values()], axis=1)
    if "fill" not in kept and np.isnan(rows).any():
        row, column = np.argwhere(np.isnan(rows))[0]
        raise UserError(
            f"{path}, line {found.lines[row]}: {numbers[column]!r} is missing; the training data had no missing values"
        )
    return dict(zip(found.lines, rows, strict=True))
