"""A stopwatch for comparisons: waits until the machine is idle, takes turns, reports medians with their spread.

    sides = {"loop": loop, "bare": bare}    # side(steps) does that many steps and returns the seconds they took
    result = compare(sides)                 # result["ratios"]["bare"]["median"]: time of bare over time of loop

The first side is the baseline of all ratios. benchmark_worker.py gives sides in processes of their own.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark_worker import ROOT, UnavailableError, WorkerSide, read_text

MIN_WINDOWS = 7
IDLE = 0.1  # share of all CPUs below which a machine is called idle
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "keras")

Side = Callable[[int], float]


def compare(
    sides: Mapping[str, Side],
    *,
    windows: int = MIN_WINDOWS,
    window_s: float = 0.5,
    steps: int | None = None,
    warmup: int = 1,
    idle_timeout_s: float = 120,
    quick: bool = False,
    wait: Callable[..., dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Times the sides in turn, A B A B and so on, on an idle machine.

    Args:
      sides: name -> `side(steps) -> seconds`; the first is the baseline. One that raises `UnavailableError` at its
        first step is left out, with its reason.
      windows: how often each side is timed, at least `MIN_WINDOWS`.
      window_s: length of a window in seconds; decides the number of steps, per side.
      steps: number of steps in a window of any side, in place of `window_s`.
      warmup: windows of each side that are thrown away, beside its first step.
      idle_timeout_s: how long to wait for an idle machine.
      quick: a smoke run: fewer windows are allowed, and nothing waits for an idle machine.
      wait: in place of `wait_until_idle`.

    Returns:
      Plain data: 'machine' (was it idle?), 'windows', 'sides' (name -> 'first_s', the first step with what it
      compiles; 'steps' per window; 'step_s' and 'cpu_s', spreads of the seconds and of the CPU seconds per step;
      'peak_mb' of a worker), 'ratios' (name -> the spread of its time over that of the baseline in the same round),
      'not_available' (name -> reason). A spread is {'median', 'min', 'max'}.

    Raises:
      ValueError: too few windows.
      UnavailableError: of the baseline.
    """
    if windows < MIN_WINDOWS and not quick:
        raise ValueError(f"{windows} windows are too few for a result; take at least {MIN_WINDOWS}")
    machine = {} if quick else (wait or wait_until_idle)(timeout_s=idle_timeout_s)
    baseline, first, missing = next(iter(sides)), {}, {}
    for name, side in sides.items():
        try:
            first[name] = side(1)
        except UnavailableError as reason:
            if name == baseline:
                raise
            missing[name] = str(reason)
    sides = {name: side for name, side in sides.items() if name in first}
    counts = {name: steps or _calibrated(side, window_s) for name, side in sides.items()}
    for _ in range(warmup):
        for name, side in sides.items():
            side(counts[name])

    seconds, cpu_s = ({name: [] for name in sides} for _ in range(2))
    before = _usage(sides)
    for _ in range(windows):
        for name, side in sides.items():
            cpu_before = _cpu_s(side)
            seconds[name].append(side(counts[name]) / counts[name])
            cpu_s[name].append((_cpu_s(side) - cpu_before) / counts[name])
    machine |= _others(before, _usage(sides))

    results = {}
    for name, side in sides.items():
        results[name] = {"first_s": first[name], "steps": counts[name]}
        results[name] |= {"step_s": spread(seconds[name]), "cpu_s": spread(cpu_s[name])}
        if isinstance(side, WorkerSide):
            results[name]["peak_mb"] = side.worker.peak_mb
    ratios = {
        name: spread([own / base for own, base in zip(seconds[name], seconds[baseline], strict=True)])
        for name in sides
        if name != baseline
    }
    return {"machine": machine, "windows": windows, "sides": results, "ratios": ratios, "not_available": missing}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _calibrated(side: Side, window_s: float) -> int:
    """The number of steps that takes about `window_s`; up to 4 where that takes no more than four times as long.

    The first step after a pause is slower: that of a U-Net took 116 ms, the next ones 104.
    """
    steps = 1
    while (seconds := side(steps)) < window_s / 2:
        steps *= 2
    step_s = seconds / steps
    return max(round(window_s / step_s), min(4, round(4 * window_s / step_s)), 1)


def machine_cpu_s() -> tuple[float, float] | None:
    """(busy, all) seconds of all CPUs since the machine started; None where /proc/stat does not tell."""
    try:
        with open("/proc/stat") as file:
            # user, nice, system, idle, iowait, irq, softirq, steal: what a host steals from its guest is busy, too.
            ticks = [int(field) for field in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) * tick_s, sum(ticks) * tick_s


class BusyShare:
    """Call it for the share of all CPUs that was in use since the last call; None where that is not known."""

    def __init__(self):
        self._last = machine_cpu_s()

    def __call__(self) -> float | None:
        last, self._last = self._last, machine_cpu_s()
        if last is None or self._last is None:
            return None
        (busy_before, all_before), (busy, all_) = last, self._last
        return (busy - busy_before) / max(all_ - all_before, 1e-9)


def wait_until_idle(
    *,
    below: float = IDLE,
    quiet_s: float = 3,
    timeout_s: float = 120,
    busy: Callable[[], float | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Returns once the share of busy CPUs stayed `below` for `quiet_s` seconds, or after `timeout_s`.

    Returns:
      'idle' (False: it gave up; None: this system does not tell), 'waited_s', 'busy' (the last share).
    """
    busy = busy or BusyShare()
    started = quiet_since = clock()
    while True:
        sleep(1)
        share, now = busy(), clock()
        if share is None or share >= below:
            quiet_since = now
        idle = now - quiet_since >= quiet_s
        if idle or share is None or now - started >= timeout_s:
            return {"idle": None if share is None else idle, "waited_s": round(now - started, 1), "busy": share}


def _cpu_s(side: Side | None = None) -> float:
    """CPU seconds used so far by a side's process: a worker's, or ours with the children that ended."""
    if isinstance(side, WorkerSide):
        return side.worker.cpu_s
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _usage(sides: Mapping[str, Side]) -> tuple[float, float, float] | None:
    """CPU seconds so far: (used on the machine, used by us, there were)."""
    machine = machine_cpu_s()
    workers = {side.worker for side in sides.values() if isinstance(side, WorkerSide)}
    return machine and (machine[0], _cpu_s() + sum(worker.cpu_s for worker in workers), machine[1])


def _others(before, after) -> dict[str, float]:
    """The share of all CPUs that others used while we measured: a machine may be idle only before."""
    if before is None:
        return {}
    busy, own, there_were = (b - a for a, b in zip(before, after, strict=True))
    return {"others": max(busy - own, 0.0) / max(there_were, 1e-9)}


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_name() -> str:
    """The kind of CPU and how many, such as 'amd-epyc-2cpu'."""
    found = re.search(r"model name\s*:\s*(.+)", read_text("/proc/cpuinfo"))
    kind = found[1] if found else platform.processor() or platform.machine()
    kind = re.sub(r"\((R|TM)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", kind, flags=re.IGNORECASE)
    return "-".join(re.findall(r"[a-z0-9]+", kind.lower())) + f"-{cpus()}cpu"


def provenance() -> dict[str, Any]:
    """When, by which command and with which versions a result came about."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    flags = {name: os.environ[name] for name in ("XLA_FLAGS", "OMP_NUM_THREADS") if name in os.environ}
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "commit": found.stdout.strip() or None,
        "versions": versions | flags,
        "cpus": cpus(),
    }


def merge(path: str | os.PathLike, results: Mapping[str, Any]) -> None:
    """Puts the results into a JSON file in place of older ones of the same names; all others stay."""
    path = pathlib.Path(path)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(dict(sorted({**known, **results}.items())), indent=2) + "\n")
    temporary.replace(path)
