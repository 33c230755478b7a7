"""Durations: any length of time in a config is given in steps, epochs, examples or percent of the run.

`total_epochs=20`, `warmup_percent=5`, `eval_every_steps=500`: exactly one unit for one duration. (The idea is
big_vision's `utils.steps`.)
"""

from collections.abc import Mapping
from numbers import Real

from zoo.errors import UserError
from zoo.options import is_number

UNITS = ("steps", "epochs", "examples", "percent")


def given(name: str, settings: Mapping) -> dict[str, Real]:
    """The units in which the duration `name` is set: `{'epochs': 20}`; unset ones are None."""
    return {unit: settings[f"{name}_{unit}"] for unit in UNITS if settings.get(f"{name}_{unit}") is not None}


def resolve(
    name: str,
    settings: Mapping,
    *,
    steps_per_epoch: float,
    batch_size: int,
    total_steps: int | None = None,
    default: int | None = None,
    minimum: int = 0,
    where: str = "config",
) -> int | None:
    """The duration `name` of `settings` in whole steps, rounded to the nearest.

    Args:
      name: the stem; `settings` may hold it as `<name>_steps`, `_epochs`, `_examples` or `_percent`.
      steps_per_epoch: training steps in one epoch.
      batch_size: examples in one step.
      total_steps: length of the run, which `_percent` refers to.
      default: what to return when no unit is set.
      minimum: the least sensible number of steps; a positive duration never rounds below 1.
      where: the part of the config, for the error line.

    Raises:
      UserError: two units at once, a number that is negative or not finite, or percent of an unknown total.
    """
    units = given(name, settings)
    if not units:
        return default
    if len(units) > 1:
        both = " and ".join(f"{where}.{name}_{unit}" for unit in units)
        raise UserError(f"two durations for one thing: {both}; give exactly one")
    ((unit, amount),) = units.items()
    key = f"{where}.{name}_{unit}"
    if not is_number(amount) or not 0 <= amount < float("inf"):
        raise UserError(f"{key} is {amount!r}; a duration is a number, zero or more")
    if unit == "percent" and total_steps is None:
        raise UserError(f"{key}: the length of the run itself cannot be a percentage; give steps, epochs or examples")
    scale = {"steps": 1, "epochs": steps_per_epoch, "examples": 1 / batch_size, "percent": (total_steps or 0) / 100}
    steps = round(amount * scale[unit])
    steps = max(steps, 1) if amount > 0 else steps
    if steps < minimum:
        raise UserError(f"{key} is {amount!r}; it must be at least {minimum} step{'s' if minimum > 1 else ''}")
    return steps


def of_run(config: Mapping, *, steps_per_epoch: int, batch_size: int) -> dict[str, int]:
    """total_steps, eval_every, log_every and save_every of a whole config, all in steps.

    Raises:
      UserError: as `resolve`; or no length of the run at all.
    """
    units = {"steps_per_epoch": steps_per_epoch, "batch_size": batch_size, "minimum": 1}
    total = resolve("total", config, **units)
    if total is None:
        raise UserError("config: how long to train? Set total_epochs, total_steps or total_examples")
    units["total_steps"], tenth = total, max(total // 10, 1)
    return {
        "total_steps": total,
        "eval_every": resolve("eval_every", config, default=steps_per_epoch, **units),
        "log_every": resolve("log_every", config, default=50, **units),
        "save_every": resolve("every", config["checkpoint"], default=tenth, where="config.checkpoint", **units),
    }
