"""What all tasks on (input, label or target) pairs share: applying the model, and exact masked sums."""

from collections.abc import Mapping

import jax.numpy as jnp

from zoo.errors import UserError


def fitting(meta: Mapping) -> str:
    """The name of the task that a data set is for."""
    shapes = meta.get("shapes", {})
    if "transcript" in shapes:
        return "transcription"
    if "start" in shapes:
        return "language_model"
    if "counts" in meta:
        return "word2vec"
    if len(shapes.get("label", ())) == 2:
        return "segmentation"
    return "regression" if meta.get("num_classes") is None else "classification"


def model_input(batch):
    """What the model looks at: the images, features or tokens of a batch."""
    return next(batch[key] for key in ("image", "feature", "token") if key in batch)


def init_model(model):
    """`Task.init` of a model: fresh variables for inputs like those of a batch."""

    def init(key, batch):
        return model.init({"params": key}, model_input(batch), train=False)

    return init


def apply_model(model, params, model_state, batch, key, *, train: bool):
    """Outputs in float32 and the new model state (in evaluation the old one: nothing is mutable then)."""
    variables = {"params": params, **model_state}
    if not train:
        return model.apply(variables, model_input(batch), train=False).astype(jnp.float32), model_state
    outputs, updated = model.apply(
        variables, model_input(batch), train=True, rngs={"dropout": key}, mutable=list(model_state)
    )
    return outputs.astype(jnp.float32), {**model_state, **updated}


def check_outputs(task: str, outputs, rank: int, example: str) -> None:
    """Raises UserError unless the model gives arrays of that rank."""
    if outputs.ndim != rank:
        wanted = ", ".join(("B", "T", "C") if rank == 3 else ("B", "C"))
        raise UserError(f"task {task}: the model gives {list(outputs.shape)}; it must be [{wanted}], as from {example}")


def masked_sum(values, mask=None):
    """(sum, count) over the real rows of a batch; `mask` [B] is missing in training, where all rows are real."""
    values = values.astype(jnp.float32)
    if mask is None:
        return jnp.sum(values), jnp.asarray(values.shape[0], jnp.float32)
    return jnp.sum(jnp.where(mask, values, 0)), jnp.sum(mask, dtype=jnp.float32)


def masked_mean(values, mask=None):
    total, count = masked_sum(values, mask)
    return total / jnp.maximum(count, 1)
