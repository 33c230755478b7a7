"""FTRL-Proximal (McMahan et al. 2013, "Ad click prediction: a view from the trenches", algorithm 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zoo.errors import UserError


class FtrlState(NamedTuple):
    """As in the paper, per parameter: n, z; and the rate of the last step, a scalar per parameter (0: none yet)."""

    n: Any
    z: Any
    rate: Any


def ftrl(
    decay, rate, *, l1: float = 0.0, l2: float = 0.0, beta: float = 0.0, initial_accumulator: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    """FTRL-Proximal, AdaGrad with exact zeros through L1 (McMahan et al. 2013); coupled decay.

    Every step solves w = argmin g_{1:t} w + 1/2 sum_s sigma_s (w - w_s)^2 + l1 |w| + l2 w^2 per entry, with
    sigma_{1:t} = sqrt(n_t) / lr_t, n_t the sum of squared gradients; `beta / lr_t` is one more pull to zero. Names and
    scales of the options are Keras's (the paper's lambda_2 is 2 l2). Two deviations from Keras: sigma_t is the change
    of sqrt(n) / lr, where Keras divides the change of sqrt(n) by the new rate, so that a falling rate shrinks all
    weights with it (at a constant rate both are the same); and n starts at 0, since with anything more the initial
    weights of a network are gone after one step. At a rate of 0 nothing changes.
    """
    for key, value in {"l1": l1, "l2": l2, "beta": beta, "initial_accumulator": initial_accumulator}.items():
        if not value >= 0:
            raise UserError(f"config.optim.{key} is {value}; it must be zero or more")

    def init(params):
        scalars = jax.tree.map(lambda p: jnp.zeros((), p.dtype), params)
        n = jax.tree.map(lambda p: jnp.full_like(p, initial_accumulator), params)
        return FtrlState(n, jax.tree.map(jnp.zeros_like, params), scalars)

    def update(updates, state, params=None, **extra):
        ones = jax.tree.map(lambda g: jnp.ones((), g.dtype), updates)
        rates = jax.tree.map(jnp.negative, rate.update(ones, rate.init(ones), ones, **extra)[0])

        def step(g, w, n, z, old, lr):
            moves, lr = lr > 0, jnp.where(lr > 0, lr, 1.0)
            n_new = n + g * g
            sigma = jnp.sqrt(n_new) / lr - jnp.sqrt(n) / jnp.where(old > 0, old, lr)
            z_new = z + g - sigma * w
            curvature = (beta + jnp.sqrt(n_new)) / lr + 2 * l2
            solution = (jnp.clip(z_new, -l1, l1) - z_new) / jnp.where(curvature > 0, curvature, 1.0)
            new = (jnp.where(curvature > 0, solution, w) - w, n_new, z_new, lr)
            return jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, (jnp.zeros_like(w), n, z, old))

        stepped = jax.tree.map(step, updates, params, state.n, state.z, state.rate, rates)
        steps, *new = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0,) * 4), stepped)
        return steps, FtrlState(*new)

    return optax.chain(decay, optax.GradientTransformationExtraArgs(init, update))
