"""Checkpoints through Orbax: asynchronous, atomic; the last ones and the best ones by a metric.

A checkpoint is the train state and the open window of metrics, with a description beside it: paths, shapes and
checksums of all arrays, the config, versions and flags. Restoring looks at the disk again (a failed asynchronous save
can leave Orbax's own idea of the latest step pointing at nothing), refuses a checkpoint of another model with a short
diff, and steps back over damaged ones.
"""

import pathlib
import warnings
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from zoo import rules
from zoo.errors import UserError


class Checkpoints:
    """The checkpoints of one work directory; `close` (or leaving a with block) waits for the last save."""

    def __init__(self, folder: pathlib.Path, *, keep: int, best: int, monitor: str, mode: str):
        self.folder = folder.absolute()
        kept = [policies.LatestN(keep)]
        if monitor and best:
            # Orbax ranks the metrics upwards and keeps the last n.
            kept.append(policies.BestN(get_metric_fn=lambda m: m["monitor"], reverse=mode == "min", n=best))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._worst = -np.inf if mode == "max" else np.inf

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

    def save(self, step: int, arrays, extra: dict[str, Any], monitored: float | None) -> None:
        """Starts to write a tree of NumPy arrays, which must not change any more, and `extra` as JSON."""
        if step in self._manager.all_steps():
            return  # the same seed and step give the same bits: it is there already
        description = {path: _describe(array) for path, array in rules.flatten(arrays).items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave({"arrays": description, **extra})
            ),
            metrics={"monitor": float(self._worst if monitored is None else monitored)},
        )

    def restore(self, like, *, steps: list[int] | None = None):
        """(step, tree, extra) of the last whole checkpoint among `steps` (default: all), or None when there is none.

        Args:
          like: a tree of arrays with the expected paths, shapes, dtypes and shardings.

        Raises:
          UserError: a checkpoint of another model, or only damaged ones.
        """
        candidates = self.steps() if steps is None else steps
        for step in reversed(candidates):
            try:
                extra = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
                description = extra.pop("arrays")
                found = {path: entry[:2] for path, entry in description.items()}
                _refuse_misfit(found, like, f"checkpoint {self.folder / str(step)}")
                abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
                arrays = self._manager.restore(
                    step, args=ocp.args.Composite(tree=ocp.args.StandardRestore(abstract, fallback_sharding=_host()))
                )["tree"]
                arrays = jax.tree.map(np.asarray, arrays)
                for path, array in rules.flatten(arrays).items():
                    if _describe(array) != description[path]:
                        raise ValueError(f"the checksum of {path} is wrong")
            except UserError:
                raise
            except Exception as error:  # whatever a damaged file makes Orbax raise
                first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
                warnings.warn(
                    f"checkpoint {self.folder / str(step)} is damaged ({first}); trying the one before", stacklevel=2
                )
                continue
            self._discard(candidates[candidates.index(step) + 1 :])
            return step, jax.tree.map(lambda a, x: jax.device_put(a, x.sharding), arrays, like), extra
        if candidates:
            raise UserError(f"no checkpoint in {self.folder} can be read; move the folder away to start afresh")
        return None

    def _discard(self, damaged: list[int]) -> None:
        """Moves damaged checkpoints aside, so that their steps can be written again and nothing is lost."""
        for step in damaged:
            (self.folder / str(step)).rename(self.folder.parent / f"damaged-{step}")
        if damaged:
            self._manager.reload()


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
    wanted = {path: _kind(x) for path, x in rules.flatten(like).items()}
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
    """The weights of the last checkpoint of another run: the averaged ones if it has them, else the raw ones."""
    folder = pathlib.Path(run_folder) / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"config.init_from: {run_folder} is not a run folder (it has no checkpoints)")
    with ocp.CheckpointManager(folder.absolute()) as manager:
        if not manager.all_steps():
            raise UserError(f"config.init_from: {folder} holds no finished checkpoint")
        # Without a target Orbax gives nested dicts of NumPy arrays: no need to know the other run's optimizer.
        restore = ocp.args.Composite(tree=ocp.args.StandardRestore())
        state, _ = manager.restore(max(manager.all_steps()), args=restore)["tree"]
    return {"params": state["params"], **state["model_state"], **(state["average"] or {})}
