"""The work directory of a run: its lock and its files.

    config.json     the settings as resolved         metrics.jsonl   one line per logged step and evaluation
    model.json      what the weights mean            checkpoints/    Orbax
    report.json     the result                       preprocess.npz  statistics of the training rows
    events.*        TensorBoard                      .lock           held while a process trains here

`metrics.jsonl` holds nothing but results (no times), so that a run that was killed and resumed leaves the same file,
bit for bit, as one that was not.
"""

import fcntl
import json
import math
import os
import pathlib
from typing import Any

from zoo.errors import UserError
from zoo.replacing import replaced


class RunFolder:
    """An open, locked work directory; use it in a with block.

    Raises:
      UserError: the path is a file, cannot be written, or another process trains there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        if not (self.path / ".lock").exists():
            for name in ("config.json", "report.json", "metrics.jsonl", "checkpoints"):
                if (self.path / name).exists():
                    raise UserError(f"{self.path} holds a {name} that is not of a run; use another --workdir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115  open as long as the run
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"work directory {self.path} is a file; give a folder with --workdir") from None
        except OSError as error:
            raise UserError(f"work directory {self.path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it, whatever ends the process
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            self._lock.close()
            raise UserError(
                f"work directory {self.path} is in use by {owner}; wait for it, or use another --workdir"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()
        self._events = None
        self.lines: list[dict[str, Any]] = []  # what metrics.jsonl holds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._events is not None:
            self._events.close()
        self._lock.close()

    def read(self) -> list[dict[str, Any]]:
        return read_metrics(self.path)

    def start(self, step: int) -> None:
        """Drops the lines after `step` (of a run that got further than its last checkpoint), and goes on from there."""
        self.lines = [line for line in self.read() if line["step"] <= step]
        write_atomically(self.path / "metrics.jsonl", "".join(to_json(line) + "\n" for line in self.lines))
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(self.path), purge_step=step + 1 if step else None, flush_secs=10)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line of results; `sync` before a checkpoint of this step, which a resumed run trusts to have it."""
        line = {"step": step, **values}
        self.lines.append(line)
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(to_json(line) + "\n")
        for name, value in values.items():
            if not math.isnan(value):  # TensorBoard draws none, and tensorboardX warns of each
                self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Returns when all lines are on the disk."""
        with open(self.path / "metrics.jsonl", "a") as file:
            os.fsync(file.fileno())

    def history(self, name: str) -> list[float]:
        """The values of this metric, in the order of the steps."""
        return [line[name] for line in self.lines if name in line]


def to_json(value, **options) -> str:
    """JSON with null for NaN and infinity, which it has no words for (`json.dumps` writes what others cannot read)."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(value), **options)


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All whole lines of metrics.jsonl; one that was cut off by a kill ends the file."""
    lines, path = [], folder / "metrics.jsonl"
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        lines.append({name: math.nan if value is None else value for name, value in line.items()})
    return lines


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file, or None if it is missing or cut off."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a file by another in one move, so that a kill leaves the old or the new one, never half."""
    with replaced(path) as temporary:
        temporary.write_text(text)
