"""Exact evaluation of a state, and which of a run's evaluations is the best."""

from typing import Any

import jax

from zoo import metrics
from zoo.checkpoint import Checkpoints
from zoo.run import Run
from zoo.types import TrainState


def of_state(run: Run, state: TrainState, splits) -> dict[str, dict[str, float]]:
    """Exact metrics of whole splits: split -> name -> value.

    With averaged weights, `<split>` is theirs and `<split>_raw` is that of the weights they average.
    """
    views = {"": {"params": state.params, **state.model_state}}
    if state.average is not None:
        views = {"": {**state.model_state, **state.average}, "_raw": views[""]}
    results = {}
    for split in splits:
        for suffix, variables in views.items():
            batches = jax.device_get([run.eval_step(variables, batch) for batch in run.dataset.eval(split)])
            values = run.task.finalize(metrics.divide(metrics.total(sums for sums, _ in batches)))
            if run.task.scores is not None:
                values |= run.task.scores(*metrics.real_rows(rows for _, rows in batches))
            results[split + suffix] = values
    return results


def best(run: Run, lines, checkpoints: Checkpoints | None = None) -> dict[str, Any] | None:
    """{'step', 'monitor', 'value'} of the best evaluation (of those that have a checkpoint), or None."""
    kept = checkpoints.steps() if checkpoints else None
    history = [(line["step"], line[run.monitor]) for line in lines if run.monitor in line]
    history = [(step, value) for step, value in history if kept is None or step in kept]
    mode = metrics.mode_of(run.monitor, run.config.checkpoint.mode)
    index = metrics.best_index([value for _, value in history], mode)
    if index is None:
        return None
    return {"step": history[index][0], "monitor": run.monitor, "value": history[index][1]}
