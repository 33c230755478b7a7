"""What happens to gradients before and around the update rule: clipping, noise, accumulation, SAM, lookahead.

All are optax transformations. The outermost one, `at_each_step`, counts the steps of the loop and passes `step` and
`lr` on as extra arguments; the training step adds `grad_fn` and `noise_key`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zoo import rules

Transform = optax.GradientTransformationExtraArgs


def is_masked(leaf) -> bool:
    """Whether a leaf stands for a parameter that `optax.partition` hides from this transformation."""
    return isinstance(leaf, optax.MaskedNode)


def map_leaves(fn: Callable, tree, *trees):
    """`jax.tree.map` that leaves out what is masked in `tree`, whatever the other trees hold there."""
    return jax.tree.map(lambda x, *xs: x if is_masked(x) else fn(x, *xs), tree, *trees, is_leaf=is_masked)


class StepState(NamedTuple):
    step: jax.Array  # int32 scalar, finished steps of the loop
    inner: Any


def at_each_step(tx: optax.GradientTransformation, schedule: Callable) -> Transform:
    """Gives `tx` the step of the loop (from 0) and its learning rate, `step` and `lr`, as extra arguments.

    Its own extra argument `lr_scale`, a scalar, multiplies the schedule's rate (zoo.plateau).
    """
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, *, lr_scale=1.0, **extra):
        lr = schedule(state.step) * lr_scale
        updates, inner = tx.update(updates, state.inner, params, step=state.step, lr=lr, **extra)
        return updates, StepState(optax.safe_increment(state.step), inner)

    return Transform(lambda params: StepState(jnp.int32(0), tx.init(params)), update)


def add_decay(weight_decay: float, mults) -> optax.GradientTransformation:
    """Adds `weight_decay * mult * parameter` to the updates, with one multiplier per leaf."""
    if not weight_decay:
        return optax.identity()

    def decayed(u, p, m):
        return u + weight_decay * m * p if m else u

    return optax.stateless(lambda updates, params: map_leaves(decayed, updates, params, mults))


def scale_by_rate(mults) -> Transform:
    """Multiplies the updates by minus the learning rate of the step, and by one factor per leaf."""

    def update(updates, state, params=None, *, lr, **_):
        factor = -lr
        return map_leaves(lambda u, m: factor * (u if m == 1 else u * m), updates, mults), state

    return Transform(optax.init_empty_state, update)


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales each parameter's gradient on its own to at most `max_norm` in L2."""

    def clip(update):
        norm = jnp.sqrt(jnp.sum(jnp.square(update)))
        return update * jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def clip_adaptive(share: float) -> optax.GradientTransformation:
    """Adaptive gradient clipping (Brock et al. 2021, arXiv:2102.06171, section 4): by the size of the weights.

    The gradient of each unit (the last axis counts them; a vector is one) to at most `share` of the norm of its
    weights, which counts as 1e-3 at least. Not of the head, as in the paper.
    """

    def clip(path, update, param):
        if is_masked(update) or rules.path_of(path).startswith("head/"):
            return update
        axes = tuple(range(update.ndim - 1)) or None
        tx = optax.adaptive_grad_clip(share, axis=axes)
        return tx.update(update, tx.init(param), param)[0]

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(clip, updates, params, is_leaf=is_masked)
    )


def add_noise(eta: float, gamma: float) -> Transform:
    """Adds N(0, eta / (1 + step) ** gamma) to every gradient entry (Neelakantan et al. 2015, arXiv:1511.06807).

    `noise_key()` gives the key of the step, so that no random state has to be kept.
    """

    def update(updates, state, params=None, *, step, noise_key, **_):
        noise = optax.add_noise(eta, gamma, 0)
        return noise.update(updates, optax.AddNoiseState(step, noise_key()))[0], state

    return Transform(optax.init_empty_state, update)


def gate(grads, step, starts):
    """The gradients of parameters that move at this step, zero for the others, whatever their gradient is.

    Args:
      starts: one per leaf: the first step at which it moves; math.inf: never.
    """

    def of_leaf(g, start):
        if start == 0:
            return g
        return jnp.zeros_like(g) if start == math.inf else jnp.where(step >= start, g, jnp.zeros_like(g))

    return map_leaves(of_leaf, grads, starts)


def gated(starts) -> Transform:
    """`gate` as a transformation."""

    def update(updates, state, params=None, *, step, **_):
        return gate(updates, step, starts), state

    return Transform(optax.init_empty_state, update)


def delayed(tx: optax.GradientTransformation, start: int) -> optax.GradientTransformation:
    """`tx` from the step `start` on; before it no update, and a state that stays as it was made."""
    return optax.conditionally_mask(tx, lambda _, *, step, **__: step >= start, forward_extra_args=True)


def accumulate(tx: optax.GradientTransformation, growth: Sequence[tuple[int, int]]) -> Transform:
    """One update of `tx` by the mean gradient of every k batches, and none in between.

    Batches after the last full k change nothing; where a log line falls in between, its update_ratio is 0.

    Args:
      growth: (step of the loop, k) in ascending order, the first at step 0: from that step on k batches make an
        update. An update under way is finished first. (Smith et al. 2018, arXiv:1711.00489, "Don't decay the learning
        rate, increase the batch size".)
    """
    at, updates, pieces = 0, 0, []  # (first update, k): optax counts updates, not batches
    for (_, k), (end, _) in zip(growth, [*growth[1:], (0, 0)], strict=True):
        pieces.append((updates, k))
        count = max(0, -((at - end) // k))
        at, updates = at + count * k, updates + count

    def every(update):
        k = pieces[0][1]
        for first, next_k in pieces[1:]:
            k = jnp.where(update >= first, next_k, k)
        return k

    steps = optax.MultiSteps(tx, every if len(pieces) > 1 else pieces[0][1])
    return Transform(steps.init, steps.update)


def sharpness_aware(tx: optax.GradientTransformation, rho: float, starts) -> Transform:
    """`tx` with the gradient at an ascended point: sharpness-aware minimization.

    (Foret et al. 2021, arXiv:2010.01412, eq. 2 and 3.) The point is w + rho g / |g|, the gradient that of the same
    batch with the same dropout. Metrics and batch statistics are those of w. Only what moves (see `gate`) is perturbed
    and counts in |g|.
    """
    ascent = optax.normalize_by_update_norm(rho, eps=1e-12)

    def update(grads, state, params=None, *, step, grad_fn, **extra):
        up, _ = ascent.update(gate(grads, step, starts), optax.EmptyState())
        return tx.update(grad_fn(optax.apply_updates(params, up)), state, params, step=step, **extra)

    return Transform(tx.init, update)


class LookaheadState(NamedTuple):
    slow: Any  # the slow weights; the parameters that the model has are the fast ones
    inner: optax.LookaheadState


def lookahead(tx: optax.GradientTransformation, every: int, alpha: float) -> Transform:
    """Every few updates, the weights return to slow ones, which then follow by the share `alpha` (Zhang et al. 2019).

    "Lookahead optimizer: k steps forward, 1 step back", arXiv:1907.08610, algorithm 1. In between, the fast weights are
    what is evaluated and saved.
    """

    def pair(extra):
        return optax.lookahead(
            optax.GradientTransformation(tx.init, functools.partial(tx.update, **extra)), every, alpha
        )

    def init(params):
        slow = jax.tree.map(jnp.copy, params)  # the step donates its whole state: no buffer twice
        return LookaheadState(slow, pair({}).init(optax.LookaheadParams(params, slow)))

    def update(updates, state, params=None, **extra):
        both = optax.LookaheadParams(params, state.slow)
        updates, inner = pair(extra).update(updates, state.inner, both)
        return updates.fast, LookaheadState(optax.apply_updates(state.slow, updates.slow), inner)

    return Transform(init, update)
