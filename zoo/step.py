"""The compiled steps: one training step, one evaluation step, the same for every task."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zoo import averaging as averages
from zoo import optim, rng
from zoo.averaging import Averaging
from zoo.types import Augment, Batch, Dataset, Metrics, Params, Task, TrainState, Variables


class Window(NamedTuple):
    """What the steps since the last log line add up to, on the device, so that no step waits for the host."""

    metrics: Metrics
    grad_norm: jax.Array  # global L2 norm at the last step of the window; the next two likewise
    update_ratio: jax.Array  # L2 norm of the update over that of the parameters
    lr: jax.Array
    bad_step: jax.Array  # the first step (from 0) whose loss or gradient was not finite; -1: none so far
    bad_leaf: jax.Array  # the first parameter whose gradient was not finite then; -1: only the loss was not


def first_state(tx: optax.GradientTransformation, variables: Variables, *, average: bool) -> TrainState:
    """The state before the first step."""
    model_state = {k: v for k, v in variables.items() if k != "params"}
    state = TrainState(jnp.int32(0), variables["params"], model_state, tx.init(variables["params"]), None)
    if not average:
        return _with_own_average(state)
    # A copy, because the step donates its whole state and no buffer may be donated twice.
    return state._replace(average=jax.tree.map(jnp.copy, averages.averaged(state)))


def _with_own_average(state: TrainState) -> TrainState:
    """With the average of an optimizer that brings its own (schedule_free_...) and the batch statistics of now."""
    params = optim.schedule_free_average(state.opt_state, state.params)
    if params is None:
        return state
    return state._replace(average=jax.tree.map(jnp.copy, averages.averaged(state._replace(params=params))))


def empty_window(metrics) -> Window:
    """A window of no steps, for metrics with these shapes."""
    zeros = jax.tree.map(lambda m: np.zeros(m.shape, m.dtype), metrics)
    return Window(zeros, *(np.zeros((), np.float32) for _ in range(3)), *(np.full((), -1, np.int32) for _ in range(2)))


def sum_of_squares(x) -> jax.Array:
    """Of all entries, as a matrix product: 0.06 instead of the 0.47 ms of a reduction for an MLP's 0.7 M gradients."""
    x = jnp.atleast_1d(x).astype(jnp.float32)
    return jnp.sum(jnp.matmul(jnp.square(x), jnp.ones(x.shape[-1]), precision="highest"))


def global_norm(tree) -> jax.Array:
    return jnp.sqrt(sum(map(sum_of_squares, jax.tree.leaves(tree))))


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    schedule: Callable,
    dataset: Dataset,
    augment: Augment | None,
    *,
    averaging: Averaging | None,
    log_every: int,
    total_steps: int,
    project: Callable[[Params], Params] = lambda params: params,
) -> Callable[[TrainState, Window, Any, jax.Array], tuple[TrainState, Window]]:
    """(state, window, fetched, seed, lr_scale=1.0) -> (state, window), to be compiled.

    `fetched` is what `dataset.train.fetch(step)` gave for this step; `seed` is a uint32 scalar; `lr_scale`, a float32
    scalar, multiplies the schedule's rate (zoo.plateau); `project` constrains the parameters after each
    update (zoo.regularize).
    """
    tx = optax.with_extra_args_support(tx)

    def train_step(state: TrainState, window: Window, fetched, seed, lr_scale=1.0):
        step = state.step
        lr = schedule(step) * lr_scale
        batch = dataset.train.batch(fetched, step)
        if augment is not None:
            batch = augment(rng.key(seed, "augment", step), batch)
        batch = dataset.preprocess(batch)

        if task.step is not None:
            params, metrics = task.step(state.params, batch, rng.key(seed, "model", step), lr)
            return _after_custom_step(state, window, params, metrics, lr, log_every)

        def loss_fn(params):
            return task.loss(params, state.model_state, batch, rng.key(seed, "model", step), train=True)

        (loss, (model_state, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx.update(
            grads,
            state.opt_state,
            state.params,
            lr_scale=lr_scale,
            grad_fn=lambda params: jax.grad(loss_fn, has_aux=True)(params)[0],
            noise_key=lambda: rng.key(seed, "noise", step),
        )
        params = project(optax.apply_updates(state.params, updates))
        new = _with_own_average(TrainState(step + 1, params, model_state, opt_state, None))
        if averaging is not None:
            new = new._replace(average=averages.update(averaging, state.average, new))

        first = step % log_every == 0
        last = ((step + 1) % log_every == 0) | (step + 1 == total_steps)
        squares = jnp.stack([sum_of_squares(g) for g in jax.tree.leaves(grads)])
        finite = jnp.isfinite(squares)
        newly_bad = (window.bad_step < 0) & ~(finite.all() & jnp.isfinite(loss))
        bad_leaf = jnp.where(finite.all(), -1, jnp.argmin(finite)).astype(jnp.int32)
        window = Window(
            jax.tree.map(lambda total, m: jnp.where(first, 0, total) + m, window.metrics, metrics),
            jnp.sqrt(squares.sum()),
            # Two more passes over all parameters: only for a step that is logged.
            jax.lax.cond(
                last,
                lambda: global_norm(updates) / (global_norm(params) + 1e-12),
                lambda: window.update_ratio,
            ),
            jnp.asarray(lr, jnp.float32),
            jnp.where(newly_bad, step, window.bad_step),
            jnp.where(newly_bad, bad_leaf, window.bad_leaf),
        )
        return new, window

    return train_step


def _after_custom_step(state: TrainState, window: Window, params, metrics: Metrics, lr, log_every: int):
    """State and window after a step of a task that updates the parameters itself: only the loss can be checked."""
    step = state.step
    newly_bad = (window.bad_step < 0) & ~jnp.isfinite(metrics["loss"][0])
    window = window._replace(
        metrics=jax.tree.map(lambda total, m: jnp.where(step % log_every == 0, 0, total) + m, window.metrics, metrics),
        lr=jnp.asarray(lr, jnp.float32),
        bad_step=jnp.where(newly_bad, step, window.bad_step),
    )
    return state._replace(step=step + 1, params=params), window


def repeated(train_step: Callable) -> Callable[..., tuple[TrainState, Window]]:
    """(state, window, fetched, seed, count, lr_scale=1.0) -> (state, window): `count` steps in one compiled loop.

    One program for every count (int32 scalar), so that the calls before a log line or a checkpoint may be shorter.
    """

    def train_steps(state: TrainState, window: Window, fetched, seed, count, lr_scale=1.0):
        def body(_, carry):
            return train_step(*carry, fetched, seed, lr_scale)

        return jax.lax.fori_loop(0, count, body, (state, window))

    return train_steps


def make_eval_step(task: Task, dataset: Dataset) -> Callable[[Variables, Batch], tuple[Metrics, tuple | None]]:
    """(variables, raw batch) -> the metrics of its real rows and, for a task with scores, (output, label, mask).

    To be compiled: XLA finds that both need the same forward pass.
    """

    def eval_step(variables: Variables, batch: Batch) -> tuple[Metrics, tuple | None]:
        model_state = {k: v for k, v in variables.items() if k != "params"}
        batch = dataset.preprocess(batch)
        _, (_, metrics) = task.loss(variables["params"], model_state, batch, None, train=False)
        if task.scores is None:
            return metrics, None
        return metrics, (*task.predict(variables["params"], model_state, batch), batch["mask"])

    return eval_step
