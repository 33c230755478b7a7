"""What a run reports about itself: where its seconds went, and on what it ran."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import time

import jax

from zoo import compilation

IMPORT_SECONDS = 0.0  # of the zoo and all it needs; set by zoo/__init__.py

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "tensorflow-datasets")


class Stopwatch:
    """Seconds by phase. What passes in an inner phase, or compiling, is taken out of the outer one."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str):
        started, compiled, taken = time.perf_counter(), compilation.compilations().seconds, sum(self.seconds.values())
        counted = self.seconds.get("compile", 0.0)
        try:
            yield
        finally:
            inner_compile = self.seconds.get("compile", 0.0) - counted
            self.add("compile", compilation.compilations().seconds - compiled - inner_compile)
            inner = sum(self.seconds.values()) - taken
            self.add(name, time.perf_counter() - started - inner)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, and the flags that change them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def device() -> dict[str, object]:
    first = jax.local_devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.local_device_count(),
        "host": platform.machine(),
        "cpus": cpus(),
    }


def cpus() -> int | None:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def commit() -> str | None:
    """The git commit of the zoo's own checkout, with '+' if it has changes; None outside of one."""
    root = pathlib.Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head, dirty = (
            subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=5, check=True).stdout
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if dirty else "")
