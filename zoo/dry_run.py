"""`train.py --dry_run`: what a run would do, without training anything."""

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from zoo.console import draw_curve
from zoo.run import Run, prepare
from zoo.summary import bytes_of, render, summary
from zoo.tasks.supervised import model_input
from zoo.types import Source


def dry_run(config: ConfigDict, source: Source | None = None) -> str:
    """A text with data shapes, the layer table, steps and epochs, memory, and the learning-rate curve."""
    run = prepare(config, source)
    meta = run.dataset.meta
    batch = jax.eval_shape(run.dataset.preprocess, _raw(run))
    steps = run.total_steps
    rates = jax.jit(jax.vmap(run.schedule))(np.arange(steps))
    splits = ", ".join(f"{name} {rows:,}" for name, rows in meta["splits"].items())
    shapes = ", ".join(f"{k} {meta['dtypes'][k]}{list(shape)}" for k, shape in meta["shapes"].items())
    return "\n".join(
        [
            f"data     {meta['name']}: {splits} rows of {shapes}",
            f"model    {run.config.model.name} on {model_input(batch).dtype}{list(model_input(batch).shape)}",
            "",
            summary(run.model, model_input(batch), run.masks),
            "",
            f"steps    {steps:,} of {meta['batch_size']} examples, {meta['steps_per_epoch']:,} per epoch: "
            f"{steps / meta['steps_per_epoch']:.4g} epochs; evaluated every {run.eval_every:,}, "
            f"logged every {run.log_every:,}, saved every {run.save_every:,}",
            f"devices  {run.mesh.size} x {jax.local_devices()[0].device_kind}",
            "",
            _memory(run),
            "",
            f"learning rate ({run.config.schedule.name}), peak {float(rates.max()):.4g}, last {float(rates[-1]):.4g}",
            draw_curve(np.asarray(rates)),
        ]
    )


def _raw(run: Run):
    meta = run.dataset.meta
    return {
        key: jax.ShapeDtypeStruct((meta["batch_size"], *shape), meta["dtypes"][key])
        for key, shape in meta["shapes"].items()
    }


def _memory(run: Run) -> str:
    """Bytes that a run keeps, and the most that a training step adds, by XLA's own account."""
    state, window = run.shapes
    fetched = jax.eval_shape(lambda: run.dataset.train.fetch(0))
    seed = jax.ShapeDtypeStruct((), np.uint32)
    count = (jax.ShapeDtypeStruct((), np.int32),) if run.steps_per_call > 1 else ()
    analysis = run.train_step.lower(state, window, fetched, seed, *count).compile().memory_analysis()
    rows = {
        "parameters": bytes_of(state.params),
        "averaged weights": bytes_of(state.average),
        "model state": bytes_of(state.model_state),
        "optimizer state": bytes_of(state.opt_state),
        "data set" + ("" if run.dataset.meta["on_device"] else " (on the host)"): run.dataset.meta["bytes"],
        "training step": analysis.temp_size_in_bytes if analysis else 0,
    }
    table = Table("memory", box=None, pad_edge=False)
    table.add_column("MB", justify="right")
    for name, size in rows.items():
        if size:
            table.add_row(name, f"{size / 1e6:,.2f}")
    return render(table)
