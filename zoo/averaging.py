"""Averages of the weights over the steps, evaluated and kept beside the raw weights, which they leave alone.

After every step `average += share * (newest - average)`; a kind of averaging is the share that the newest weights take,
a function of the number of finished steps. Nothing else is remembered, so a run that is resumed averages as before.

`ema` averages the statistics of batch normalization as well. After an equal average of weights that lie far
apart they would fit none of them: `polyak` and `swa` compute them anew (Izmailov et al. 2018, section 3.2) before each
evaluation and checkpoint, over all whole batches of one epoch, augmented and with dropout as in training. That costs
the forward passes of an epoch; models without batch normalization pay nothing. A checkpoint that a signal saves does
not wait for it: its average has the statistics of the one before, until the run goes on.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zoo import durations, rng
from zoo import options as options_of
from zoo.errors import UserError, lookup
from zoo.types import Augment, Dataset, Task, TrainState, Variables

Share = Callable  # finished steps, int32 from 1 on -> the newest weights' share of the average, in 0..1


class Averaging(NamedTuple):
    """How weights are averaged."""

    share: Share
    start: int  # the average is the raw weights until so many steps are finished
    recompute: bool  # batch statistics anew, instead of averaging them along


def ema(*, decay: float = 0.999) -> Share:
    """Exponential moving average, with a shorter memory in the first steps, as in TensorFlow."""
    if not 0 < decay < 1:
        raise UserError(f"config.averaging.decay is {decay}; it must be between 0 and 1, for example 0.998")
    return lambda done: 1 - jnp.minimum(decay, done / (9 + done))


def polyak(*, start: int) -> Share:
    """Equal average of the weights after each step from `start` on (Polyak & Juditsky 1992)."""
    return lambda done: 1 / jnp.maximum(done - start, 1)


def swa(*, start: int, every: int) -> Share:
    """Stochastic weight averaging: equal average at `start` and `every` so often from there (Izmailov et al. 2018)."""

    def share(done):
        since = jnp.maximum(done - start, 0)
        return jnp.where(since % every == 0, 1 / (1 + since // every), (done < start).astype(jnp.float32))

    return share


AVERAGES: dict[str, Callable[..., Share]] = {"ema": ema, "polyak": polyak, "swa": swa}
DURATIONS = {"start": {"start_percent": 75.0}, "every": {"every_epochs": 1.0}}  # and what they are if not given


def make(options: Mapping[str, Any], *, total_steps: int, steps_per_epoch: int, batch_size: int) -> Averaging | None:
    """The averaging of `config.averaging`: `name`, and its options; lengths in any unit (`start_percent`).

    Raises:
      UserError: an unknown name or option, or a start after the end of the run.
    """
    given = {key: value for key, value in options.items() if value is not None}
    name = given.pop("name")
    fn = lookup("averaging", name, {"none": lambda: None} | AVERAGES)
    parameters = inspect.signature(fn).parameters
    lengths = [key for key in DURATIONS if key in parameters]
    known = {key for key in parameters if key not in lengths}
    known |= {f"{key}_{unit}" for key in lengths for unit in durations.UNITS}
    options_of.check(f"config.averaging: {name}", fn, given, known=known)
    if name == "none":
        return None
    kwargs = {key: value for key, value in given.items() if key in parameters}
    for key in lengths:
        settings = given if durations.given(key, given) else DURATIONS[key]
        kwargs[key] = durations.resolve(
            key, settings, steps_per_epoch=steps_per_epoch, batch_size=batch_size, total_steps=total_steps,
            minimum=int(key == "every"), where="config.averaging",
        )  # fmt: skip
    if (start := kwargs.get("start", 0)) >= total_steps:
        raise UserError(f"config.averaging: {name} would start after step {start}, but the run has {total_steps} steps")
    return Averaging(fn(**kwargs), start, recompute="start" in kwargs)


def averaged(state: TrainState) -> Variables:
    """What of a state is averaged: parameters and batch statistics."""
    stats = state.model_state.get("batch_stats")
    return {"params": state.params} | ({"batch_stats": stats} if stats is not None else {})


def update(averaging: Averaging, average: Variables, newest: TrainState) -> Variables:
    """The average with the weights of `newest`, a state after its step."""
    share = averaging.share(newest.step)
    # Where the share is 1, the formula would round.
    return jax.tree.map(lambda a, n: jnp.where(share < 1, a + share * (n - a), n), average, averaged(newest))


def make_moments_step(task: Task, dataset: Dataset, augment: Augment | None) -> Callable:
    """(variables, fetched, step, seed) -> the first two moments of one training batch at every batch normalization."""

    def moments(variables: Variables, fetched, step, seed):
        batch = dataset.train.batch(fetched, step)
        if augment is not None:
            batch = augment(rng.key(seed, "augment", step), batch)
        model_state = {k: v for k, v in variables.items() if k != "params"} | {"batch_moments": {}}
        key = rng.key(seed, "model", step)
        _, (state, _) = task.loss(variables["params"], model_state, dataset.preprocess(batch), key, train=True)
        return state["batch_moments"]

    return moments


def _updated(old, new):
    """Nested dicts `old` with what there is in `new`: statistics that are frozen (zoo.freezing) have no moments."""
    if not isinstance(old, dict):
        return new
    return {key: _updated(value, new[key]) if key in new else value for key, value in old.items()}


def make_recompute(task: Task, dataset: Dataset, augment: Augment | None, *, seed: int, total_steps: int, sharding):
    """TrainState -> the same with the batch statistics of its average computed anew.

    Over the epoch that would follow the run, in which every training row counts. The variance is that of all its rows:
    the mean of the batches' variances plus the variance of their means.
    """
    moments = make_moments_step(task, dataset, augment)
    add = jax.jit(
        lambda total, *args: jax.tree.map(jnp.add, total, moments(*args)), donate_argnums=0, out_shardings=sharding
    )
    steps = dataset.meta["steps_per_epoch"]
    first = -(-total_steps // steps) * steps

    @jax.jit
    def statistics(total):
        def of(sums):
            mean, square = sums["mean"] / steps, sums["square"] / steps
            return {"mean": mean, "var": jnp.maximum(square - jnp.square(mean), 0)}

        return jax.tree.map(of, total, is_leaf=lambda node: "square" in node)

    def recompute(state: TrainState) -> TrainState:
        variables, total = {**state.model_state, **state.average}, None
        for step in range(first, first + steps):
            args = variables, dataset.train.fetch(step), *jax.device_put((np.int32(step), np.uint32(seed)), sharding)
            if total is None:
                shapes = jax.eval_shape(moments, *args)
                total = jax.device_put(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes), sharding)
            total = add(total, *args)
        stats = _updated(state.average["batch_stats"], statistics(total))
        return state._replace(average={**state.average, "batch_stats": stats})

    return recompute
