"""Another trained model as a teacher: of how hard each training row is, and of what its probabilities are."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from zoo import tasks
from zoo.data import curriculum
from zoo.errors import UserError
from zoo.tasks.supervised import model_input
from zoo.types import Batch, Dataset, Variables
from zoo.weights import load_model


def difficulty(path: str, config: ConfigDict, dataset: Dataset) -> Callable[[], np.ndarray]:
    """The loss of each training row, by `config.task`, under the weights of a run folder or a file of `save_weights`.

    The rows are neither augmented nor mixed, and normalized as in this run: the teacher should have seen them so.

    Raises:
      UserError: no weights there, or a model that has other outputs.
    """
    model, variables = _load(path, tasks.num_outputs(config.task, dataset.meta))
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


def logits(path: str, outputs: int) -> Callable[[Batch], jax.Array]:
    """Batch, preprocessed -> logits [B, outputs], as in evaluation, of a run folder or a file of `save_weights`.

    The weights become constants of what is compiled.

    Raises:
      UserError: as `difficulty`.
    """
    model, variables = _load(path, outputs)
    return lambda batch: model.apply(variables, model_input(batch), train=False).astype(np.float32)


def _load(path: str, outputs: int) -> tuple[nn.Module, Variables]:
    model, variables, _ = load_model(path)
    if (own := getattr(model, "num_classes", None)) != outputs:
        raise UserError(f"the teacher {path} has {own} outputs, but the task needs {outputs}")
    return model, variables
