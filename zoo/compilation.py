"""What XLA compiles: kept on disk in a private folder, counted, and tried once for a known wrong result.

`enable_cache` stores every compiled program under `cache_dir()`: a small conv-net takes its first step after
1 instead of 6 s (2 cores). `compilations` counts what was really compiled, so that the loop can say that
nothing recompiles. `check_jaxlib_once` refuses a jaxlib that adds up wrongly.
"""

import contextlib
import os
import re
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib
import numpy as np
from jax import numpy as jnp

from zoo.errors import UserError

INSTALL = 'pip install "jax>=0.10.1,!=0.10.2,!=0.11.0"'  # the bounds of pyproject.toml


def reserve_threads() -> None:
    """Gives XLA threads to spare where its flags or JAX_NUM_CPU_DEVICES ask for several devices on the CPU.

    Call it before JAX starts.

    All of them share one pool, by default of as many threads as there are CPUs or devices. A step in which devices wait
    for each other's sums may find no thread for the last of them, until XLA ends the process after 40 s: on 4 devices
    and 2 busy CPUs half of the trainings did, of jaxlib 0.10.1, and none with 16 threads.
    """
    flags = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = max(int(flags[-1]) if flags else 1, jax.config.jax_num_cpu_devices)
    if devices > 1:
        os.environ.setdefault("PJRT_NPROC", str(4 * devices))


def cache_dir() -> Path:
    """The private folder of this user: `$ZOO_CACHE_DIR` or `~/.cache/zoo`, made with mode 0700 when missing.

    Raises UserError when it cannot be made or written, or when another user owns it or may write to it: what
    lies there is executed (compiled programs) or believed (stamps of passed checks).
    """
    return _private(Path(os.environ.get("ZOO_CACHE_DIR") or "~/.cache/zoo"))


def _private(folder: Path) -> Path:
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise UserError(f"cannot make the cache folder {folder} ({error}); set ZOO_CACHE_DIR") from error
    if os.name == "posix" and status.st_uid != os.geteuid():
        raise UserError(f"the cache folder {folder} belongs to another user; set ZOO_CACHE_DIR to your own")
    if os.name == "posix" and status.st_mode & 0o022:
        raise UserError(f"others may write to the cache folder {folder}; run: chmod go-w {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"the cache folder {folder} is read-only; set ZOO_CACHE_DIR to another one")
    return folder


def enable_cache() -> None:
    """Keeps compiled programs under `cache_dir()/jax` from one process to the next.

    A folder that the user gave to JAX (`JAX_COMPILATION_CACHE_DIR`) is used as it is; `ZOO_NO_CACHE=1`
    switches the cache off; without a safe folder there is a warning and no cache. Starts the backend: call it
    after `jax.distributed.initialize`.
    """
    if os.environ.get("ZOO_NO_CACHE", "0") not in ("", "0"):
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not jax.config.jax_compilation_cache_dir:
        try:
            folder = _private(cache_dir() / "jax")
        except UserError as error:
            warnings.warn(f"compiled programs are not kept: {error}", stacklevel=2)
            return
        _prune(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Everything is stored: the smallest program costs 2 ms to write and saves 16 of 22 ms when found
        # (2 cores), and an eager `init` compiles dozens of them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _quiet_loader()


def _quiet_loader() -> None:
    """Keeps XLA from printing two lines of 1.7 kB for each program that it loads on a CPU (jax issue 38445).

    The lines say that the machine lacks `+prefer-no-gather`, a hint of LLVM that is no instruction. The
    program is loaded all the same and computes the same bits; instructions that a machine really lacks change
    JAX's key, so that no such program is found. This hides every error that XLA logs and does not raise:
    therefore only on the CPU (those of a GPU's libraries are needed) and not for a user who has chosen a
    level of logging. TF_CPP_MIN_LOG_LEVEL=0 shows everything.
    """
    level = jax.config.jax_logging_level
    chosen = level not in (None, "NOTSET") or os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0"
    if jax.default_backend() == "cpu" and not chosen:
        jax.config.update("jax_logging_level", "CRITICAL")  # of C++ and of Python
        jax.config.update("jax_logging_level", level)  # gives back that of Python


def _prune(folder: Path, limit: int = 4 * 2**30) -> None:
    """Deletes the programs longest unused, down to half of `limit` bytes, once there are more than that."""
    with contextlib.suppress(OSError):  # another process may be at it
        found = sorted((path.stat().st_atime, path.stat().st_size, path) for path in folder.glob("*-cache"))
        size = sum(entry[1] for entry in found)
        goal = limit // 2 if size > limit else size
        for _, bytes_, path in found:
            if size > goal:
                path.unlink(missing_ok=True)
                size -= bytes_


class Compilations(NamedTuple):
    """What this process compiled since it imported this module; `later - earlier` is what came between."""

    count: int = 0  # programs that XLA compiled, not those loaded from the cache
    seconds: float = 0.0  # of tracing, lowering, and compiling or loading, added over threads
    cache_hits: int = 0  # programs loaded from the cache
    cache_misses: int = 0  # programs compiled and then stored; none without a cache

    def __sub__(self, earlier: "Compilations") -> "Compilations":
        return Compilations(*(now - then for now, then in zip(self, earlier, strict=True)))


class _Counter:
    """Listens to what JAX reports while it compiles, on any thread."""

    def __init__(self):
        self.total = Compilations()
        self.lock = threading.Lock()
        self.thread = threading.local()
        jax.monitoring.register_event_listener(self.event)
        jax.monitoring.register_event_time_span_listener(self.span)

    def add(self, *more: float) -> None:
        with self.lock:
            self.total = Compilations(*(a + b for a, b in zip(self.total, more, strict=True)))

    def event(self, event: str, **_) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            self.thread.loaded = True
            self.add(0, 0.0, 1, 0)
        elif event == "/jax/compilation_cache/cache_misses":
            self.add(0, 0.0, 0, 1)

    def span(self, event: str, start: float, end: float, **_) -> None:
        if not event.startswith("/jax/core/compile/"):  # tracing, lowering, compiling or loading
            return
        # Spans nest (a jitted function traced inside another, a constant computed while tracing) and are
        # reported as they end, inner ones first: the outer one adds only what those have not.
        mine = self.thread.__dict__
        spans, inner = mine.setdefault("spans", []), 0.0
        while spans and spans[-1][0] >= start:
            inner += spans.pop()[1]
        spans.append((start, end - start))
        compiled = event.endswith("/backend_compile_duration") and not mine.pop("loaded", False)
        self.add(int(compiled), max(end - start - inner, 0.0), 0, 0)


_COUNTER = _Counter()


def compilations() -> Compilations:
    """How often and how long this process has compiled so far."""
    return _COUNTER.total


def _square_norms(rows: np.ndarray) -> np.ndarray:
    def norm(row):
        return jnp.sum(jnp.matmul(np.eye(3, dtype=np.float32), row, precision="highest") ** 2)

    return jax.device_get(jax.jit(jax.vmap(norm))(jax.device_put(rows)))


def wrong_sums() -> str | None:
    """One line on how the installed jaxlib adds up wrongly, or None: the example of jax issue 39103."""
    rows = np.zeros((32_769, 3), np.float32)
    rows[:, 0] = np.arange(len(rows))
    got, want = _square_norms(rows).astype(np.float64), np.arange(len(rows), dtype=np.float64) ** 2
    worst = np.argmax(np.abs(got - want))
    if np.allclose(got, want, rtol=1e-6, atol=0):
        return None
    return (
        f"jaxlib {jaxlib.__version__} gives wrong sums on this {jax.default_backend()} (jax issue 39103: "
        f"{got[worst]:.0f} instead of {want[worst]:.0f}); install another: {INSTALL}"
    )


def check_jaxlib_once() -> None:
    """Raises UserError when the installed jaxlib adds up wrongly; tried once per version and device kind."""
    device = jax.local_devices()[0]
    name = f"sums-{jax.__version__}-{jaxlib.__version__}-{device.platform}-{device.device_kind}"
    stamp = None
    with contextlib.suppress(UserError):  # without a safe folder it is tried every time
        stamp = cache_dir() / re.sub(r"[^\w.-]+", "_", name)
    if stamp and stamp.exists():
        return
    if problem := wrong_sums():
        raise UserError(problem)
    if stamp:
        with contextlib.suppress(OSError):
            stamp.touch()
