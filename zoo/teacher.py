"""Another trained model as a judge of this run's examples: how hard is each training row for it?"""

from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from zoo import tasks
from zoo.data import curriculum
from zoo.errors import UserError
from zoo.types import Dataset
from zoo.weights import load_model


def difficulty(path: str, config: ConfigDict, dataset: Dataset) -> Callable[[], np.ndarray]:
    """The loss of each training row, by `config.task`, under the weights of a run folder or a file of `save_weights`.

    The rows are neither augmented nor mixed, and normalized as in this run: the teacher should have seen them so.

    Raises:
      UserError: no weights there, or a model that has other outputs.
    """
    model, variables, _ = load_model(path)
    wanted = tasks.num_outputs(config.task, dataset.meta)
    if (outputs := getattr(model, "num_classes", None)) != wanted:
        raise UserError(f"the teacher {path} has {outputs} outputs, but the task needs {wanted}")
    task = tasks.make(config.task, model, dataset.meta)
    model_state = {key: value for key, value in variables.items() if key != "params"}

    @jax.jit
    def losses(batch):
        def of_row(row):
            row = {key: value[None] for key, value in row.items()}
            return task.loss(variables["params"], model_state, row, None, train=False)[0]

        return jax.vmap(of_row)(dataset.preprocess(batch))

    return lambda: curriculum.of_rows(dataset, losses)
