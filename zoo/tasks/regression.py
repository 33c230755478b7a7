"""Regression of one number per example, or of several.

The model learns targets that are standardized with the mean and deviation of the training split; every metric but the
loss is in the units of the data.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from zoo import losses
from zoo.errors import UserError, lookup
from zoo.tasks.supervised import apply_model, check_outputs, fitting, init_model, masked_mean, masked_sum
from zoo.types import Task


def num_outputs(meta: Mapping, **_) -> int:
    if meta.get("target_std") is None:
        raise UserError(f"task regression: data set {meta['name']!r} has no targets; use task {fitting(meta)}")
    return np.size(meta["target_std"])


def make(model, meta: Mapping, *, loss: str = "mse", delta: float | None = None) -> Task:
    """Metrics: loss, mse, mae and r2 (Goodfellow et al. 2016, 5.1.4; R2 over the whole split, NaN of equal targets).

    Of several targets, all are means over them, as scikit-learn's.

    Args:
      model: module from batch['image'] or batch['feature'] to [B, targets].
      meta: of the data set; `target_mean` and `target_std` (a list where there are several) and `target_min` are read.
      loss: a name of `zoo.losses.REGRESSION`, in standard deviations. With 'poisson', targets are counts, and the model
        gives the log of their rate over their mean.
      delta: of the Huber loss, in standard deviations; default 1.
    """
    loss_of = lookup("regression loss", loss, losses.REGRESSION)
    if delta is not None and loss != "huber":
        raise UserError(f"task regression: delta is an option of loss huber, and loss is {loss}; leave it out")
    if delta is not None and not delta > 0:
        raise UserError(f"task regression: delta is {delta}; it must be above 0")
    if loss == "poisson" and not (meta["target_min"] >= 0 and np.min(meta["target_mean"]) > 0):
        raise UserError(
            f"task regression: loss poisson needs counts, but the smallest target is {meta['target_min']:g}"
        )
    mean, std = (np.atleast_1d(meta[key]) for key in ("target_mean", "target_std"))  # float64 [targets]
    options = {} if delta is None else {"delta": delta}

    def judge(outputs, target):
        """(losses, standardized predictions, standardized targets), each [B, targets]."""
        centre, scale = np.float32(mean)[None], np.float32(std)[None]
        standardized = (target - centre) / scale
        if loss != "poisson":
            return loss_of(outputs, standardized, **options), outputs, standardized
        log_rate = outputs + np.log(centre)
        return loss_of(log_rate, target), (jnp.exp(log_rate) - centre) / scale, standardized

    def loss_fn(params, model_state, batch, key, *, train: bool):
        outputs, model_state = apply_model(model, params, model_state, batch, key, train=train)
        check_outputs("regression", outputs, 2, "mlp")
        each, prediction, target = judge(outputs, batch["target"].reshape(-1, mean.size))
        each, error, mask = jnp.mean(each, axis=1), prediction - target, batch.get("mask")
        metrics = {"loss": masked_sum(each, mask)}
        for k, of_std in enumerate(std):
            metrics |= {
                f"_squared_{k}": masked_sum(error[:, k] ** 2 * of_std**2, mask),
                f"_absolute_{k}": masked_sum(jnp.abs(error[:, k]) * of_std, mask),
                # R2 needs the variance of the targets over the whole split, which is known only at its end.
                f"_target_{k}": masked_sum(target[:, k], mask),
                f"_target_squared_{k}": masked_sum(target[:, k] ** 2, mask),
            }
        return masked_mean(each, mask), (model_state, metrics)

    def finalize(values: dict[str, float]) -> dict[str, float]:
        squared, absolute, target, target_squared = (
            np.array([values[f"_{name}_{k}"] for k in range(mean.size)])
            for name in ("squared", "absolute", "target", "target_squared")
        )
        variance = target_squared - target**2
        varies = variance > 1e-5 * target_squared  # float32 sums of equal targets are off by a fifth of that
        r2 = np.where(varies, 1 - squared / np.where(varies, variance * std**2, 1), np.nan)
        means = {"mse": squared, "mae": absolute, "r2": r2}
        told = {name: value for name, value in values.items() if not name.startswith("_")}  # loss, and perhaps penalty
        return told | {name: float(np.mean(each)) for name, each in means.items()}

    return Task(init_model(model), loss_fn, finalize)
