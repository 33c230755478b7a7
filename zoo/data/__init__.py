"""Data sets made ready for the loop: read by name (`zoo.data.sets`), split, normalized, augmented and fed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from zoo.data import augment, border_weights, checks, columns, corpus, feed, preprocess, splits, streams, text
from zoo.data.sets import DATASETS, TEXT_KINDS, TEXTS, data_dir, load, load_corpus
from zoo.errors import UserError, lookup
from zoo.types import Dataset, Source

__all__ = ["DATASETS", "TEXTS", "TEXT_KINDS", "data_dir", "load", "load_corpus", "make", "sample"]

# The settings that `words:<paths>` and `grammar` use; `zoo.run` refuses augmentation and a curriculum itself.
CORPUS_OPTIONS = ("name", "dir", "batch_size", "min_count", "vocab_size", "sample", "augment", "curriculum")

ON_DEVICE_BYTES = 2**31  # sets up to this size are kept on the device where `data.device` is 'auto'


def _refuse(options: Mapping[str, Any], why: str, used: Sequence[str] = ()) -> None:
    """Refuses settings that were changed from their defaults and would have no effect."""
    from zoo import config  # which takes its defaults from here

    defaults = config.flat(config.default().data)
    for key, value in options.items():
        if key not in used and value != defaults[key]:
            raise UserError(f"config.data.{key} is {value!r}, but {why}; leave it at {defaults[key]!r}")


def _is_corpus(name: str) -> bool:
    return name == "grammar" or name.startswith("words:")


def make(
    options: Mapping[str, Any],
    *,
    seed: int,
    mesh: Mesh,
    source: Source | None = None,
    moments: tuple[Sequence[float], Sequence[float], bool] | None = None,
    statistics: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """The data set of `config.data`.

    Args:
      options: `config.data`; zoo.config.default tells what each setting means.
      seed: decides the order of the training batches.
      mesh: of all devices; batches are sharded over it.
      source: arrays to use in place of the data set called `options['name']`.
      moments: mean and standard deviation per channel or feature to standardize with, in place of those of the training
        split, and whether they are of images in BGR.
      statistics: of the training rows of an earlier run, from `zoo.data.preprocess.load`, to be used again where the
        settings that they were fitted for are the same.

    Raises:
      UserError: settings that make no sense or do not fit the data.
    """
    if not options["border_weight"]:
        _refuse({key: options[key] for key in ("border_sigma", "border_class")}, "border_weight is 0")
    if not options["curriculum"]["by"]:
        given = {f"curriculum.{key}": value for key, value in options["curriculum"].items() if value is not None}
        _refuse(given, "curriculum.by is empty")
    if source is None and _is_corpus(options["name"]):
        _refuse(options, "a corpus of word vectors has no use for it", used=CORPUS_OPTIONS)
        return corpus.make(load_corpus(options), options["name"], options, seed=seed, mesh=mesh)
    if "sample" in options:
        _refuse({"sample": options["sample"]}, f"data set {options['name']!r} is not a corpus of word vectors")
    if options["image_size"] < 0:
        raise UserError(f"config.data.image_size is {options['image_size']}; it must be 0 (as they are) or more")
    name = "(given)" if source is not None and options["name"] in DATASETS else options["name"]  # or a name of its own
    if source is None:
        reading = {key: options[key] for key in ("image_size", "on_error")}
        text_options = {key: options[key] for key in text.OPTIONS}
        source = load(name, options["dir"], **reading, text_options=text_options)
    checks.check(name, source)
    if preprocess.fits(statistics, options):
        source = columns.as_in(source, statistics)
    augments = augment.make(options["augment"])  # reports mistakes now, before anything is compiled
    for setting, wanted in (
        ("augment", augments),
        ("image_size", options["image_size"]),
        ("border_weight", options["border_weight"] and streams.is_stream(source)),
    ):
        if wanted and "image" not in source.train:
            raise UserError(f"config.data.{setting}: data set {name!r} has no images")
    if "token" in source.train:
        _refuse({key: options[key] for key in preprocess.SETTINGS}, f"data set {name!r} is text")
    if streams.is_stream(source):
        _refuse({"per_class": options["per_class"]}, f"data set {name!r} is running text, without classes")
        return _running_text(options, source, mesh)
    cuts = {key: options[key] for key in ("validation", "test", "per_class")}
    arrays = splits.split(source, seed=options["split_seed"], drop=options["impute"] == "drop", **cuts)
    columns.check(options, arrays, source)
    rows = {name: len(next(iter(split.values()))) for name, split in arrays.items()}
    batch_size, eval_batch_size = _batch_sizes(options, rows, mesh.size)
    stretched = options["image_size"] and np.ptp(arrays["train"]["image"].shape[1:3])
    if options["image_size"]:
        arrays = {name: _resized(split, options["image_size"]) for name, split in arrays.items()}
    if options["border_weight"]:
        arrays["train"] = {**arrays["train"], "weight": border_weights.make(options, source, arrays["train"])}
    if not preprocess.fits(statistics, options):
        statistics = preprocess.fit(arrays["train"], options, source, moments)
    arrays = {name: columns.encode(split, statistics) for name, split in arrays.items()}
    train = arrays["train"]
    bytes_in_all = sum(array.nbytes for split in arrays.values() for array in split.values())
    keep = _keep(options, bytes_in_all)
    meta = {
        "name": name,
        "batch_size": batch_size,
        "eval_batch_size": eval_batch_size,
        "steps_per_epoch": rows["train"] // batch_size,
        "splits": rows,
        "shapes": {key: (*array.shape[1:],) for key, array in train.items()},
        "dtypes": {key: array.dtype.name for key, array in train.items()},
        "bytes": bytes_in_all,
        "on_device": keep,
        "num_classes": len(source.class_names) if source.class_names else None,
        "class_names": source.class_names,
        "class_counts": _class_counts(source, train),
        "vocab": source.vocab,
        "crop": 0.0 if stretched else None,  # see zoo.weights.header
        **preprocess.describe(statistics, train),
    }
    train_feed = (feed.on_device if keep else feed.streamed)(train, batch_size, seed, mesh)
    batches = feed.evaluation(arrays, eval_batch_size, mesh, keep=keep)
    return Dataset(train_feed, batches, preprocess.make(statistics), meta, statistics)


def _running_text(options: Mapping[str, Any], source: Source, mesh: Mesh) -> Dataset:
    tokens = {name: split["token"] for name, split in zip(Source._fields[:3], source[:3], strict=True) if split}
    _batch_sizes(options, {name: len(token) for name, token in tokens.items()}, mesh.size)  # reports mistakes
    keep = _keep(options, sum(token.nbytes for token in tokens.values()))
    return streams.make(options, source, mesh=mesh, keep=keep)


def _keep(options: Mapping[str, Any], bytes_in_all: int) -> bool:
    """Whether the arrays live on the device."""
    places = {"yes": True, "no": False, "auto": bytes_in_all <= ON_DEVICE_BYTES}
    return lookup("place (config.data.device)", options["device"], places)


def _class_counts(source: Source, train: Mapping[str, np.ndarray]) -> tuple[int, ...] | None:
    """Training rows of each class, or pixels where labels are maps; None where there are no classes."""
    if source.class_names is None or "label" not in train:
        return None
    classes = len(source.class_names)
    least = max(classes, border_weights.IGNORE + 1)
    counts = sum(np.bincount(part.ravel(), minlength=least) for part in np.array_split(train["label"], 100))
    return tuple(counts[:classes].tolist())


def _resized(arrays: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    arrays = dict(arrays) | {"image": feed.resized(arrays["image"], size)}
    if arrays.get("label", np.empty(0)).ndim > 1:
        arrays["label"] = feed.resized_labels(arrays["label"], size)
    return arrays


def _batch_sizes(options: Mapping[str, Any], rows: Mapping[str, int], devices: int) -> tuple[int, int]:
    batch_size = options["batch_size"]
    for key in ("batch_size", "eval_batch_size"):
        if options[key] < 1:
            raise UserError(f"config.data.{key} is {options[key]}; it must be at least 1")
    if batch_size > rows["train"]:
        raise UserError(f"config.data.batch_size is {batch_size}, larger than the {rows['train']} training rows")
    if batch_size % devices:
        near = max(min(round(batch_size / devices), rows["train"] // devices), 1) * devices
        raise UserError(f"config.data.batch_size is {batch_size}, not divisible by the {devices} devices; {near} is")
    # No larger than the largest split that is evaluated, and spread over the devices; padding fills the rest.
    largest = max((n for name, n in rows.items() if name != "train"), default=rows["train"])
    eval_batch_size = min(options["eval_batch_size"], largest)
    return batch_size, -(-eval_batch_size // devices) * devices


def sample(dataset: Dataset, rows: int = 1) -> dict[str, np.ndarray]:
    """A raw batch of zeros with the shapes and types of the data set."""
    meta = dataset.meta
    return {key: np.zeros((rows, *shape), meta["dtypes"][key]) for key, shape in meta["shapes"].items()}
