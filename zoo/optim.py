"""The optimizer of a config: an update rule by name, and what happens to gradients and rates around it."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from zoo import fine_tuning, gradients, rules
from zoo import options as options_of
from zoo.errors import UserError, lookup
from zoo.optimizers import OPTIMIZERS, SCHEDULE_FREE, schedule_free_average

__all__ = ["COMMON", "OPTIMIZERS", "SCHEDULE_FREE", "make", "schedule_free_average"]

# What config.optim may hold beside the options of the optimizer itself.
COMMON = {
    "lr": 1e-3,  # peak learning rate
    "weight_decay": 0.0,
    "wd_mults": ((r".*kernel", 1.0),),  # (regex, factor of weight_decay); what matches nothing is not decayed
    "lr_mults": (),  # (regex, factor of lr)
    "layer_decay": None,  # factor of lr for each stage below the head, such as 0.75 (zoo.fine_tuning)
    "freeze": (),  # regexes of parameters that never move
    "unfreeze": (),  # (percent of the run, regex): parameters that move, and have moments, only from there on
    "clip_value": None,  # each gradient entry into [-c, c]
    "clip_norm": None,  # each parameter's gradient to at most this L2 norm
    "clip_adaptive": None,  # each unit's gradient to at most this share of its weights' norm, such as 0.01
    "clip_global_norm": None,  # all gradients together to at most this L2 norm
    "noise": None,  # (eta, gamma): normal noise of variance eta / (1 + step) ** gamma, such as (0.01, 0.55)
    "accumulate": None,  # batches per update: k, or ((percent of the run, k), ...) to let the batch grow
    "sam_rho": None,  # sharpness-aware minimization: radius, such as 0.05; two gradients per step
    "lookahead": None,  # (k, alpha): every k updates back to slow weights that follow by alpha, such as (5, 0.5)
}
SHARES = ("b1", "b2", "beta", "momentum", "rho")  # decay rates, in [0, 1)


def make(
    options: Mapping[str, Any], schedule: Callable, params, *, total_steps: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of `config.optim` for these parameters.

    In this order: SAM, accumulation, clipping (value, norm, adaptive, global norm), noise, the optimizer with its decay
    and its rate (the schedule's at the step of the loop, times `lr_mults` and `layer_decay`), lookahead. Frozen
    parameters get no update, no decay and no moments.

    `update` takes extra arguments where an option asks for them: `grad_fn` (parameters -> gradients, for `sam_rho`) and
    `noise_key` (() -> key of the step, for `noise`).

    Args:
      options: `name`, any of COMMON, and options of the optimizer itself; None: the default.
      schedule: step of the loop -> learning rate.
      params: the parameters, or their shapes.
      total_steps: length of the run, which percentages refer to.

    Raises:
      UserError: an unknown optimizer or option, a bad value, or a rule that matches no parameter.
    """
    options = {key: value for key, value in options.items() if value is not None}
    name = options["name"]
    fn = lookup("optimizer", name, OPTIMIZERS)
    own = {key: value for key, value in options.items() if key not in COMMON and key != "name"}
    _check_own(name, own)
    common = {**COMMON, **options}
    _positive("lr", common["lr"])
    if common["weight_decay"] < 0:
        raise UserError(f"config.optim.weight_decay is {common['weight_decay']}; it must be zero or more")

    labels = fine_tuning.frozen_labels(common["freeze"], params)
    starts = fine_tuning.first_steps(common["unfreeze"], labels, total_steps)
    wd_mults = _factors("wd_mults", common["wd_mults"], params, default=0.0)
    mults = _factors("lr_mults", common["lr_mults"], params, default=1.0)
    if (decay := common["layer_decay"]) is not None:
        if not _positive("layer_decay", decay) <= 1:
            raise UserError(f"config.optim.layer_decay is {decay}; it must be at most 1, for example 0.75")
        mults = jax.tree.map(lambda a, b: a * b, mults, fine_tuning.depth_factors(decay, params))

    tx = fn(gradients.add_decay(common["weight_decay"], wd_mults), gradients.scale_by_rate(mults), **own)
    later = sorted({start for start in jax.tree.leaves(starts) if 0 < start < math.inf})
    if later:
        groups = {0: tx} | {start: gradients.delayed(tx, start) for start in later}
        tx = optax.partition(groups, _masked(starts, labels))
    tx = optax.chain(*([gradients.gated(starts)] if later else []), *_clip_and_noise(common), tx)
    if common["lookahead"] is not None:
        tx = gradients.lookahead(tx, *_lookahead(name, common["lookahead"]))
    if common["accumulate"] is not None:
        tx = gradients.accumulate(tx, _accumulation(common["accumulate"], total_steps))
    if common["freeze"]:
        tx = optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels)
    if common["sam_rho"] is not None:
        tx = gradients.sharpness_aware(tx, _positive("sam_rho", common["sam_rho"]), starts)
    return gradients.at_each_step(tx, schedule)


def _check_own(name: str, own: Mapping[str, Any]) -> None:
    """Refuses options that the optimizer does not have, and says which one does."""
    own_of = {other: set(inspect.signature(fn).parameters) - {"decay", "rate"} for other, fn in OPTIMIZERS.items()}
    for key in set(own) - own_of[name]:
        others = [other for other, keys in own_of.items() if key in keys]
        if others:
            has = "have it" if len(others) > 1 else "has it"
            raise UserError(f"config.optim: {name} has no option {key!r}; {', '.join(others)} {has}")
    what = f"config.optim: {name}"
    options_of.check(what, OPTIMIZERS[name], own, known=own_of[name] | set(COMMON))
    options_of.check_rate(what, **{key: value for key, value in own.items() if key in SHARES})


def _factors(key: str, pairs: Sequence[tuple[str, float]], params, *, default: float):
    """One factor for each parameter, by (regex, factor) rules."""
    factors = rules.assign(pairs, params, default=default, setting=f"optim.{key}")
    for regex, factor in pairs:
        if not options_of.is_number(factor) or not 0 <= factor < math.inf:
            raise UserError(f"optim.{key}: the factor of {regex!r} is {factor!r}; it must be finite, 0 or more")
    return factors


def _clip_and_noise(common: Mapping[str, Any]) -> list[optax.GradientTransformation]:
    """What gradients go through before the optimizer."""
    clips = {
        "clip_value": optax.clip,
        "clip_norm": gradients.clip_by_norm,
        "clip_adaptive": gradients.clip_adaptive,
        "clip_global_norm": optax.clip_by_global_norm,
    }
    before = [clip(_positive(key, common[key])) for key, clip in clips.items() if common[key] is not None]
    if common["noise"] is None:
        return before
    eta, gamma = _pair("noise", common["noise"], "(eta, gamma), for example (0.01, 0.55)")
    if not (eta > 0 and gamma >= 0):
        raise UserError(f"config.optim.noise is {(eta, gamma)}; eta must be positive and gamma zero or more")
    return [*before, gradients.add_noise(eta, gamma)]


def _lookahead(name: str, setting) -> tuple[int, float]:
    every, alpha = _pair("lookahead", setting, "(updates, share), for example (5, 0.5)")
    if not isinstance(every, int) or every < 2 or not 0 < alpha < 1:
        raise UserError(
            f"config.optim.lookahead is {(every, alpha)}; it must be at least 2 updates, and a share between 0 and 1"
        )
    if name in SCHEDULE_FREE:
        raise UserError(f"config.optim.lookahead: {name} averages already; leave it out")
    return every, alpha


def _accumulation(setting, total_steps: int | None) -> list[tuple[int, int]]:
    """(step, batches per update from there on), the first at step 0, of `config.optim.accumulate`."""
    pairs = [(0, setting)] if isinstance(setting, int) else setting
    if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not pairs:
        raise UserError(
            f"config.optim.accumulate is {setting!r}; it must be a number of batches, or (percent, k) pairs"
        )
    steps = [fine_tuning.percent_of_run("accumulate", pair, total_steps) for pair in pairs]
    if any(not options_of.is_number(k, int) or k < 1 for _, k in pairs):
        raise UserError(
            f"config.optim.accumulate is {setting!r}; an update needs a whole number of batches, at least 1"
        )
    if steps != sorted(set(steps)):
        raise UserError(f"config.optim.accumulate is {setting!r}; the percentages must grow, by a step at least")
    growth = [(step, k) for step, (_, k) in zip(steps, pairs, strict=True)]
    return growth if steps[0] == 0 else [(0, 1), *growth]


def _masked(starts, labels):
    """`starts` as they look inside of `optax.partition`, which hides what is frozen."""
    return jax.tree.map(lambda start, label: start if label == "train" else optax.MaskedNode(), starts, labels)


def _pair(key: str, setting, what: str) -> tuple[float, float]:
    fits = isinstance(setting, Sequence) and not isinstance(setting, str) and len(setting) == 2
    if not (fits and all(map(options_of.is_number, setting))):
        raise UserError(f"config.optim.{key} is {setting!r}; it must be {what}")
    return tuple(setting)


def _positive(key: str, value) -> float:
    if not options_of.is_number(value) or not value > 0:
        raise UserError(f"config.optim.{key} is {value!r}; it must be a positive number")
    return value
