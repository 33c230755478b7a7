"""Regression of one number per example.

The model learns targets that are standardized with the mean and deviation of the training split; every metric is
in the units of the data.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from zoo.errors import UserError, lookup
from zoo.tasks.supervised import apply_model, init_model, masked_mean, masked_sum
from zoo.types import Task

LOSSES = {
    "huber": optax.huber_loss,
    "mae": lambda prediction, target: jnp.abs(prediction - target),
    "mse": optax.squared_error,
}


def num_outputs(meta: Mapping, **_) -> int:
    if meta["target_std"] is None:
        raise UserError(f"task regression: data set {meta['name']!r} has no targets; use task classification")
    return 1


def make(model, meta: Mapping, *, loss: str = "mse") -> Task:
    """Metrics: loss (in standardized units), mse, mae and r2 (Goodfellow et al. 2016, 5.1.4; R2 over the whole split).

    Args:
      model: module from batch['image'] or batch['feature'] to [B, 1].
      meta: of the data set; `target_mean` and `target_std` are read.
      loss: 'mse', 'mae' or 'huber' (quadratic up to one standard deviation).
    """
    mean, std = meta["target_mean"], meta["target_std"]
    loss_of = lookup("regression loss", loss, LOSSES)

    def loss_fn(params, model_state, batch, key, *, train: bool):
        outputs, model_state = apply_model(model, params, model_state, batch, key, train=train)
        prediction, target, mask = outputs[:, 0], (batch["target"] - mean) / std, batch.get("mask")
        losses, error = loss_of(prediction, target), prediction - target
        metrics = {
            "loss": masked_sum(losses, mask),
            "mse": masked_sum(error**2 * std**2, mask),
            "mae": masked_sum(jnp.abs(error) * std, mask),
            # R2 needs the variance of the targets over the whole split, which is known only at its end.
            "_target": masked_sum(target, mask),
            "_target_squared": masked_sum(target**2, mask),
        }
        return masked_mean(losses, mask), (model_state, metrics)

    def finalize(values: dict[str, float]) -> dict[str, float]:
        variance = values["_target_squared"] - values["_target"] ** 2
        r2 = 1 - values["mse"] / (variance * std**2) if variance > 0 else float("nan")
        return {k: v for k, v in values.items() if not k.startswith("_")} | {"r2": r2}

    return Task(init_model(model), loss_fn, finalize)
