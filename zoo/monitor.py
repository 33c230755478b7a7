"""The settings that watch an evaluated metric: early stopping, the best checkpoint, a rate that falls on a plateau."""

import itertools
from collections.abc import Sequence

from ml_collections import ConfigDict

from zoo import config as configs
from zoo import early_stopping, metrics, plateau
from zoo.errors import UserError, did_you_mean


def check(config: ConfigDict, names: Sequence[str], splits: Sequence[str]) -> str:
    """The metric that makes a checkpoint the best; '' if nothing does.

    Args:
      names: of the metrics that are evaluated during training, such as 'validation/loss'.
      splits: all but 'train'.

    Raises:
      UserError: a metric that is not evaluated, or settings that make no sense.
    """
    early_stopping.check(config.early_stopping)
    plateau.check(config.plateau)
    for group in ("early_stopping", "checkpoint", "plateau"):
        metrics.check_mode(config[group].mode, f"config.{group}.mode")
        wanted = config[group].monitor
        if wanted and wanted not in names:
            raise UserError(f"config.{group}.monitor: no metric {wanted!r} is evaluated{did_you_mean(wanted, names)}")
    for group in ("early_stopping", "plateau"):
        unset = configs.default()[group]
        changed = [key for key, value in config[group].items() if value != unset[key]]
        if changed and not config[group].monitor:
            raise UserError(f"config.{group}.{changed[0]} has no effect without config.{group}.monitor; set both")
    for key, least in (("keep", 1), ("best", 0)):
        if config.checkpoint[key] < least:
            raise UserError(f"config.checkpoint.{key} is {config.checkpoint[key]}; it must be at least {least}")
    stopping, keeping = config.early_stopping, config.checkpoint
    own_best = keeping.best and keeping.monitor in ("", stopping.monitor)
    if stopping.monitor and stopping.restore_best and not own_best:
        raise UserError(
            "config.early_stopping.restore_best needs the best checkpoint by its own monitor; set "
            f"checkpoint.best to 1 or more and checkpoint.monitor to {stopping.monitor!r}, or restore_best to False"
        )
    monitored = keeping.monitor or stopping.monitor or ("validation/loss" if "validation" in splits else "")
    unset = configs.default().checkpoint
    for key, changed in (("best", keeping.best > unset.best), ("mode", keeping.mode != unset.mode)):
        if changed and not monitored:
            raise UserError(
                f"config.checkpoint.{key} has no effect without config.checkpoint.monitor or a validation split"
            )
    watched = {"early_stopping": stopping.monitor, "plateau": config.plateau.monitor, "checkpoint": monitored}
    modes = {group: metrics.mode_of(name, config[group].mode) for group, name in watched.items()}
    modes["checkpoint"] = mode(config, monitored)
    for group, other in itertools.combinations(watched, 2):
        if watched[group] == watched[other] != "" and modes[group] != modes[other]:
            raise UserError(
                f"config.{group}.mode is {modes[group]!r} for {watched[group]!r}, but config.{other}.mode is "
                f"{modes[other]!r}; set both to the same"
            )
    return monitored


def mode(config: ConfigDict, monitored: str) -> str:
    """'max' or 'min': whether the best checkpoint by the metric of `check` is that of its highest or lowest value."""
    inherits = config.checkpoint.mode == "auto" and monitored == config.early_stopping.monitor
    return metrics.mode_of(monitored, config.early_stopping.mode if inherits else config.checkpoint.mode)
