"""What the weights of a run mean: the model, what it is to be fed with, and what comes out (`model.json`).

The same names as in the header of a file of weights (zoo.weights.header), so that both can be used without further
options.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from zoo import data, weights
from zoo.data import csv_table, text
from zoo.errors import UserError, lookup
from zoo.run_folder import read_json
from zoo.tasks import classification
from zoo.tasks.supervised import model_input
from zoo.types import Dataset
from zoo.weights import header

CHANNEL_ORDERS = {1: "L", 3: "RGB"}


def of(config: ConfigDict, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """The content of `model.json`."""
    meta, names = dataset.meta, header.Metadata._fields
    info = {name: meta[name] for name in names if meta.get(name) is not None} | {"task": config.task.name}
    if config.task.get("temperature", 1.0) != 1 and config.task.name == "classification":
        info["temperature"] = config.task.temperature
    if config.task.get("loss") == "poisson":
        info["target_link"] = "log"
    if config.task.name == "classification" and classification.is_one_vs_rest(**config.task):
        info["target_link"] = "logit"
    info["input_size"] = model_input(jax.eval_shape(dataset.preprocess, data.sample(dataset))).shape[1:]
    if "image" in meta["shapes"]:
        order = "BGR" if "reversed" in dataset.statistics else CHANNEL_ORDERS.get(meta["shapes"]["image"][-1])
        info = {"crop": 1.0, "interpolation": "bilinear"} | info | ({"channel_order": order} if order else {})
    if meta["name"].startswith("csv:") and (reading := csv_table.reading_of(meta["name"])):
        info["csv_options"] = reading
    if meta.get("vocab"):
        sentences = "label" in meta["shapes"] and config.data.tokens != "characters"
        words = sentences or "counts" in meta or text.EOS in meta["vocab"]  # running text of words has ends of lines
        info["tokens"] = "words" if words else "characters"
    return header.semantics(model, info)


def check_vocabulary(workdir: str | os.PathLike, meta: Mapping[str, Any]) -> None:
    """Refuses to go on with a run on data whose tokens have other numbers now."""
    header.check_vocabulary(workdir, read_json(pathlib.Path(workdir, "model.json")) or {}, meta.get("vocab"))


def moments(
    config: ConfigDict, workdir: str | os.PathLike | None
) -> tuple[Sequence[float], Sequence[float], bool] | None:
    """(mean, std, whether of images in BGR) of `config.init_from`, if the run standardizes its data with them."""
    whose = config.data.statistics
    lookup("choice (config.data.statistics)", whose, dict.fromkeys(("auto", "train", "weights")))
    info = {}
    if config.init_from and whose != "train" and config.data.normalize == "standardize":
        info = (workdir and read_json(pathlib.Path(workdir, "model.json"))) or weights.metadata(config.init_from)
    if info.get("mean") and info.get("std"):
        return info["mean"], info["std"], info.get("channel_order") == "BGR"
    if whose == "weights":
        raise UserError(
            "config.data.statistics is 'weights': it needs normalize='standardize' and an init_from that says the mean "
            "and deviation of its inputs, such as a run folder or a file of zoo.save_weights"
        )
    return None
