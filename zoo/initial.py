"""The initial state of a run whose folder has no checkpoint, from weights given or imported, else from fresh ones."""

import jax
import numpy as np

from zoo import data
from zoo.checkpoint import check_fit
from zoo.errors import UserError
from zoo.run import Run, init_variables
from zoo.step import Window, empty_window
from zoo.tasks.supervised import model_input
from zoo.types import TrainState, Variables
from zoo.weights import load_weights


def weights(run: Run, variables: Variables | None = None) -> Variables | None:
    """`variables`, else those of `config.init_from`, else None; a UserError if they do not fit the model."""
    if run.config.probe and variables is None and not run.config.init_from:
        raise UserError("config.probe trains a head on given features; set config.init_from to their weights")
    if variables is None and run.config.init_from:
        example = model_input(jax.eval_shape(run.dataset.preprocess, data.sample(run.dataset)))
        words = run.dataset.meta.get("vocab")
        variables = load_weights(run.model, run.config.init_from, input=example, words=words, seed=run.config.seed)
    if variables is not None:
        expected, _ = run.shapes
        if "carry" in expected.model_state:  # where another run left off reading is no weight
            carry = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), expected.model_state["carry"])
            variables = {**variables, "carry": carry}
        check_fit(variables, {"params": expected.params, **expected.model_state}, "the weights to start from")
    return variables


def state(run: Run, variables: Variables | None = None) -> tuple[TrainState, Window]:
    """The state before the first step, from these weights or fresh ones, and an empty window."""
    replicated = jax.tree.leaves(run.shapes)[0].sharding
    if variables is None:
        seed = jax.device_put(np.uint32(run.config.seed), replicated)
        variables = jax.jit(init_variables(run.task, run.dataset), out_shardings=replicated)(seed)
    else:
        variables = jax.device_put(variables, replicated)
    window = jax.device_put(empty_window(run.shapes[1].metrics), replicated)
    return run.init(variables), window
