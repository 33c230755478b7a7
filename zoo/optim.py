"""Optimizers by optax's names, with decay, learning-rate multipliers, freezing and clipping.

Weight decay follows what each optimizer is known for: added to the gradient (L2, as in PyTorch) for sgd, adam,
rmsprop and adagrad, decoupled from it (Loshchilov & Hutter 2019) for adamw.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zoo import options as options_of
from zoo import rules
from zoo.errors import UserError, lookup

# Each takes (decay, **options) and returns the transformation up to, not including, the learning rate.
Rule = Callable[..., optax.GradientTransformation]


def sgd(decay, *, momentum: float = 0.0, nesterov: bool = False):
    """Stochastic gradient descent, with classical or Nesterov momentum."""
    if nesterov and not momentum:
        raise UserError("optim: nesterov needs a momentum; set optim.momentum, for example 0.9")
    trace = optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()
    return optax.chain(decay, trace)


def adam(decay, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, nesterov: bool = False):
    """Adaptive moments (Kingma & Ba 2015); weight decay is added to the gradient."""
    return optax.chain(decay, optax.scale_by_adam(b1, b2, eps, nesterov=nesterov))


def adamw(decay, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, nesterov: bool = False):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    return optax.chain(optax.scale_by_adam(b1, b2, eps, nesterov=nesterov), decay)


def rmsprop(
    decay, *, rho: float = 0.9, eps: float = 1e-8, centered: bool = False, momentum: float = 0.0, nesterov: bool = False
):
    """Gradients over the root of a running mean of their squares (Tieleman & Hinton 2012)."""
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    return optax.chain(decay, scale(decay=rho, eps=eps), sgd(optax.identity(), momentum=momentum, nesterov=nesterov))


def adagrad(decay, *, initial_accumulator: float = 0.1, eps: float = 1e-7):
    """Gradients over the root of the sum of all their squares (Duchi et al. 2011)."""
    return optax.chain(decay, optax.scale_by_rss(initial_accumulator, eps))


OPTIMIZERS: dict[str, Rule] = {
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "sgd": sgd,
}


# What config.optim may hold beside the options of the optimizer itself.
COMMON = {
    "lr": 1e-3,  # peak learning rate
    "weight_decay": 0.0,
    "wd_mults": ((r".*kernel", 1.0),),  # (regex, factor of weight_decay); what matches nothing is not decayed
    "lr_mults": (),  # (regex, factor of lr)
    "freeze": (),  # regexes of parameters that never move
    "clip_value": None,  # each gradient entry into [-c, c]
    "clip_norm": None,  # each parameter's gradient to at most this L2 norm
    "clip_global_norm": None,  # all gradients together to at most this L2 norm
}


def add_decay(weight_decay: float, mults) -> optax.GradientTransformation:
    """Adds `weight_decay * mult * parameter` to the updates, with one multiplier per leaf."""

    def update(updates, state, params=None):
        decayed = jax.tree.map(lambda u, p, m: u + weight_decay * m * p if m else u, updates, params, mults)
        return decayed, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_mults(mults) -> optax.GradientTransformation:
    """Multiplies the updates by one factor per leaf."""
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u, m: u * m, updates, mults))


def make(options: Mapping[str, Any], schedule: Callable, params) -> optax.GradientTransformation:
    """The optimizer of `config.optim` for these parameters.

    In this order: clipping (value, norm, global norm), the optimizer with its decay, `lr_mults`, the schedule.
    Frozen parameters get no update, no decay and no moments.

    Raises:
      UserError: an unknown optimizer or option, or a rule that matches no parameter.
    """
    options = {key: value for key, value in options.items() if value is not None}
    fn = lookup("optimizer", options["name"], OPTIMIZERS)
    own = {key: value for key, value in options.items() if key not in COMMON and key != "name"}
    known = set(inspect.signature(fn).parameters) - {"decay"}
    options_of.check(f"config.optim: {options['name']}", fn, own, known=known | set(COMMON))
    common = {**COMMON, **options}
    _positive("lr", common["lr"])
    if common["weight_decay"] < 0:
        raise UserError(f"config.optim.weight_decay is {common['weight_decay']}; it must be zero or more")
    clips = [
        make_clip(_positive(key, common[key]))
        for key, make_clip in (
            ("clip_value", optax.clip),
            ("clip_norm", clip_by_norm),
            ("clip_global_norm", optax.clip_by_global_norm),
        )
        if common[key] is not None
    ]
    labels = frozen_labels(common["freeze"], params)

    def factors(key: str, default: float):
        """One factor per trained parameter; `optax.partition` hides the frozen ones from `tx`."""
        tree = rules.assign(common[key], params, default=default, setting=f"optim.{key}")
        return jax.tree.map(lambda f, label: f if label == "train" else optax.MaskedNode(), tree, labels)

    mults, wd_mults = factors("lr_mults", 1.0), factors("wd_mults", 0.0)
    decay = add_decay(common["weight_decay"], wd_mults) if common["weight_decay"] else optax.identity()
    tx = optax.chain(
        *clips,
        fn(decay, **own),
        scale_by_mults(mults) if common["lr_mults"] else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )
    if not common["freeze"]:
        return tx
    if "train" not in jax.tree.leaves(labels):
        raise UserError("optim.freeze: the rules freeze every parameter; nothing is left to train")
    return optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels)


def frozen_labels(freeze: Sequence[str], params):
    """'freeze' or 'train' for every parameter."""
    if isinstance(freeze, str):
        raise UserError(f"optim.freeze is {freeze!r}; it must be a tuple of regexes, such as ({freeze!r},)")
    return rules.assign([(regex, "freeze") for regex in freeze], params, default="train", setting="optim.freeze")


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales each parameter's gradient on its own to at most `max_norm` in L2."""

    def clip(update):
        norm = jnp.sqrt(jnp.sum(jnp.square(update)))
        return update * jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def _positive(key: str, value) -> float:
    if not isinstance(value, Real) or not value > 0:
        raise UserError(f"config.optim.{key} is {value!r}; it must be a positive number")
    return value
