"""A process of its own for what is measured, so that its threads, memory and flags are its own.

The parent asks through a `Worker`; the file that the process runs answers by `serve`. Needs Python alone.
"""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


class UnavailableError(Exception):
    """Why a side cannot be measured here, in one line: a package is missing."""


class WorkerError(UnavailableError):
    """The same, when a side was there and failed."""


def require(library: str) -> None:
    """Raises UnavailableError where a library to compare with is not installed."""
    if library != "zoo" and importlib.util.find_spec(library) is None:
        raise UnavailableError(f"{library} is not installed; pip install -e '.[bench]'")


class Worker:
    """A process of its own that runs a Python file with JSON arguments and answers requests, one JSON line each.

    The file calls `serve`. What goes wrong in it, at its start or later, is raised here as a `WorkerError`.
    """

    def __init__(self, file: str | os.PathLike, *arguments, environment: Mapping[str, str] | None = None):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  open as long as the process
        command = [sys.executable, os.fspath(file), *(json.dumps(argument) for argument in arguments)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        )
        self._last: dict[str, Any] = {}
        try:
            self._reply()
        except WorkerError:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()
        self._errors.close()

    def ask(self, operation: str, *arguments) -> Any:
        """The value that `operation(*arguments)` returns in the process."""
        with contextlib.suppress(BrokenPipeError):  # the process ended; there is no reply either
            print(json.dumps([operation, *arguments]), file=self._process.stdin, flush=True)
        return self._reply()

    def side(self, operation: str) -> "WorkerSide":
        return WorkerSide(self, operation)

    def _reply(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise WorkerError(f"its process ended with {self._process.wait()}: {last[:200]}")
        self._last = json.loads(line)
        if "error" in self._last:
            raise WorkerError(self._last["error"])
        return self._last["value"]

    @property
    def peak_mb(self) -> float:
        """The largest resident memory of the process up to its last reply, in 10^6 bytes."""
        return self._last["peak_mb"]

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process up to its last reply."""
        return self._last["cpu_s"]


class WorkerSide:
    """One operation of a worker as a side of a comparison."""

    def __init__(self, worker: Worker, operation: str):
        self.worker, self._operation = worker, operation

    def __call__(self, steps: int) -> float:
        return self.worker.ask(self._operation, steps)


def serve(operations: Callable[..., Mapping[str, Callable]]) -> None:
    """The main of a worker's file: `operations(*arguments)` makes what it can do, name -> function."""
    # What libraries print must not mix with the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    table: dict[str, Callable] = {}

    def reply(function: Callable, *arguments) -> None:
        try:
            answer = {"value": function(*arguments)}
        except Exception as error:
            lines = str(error).strip().splitlines()
            answer = {"error": f"{type(error).__name__}: {lines[0][:200] if lines else ''}"}
            traceback.print_exc()
        print(json.dumps({**answer, "peak_mb": peak_mb(), "cpu_s": time.process_time()}), file=replies, flush=True)

    reply(lambda: table.update(operations(*map(json.loads, sys.argv[1:]))))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        reply(table[name], *arguments)


def peak_mb() -> float:
    """The largest resident memory of this process so far, in 10^6 bytes."""
    # Not ru_maxrss where there is another way: it starts at what the parent process used.
    if found := re.search(r"VmHWM:\s*(\d+) kB", read_text("/proc/self/status")):
        return int(found[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def rss_mb() -> float:
    """The resident memory of this process now, in 10^6 bytes."""
    if found := re.search(r"VmRSS:\s*(\d+) kB", read_text("/proc/self/status")):
        return int(found[1]) * 1024 / 1e6
    return math.nan


def read_text(path: str) -> str:
    """The content of a file such as those of /proc; '' where there is none."""
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""
