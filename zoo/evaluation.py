"""Exact evaluation of a state, and which of a run's evaluations is the best."""

from typing import Any

import jax

from zoo import metrics, monitor
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


def ranked(run: Run, lines) -> dict[int, float]:
    """Step -> value of the evaluations, the best first."""
    history = [(line["step"], line[run.monitor]) for line in lines if run.monitor in line]
    indices = metrics.ranked([value for _, value in history], monitor.mode(run.config, run.monitor))
    return dict(history[i] for i in indices)


def best(run: Run, lines, checkpoints: Checkpoints | None = None) -> dict[str, Any] | None:
    """{'step', 'monitor', 'value'} of the best evaluation (of those that have a checkpoint), or None."""
    kept = checkpoints.steps() if checkpoints else None
    for step, value in ranked(run, lines).items():
        if kept is None or step in kept:
            return {"step": step, "monitor": run.monitor, "value": value}
    return None
