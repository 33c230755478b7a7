"""Learning-rate schedules by name: functions of the step, optax's own wherever it has one.

Every schedule takes the peak rate `lr`, the length `steps` of its run (after the warmup) and its own options.
Options of type `Steps` are durations in the config (`cycle_epochs`, `timescale_percent`): `make` turns them into steps.
Where a rate ends, drops to or starts from is given as a share of `lr`, so that one `lr` moves the whole schedule.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NewType

import jax.numpy as jnp
import optax

from zoo import durations
from zoo import options as options_of
from zoo.errors import UserError, lookup

Schedule = Callable  # int step -> float rate
Steps = NewType("Steps", int)  # an option that the config gives as `<name>_steps`, `_epochs`, `_examples` or `_percent`


def constant(lr: float, steps: int) -> Schedule:
    """`lr` all the time."""
    return optax.constant_schedule(lr)


def linear(lr: float, steps: int, *, end: float = 0.0, over: Steps | None = None) -> Schedule:
    """A straight line from `lr` to the floor `lr * end`, reached after `over` (default: at the end of the run)."""
    return optax.linear_schedule(lr, lr * _not_negative("end", end), over or steps)


def polynomial(lr: float, steps: int, *, power: float = 0.9, end: float = 0.0, over: Steps | None = None) -> Schedule:
    """From `lr` to the floor `lr * end` as `(1 - t / over) ** power`; over the whole run by default.

    The default power is that of DeepLab's 'poly' policy (Chen et al. 2018, arXiv:1606.00915, section 4.1.2).
    """
    if not power > 0:
        raise UserError(f"schedule.power is {power}; it must be positive")
    floor, over = lr * _not_negative("end", end), over or steps

    # Not optax's: compiled, its `1 - count / over` rounds to less than 0 at the floor, and a power of that is NaN.
    def schedule(count):
        return floor + (lr - floor) * jnp.clip(1 - count / over, 0, 1) ** power

    return schedule


def cosine(lr: float, steps: int, *, end: float = 0.0) -> Schedule:
    """Half a cosine from `lr` to `lr * end` (Loshchilov & Hutter 2017, eq. 5 with one cycle)."""
    return optax.cosine_decay_schedule(lr, steps, alpha=_not_negative("end", end))


def cosine_restarts(
    lr: float, steps: int, *, cycle: Steps, length_mult: float = 1.0, peak_mult: float = 1.0, end: float = 0.0
) -> Schedule:
    """Cosine with warm restarts (SGDR, Loshchilov & Hutter 2017, section 3).

    The first cycle has `cycle` steps; each next one is `length_mult` times as long and peaks `peak_mult` times
    as high. Every cycle ends at its own peak times `end`.
    """
    if length_mult < 1:
        raise UserError(f"schedule.length_mult is {length_mult}; cycles can only keep their length or grow (>= 1)")
    _not_negative("peak_mult", peak_mult)
    pieces, boundaries, start, length, peak = [], [], 0, float(cycle), lr
    while start < steps:
        pieces.append(cosine(peak, max(round(length), 1), end=end))
        start += max(round(length), 1)
        boundaries.append(start)
        length, peak = length * length_mult, peak * peak_mult
    return optax.join_schedules(pieces, boundaries[:-1])


def step(lr: float, steps: int, *, at: Sequence[float] = (50, 75), factor: float = 0.1) -> Schedule:
    """Multiplied by `factor` at each of `at`, which are percent of the run."""
    if any(not 0 < percent < 100 for percent in at):
        raise UserError(f"schedule.at is {tuple(at)}; each drop is a percentage of the run between 0 and 100")
    _not_negative("factor", factor)
    drops = Counter(round(steps * percent / 100) for percent in at)  # in a short run, several may fall on one step
    return optax.piecewise_constant_schedule(lr, {start: factor**times for start, times in drops.items()})


def exponential(lr: float, steps: int, *, end: float = 0.01) -> Schedule:
    """`lr * end ** (t / steps)`: reaches `lr * end` at the end of the run."""
    if not end > 0:
        raise UserError(f"schedule.end is {end}; an exponential never reaches it, only a positive share of lr")
    return optax.exponential_decay(lr, transition_steps=steps, decay_rate=end)


def fractional(lr: float, steps: int, *, decay: float = 9.0) -> Schedule:
    """`lr / (1 + decay * t / steps)`: falls as 1/t and ends at `lr / (1 + decay)`.

    Keras' InverseTimeDecay with `decay_rate=decay` and `decay_steps` the length of the run; what it takes per step is
    `decay / steps`.
    """
    if not decay >= 0:
        raise UserError(f"schedule.decay is {decay}; it must be zero or more")
    return lambda count: lr / (1 + decay * count / steps)


def rsqrt(lr: float, steps: int, *, timescale: Steps) -> Schedule:
    """`lr / sqrt(1 + t / timescale)`: the reciprocal square root, for runs without a fixed end (Zhai et al. 2022).

    arXiv:2106.04560, section 3.5. With a warmup of as many steps as the timescale it is the schedule of the Transformer
    (Vaswani et al. 2017, eq. 3).
    """
    return lambda count: lr / jnp.sqrt(1 + count / timescale)


def warmup_stable_decay(
    lr: float, steps: int, *, decay: Steps | None = None, shape: str = "linear", end: float | None = None
) -> Schedule:
    """`lr`, then a short decay to `lr * end` over the last `decay` of the run (Hu et al. 2024, arXiv:2404.06395).

    The warmup is that of every schedule, `warmup_*`. `decay` is 20 % of the run by default. `shape` is 'linear',
    'cosine', 'sqrt' (`1 - sqrt`, ahead of linear in Hägele et al. 2024, arXiv:2405.18392, section 3) or 'exponential'.
    `end` is 0 by default, and 0.1 for the exponential one, which never reaches 0.
    """
    decay = max(round(steps / 5), 1) if decay is None else decay
    if decay > steps:
        raise UserError(f"config.schedule: the decay of {decay} steps does not fit into the {steps} after the warmup")
    shapes = {"linear": linear, "cosine": cosine, "sqrt": _one_minus_sqrt, "exponential": exponential}
    fall = lookup("decay shape", shape, shapes)
    end = (0.1 if shape == "exponential" else 0.0) if end is None else end
    return optax.join_schedules([constant(lr, steps), fall(lr, decay, end=end)], [steps - decay])


def _one_minus_sqrt(lr: float, steps: int, *, end: float) -> Schedule:
    fall = lr * (1 - _not_negative("end", end))
    return lambda count: lr - fall * jnp.sqrt(jnp.clip(count / steps, 0, 1))


def one_cycle(lr: float, steps: int, *, rise: float = 30.0, start: float = 0.04, end: float = 1e-4) -> Schedule:
    """One cosine rise and one cosine fall (Smith & Topin 2018).

    From `lr * start` up to `lr` over the first `rise` percent of the run, then down to `lr * end`.
    """
    if not (0 <= rise < 100 and start > 0 and end > 0):
        raise UserError(f"schedule: rise {rise} must be in [0, 100), start {start} and end {end} positive")
    return optax.cosine_onecycle_schedule(steps, lr, rise / 100, div_factor=1 / start, final_div_factor=start / end)


def cyclical(
    lr: float, steps: int, *, cycle: Steps, base: float = 0.1, policy: str = "triangular", gamma: float | None = None
) -> Schedule:
    """Cyclical learning rates: triangular, triangular2, exp_range (Smith 2015, arXiv:1506.01186, section 3).

    A triangle wave between `lr * base` and `lr` with `cycle` steps per cycle (twice the paper's stepsize).
    `policy`: 'triangular' keeps the height, 'triangular2' halves it after each cycle, 'exp_range' multiplies it
    by `gamma ** step` (default 0.9999).
    """
    if gamma is not None and policy != "exp_range":
        raise UserError(f"schedule.gamma belongs to policy 'exp_range', not to {policy!r}; leave it out")
    gamma = 0.9999 if gamma is None else gamma
    if not 0 < gamma <= 1:
        raise UserError(f"schedule.gamma is {gamma}; it must be in (0, 1]")
    _not_negative("base", base)
    heights = {
        "triangular": lambda count: 1.0,
        "triangular2": lambda count: 0.5 ** jnp.floor(count / cycle),
        "exp_range": lambda count: gamma**count,
    }
    height = lookup("cyclical policy", policy, heights)

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        wave = 1 - jnp.abs(2 * (count / cycle % 1) - 1)
        return lr * base + lr * (1 - base) * wave * height(count)

    return schedule


def _not_negative(name: str, share: float) -> float:
    if not share >= 0:
        raise UserError(f"schedule.{name} is {share}; it must be zero or more")
    return share


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "cyclical": cyclical,
    "exponential": exponential,
    "fractional": fractional,
    "linear": linear,
    "one_cycle": one_cycle,
    "polynomial": polynomial,
    "rsqrt": rsqrt,
    "step": step,
    "warmup_stable_decay": warmup_stable_decay,
}


def make(lr: float, total_steps: int, options: Mapping, *, steps_per_epoch: float, batch_size: int) -> Schedule:
    """The schedule of `config.schedule`: `name`, its options, and `warmup_*` in front if asked.

    Args:
      lr: peak learning rate.
      total_steps: length of the run, warmup included.
      options: `name`; any duration `warmup_*`, a linear rise from 0 to the first rate of the schedule; the
        schedule's own options. Its durations are given with a unit, `cycle_epochs=2`; percent are those of the run
        after the warmup.

    Raises:
      UserError: an unknown schedule or option, or a duration that makes no sense.
    """
    options = {key: value for key, value in options.items() if value is not None}
    fn = lookup("schedule", options.pop("name"), SCHEDULES)
    length = {"steps_per_epoch": steps_per_epoch, "batch_size": batch_size, "where": "config.schedule"}
    parameters = inspect.signature(fn).parameters
    lengths = {name: p.default for name, p in parameters.items() if p.annotation in (Steps, Steps | None)}
    known = {name for name in parameters if name not in ("lr", "steps", *lengths)}
    known |= {f"{name}_{unit}" for name in ("warmup", *lengths) for unit in durations.UNITS}
    options_of.check(f"config.schedule: {fn.__name__}", fn, options, known=known)
    warmup = durations.resolve("warmup", options, total_steps=total_steps, default=0, **length)
    if warmup >= total_steps and warmup:
        raise UserError(f"config.schedule: the warmup of {warmup} steps leaves nothing of the {total_steps} steps")
    steps = total_steps - warmup
    kwargs = {key: value for key, value in options.items() if key in parameters}
    for name, default in lengths.items():
        kwargs[name] = durations.resolve(name, options, total_steps=steps, minimum=1, default=default, **length)
        if kwargs[name] is inspect.Parameter.empty:
            raise UserError(f"config.schedule: {fn.__name__} needs {name}_steps, {name}_epochs or {name}_percent")
    schedule = fn(lr, max(steps, 1), **kwargs)
    if not warmup:
        return schedule

    def warmed(count):
        rising = schedule(jnp.zeros_like(count)) * count / warmup
        return jnp.where(count < warmup, rising, schedule(count - warmup))

    return warmed
