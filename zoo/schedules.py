"""Learning-rate schedules by name: functions of the step, optax's own wherever it has one.

Every schedule takes the peak rate `lr`, the length `steps` of its run (after the warmup) and its own options.
Lengths among the options are durations (`cycle_epochs`, `warmup_percent`): `make` turns them into steps.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import optax

from zoo import durations
from zoo import options as options_of
from zoo.errors import UserError, lookup

Schedule = Callable  # int step -> float rate


def constant(lr: float, steps: int) -> Schedule:
    """`lr` all the time."""
    return optax.constant_schedule(lr)


def linear(lr: float, steps: int, *, end: float = 0.0) -> Schedule:
    """A straight line from `lr` to `lr * end`."""
    return optax.linear_schedule(lr, lr * end, steps)


def cosine(lr: float, steps: int, *, end: float = 0.0) -> Schedule:
    """Half a cosine from `lr` to `lr * end` (Loshchilov & Hutter 2017, eq. 5 with one cycle)."""
    return optax.cosine_decay_schedule(lr, steps, alpha=end)


def cosine_restarts(
    lr: float, steps: int, *, cycle: int, length_mult: float = 1.0, peak_mult: float = 1.0, end: float = 0.0
) -> Schedule:
    """Cosine with warm restarts (SGDR, Loshchilov & Hutter 2017, section 3).

    The first cycle has `cycle` steps; each next one is `length_mult` times as long and peaks `peak_mult` times
    as high. Every cycle ends at its own peak times `end`.
    """
    if length_mult < 1:
        raise UserError(f"schedule.length_mult is {length_mult}; cycles can only keep their length or grow (>= 1)")
    pieces, boundaries, start, length, peak = [], [], 0, float(cycle), lr
    while start < steps:
        pieces.append(optax.cosine_decay_schedule(peak, max(round(length), 1), alpha=end))
        start += max(round(length), 1)
        boundaries.append(start)
        length, peak = length * length_mult, peak * peak_mult
    return optax.join_schedules(pieces, boundaries[:-1])


def step(lr: float, steps: int, *, at: Sequence[float] = (50, 75), factor: float = 0.1) -> Schedule:
    """Multiplied by `factor` at each of `at`, which are percent of the run."""
    if any(not 0 < percent < 100 for percent in at):
        raise UserError(f"schedule.at is {tuple(at)}; each drop is a percentage of the run between 0 and 100")
    drops = Counter(round(steps * percent / 100) for percent in at)  # in a short run, several may fall on one step
    return optax.piecewise_constant_schedule(lr, {start: factor**times for start, times in drops.items()})


def exponential(lr: float, steps: int, *, end: float = 0.01) -> Schedule:
    """`lr * end ** (t / steps)`: reaches `lr * end` at the end of the run."""
    if not end > 0:
        raise UserError(f"schedule.end is {end}; an exponential never reaches it, only a positive share of lr")
    return optax.exponential_decay(lr, transition_steps=steps, decay_rate=end)


def one_cycle(lr: float, steps: int, *, rise: float = 30.0, start: float = 0.04, end: float = 1e-4) -> Schedule:
    """One cosine rise and one cosine fall (Smith & Topin 2018).

    From `lr * start` up to `lr` over the first `rise` percent of the run, then down to `lr * end`.
    """
    if not (0 <= rise < 100 and start > 0 and end > 0):
        raise UserError(f"schedule: rise {rise} must be in [0, 100), start {start} and end {end} positive")
    return optax.cosine_onecycle_schedule(steps, lr, rise / 100, div_factor=1 / start, final_div_factor=start / end)


def cyclical(
    lr: float, steps: int, *, cycle: int, base: float = 0.1, policy: str = "triangular", gamma: float = 0.9999
) -> Schedule:
    """Cyclical learning rates (Smith 2015, arXiv:1506.01186, section 3), which optax does not have.

    A triangle wave between `lr * base` and `lr` with `cycle` steps per cycle (twice the paper's stepsize).
    `policy`: 'triangular' keeps the height, 'triangular2' halves it after each cycle, 'exp_range' multiplies it
    by `gamma ** step`.
    """
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


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "cyclical": cyclical,
    "exponential": exponential,
    "linear": linear,
    "one_cycle": one_cycle,
    "step": step,
}


def make(lr: float, total_steps: int, options: Mapping, *, steps_per_epoch: float, batch_size: int) -> Schedule:
    """The schedule of `config.schedule`: `name`, its options, and `warmup_*` in front if asked.

    Args:
      lr: peak learning rate.
      total_steps: length of the run, warmup included.
      options: `name`; any duration `warmup_*`, a linear rise from 0 to the first rate of the schedule; the
        schedule's own options. Its durations (`cycle`) are given with a unit, `cycle_epochs=2`.

    Raises:
      UserError: an unknown schedule or option, or a duration that makes no sense.
    """
    options = {key: value for key, value in options.items() if value is not None}
    fn = lookup("schedule", options.pop("name"), SCHEDULES)
    length = {"steps_per_epoch": steps_per_epoch, "batch_size": batch_size, "where": "config.schedule"}
    parameters = inspect.signature(fn).parameters
    lengths = {name for name in ("cycle",) if name in parameters}
    known = {name for name in parameters if name not in ("lr", "steps", *lengths)}
    known |= {f"{name}_{unit}" for name in ("warmup", *lengths) for unit in durations.UNITS}
    options_of.check(f"config.schedule: {fn.__name__}", fn, options, known=known)
    warmup = durations.resolve("warmup", options, total_steps=total_steps, default=0, **length)
    if warmup >= total_steps and warmup:
        raise UserError(f"config.schedule: the warmup of {warmup} steps leaves nothing of the {total_steps} steps")
    steps = total_steps - warmup
    kwargs = {key: value for key, value in options.items() if key in parameters}
    for name in lengths:
        kwargs[name] = durations.resolve(name, options, total_steps=steps, minimum=1, **length)
        if kwargs[name] is None:
            raise UserError(f"config.schedule: {fn.__name__} needs {name}_steps, {name}_epochs or {name}_percent")
    schedule = fn(lr, max(steps, 1), **kwargs)
    if not warmup:
        return schedule

    def warmed(count):
        rising = schedule(jnp.zeros_like(count)) * count / warmup
        return jnp.where(count < warmup, rising, schedule(count - warmup))

    return warmed
