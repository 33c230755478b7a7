"""From a config to a Run: data, model, task, optimizer and steps, all checked before anything is trained."""

import os
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.errors import ScopeParamShapeError
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zoo import (
    averaging,
    checkpoint,
    compilation,
    data,
    durations,
    fine_tuning,
    freezing,
    metrics,
    models,
    monitor,
    noise,
    optim,
    probe,
    regularize,
    rng,
    schedules,
    semantics,
    sparsity,
    step,
    tasks,
    teacher,
)
from zoo.averaging import Averaging
from zoo.data import augment, curriculum, feed, preprocess
from zoo.errors import UserError
from zoo.options import is_number
from zoo.tasks.supervised import model_input
from zoo.types import Augment, Dataset, Source, Task, TrainState, Variables

AUTO_STEPS_PER_CALL = 16  # on an accelerator: few calls, yet a signal is noticed soon


class Run(NamedTuple):
    """Everything a config stands for, before anything is trained."""

    config: ConfigDict
    mesh: Mesh
    dataset: Dataset
    model: nn.Module
    task: Task
    project: Callable  # params -> those that config.regularize allows
    masks: sparsity.Masks  # of parameters that have connections only where these say
    schedule: Callable
    tx: optax.GradientTransformation
    init: Callable  # (variables) -> first TrainState, compiled
    steps_per_call: int  # at most
    averaging: Averaging | None
    recompute_stats: Callable | None  # TrainState -> the same with the batch statistics of its average computed anew
    shapes: tuple[TrainState, step.Window]  # of ShapeDtypeStruct, with shardings
    total_steps: int
    eval_every: int
    log_every: int
    save_every: int
    splits: tuple[str, ...]  # all but 'train': what the final evaluation covers
    eval_splits: tuple[str, ...]  # evaluated during training: validation where there is one
    monitor: str  # what makes a checkpoint the best; '' if nothing does
    # (state, window, fetched, seed) -> (state, window), compiled; takes over the state's buffers. Where steps_per_call
    # is more than 1, with the number of steps (int32 scalar) as one more argument; with config.plateau, lr_scale last.
    train_step: Callable = None
    eval_step: Callable = None  # (variables, batch) -> (metrics, rows or None), compiled; see zoo.step.make_eval_step


def prepare(config: ConfigDict, source: Source | None = None, workdir: str | os.PathLike | None = None) -> Run:
    """Reads the data and makes the model, the task and the optimizer; compiles nothing.

    Args:
      config: from `zoo.config.load` or `default`.
      source: arrays to use in place of the data set that the config names.
      workdir: of a run that may be resumed: the normalization in its model.json and the statistics in its
        preprocess.npz are used again, and its vocabulary must be that of the data.

    Raises:
      UserError: a setting that is unknown or makes no sense.
    """
    compilation.enable_cache()
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed is {config.seed}; it must be in 0..{2**32 - 1}")
    if workdir is not None and not checkpoint.exists(workdir):
        workdir = None
    dataset = data.make(
        config.data, seed=config.seed, mesh=mesh, source=source, moments=semantics.moments(config, workdir),
        statistics=preprocess.load(workdir) if workdir else None,
    )  # fmt: skip
    meta = dataset.meta
    if workdir:
        semantics.check_vocabulary(workdir, meta)

    units = {"steps_per_epoch": meta["steps_per_epoch"], "batch_size": meta["batch_size"]}
    lengths = durations.of_run(config, **units)
    total = units["total_steps"] = lengths["total_steps"]
    dataset = _with_curriculum(config, dataset, units)
    model = models.make(config.model, tasks.num_outputs(config.task, meta), meta)
    task = tasks.make(config.task, model, meta)
    schedule = schedules.make(config.optim.get("lr", optim.COMMON["lr"]), options=config.schedule, **units)
    variables = jax.eval_shape(init_variables(task, dataset), np.uint32(0))
    tx, task, norms, regularizer = _optimization(config, model, dataset, task, schedule, variables, total)
    averages = _averaging(config, units)
    augments = augment.make(config.data.augment)

    replicated = feed.replicated(mesh)

    def first_state(v):
        return step.first_state(tx, {**v, "params": regularizer.project(v["params"])}, average=averages is not None)

    init = jax.jit(first_state, out_shardings=replicated)
    steps_per_call = _steps_per_call(config.loop.steps_per_call, dataset, mesh)
    shapes = (jax.eval_shape(init, variables), step.empty_window(_metric_shapes(task, dataset, augments, variables)))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), shapes)

    recompute_stats = None
    equal_average = config.optim.name in optim.SCHEDULE_FREE or (averages and averages.recompute)
    if equal_average and not (config.probe or all(norms.values())):
        recompute_stats = averaging.make_recompute(
            task, dataset, augments, seed=config.seed, total_steps=total, sharding=replicated
        )

    splits = tuple(name for name in meta["splits"] if name != "train")
    eval_splits = ("validation",) if "validation" in splits else splits
    names = _metric_names(task, dataset, variables, eval_splits, averaged=shapes[0].average is not None)
    monitored = monitor.check(config, names, splits)
    run = Run(
        config=config, mesh=mesh, dataset=dataset, model=model, task=task, project=regularizer.project,
        masks=regularizer.masks, schedule=schedule, tx=tx, init=init, averaging=averages,
        recompute_stats=recompute_stats, shapes=shapes, steps_per_call=steps_per_call, **lengths, splits=splits,
        eval_splits=eval_splits, monitor=monitored,
    )  # fmt: skip
    return _with_steps(run, task, dataset, augments)


def _optimization(config: ConfigDict, model: nn.Module, dataset: Dataset, task: Task, schedule, variables, total: int):
    """What `config.optim`, `regularize`, `freeze_stats` and `probe` make of a task.

    Returns (optimizer, task with the loss to train, path of each batch normalization -> whether it is frozen,
    Regularizer).
    """
    if task.step is not None:
        _check_custom_step(config)
        return optax.identity(), task, {}, regularize.Regularizer(task)
    params = variables["params"]
    if config.probe:
        probe.check(config, model, variables, model_input(jax.eval_shape(dataset.preprocess, data.sample(dataset))))
    options = {**config.optim, "freeze": probe.ENCODER} if config.probe else config.optim
    tx = optim.make(options, schedule, params, total_steps=total)
    labels = fine_tuning.frozen_labels(options.get("freeze", ()), params)
    norms = freezing.norms(config.freeze_stats, variables)
    regularizer = regularize.make(config.regularize, task, params, labels, seed=config.seed)
    task = noise.add(regularizer.task, config.regularize, dataset.meta, params)
    return tx, freezing.frozen(task, labels, norms), norms, regularizer


def _averaging(config: ConfigDict, units) -> Averaging | None:
    """`config.averaging`; refused, as are constraints, with an optimizer that brings an average of its own."""
    averages = averaging.make(config.averaging, **units)
    own_average = config.optim.name in optim.SCHEDULE_FREE
    if averages and own_average:
        raise UserError(f"config.averaging is {config.averaging.name}, but {config.optim.name} averages already")
    if config.regularize.constraints and own_average:
        raise UserError(
            f"config.regularize.constraints: {config.optim.name} evaluates an average of its own, which would not keep "
            "them; use another optimizer"
        )
    if averages and any(kind == "unit_norm" for kind, *_ in config.regularize.constraints):  # the others are convex
        raise UserError(f"config.averaging is {config.averaging.name}, which does not keep unit_norm; use max_norm")
    return averages


def _with_steps(run: Run, task: Task, dataset: Dataset, augments: Augment | None) -> Run:
    """The run with the training and evaluation steps of this task on this data, to be compiled."""
    replicated = feed.replicated(run.mesh)
    train_step = step.make_train_step(
        task, run.tx, run.schedule, dataset, augments, averaging=run.averaging, log_every=run.log_every,
        total_steps=run.total_steps, project=run.project,
    )  # fmt: skip
    if run.steps_per_call > 1:
        train_step = step.repeated(train_step)
    return run._replace(
        dataset=dataset,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=replicated),
        eval_step=jax.jit(step.make_eval_step(task, dataset), out_shardings=replicated),
    )


def on_features(run: Run, variables: Variables) -> Run:
    """A run of `config.probe` that goes on with the head alone, on the features that these weights give."""
    dataset = probe.features(run.model, variables, run.dataset, seed=run.config.seed, mesh=run.mesh)
    task = tasks.make(run.config.task, probe.Head(run.model.num_classes), dataset.meta)
    labels = fine_tuning.frozen_labels(probe.ENCODER, variables["params"])
    task = regularize.make(run.config.regularize, task, variables["params"], labels, seed=run.config.seed).task
    return _with_steps(run, task, dataset, None)


def _with_curriculum(config: ConfigDict, dataset: Dataset, units) -> Dataset:
    """The data set with its training rows in the order of `config.data.curriculum`."""
    settings, where = config.data.curriculum, "config.data.curriculum"
    if not settings.by:
        return dataset
    if dataset.train.reorder is None:
        raise UserError(f"{where}: data set {dataset.meta['name']!r} is running text, which is read in order")
    kind, colon, path = settings.by.partition(":")
    if kind == "teacher" and colon:
        difficulty = teacher.difficulty(path, config, dataset)
    else:
        difficulty = curriculum.from_column(dataset, settings.by)
    full = durations.resolve("full", settings, default=units["total_steps"], minimum=1, where=where, **units)
    return curriculum.make(settings, dataset, difficulty, full=full, seed=config.seed)


def _check_custom_step(config: ConfigDict) -> None:
    """A task that updates the parameters itself does so by plain SGD: refuses what would have no effect."""
    used = {key: value for key, value in config.optim.items() if key not in ("name", "lr")}
    changed = [f"optim.{key}" for key, value in used.items() if value != optim.COMMON.get(key)]
    if not config.optim.lr > 0:
        raise UserError(f"config.optim.lr is {config.optim.lr}; it must be a positive number")
    if config.optim.name != "sgd":
        changed.insert(0, f"optim.name={config.optim.name!r}")
    if config.averaging.name != "none":
        changed.append("averaging")
    changed += [key for key in ("freeze_stats", "probe") if config[key]]
    changed += [f"data.augment.{name}" for name in config.data.augment]
    changed += [f"regularize.{key}" for key, rules in config.regularize.items() if key != "sparsity_kind" and rules]
    if changed:
        name = config.task.name
        raise UserError(f"config.{changed[0]}: task {name} does plain SGD; give optim only name='sgd' and lr")


def init_variables(run_task: Task, dataset: Dataset) -> Callable:
    """seed -> fresh variables, to be compiled."""
    sample = data.sample(dataset)
    return lambda seed: run_task.init(rng.key(seed, "init"), dataset.preprocess(sample))


def _steps_per_call(setting: int | str, dataset: Dataset, mesh: Mesh) -> int:
    on_device = dataset.meta["on_device"]
    if setting == "auto":
        # On the CPU a call costs next to nothing, and XLA optimizes what lies outside of a loop better.
        return AUTO_STEPS_PER_CALL if on_device and mesh.devices.flat[0].platform != "cpu" else 1
    if not is_number(setting, int) or setting < 1:
        raise UserError(f"config.loop.steps_per_call is {setting!r}; it must be 'auto' or a number of at least 1")
    if setting > 1 and not on_device:
        raise UserError(f"config.loop.steps_per_call is {setting}, but the data is streamed, one batch per call; set 1")
    return setting


def _metric_shapes(task: Task, dataset: Dataset, augments: Augment | None, variables):
    """Shapes of the metrics of a training step."""
    if task.step is not None:
        batch = jax.eval_shape(lambda: dataset.train.batch(dataset.train.fetch(0), 0))
        _, metrics = jax.eval_shape(task.step, variables["params"], batch, rng.key(0, "model"), 0.0)
        return metrics
    batch = data.sample(dataset, dataset.meta["batch_size"])
    model_state = {k: v for k, v in variables.items() if k != "params"}

    def metrics(params, model_state, batch, seed):
        if augments is not None:
            batch = augments(rng.key(seed, "augment"), batch)
        batch = dataset.preprocess(batch)
        try:
            return task.loss(params, model_state, batch, rng.key(seed, "model"), train=True)[1][1]
        except ScopeParamShapeError:  # only a crop makes inputs unlike those of the initialization
            now, then = ("x".join(map(str, rows["image"].shape[1:3])) for rows in (batch, data.sample(dataset)))
            raise UserError(f"config.data.augment.crop gives {now}, but the model was built for {then}") from None

    return jax.eval_shape(metrics, variables["params"], model_state, batch, np.uint32(0))


def _metric_names(task: Task, dataset: Dataset, variables, splits, *, averaged: bool) -> tuple[str, ...]:
    """What an evaluation will report, found without computing anything."""
    if not splits:
        return ()
    if task.step is not None:
        batch = dict(next(iter(dataset.eval(splits[0]))))
    else:
        batch = data.sample(dataset, dataset.meta["eval_batch_size"])
    batch["mask"] = np.ones(dataset.meta["eval_batch_size"], bool)
    batch.pop("weight", None)  # of the training split alone
    shapes, outputs = jax.eval_shape(step.make_eval_step(task, dataset), variables, batch)
    names = list(task.finalize(dict.fromkeys(shapes, 1.0)))
    if task.scores is not None:
        output, label = (np.zeros((2, *x.shape[1:]), x.dtype) for x in outputs[:2])
        names += metrics.numbers(task.scores(output, label))
    return tuple(
        f"{split}{raw}/{name}" for split in splits for raw in (("", "_raw") if averaged else ("",)) for name in names
    )
