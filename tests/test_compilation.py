"""The private folder, the cache of compiled programs, the count of compilations, the engine check."""

import logging
import os
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from zoo import compilation
from zoo.errors import UserError

CONFIG = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A fresh ZOO_CACHE_DIR, not yet made; JAX's cache is off before and as it was afterwards."""
    before = {name: getattr(jax.config, name) for name in CONFIG}
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "zoo"))
    monkeypatch.delenv("ZOO_NO_CACHE", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax_cache.reset_cache()
    yield tmp_path / "zoo"
    for name, value in before.items():
        jax.config.update(name, value)
    jax.config.update("jax_logging_level", "WARNING")  # the level of C++ that `import jax` sets
    jax.config.update("jax_logging_level", "NOTSET")
    jax_cache.reset_cache()


def test_folder_is_private(folder):
    assert compilation.cache_dir() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_folder_of_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation.cache_dir() == tmp_path / ".cache" / "zoo"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_that_others_may_write_is_refused(folder, mode):
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UserError, match=r"others may write.*chmod go-w"):
        compilation.cache_dir()


def test_folder_of_another_user_is_refused(folder, monkeypatch):
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        compilation.cache_dir()


def test_folder_that_cannot_be_made_is_refused(folder):
    folder.write_text("a file")
    with pytest.raises(UserError, match="cannot make the cache folder"):
        compilation.cache_dir()


def test_cache_without_a_safe_folder_warns(folder):
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.warns(UserWarning, match="not kept: others may write") as caught:
        compilation.enable_cache()
    assert "\n" not in str(caught[0].message)
    assert jax.config.jax_compilation_cache_dir is None
    assert list(folder.iterdir()) == []


def test_cache_folder_inside_must_be_private_too(folder):
    (compilation.cache_dir() / "jax").mkdir()
    (folder / "jax").chmod(0o777)
    with pytest.warns(UserWarning, match="others may write"):
        compilation.enable_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_cache_can_be_switched_off(folder, monkeypatch):
    monkeypatch.setenv("ZOO_NO_CACHE", "1")
    compilation.enable_cache()
    assert not jax.config.jax_enable_compilation_cache
    assert not folder.exists()


def test_cache_folder_of_the_user_is_kept(folder, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compilation.enable_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert not folder.exists()


def test_cache_is_hit_and_told_from_a_compilation(folder, capfd):
    compilation.enable_cache()
    compilation.enable_cache()  # twice does no harm

    def compile_anew():
        before = compilation.compilations()
        jax.block_until_ready(jax.jit(lambda x: x * 3.5 + 1)(np.ones((7,), np.float32)))
        return compilation.compilations() - before

    first = compile_anew()
    assert (first.count, first.cache_hits, first.cache_misses) == (1, 0, 1)
    assert [path.parent for path in folder.rglob("*-cache")] == [folder / "jax"]
    jax.clear_caches()
    second = compile_anew()
    assert (second.count, second.cache_hits, second.cache_misses) == (0, 1, 0)
    assert second.seconds > 0
    assert capfd.readouterr().err == ""  # of XLA's loader (jax issue 38445)


def test_cache_keeps_the_loggers_of_python(folder):
    before = [(logger.level, list(logger.handlers)) for logger in map(logging.getLogger, ("jax", "jaxlib"))]
    compilation.enable_cache()
    after = [(logger.level, list(logger.handlers)) for logger in map(logging.getLogger, ("jax", "jaxlib"))]
    assert before == after


def test_cache_is_pruned_by_last_use(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9))
    compilation._prune(tmp_path, limit=300)
    assert len(list(tmp_path.iterdir())) == 3
    compilation._prune(tmp_path, limit=299)
    assert [path.name for path in tmp_path.iterdir()] == ["new-cache"]


def test_counter_counts_new_shapes_only():
    double = jax.jit(lambda x: x * 2)
    counts = []
    for size in (3, 3, 4, 3, 4):
        before = compilation.compilations()
        double(np.ones((size,), np.float32))
        counts.append((compilation.compilations() - before).count)
    assert counts == [1, 0, 1, 0, 0]


def test_counter_counts_a_nested_function_once():
    inner = jax.jit(lambda x: x + 1)
    before = compilation.compilations()
    jax.jit(lambda x: inner(x) * inner(x + 2))(np.ones((5,), np.float32))
    found = compilation.compilations() - before
    assert found.count == 1
    assert found.seconds > 0


def test_counter_counts_nested_time_once():
    trace, build = "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/backend_compile_duration"
    spans = [(trace, 2, 3), (build, 4, 5), (trace, 1, 6), ("/jax/other", 0, 9), (build, 6, 8)]
    before = compilation.compilations()

    def report():  # on a thread of its own, which has no earlier spans
        for event, start, end in spans:
            compilation._COUNTER.span(event, start, end, fun_name="f")

    thread = threading.Thread(target=report)
    thread.start()
    thread.join()
    found = compilation.compilations() - before
    assert found.count == 2
    assert found.seconds == pytest.approx(7)


def test_counter_is_registered_once():
    listeners = jax._src.monitoring.get_event_time_span_listeners()
    assert listeners.count(compilation._COUNTER.span) == 1


def test_engine_check_leaves_one_stamp_per_version(folder, monkeypatch):
    calls = []
    real = compilation._square_norms
    monkeypatch.setattr(compilation, "_square_norms", lambda rows: calls.append(1) or real(rows))
    compilation.check_jaxlib_once()
    compilation.check_jaxlib_once()
    assert len(calls) == 1
    (stamp,) = folder.iterdir()
    assert f"{jax.__version__}-{jaxlib.__version__}" in stamp.name
    monkeypatch.setattr(jaxlib, "__version__", "99.0")
    compilation.check_jaxlib_once()
    compilation.check_jaxlib_once()
    assert len(calls) == 2
    assert len(list(folder.iterdir())) == 2


def test_engine_check_fails_in_one_line(folder, monkeypatch):
    real = compilation._square_norms
    monkeypatch.setattr(compilation, "_square_norms", lambda rows: real(rows) * np.float32(1.0001))
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(UserError, match=r"jaxlib .* gives wrong sums .*pip install") as caught:
            compilation.check_jaxlib_once()
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_engine_check_without_a_safe_folder_runs_every_time(folder, monkeypatch):
    folder.mkdir()
    folder.chmod(0o777)
    calls = []
    monkeypatch.setattr(compilation, "wrong_sums", lambda: calls.append(1))
    compilation.check_jaxlib_once()
    compilation.check_jaxlib_once()
    assert len(calls) == 2


def test_advice_is_the_bound_of_the_project():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    bound = next(x for x in tomllib.loads(text)["project"]["dependencies"] if x.startswith("jax>"))
    assert f'"{bound}"' in compilation.INSTALL


@pytest.mark.parametrize(
    "flags, own, threads",
    [
        ("--xla_force_host_platform_device_count=4", None, "16"),
        ("--xla_force_host_platform_device_count=4 --xla_force_host_platform_device_count=2", None, "8"),
        ("--xla_force_host_platform_device_count=4", "5", "5"),
        ("--xla_force_host_platform_device_count=1", None, None),
        ("", None, None),
    ],
)
def test_threads_for_several_devices(monkeypatch, flags, own, threads):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setenv("PJRT_NPROC", own) if own else monkeypatch.delenv("PJRT_NPROC", raising=False)
    compilation.reserve_threads()
    assert os.environ.get("PJRT_NPROC") == threads


def test_threads_for_several_devices_of_jax(monkeypatch):
    code = "import zoo, os; print(os.environ.get('PJRT_NPROC'))"
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    for devices, threads in (("3", "12"), ("1", "None")):
        monkeypatch.setenv("JAX_NUM_CPU_DEVICES", devices)
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == threads


def test_these_tests_have_threads_for_their_devices():
    """Or they hang, now and then."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("no /proc")
    assert jax.local_device_count() == 4
    assert len(list(tasks.iterdir())) > 32  # XLA has two pools; with its default of 4 threads each, there are 18
