"""Linear probes: only the head is trained, on features that are computed once (Alain & Bengio 2016, arXiv:1610.01644).

`config.probe` learns what training with `optim.freeze=("(?!head/).*",)` and `freeze_stats=(".*",)` would, but for
rounding. The network runs once over the data set instead of at every step. State and checkpoints hold the whole model,
so that evaluation, prediction and further training take them as they are.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zoo import noise
from zoo.data import feed
from zoo.errors import UserError
from zoo.rules import flatten
from zoo.tasks.supervised import model_input
from zoo.types import Batch, Dataset, Variables

ENCODER = ("(?!head/).*",)  # what is frozen: everything but the head
RANDOM = ("drop", "stochastic", "noise")  # words in the names of options that make features differ from step to step


class Head(nn.Module):
    """The last layer of a model alone, with its parameters: features [B, D] to logits float32 [B, num_classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        return nn.Dense(self.num_classes, dtype=x.dtype, name="head")(x).astype(jnp.float32)


def check(config: ConfigDict, model: nn.Module, variables: Variables, batch: Batch) -> None:
    """Refuses models without a dense head on features, and settings that a probe has no use for.

    Args:
      variables, batch: of the model, or their shapes; the batch is preprocessed.
    """
    unused = [f"data.augment.{name}" for name in config.data.augment]
    unused += [f"optim.{key}" for key in ("freeze", "layer_decay", "unfreeze") if config.optim.get(key)]
    unused += ["freeze_stats"] if config.freeze_stats else []
    unused += ["data.curriculum.by"] if config.data.curriculum.by else []
    unused += ["task.teacher"] if config.task.get("teacher") else []
    unused += [f"regularize.{key}" for key in ("activity", *noise.OPTIONS) if config.regularize[key]]
    if unused:
        raise UserError(
            f"config.probe computes the features of each row once and trains the head alone; leave {unused[0]} out"
        )
    for field in dataclasses.fields(model):
        rate = getattr(model, field.name)
        if any(word in field.name for word in RANDOM) and rate and not isinstance(rate, str):
            raise UserError(
                f"config.probe computes the features of each row once; set model.{field.name} to 0 (it is {rate})"
            )
    head = {path: array.shape for path, array in flatten(variables["params"].get("head", {})).items()}
    encoder = {name: part for name, part in variables["params"].items() if name != "head"}
    features = encoder and jax.eval_shape(lambda v, x: model.clone(num_classes=0).apply(v, x), variables, batch)
    wanted = {"kernel": (*features.shape[1:], model.num_classes), "bias": (model.num_classes,)} if encoder else None
    if not encoder or len(features.shape) != 2 or head != wanted:
        raise UserError(
            f"config.probe needs layers that give features [B, D] and a dense layer 'head' on them; model "
            f"{config.model.name} does not have them"
        )


def features(model: nn.Module, variables: Variables, dataset: Dataset, *, seed: int, mesh: Mesh) -> Dataset:
    """The data set with the model's features [N, D] in place of its input, on the device where that was.

    Args:
      variables: of the model; its head is not used.
    """
    encoder = model.clone(num_classes=0)

    @jax.jit
    def apply(variables, batch):
        batch = dataset.preprocess(batch)
        return encoder.apply(variables, model_input(batch), train=False)

    def rows(split: str) -> Mapping[str, np.ndarray]:
        parts = []
        for batch in dataset.eval(split):
            found, batch = jax.device_get((apply(variables, batch), batch))
            real = batch.pop("mask")
            kept = {key: array[real] for key, array in batch.items() if key not in ("image", "token")}
            parts.append(kept | {"feature": found[real]})
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    arrays, keep = {split: rows(split) for split in dataset.meta["splits"]}, dataset.meta["on_device"]
    train, batch_size, eval_batch_size = arrays["train"], dataset.meta["batch_size"], dataset.meta["eval_batch_size"]
    meta = dataset.meta | {
        "shapes": {key: array.shape[1:] for key, array in train.items()},
        "dtypes": {key: array.dtype.name for key, array in train.items()},
        "bytes": sum(array.nbytes for split in arrays.values() for array in split.values()),
    }
    train_feed = (feed.on_device if keep else feed.streamed)(train, batch_size, seed, mesh)
    return Dataset(train_feed, feed.evaluation(arrays, eval_batch_size, mesh, keep=keep), lambda batch: batch, meta)
