"""Another trained model as a teacher: of how hard each training row is, and of what its probabilities are."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import errors
from ml_collections import ConfigDict

from zoo import interceptors, tasks
from zoo.data import curriculum
from zoo.errors import UserError
from zoo.tasks.supervised import check_outputs, model_input
from zoo.types import Batch, Dataset, Variables
from zoo.weights import load_model


def difficulty(path: str, config: ConfigDict, dataset: Dataset) -> Callable[[], np.ndarray]:
    """The loss of each training row, by `config.task`, under the weights of a run folder or a file of `save_weights`.

    The rows are neither augmented nor mixed, and normalized as in this run: the teacher should have seen them so.

    Raises:
      UserError: no weights there, or a model that has other outputs.
    """
    outputs = tasks.num_outputs(config.task, dataset.meta)
    model, variables, _ = _load(path, config.task.name, outputs, dataset.meta)
    options = {key: value for key, value in config.task.items() if not key.startswith("teacher")}
    task = tasks.make(options, model, dataset.meta)
    model_state = {key: value for key, value in variables.items() if key != "params"}

    @jax.jit
    def losses(batch):
        def of_row(row):
            row = {key: value[None] for key, value in row.items()}
            return task.loss(variables["params"], model_state, row, None, train=False)[0]

        return jax.vmap(of_row)(dataset.preprocess(batch))

    return lambda: curriculum.of_rows(dataset, losses)


def logits(path: str, outputs: int, meta: Mapping[str, Any]) -> Callable[[Batch], jax.Array]:
    """Batch, preprocessed -> logits [B, outputs], as in evaluation, of a run folder or a file of `save_weights`.

    They are divided by the temperature that the teacher was trained with, and such that their softmax is what the
    teacher predicts. Its weights become constants of what is compiled.

    Raises:
      UserError: no weights there, or of another task, other classes, or (when called) for other inputs.
    """
    model, variables, info = _load(path, "classification", outputs, meta)

    def teach(batch):
        x = model_input(batch)
        try:
            with interceptors.unseen():
                found = model.apply(variables, x, train=False)
        except (errors.FlaxError, TypeError, ValueError) as error:  # whatever layers raise on shapes they do not know
            line = " ".join(str(error).split())[:200]
            raise UserError(f"the teacher {path} cannot take inputs {list(x.shape)}: {line}") from None
        check_outputs(f"classification, teacher {path}", found, 2, "a classifier")
        found = found.astype(np.float32) / (info.get("temperature") or 1.0)
        return jax.nn.log_sigmoid(found) if info.get("target_link") == "logit" else found

    return teach


def _load(path: str, task: str, outputs: int, meta: Mapping[str, Any]) -> tuple[nn.Module, Variables, Mapping]:
    model, variables, info = load_model(path)
    if info.get("task") not in (None, task):
        raise UserError(f"the teacher {path} is for the task {info['task']}, and the run is for {task}")
    if (own := getattr(model, "num_classes", None)) != outputs:
        raise UserError(f"the teacher {path} has {own} outputs, but the task needs {outputs}")
    theirs, ours = info.get("class_names"), meta.get("class_names")
    if theirs and ours and list(map(str, theirs)) != list(map(str, ours)):
        raise UserError(f"the teacher {path} knows the classes {', '.join(theirs)}; the run has {', '.join(ours)}")
    return model, variables, info
