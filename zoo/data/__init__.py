"""Data sets by name, made ready for the loop: read, split, normalized, augmented and fed.

A new data set is one function that returns a `Source`, and one line in DATASETS.
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from zoo.data import augment, feed, idx, preprocess, sklearn_sets, splits
from zoo.errors import UserError, lookup
from zoo.types import Dataset, Source

DATASETS: dict[str, Callable[[pathlib.Path], Source]] = {
    "breast_cancer": sklearn_sets.breast_cancer,
    "diabetes": sklearn_sets.diabetes,
    "digits": sklearn_sets.digits,
    "fashion_mnist": idx.fashion_mnist,
    "iris": sklearn_sets.iris,
    "mnist": idx.mnist,
    "wine": sklearn_sets.wine,
}

ON_DEVICE_BYTES = 2**31  # sets up to this size are kept on the device where `data.device` is 'auto'


def data_dir(setting: str | None = None) -> pathlib.Path:
    """`config.data.dir`, else $ZOO_DATA_DIR, else ~/.cache/zoo/data."""
    return pathlib.Path(setting or os.environ.get("ZOO_DATA_DIR") or "~/.cache/zoo/data").expanduser()


def load(name: str, folder: str | None = None) -> Source:
    """The data set called `name` as it comes: one of DATASETS, or `tfds:<name>`.

    Raises:
      UserError: an unknown name, missing or damaged files.
    """
    if name.startswith("tfds:"):
        from zoo.data import tfds_source

        return tfds_source.load(name.removeprefix("tfds:"), data_dir=folder)
    return lookup("data set", name, DATASETS)(data_dir(folder))


def make(options: Mapping[str, Any], *, seed: int, mesh: Mesh, source: Source | None = None) -> Dataset:
    """The data set of `config.data`.

    Args:
      options: `config.data`; zoo.config.default tells what each setting means.
      seed: decides the order of the training batches.
      mesh: of all devices; batches are sharded over it.
      source: arrays to use in place of the data set called `options['name']`.

    Raises:
      UserError: settings that make no sense or do not fit the data.
    """
    source = source or load(options["name"], options["dir"])
    arrays = splits.split(source, validation=options["validation"], test=options["test"], seed=options["split_seed"])
    train = arrays["train"]
    rows = {name: len(next(iter(split.values()))) for name, split in arrays.items()}
    batch_size, eval_batch_size = _batch_sizes(options, rows, mesh.size)
    if options["image_size"] < 0:
        raise UserError(f"config.data.image_size is {options['image_size']}; it must be 0 (as they are) or more")
    augments = augment.make(options["augment"])  # tells mistakes now, before anything is compiled
    for setting, wanted in (("augment", augments), ("image_size", options["image_size"])):
        if wanted and "image" not in train:
            raise UserError(f"config.data.{setting}: data set {options['name']!r} has no images")
    if options["image_size"]:
        arrays = {
            name: {**split, "image": feed.resized(split["image"], options["image_size"])}
            for name, split in arrays.items()
        }
        train = arrays["train"]

    normalize, statistics = preprocess.fit(train, options["normalize"])
    bytes_in_all = sum(array.nbytes for split in arrays.values() for array in split.values())
    places = {"yes": True, "no": False, "auto": bytes_in_all <= ON_DEVICE_BYTES}
    keep = lookup("place (config.data.device)", options["device"], places)
    target_mean, target_std = preprocess.moments(train["target"][:, None]) if "target" in train else (None, None)
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
        "feature_names": source.feature_names,
        "target_mean": None if target_mean is None else target_mean.item(),
        "target_std": None if target_std is None else target_std.item() or 1.0,
        **statistics,
    }
    train_feed = (feed.on_device if keep else feed.streamed)(train, batch_size, seed, mesh)
    return Dataset(train_feed, feed.evaluation(arrays, eval_batch_size, mesh, keep=keep), normalize, meta)


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
