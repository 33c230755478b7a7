"""Data sets by name, made ready for the loop: read, split, normalized, augmented and fed.

A new data set is one function that returns a `Source`, and one line in DATASETS.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from zoo.data import (
    adding,
    augment,
    border_weights,
    cifar,
    columns,
    corpus,
    csv_table,
    feed,
    grammar,
    idx,
    isbi,
    morse,
    preprocess,
    sentences,
    sklearn_sets,
    splits,
    streams,
    tables,
    text,
)
from zoo.data import folder as image_folder
from zoo.data import shapes as drawn_shapes
from zoo.errors import UserError, lookup
from zoo.types import Dataset, Source

DATASETS: dict[str, Callable[[pathlib.Path], Source]] = {
    "adding": adding.adding,
    "adult": tables.adult,
    "auto_mpg": tables.auto_mpg,
    "breast_cancer": sklearn_sets.breast_cancer,
    "breast_cancer_wisconsin": tables.breast_cancer_wisconsin,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "cifar100_coarse": cifar.cifar100_coarse,
    "diabetes": sklearn_sets.diabetes,
    "digits": sklearn_sets.digits,
    "fashion_mnist": idx.fashion_mnist,
    "iris": sklearn_sets.iris,
    "isbi2012": isbi.isbi2012,
    "mnist": idx.mnist,
    "morse": morse.morse,
    "morse_difficult": morse.morse_difficult,
    "shapes": drawn_shapes.shapes,
    "wine": sklearn_sets.wine,
}
# Texts: these take the settings of `zoo.data.text.OPTIONS` too. Kinds go by a path, as in text:/data/novel.txt.
TEXTS = {"ptb": text.ptb, "sst2": sentences.sst2, "tinyshakespeare": text.tinyshakespeare}
TEXT_KINDS = {"sentences": sentences.load, "text": text.load}

# What `words:<paths>` and `grammar` look at; `zoo.run` tells of augmentation and the curriculum.
CORPUS_OPTIONS = ("name", "dir", "batch_size", "min_count", "vocab_size", "sample", "augment", "curriculum")

ON_DEVICE_BYTES = 2**31  # sets up to this size are kept on the device where `data.device` is 'auto'


def data_dir(setting: str | None = None) -> pathlib.Path:
    """`config.data.dir`, else $ZOO_DATA_DIR, else ~/.cache/zoo/data."""
    return pathlib.Path(setting or os.environ.get("ZOO_DATA_DIR") or "~/.cache/zoo/data").expanduser()


def load(
    name: str,
    folder: str | None = None,
    *,
    image_size: int = 0,
    on_error: str = "stop",
    text_options: Mapping[str, Any] = text.OPTIONS,
) -> Source:
    """The data set called `name` as it comes.

    Args:
      name: one of DATASETS or TEXTS, `tfds:<name>`, or `folder:`, `sentences:`, `text:<path>` or
        `csv:<path>?target=<column>` (a path is relative to the working folder, else to `folder`).
      folder: as `data_dir` takes it.
      image_size, on_error: of `folder:` sets, whose images may be of any size, and damaged; see zoo.data.folder.
      text_options: values for all of `zoo.data.text.OPTIONS`.

    Raises:
      UserError: an unknown name, missing or damaged files.
    """
    if on_error not in ("stop", "skip"):
        raise UserError(f"config.data.on_error is {on_error!r}; it must be 'stop' or 'skip'")
    kind, colon, rest = name.partition(":")
    if colon:
        lookup("kind of data set", kind, {"csv": None, "folder": None, "tfds": None, "words": None, **TEXT_KINDS})
    if on_error == "skip" and kind != "folder":
        raise UserError(f"config.data.on_error is 'skip'; only folder: sets can go without images, {name!r} is whole")
    if name not in TEXTS and kind not in TEXT_KINDS:
        for key, default in text.OPTIONS.items():
            if text_options[key] != default:
                raise UserError(f"config.data.{key} is {text_options[key]!r}, but data set {name!r} is no text")
    if colon and kind in ("csv", "folder", *TEXT_KINDS):
        rest, table_options = csv_table.parse(rest) if kind == "csv" else (rest, None)
        if not rest:
            raise UserError(f"data set {name!r} has no path; it must be {kind}:<path>, as in {kind}:/data/mine")
        path = pathlib.Path(rest).expanduser()
        path = next((p for p in (path, data_dir(folder) / path) if p.exists()), path).absolute()
        if kind in TEXT_KINDS:
            return TEXT_KINDS[kind](path, text_options)
        if kind == "csv":
            return csv_table.load(path, **table_options)
        return image_folder.load(path, image_size=image_size, on_error=on_error)
    if kind == "tfds" and colon:
        from zoo.data import tfds_source

        return tfds_source.load(rest, data_dir=folder)
    if name in TEXTS:
        return TEXTS[name](data_dir(folder), text_options)
    return lookup("data set", name, DATASETS | TEXTS)(data_dir(folder))


def _refuse(options: Mapping[str, Any], why: str, used: Sequence[str] = ()) -> None:
    """Refuses settings that were changed from their defaults and would have no effect."""
    from zoo import config  # which takes its defaults from here

    defaults = config.default().data
    for key, value in options.items():
        if key not in used and value != defaults[key]:
            raise UserError(f"config.data.{key} is {value!r}, but {why}; leave it at {defaults[key]!r}")


def _is_corpus(name: str) -> bool:
    return name == "grammar" or name.startswith("words:")


def load_corpus(options: Mapping[str, Any]) -> corpus.Corpus:
    """The corpus of `config.data`: grammar, or `words:<path>`, several paths separated by commas.

    A path is relative to the working folder, else to `data_dir`.

    Raises:
      UserError: a file that cannot be read, or a vocabulary of less than two words.
    """
    name, limits = options["name"], {key: options[key] for key in ("min_count", "vocab_size")}
    for key in limits:
        if limits[key] < 0 or (key == "vocab_size" and limits[key] == 1):
            raise UserError(f"config.data.{key} is {limits[key]}; it must be 0 or more, and vocab_size not 1")
    if name == "grammar":
        return grammar.load(**limits)
    paths = [pathlib.Path(path).expanduser() for path in name.removeprefix("words:").split(",") if path]
    if not paths:
        raise UserError("data set 'words:' has no path; it must be words:<path>, as in words:/data/text8.txt")
    folder = data_dir(options["dir"])
    found = [next((p for p in (path, folder / path) if p.exists()), path) for path in paths]
    texts = (sentence for path in found for sentence in corpus.sentences(path))
    return corpus.encode(texts, **limits, what=f"data set {name!r}")


def make(
    options: Mapping[str, Any],
    *,
    seed: int,
    mesh: Mesh,
    source: Source | None = None,
    moments: tuple[Sequence[float], Sequence[float]] | None = None,
    statistics: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """The data set of `config.data`.

    Args:
      options: `config.data`; zoo.config.default tells what each setting means.
      seed: decides the order of the training batches.
      mesh: of all devices; batches are sharded over it.
      source: arrays to use in place of the data set called `options['name']`.
      moments: mean and deviation per channel or feature to standardize with, in place of those of the training split.
      statistics: of the training rows of an earlier run, from `zoo.data.preprocess.load`, to be used again where the
        settings that they were fitted for are the same.

    Raises:
      UserError: settings that make no sense or do not fit the data.
    """
    if source is None and _is_corpus(options["name"]):
        _refuse(options, "a corpus of word vectors has no use for it", used=CORPUS_OPTIONS)
        return corpus.make(load_corpus(options), options["name"], options, seed=seed, mesh=mesh)
    if "sample" in options:
        _refuse({"sample": options["sample"]}, f"data set {options['name']!r} is no corpus of word vectors")
    if options["image_size"] < 0:
        raise UserError(f"config.data.image_size is {options['image_size']}; it must be 0 (as they are) or more")
    if source is None:
        reading = {key: options[key] for key in ("image_size", "on_error")}
        text_options = {key: options[key] for key in text.OPTIONS}
        source = load(options["name"], options["dir"], **reading, text_options=text_options)
    if preprocess.fits(statistics, options):
        source = columns.as_in(source, statistics)
    _check(options["name"], source)
    augments = augment.make(options["augment"])  # tells mistakes now, before anything is compiled
    for setting, wanted in (
        ("augment", augments),
        ("image_size", options["image_size"]),
        ("border_weight", options["border_weight"] and streams.is_stream(source)),
    ):
        if wanted and "image" not in source.train:
            raise UserError(f"config.data.{setting}: data set {options['name']!r} has no images")
    if "token" in source.train:
        _refuse({key: options[key] for key in preprocess.SETTINGS}, f"data set {options['name']!r} is text")
    if streams.is_stream(source):
        _refuse({"per_class": options["per_class"]}, f"data set {options['name']!r} is running text, without classes")
        return _running_text(options, source, mesh)
    cuts = {key: options[key] for key in ("validation", "test", "per_class")}
    arrays = splits.split(source, seed=options["split_seed"], **cuts)
    columns.check(options, arrays, source)
    if options["impute"] == "drop":
        arrays = {name: columns.dropped(split, f"the {name} split") for name, split in arrays.items()}
    rows = {name: len(next(iter(split.values()))) for name, split in arrays.items()}
    batch_size, eval_batch_size = _batch_sizes(options, rows, mesh.size)
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
        "name": options["name"],
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
        **preprocess.describe(statistics, train),
    }
    train_feed = (feed.on_device if keep else feed.streamed)(train, batch_size, seed, mesh)
    batches = feed.evaluation(arrays, eval_batch_size, mesh, keep=keep)
    return Dataset(train_feed, batches, preprocess.make(statistics), meta, statistics)


def _running_text(options: Mapping[str, Any], source: Source, mesh: Mesh) -> Dataset:
    tokens = {name: split["token"] for name, split in zip(Source._fields[:3], source[:3], strict=True) if split}
    _batch_sizes(options, {name: len(token) for name, token in tokens.items()}, mesh.size)  # tells mistakes
    keep = _keep(options, sum(token.nbytes for token in tokens.values()))
    return streams.make(options, source, mesh=mesh, keep=keep)


def _keep(options: Mapping[str, Any], bytes_in_all: int) -> bool:
    """Whether the arrays live on the device."""
    places = {"yes": True, "no": False, "auto": bytes_in_all <= ON_DEVICE_BYTES}
    return lookup("place (config.data.device)", options["device"], places)


def _check(name: str, source: Source) -> None:
    """Refuses labels that are no class, and label maps that do not lie on their images."""
    for split, arrays in (("train", source.train), ("validation", source.validation), ("test", source.test)):
        if arrays is None or "label" not in arrays or source.class_names is None:
            continue
        label, classes = arrays["label"], len(source.class_names)
        maps = label.ndim > 1
        if maps and label.shape != arrays["image"].shape[:3]:
            raise UserError(
                f"data set {name!r}, {split}: label maps {list(label.shape)} for images {list(arrays['image'].shape)}; "
                "they must be [N, H, W] and [N, H, W, C]"
            )
        wrong = (label < 0) | (label >= classes)
        if maps:
            wrong &= label != border_weights.IGNORE
        if wrong.any():
            row = int(np.flatnonzero(wrong.reshape(len(label), -1).any(1))[0])
            ignored = f", and {border_weights.IGNORE} for ignored pixels" if maps else ""
            raise UserError(
                f"data set {name!r}, {split}: label {label[wrong][0]} in row {row} is out of range; there are "
                f"{classes} classes, 0 to {classes - 1}{ignored}"
            )


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
