"""Checkpoints through Orbax: asynchronous, atomic; the last ones and the best ones.

A checkpoint is the train state and the open window of metrics, with a description beside it: paths, shapes and
checksums of all arrays, the config, versions and flags. Restoring looks at the disk again (a failed asynchronous save
can leave Orbax's own idea of the latest step pointing at nothing), refuses a checkpoint of another model with a short
diff, and steps back over damaged ones.
"""

import contextlib
import os
import pathlib
import re
import sys
import time
import types
import warnings
import zlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from zoo import rules
from zoo.errors import UserError
from zoo.run_folder import read_json

NUMBER = re.compile(r"(?<=/)\d+(?=/|$)")  # a part of a path: an element of a tuple, or a group


def exists(workdir: str | os.PathLike) -> bool:
    """Whether a work directory has a finished checkpoint (one that was cut off by a kill has another name)."""
    return any(path.name.isdigit() for path in pathlib.Path(workdir, "checkpoints").glob("*"))


class Checkpoints:
    """The checkpoints of one work directory; `close` (or leaving a with block) waits for the last save."""

    def __init__(self, folder: pathlib.Path, *, keep: int, best: int):
        self.folder = folder.absolute()
        self._keep, self._best, self._ranked = keep, best, []
        # Not Orbax's BestN, which forgets the metrics of a checkpoint when it is opened again, and keeps it for ever.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=types.SimpleNamespace(should_preserve=self._kept), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def wait(self) -> None:
        """Until the last save is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps with a finished checkpoint on the disk, ascending."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def _kept(self, checkpoints, *, context) -> list[bool]:
        """Orbax's `PreservationPolicy`: which of these, in the order of their steps, a save leaves."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self._keep :], *[step for step in self._ranked if step in steps][: self._best]}
        return [step in kept for step in steps]

    def save(self, step: int, arrays, extra: dict[str, Any], ranked: Iterable[int]) -> None:
        """Starts to write a tree of NumPy arrays, which must not change any more, and `extra` as JSON.

        Then deletes what is neither among the last ones nor among the best.

        Args:
          ranked: the steps that were evaluated, the best first.
        """
        self._ranked = list(ranked)
        if step in self._manager.all_steps():
            return  # the same seed and step give the same bits: it is there already
        description = {path: _describe(array) for path, array in rules.flatten(arrays).items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave({"arrays": description, **extra})
            ),
        )

    def restore(self, like, *, prefer: int | None = None):
        """(step, tree, extra) of the last whole checkpoint, or None when there is none.

        Args:
          like: a tree of arrays with the expected paths, shapes, dtypes and shardings.
          prefer: a step to try first. Without one, damaged checkpoints after the one that is found are moved aside,
            so that their steps can be written again and nothing is lost.

        Raises:
          UserError: a checkpoint of another model, or only damaged ones.
        """
        whole = _last_whole(self._manager, self.folder, prefer, like)
        if whole is None:
            return None
        step, arrays, extra = whole
        if prefer is None:
            for damaged in self.steps():
                if damaged > step:
                    _move_aside(self.folder / str(damaged))
            self._manager.reload()
        return step, jax.tree.map(lambda a, x: jax.device_put(a, x.sharding), arrays, like), extra


def _last_whole(manager: ocp.CheckpointManager, folder: pathlib.Path, prefer: int | None, like=None):
    """(step, tree of NumPy arrays, extra) of checkpoint `prefer`, else of the last that is whole; None: no steps."""
    manager.reload()
    steps = sorted(manager.all_steps(), key=lambda step: (step == prefer, step), reverse=True)
    for step in steps:
        try:
            with _late_reads_ignored():
                return step, *_read(manager, step, like, f"checkpoint {folder / str(step)}")
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file makes Orbax raise
            said = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            warnings.warn(f"checkpoint {folder / str(step)} is damaged ({said}); looking for another", stacklevel=3)
    if steps:
        raise UserError(f"no checkpoint in {folder} can be read; move the folder away to start afresh")
    return None


@contextlib.contextmanager
def _late_reads_ignored():
    """Orbax gives up at the first damaged array and closes its event loop; reads under way print a traceback then."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda found: None if str(found.exc_value) == "Event loop is closed" else hook(found)
    try:
        yield
    except UserError:
        raise
    except Exception:
        time.sleep(0.3)  # until they have ended
        raise
    finally:
        sys.unraisablehook = hook


def _read(manager: ocp.CheckpointManager, step: int, like, what: str):
    """(tree, extra); without `like`, nested dicts and lists: no need to know the other run's optimizer."""
    extra = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    description = extra.pop("arrays")
    if like is not None:
        _refuse_misfit({path: entry[:2] for path, entry in description.items()}, like, what)
    restore = ocp.args.StandardRestore(fallback_sharding=_host())
    tree = jax.tree.map(np.asarray, manager.restore(step, args=ocp.args.Composite(tree=restore))["tree"])
    arrays = rules.flatten(tree)
    for path, array in arrays.items():
        if _describe(array) != description[path]:
            raise ValueError(f"the checksum of {path} is wrong")
    if like is not None:  # by path: what holds no array may differ
        arrays = _renumbered(arrays)
        tree = jax.tree.unflatten(jax.tree.structure(like), [arrays[path] for path in _renumbered(rules.flatten(like))])
    return tree, extra


def _renumbered(entries: dict[str, Any]) -> dict[str, Any]:
    """Entries by path, the numbers within the optimizer's state counted anew among those of the same place.

    A part of it without arrays has no path. So one may be added (a clip, noise), which shifts the numbers of those that
    follow; and a group of `optax.partition` may be known by another step.
    """
    found = {(path[: n.start()], int(n[0])) for path in entries for n in NUMBER.finditer(path)}

    def renumbered(path: str) -> str:
        def rank(n: re.Match) -> str:
            return str(sum(place == path[: n.start()] and number < int(n[0]) for place, number in found))

        return NUMBER.sub(rank, path) if "/opt_state/" in path else path

    return {renumbered(path): entry for path, entry in entries.items()}


def _move_aside(damaged: pathlib.Path) -> None:
    """Out of the folder of checkpoints, to a name that is free."""
    names = (f"damaged-{damaged.name}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    damaged.rename(next(path for name in names if not (path := damaged.parent.parent / name).exists()))


def _host() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _describe(array: np.ndarray) -> list:
    """[shape, dtype, checksum]: Orbax finds most damage by itself, but not all (measured: 1 of 120 mutations)."""
    return [list(array.shape), array.dtype.name, zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)]


def check_fit(tree, like, what: str) -> None:
    """Refuses a tree of arrays whose paths, shapes or dtypes are not those of `like`, with a short diff."""
    _refuse_misfit({path: _kind(array) for path, array in rules.flatten(tree).items()}, like, what)


def _kind(array) -> list:
    return [list(array.shape), np.dtype(array.dtype).name]


def _refuse_misfit(found: dict[str, list], like, what: str) -> None:
    found, wanted = _renumbered(found), _renumbered({path: _kind(x) for path, x in rules.flatten(like).items()})
    diff = [
        f"{path}: found {_shape(found.get(path))}, the model has {_shape(wanted.get(path))}"
        for path in dict.fromkeys((*wanted, *found))
        if found.get(path) != wanted.get(path)
    ]
    if diff:
        more = f"; and {len(diff) - 4} more" if len(diff) > 4 else ""
        raise UserError(f"{what} does not fit this config: {'; '.join(diff[:4])}{more}")


def _shape(entry: list | None) -> str:
    return "nothing" if entry is None else f"{entry[1]}[{', '.join(map(str, entry[0]))}]"


def load_variables(run_folder: str | pathlib.Path) -> dict[str, Any]:
    """The weights that a run ended with, or stands at: the averaged ones if it has them, else the raw ones.

    Those that `report.json` is about: with `early_stopping.restore_best`, the best and not the last.
    """
    folder = pathlib.Path(run_folder)
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} is not a run folder (it has no checkpoints); train there first")
    report = read_json(folder / "report.json")
    ended = report and report["config"] == read_json(folder / "config.json")  # and was not gone on with since
    with ocp.CheckpointManager((folder / "checkpoints").absolute()) as manager:
        whole = _last_whole(manager, folder / "checkpoints", report["step"] if ended else None)
    if whole is None:
        raise UserError(f"{folder} holds no finished checkpoint; train there first")
    state, _ = whole[1]
    return {"params": state["params"], **state["model_state"], **(state["average"] or {})}
