"""The one loop: trains, evaluates, checkpoints and resumes any task."""

import contextlib
import json
import os
import pathlib
import signal
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from zoo import (
    checkpoint,
    compilation,
    early_stopping,
    evaluation,
    initial,
    metrics,
    plateau,
    report,
    rules,
    semantics,
    sparsity,
)
from zoo import config as configs
from zoo.checkpoint import Checkpoints
from zoo.console import Display
from zoo.data import preprocess
from zoo.errors import Interrupted, NonFiniteError, UserError
from zoo.run import Run, on_features, prepare
from zoo.run_folder import RunFolder, read_json, to_json, write_atomically
from zoo.signals import Signals
from zoo.step import Window
from zoo.types import Source, Variables


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    source: Source | None = None,
    variables: Variables | None = None,
) -> dict[str, Any]:
    """Trains to the end of the config's run, resuming from the last checkpoint in `workdir` if there is one.

    The weights come from the last checkpoint in `workdir`, else from `variables` or `config.init_from`, else fresh.

    Args:
      config: see `zoo.config.default`.
      workdir: the folder of the run, made if missing; zoo.run_folder lists its files.
      source: arrays to learn from, in place of the data set that `config.data.name` names.
      variables: initial {'params': ..., 'batch_stats': ...}.

    Returns:
      The report, which is also `report.json`: config, model, parameters, seed, step, seconds (by phase), metrics
      (split -> name -> value), best, versions, device, commit.

    Raises:
      UserError: a setting, a file or a checkpoint that does not fit; nothing was overwritten.
      NonFiniteError: a loss or gradient is NaN or infinite; the last good checkpoint is kept.
      Interrupted: SIGTERM or SIGINT came; the state was saved.
    """
    watch = report.Stopwatch()
    with watch.phase("data"):
        run = prepare(config, source, workdir)
        if variables is not None or not checkpoint.exists(workdir):
            variables = initial.weights(run, variables)
    with open_folder(run, workdir) as (folder, checkpoints), Signals() as signals:
        compilation.check_jaxlib_once()
        with watch.phase("start"):
            state, window, earlier = _restored_or_initial(run, checkpoints, variables)
        done = int(jax.device_get(state.step))
        _announce(run, folder, done, earlier)
        if config.probe:
            with watch.phase("features"):
                run = on_features(run, {"params": state.params, **state.model_state})
        folder.start(done)
        with Display(run, done) as display:
            state, last_evaluation = train_steps(run, folder, checkpoints, signals, display, watch, state, window)
        return _finish(run, folder, checkpoints, watch, state, last_evaluation, resumed_from=done)


def evaluate(
    config: ConfigDict, workdir: str | os.PathLike, *, source: Source | None = None
) -> tuple[int, dict[str, dict[str, float]]]:
    """Evaluates the best checkpoint in `workdir`, else the last: (step, split -> name -> value)."""
    if not (pathlib.Path(workdir) / "checkpoints").is_dir():
        raise UserError(f"work directory {workdir} has no checkpoint to evaluate; train there first")
    run = prepare(config, source, workdir)
    if not run.splits:
        raise UserError("there is nothing to evaluate: the data has no validation or test rows; see config.data.test")
    with open_folder(run, workdir) as (folder, checkpoints):
        best = evaluation.best(run, folder.read(), checkpoints)
        restored = checkpoints.restore(run.shapes, prefer=best["step"] if best else None)
        if restored is None:
            raise UserError(f"work directory {workdir} has no checkpoint to evaluate; train there first")
        step, (state, _), _ = restored
        return step, evaluation.of_state(run, state, run.splits)


@contextlib.contextmanager
def open_folder(run: Run, workdir):
    """(RunFolder, Checkpoints) of a work directory, as a context; both are closed behind it."""
    keep, best = run.config.checkpoint.keep, run.config.checkpoint.best
    with RunFolder(workdir) as folder, Checkpoints(folder.path / "checkpoints", keep=keep, best=best) as checkpoints:
        yield folder, checkpoints


def _restored_or_initial(run: Run, checkpoints: Checkpoints, variables: Variables | None):
    """(state, window, the config and versions of the checkpoint or None)."""
    restored = checkpoints.restore(run.shapes)
    if restored is not None:
        _, (state, window), earlier = restored
        return state, window, earlier
    return *initial.state(run, variables), None


def _announce(run: Run, folder: RunFolder, done: int, earlier: dict | None) -> None:
    """Prints where the run resumes; writes config.json, model.json and preprocess.npz unless it is finished."""
    if earlier:
        changed = configs.changes(earlier["config"], run.config.to_dict())
        if changed and done >= run.total_steps:
            raise UserError(
                f"the run in {folder.path} is finished, with other settings ({'; '.join(changed)}); give another "
                "--workdir, or a longer run"
            )
        changes = f"; changed settings: {'; '.join(changed)}" if changed else ""
        print(f"resuming from step {done} of {run.total_steps} in {folder.path}{changes}", flush=True)
        if done >= run.total_steps:
            return
    write_atomically(folder.path / "config.json", configs.to_json(run.config))
    write_atomically(folder.path / "model.json", json.dumps(semantics.of(run.config, run.model, run.dataset), indent=2))
    if run.dataset.statistics:
        preprocess.save(folder.path, run.dataset.statistics)


def train_steps(run: Run, folder: RunFolder, checkpoints: Checkpoints, signals, display: Display, watch, state, window):
    """Steps until the end, an early stop or a signal. Returns (state, the evaluation of that very state or {})."""
    replicated = window.bad_step.sharding
    seed = jax.device_put(np.uint32(run.config.seed), replicated)
    paths = list(rules.flatten(state.params))
    extra = {"config": run.config.to_dict(), "versions": report.versions()}
    step, total, unlogged, evaluated = int(jax.device_get(state.step)), run.total_steps, None, {}
    saved = step

    def save_checkpoint() -> None:
        nonlocal saved
        log()
        arrays = jax.tree.map(np.array, jax.device_get((state, window)))  # copies: the next step donates the state
        _check_finite(arrays[1], paths, checkpoints)
        for leaf, array in enumerate(jax.tree.leaves(arrays[0].params)):
            if not np.isfinite(array).all():
                _refuse_non_finite(step, leaf, paths, checkpoints)
        folder.sync()
        checkpoints.save(step, arrays, extra, evaluation.ranked(run, folder.lines))
        saved = step

    def log() -> None:
        """Writes the last full window; called after the next step was dispatched, so that the device never waits."""
        nonlocal unlogged
        if unlogged is None:
            return
        (at, window), unlogged = unlogged, None
        window = jax.device_get(window)
        _check_finite(window, paths, checkpoints)
        values = run.task.finalize(metrics.divide(metrics.total([window.metrics])))
        line = {f"train/{name}": value for name, value in values.items()}
        line |= {name: float(getattr(window, name)) for name in ("lr", "grad_norm", "update_ratio")}
        folder.write(at, line)
        display.train(at, values)

    with watch.phase("train"):
        stopped, scale = _stops_early(run, folder), _lr_scale(run, folder, replicated)
        while step < total and not stopped and not signals.received:
            count = _steps_in_call(run, step)
            count_args = (jax.device_put(np.int32(count), replicated),) if run.steps_per_call > 1 else ()
            state, window = run.train_step(state, window, run.dataset.train.fetch(step), seed, *count_args, *scale)
            step += count
            log()
            at_end, evaluated = step == total, {}
            if at_end or step % run.log_every == 0:
                unlogged = (step, window)
            save, evaluates = at_end or step % run.save_every == 0, at_end or step % run.eval_every == 0
            if run.recompute_stats and (save or evaluates) and step > (run.averaging.start if run.averaging else 0):
                with watch.phase("eval"):
                    state = run.recompute_stats(state)
            if evaluates:
                log()
                with watch.phase("eval"):
                    evaluated = evaluation.of_state(run, state, run.eval_splits)
                line = {
                    f"{split}/{name}": value
                    for split, values in evaluated.items()
                    for name, value in metrics.numbers(values).items()
                }
                folder.write(step, line)
                display.evaluated(step, line, folder)
                stopped, scale = _stops_early(run, folder), _lr_scale(run, folder, replicated)
                save |= stopped or step in [*evaluation.ranked(run, folder.lines)][: run.config.checkpoint.best]
            if save:
                with watch.phase("checkpoint"):
                    save_checkpoint()
        jax.block_until_ready(state)
        with watch.phase("checkpoint"):
            if saved != step:  # a signal came: whoever sent it does not wait for long
                save_checkpoint()
            checkpoints.wait()
    if signals.received and step < total and not stopped:
        name = signal.Signals(signals.received).name
        where = f"stopped after step {step} of {total}, which is saved in {folder.path}" if step else "stopped at once"
        raise Interrupted(signals.received, f"{name}: {where}; run the same command again to go on")
    return state, evaluated


def _check_finite(window: Window, paths: list[str], checkpoints: Checkpoints) -> None:
    """Raises NonFiniteError if a loss or gradient of this window, on the host, was not finite."""
    if window.bad_step >= 0:
        _refuse_non_finite(int(window.bad_step) + 1, window.bad_leaf, paths, checkpoints)


def _refuse_non_finite(step: int, leaf: int, paths: list[str], checkpoints: Checkpoints) -> None:
    """Raises NonFiniteError; `leaf` is the index of a parameter, or -1: the loss."""
    what = "the loss" if leaf < 0 else f"the gradient of {paths[leaf]}"
    kept = checkpoints.steps()
    raise NonFiniteError(
        f"{what} is NaN or infinite at step {step}; "
        + (f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint was written yet")
        + "; a lower optim.lr, a warmup or optim.clip_global_norm may help"
    )


def _stops_early(run: Run, folder: RunFolder) -> bool:
    settings = run.config.early_stopping
    return bool(settings.monitor) and early_stopping.should_stop(folder.history(settings.monitor), settings)


def _lr_scale(run: Run, folder: RunFolder, sharding) -> tuple[jax.Array, ...]:
    """The last argument of a step; none without `config.plateau`."""
    settings = run.config.plateau
    if not settings.monitor:
        return ()
    return (jax.device_put(np.float32(plateau.scale(folder.history(settings.monitor), settings)), sharding),)


def _steps_in_call(run: Run, step: int) -> int:
    """As many as a call takes, but no further than the next log line, evaluation, checkpoint, epoch or the end."""
    ends = (run.log_every, run.eval_every, run.save_every, run.dataset.meta["steps_per_epoch"])
    return min(run.steps_per_call, run.total_steps - step, *(every - step % every for every in ends))


def _finish(run: Run, folder: RunFolder, checkpoints: Checkpoints, watch, state, evaluated, *, resumed_from: int):
    """The final evaluation, report.json and the results line."""
    best = evaluation.best(run, folder.lines)
    stopping = run.config.early_stopping
    step = int(jax.device_get(state.step))
    trained = step - resumed_from
    if stopping.monitor and stopping.restore_best and best and best["step"] != step:
        step, (state, _), _ = checkpoints.restore(run.shapes, prefer=best["step"])
        evaluated = {}
    with watch.phase("eval"):
        missing = [split for split in run.splits if split not in evaluated]
        results = evaluated | evaluation.of_state(run, state, missing)
    seconds = {"import": report.IMPORT_SECONDS, **watch.seconds}
    seconds["total"] = sum(seconds.values())
    compiled = compilation.compilations()
    result = {
        "config": run.config.to_dict(),
        "model": run.config.model.name,
        "parameters": sum(x.size for x in jax.tree.leaves(run.shapes[0].params)),
        "parameters_kept": sparsity.parameters_kept(run.masks, run.shapes[0].params),
        "seed": run.config.seed,
        "step": step,
        "seconds": {name: round(s, 3) for name, s in seconds.items()},
        "examples_per_second": round(trained * run.dataset.meta["batch_size"] / max(watch.seconds["train"], 1e-9)),
        "compilations": {"count": compiled.count, "cache_hits": compiled.cache_hits},
        "metrics": results,
        "best": best,
        "versions": report.versions(),
        "device": report.device(),
        "commit": report.commit(),
    }
    before, config = (read_json(folder.path / name) for name in ("report.json", "config.json"))
    if trained or before is None or (before.get("step"), before.get("config")) != (step, config):
        write_atomically(folder.path / "report.json", to_json(result, indent=2))
    shown = "; ".join(f"{split} {metrics.text(metrics.numbers(values))}" for split, values in results.items())
    shown = shown or "trained, with no rows held out to evaluate"
    how = f"{trained} steps in {seconds['total']:.1f} s" if trained else f"already finished at step {step}"
    print(f"{folder.path.name}: {shown} ({how}; {folder.path / 'report.json'})", flush=True)
    return result
