"""Is this installation fit to train?   python -m zoo.doctor

Prints one line per check (`ok`, `warn` or `FAIL`), in a few seconds; exits with 1 when one failed, else 0.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from zoo import compilation, report
from zoo.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
KNOWN_BAD = {
    "0.10.2": "gives wrong sums on the CPU (jax issue 39103)",
    "0.11.0": "crashes (jax issue 40412)",
}
GRADIENT_TOLERANCE = 1e-4  # float32 is off by less than 1e-6 here, TF32 would be by 1e-3
SCATTER_TOLERANCE = 50.0  # the versions of openxla/xla issue 46225 are 450 to 2000 times slower


class Result(NamedTuple):
    """What a check found: `ok` with a figure, `warn` or `FAIL` with what to do."""

    status: str
    text: str


# 1. versions


def versions() -> Result:
    found, problems = {"python": sys.version.split()[0]}, []
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            problems.append(f"{package} is missing; pip install {package}")
        if package == "jaxlib" and found.get(package) in KNOWN_BAD:
            problems.append(f"jaxlib {found[package]} {KNOWN_BAD[found[package]]}; {compilation.INSTALL}")
    if problems:
        return Result("FAIL", "; ".join(problems))
    return Result("ok", ", ".join(f"{name} {version}" for name, version in found.items()))


# 2. known wrong results


def sums() -> Result:
    problem = compilation.wrong_sums()
    return Result("FAIL", problem) if problem else Result("ok", "32769 sums of squares as NumPy has them")


def arctan() -> Result:
    x = np.linspace(-3, 3, 64, dtype=np.float32)
    error = np.abs(np.asarray(jnp.arctan(x)) - np.arctan(x.astype(np.float64))).max()
    if not error < 1e-5:
        return Result("FAIL", f"jnp.arctan is off by {error:.1e} (jax issue 39352); {compilation.INSTALL}")
    return Result("ok", f"64 values, off by at most {error:.1e}")


# 3. gradients: each layer is written once, for NumPy and for JAX; only the convolution is not the same code


def dense(xp: Any, p: dict) -> Any:
    return p["x"] @ p["kernel"] + p["bias"]


def convolution(xp: Any, p: dict, *, stride: int) -> Any:
    """3x3, NHWC, padded by one pixel."""
    x, kernel = p["x"], p["kernel"]
    if xp is jnp:
        padding, layout = [(1, 1), (1, 1)], ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    return sum(x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i, j in taps)


def batch_norm(xp: Any, p: dict) -> Any:
    x = p["x"]
    centered = x - x.mean((0, 1, 2), keepdims=True)
    variance = (centered**2).mean((0, 1, 2), keepdims=True)
    return centered / xp.sqrt(variance + 1e-5) * p["scale"] + p["bias"]


def lstm(xp: Any, p: dict) -> Any:
    def sigmoid(x):
        return 1 / (1 + xp.exp(-x))

    hidden = cell = xp.zeros((p["x"].shape[1], p["recurrent"].shape[0]), p["x"].dtype)
    for x in p["x"]:  # [time, batch, inputs]
        i, f, g, o = xp.split(x @ p["kernel"] + hidden @ p["recurrent"] + p["bias"], 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * xp.tanh(g)
        hidden = sigmoid(o) * xp.tanh(cell)
    return hidden


def embedding(xp: Any, p: dict) -> Any:
    return p["table"][np.array([[0, 3, 3], [5, 3, 0]])]


LAYERS: dict[str, tuple[Callable, dict[str, tuple[int, ...]]]] = {  # name -> (layer, shapes it needs)
    "dense": (dense, {"x": (4, 6), "kernel": (6, 5), "bias": (1, 5)}),
    "convolution": (partial(convolution, stride=1), {"x": (2, 6, 6, 3), "kernel": (3, 3, 3, 4)}),
    "strided convolution": (partial(convolution, stride=2), {"x": (2, 6, 6, 3), "kernel": (3, 3, 3, 4)}),
    "batch norm": (batch_norm, {"x": (3, 4, 4, 2), "scale": (1, 1, 1, 2), "bias": (1, 1, 1, 2)}),
    "LSTM": (lstm, {"x": (4, 2, 5), "kernel": (5, 12), "recurrent": (3, 12), "bias": (1, 12)}),
    "embedding": (embedding, {"table": (7, 3)}),
}


def jax_gradient(loss: Callable, params: dict) -> dict:
    """The gradient under test: float32, compiled, with the products not rounded to TF32."""
    with jax.default_matmul_precision("highest"):
        gradient = jax.jit(jax.grad(loss))({name: x.astype(np.float32) for name, x in params.items()})
    return {name: np.asarray(x, np.float64) for name, x in gradient.items()}


def numeric_gradient(loss: Callable, params: dict, step: float = 1e-5) -> dict:
    """Central differences in float64, right to about 1e-9. Moves each number of `params` and puts it back."""
    gradient = {name: np.zeros_like(x) for name, x in params.items()}
    for name, x in params.items():
        for index in np.ndindex(x.shape):
            kept = x[index]
            x[index] = kept + step
            above = loss(params)
            x[index] = kept - step
            gradient[name][index] = (above - loss(params)) / (2 * step)
            x[index] = kept
    return gradient


def gradient(name: str) -> Result:
    layer, shapes = LAYERS[name]
    rng = np.random.default_rng(0)
    params = {key: rng.normal(size=shape) for key, shape in shapes.items()}
    weight = rng.normal(size=layer(np, params).shape)
    got = jax_gradient(lambda p: (layer(jnp, p) * weight.astype(np.float32)).sum(), params)
    want = numeric_gradient(lambda p: (layer(np, p) * weight).sum(), params)
    error = np.max([np.abs(got[key] - want[key]).max() / np.abs(want[key]).max() for key in params])
    text = f"relative error {error:.1e}"
    if not error <= GRADIENT_TOLERANCE:  # NaN fails
        return Result("FAIL", f"{text}, more than {GRADIENT_TOLERANCE:g}; {compilation.INSTALL}")
    return Result("ok", text)


# 4. scatter-add


def scatter_ratio() -> float:
    """Time of adding 32768 rows of 64 numbers to one row, relative to adding them to as many rows."""
    updates = np.ones((32_768, 64), np.float32)
    table, updates = jax.device_put((np.zeros_like(updates), updates))
    add = jax.jit(lambda table, rows, updates: table.at[rows].add(updates))

    def fastest(rows: np.ndarray) -> float:
        rows, times = jax.device_put(rows), []
        for _ in range(6):  # the first one compiles
            start = time.perf_counter()
            jax.block_until_ready(add(table, rows, updates))
            times.append(time.perf_counter() - start)
        return min(times)

    distinct = np.arange(len(updates), dtype=np.int32)
    return fastest(distinct * 0) / fastest(distinct)


def scatter() -> Result:
    ratio = scatter_ratio()
    if ratio > SCATTER_TOLERANCE:
        reason = f"{ratio:.0f} times slower to one row than to distinct rows (openxla/xla issue 46225)"
        return Result("FAIL", f"{reason}, gradients of embeddings will crawl; {compilation.INSTALL}")
    return Result("ok", f"to one row {ratio:.1f} times the time to distinct rows")


# 5. compilation cache

PROBE = """
import jax
from zoo.compilation import compilations, enable_cache
enable_cache()
jax.jit(lambda x: jax.numpy.sin(x) * 2)(1.0)
print("hits", compilations().cache_hits)
"""


def cache_hits() -> int:
    """How many programs a second process finds in a fresh cache that a first one has filled."""
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")])
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process holds most of a GPU's memory
    with tempfile.TemporaryDirectory() as env["ZOO_CACHE_DIR"]:
        for _ in range(2):
            command = [sys.executable, "-c", PROBE]
            out = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
            if out.returncode:
                lines = out.stderr.strip().splitlines() or [f"exit code {out.returncode}"]
                raise UserError(f"a second process cannot compile: {lines[-1]}")
    return int(out.stdout.split()[-1])


def cache() -> Result:
    if os.environ.get("ZOO_NO_CACHE", "0") not in ("", "0"):
        return Result("ok", "switched off by ZOO_NO_CACHE")
    try:
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or compilation.cache_dir() / "jax"
        hits = cache_hits()
    except (UserError, subprocess.SubprocessError) as error:
        return Result("warn", f"every start compiles anew: {error}")
    if not hits:
        reason = "a second process refused what the first had stored (on a CPU: jax issue 38445)"
        return Result("warn", f"{reason}; every start compiles anew, results are not affected")
    return Result("ok", f"a second process loads from it; {folder}")


# 6. the machine


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(" :")


def devices() -> Result:
    def describe(device):
        memory = (device.memory_stats() or {}).get("bytes_limit")
        return device.device_kind + (f" with {memory / 2**30:.1f} GiB" if memory else "")

    try:
        found = [describe(device) for device in jax.local_devices()]
    except Exception as error:
        advice = "look at JAX_PLATFORMS and the driver, or install the jax of this machine"
        return Result("FAIL", f"JAX finds no device ({first_line(error)}); {advice}")
    text = ", ".join(f"{found.count(device)} x {device}" for device in dict.fromkeys(found))
    return Result("ok", f"{jax.default_backend()}: {text}")


def host() -> Result:
    text = f"{report.cpus()} CPU cores"
    if hasattr(os, "sysconf"):
        text += f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB of memory"
    return Result("ok", text)


def environment() -> Result:
    found = sorted(item for item in os.environ.items() if item[0].startswith(("JAX_", "XLA_", "ZOO_")))
    return Result("ok", " ".join(f"{key}={value!r}" for key, value in found) or "nothing is set")


CHECKS: dict[str, Callable[[], Result]] = {
    "versions": versions,
    "host": host,
    "environment": environment,
    "devices": devices,
    "sums": sums,
    "arctan": arctan,
    **{f"gradient of {name}": partial(gradient, name) for name in LAYERS},
    "scatter-add": scatter,
    "compilation cache": cache,
}


def main() -> int:
    """Runs all checks; the exit code."""
    failed = False
    for name, check in CHECKS.items():
        try:
            result = check()
        except Exception as error:  # a broken engine may raise anything; the other checks are still of use
            result = Result("FAIL", first_line(error))
        failed = failed or result.status == "FAIL"
        what = f"{name:31}" if result.status == "ok" else f"{name}:"
        print(f"{result.status:4} {what} {result.text}", flush=True)
        if check is devices and result.status == "FAIL":
            break  # nothing below can run
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
