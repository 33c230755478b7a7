"""Every check of the doctor passes here, and every one can fail."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest

from zoo import compilation, doctor
from zoo.errors import UserError


@pytest.fixture
def diagnose(monkeypatch, capsys):
    """Runs the checks of these names; the exit code and the lines printed."""

    def run(*names):
        monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in names or doctor.CHECKS})
        code = doctor.main()
        out, err = capsys.readouterr()
        assert err == ""
        return code, out.splitlines()

    monkeypatch.delenv("ZOO_NO_CACHE", raising=False)
    return run


def test_everything_passes_here(diagnose, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "zoo"))
    code, lines = diagnose()
    assert code == 0
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert len(lines) == len(doctor.CHECKS)
    for name, line in zip(doctor.CHECKS, lines, strict=True):
        assert line.startswith((f"ok   {name} ", f"warn {name}: "))
    assert jax.__version__ in lines[0]
    # A CPU that refuses what it stored itself (jax issue 38445) is told, and is not a failure.
    assert "a second process loads from it" in lines[-1] or "every start compiles anew" in lines[-1]


@pytest.mark.parametrize("jaxlib, reason", [("0.10.2", "gives wrong sums"), ("0.11.0", "crashes")])
def test_bad_versions_fail(diagnose, monkeypatch, jaxlib, reason):
    monkeypatch.setattr(metadata, "version", lambda package: jaxlib if package == "jaxlib" else "1.0")
    code, (line,) = diagnose("versions")
    assert code == 1
    assert line.startswith(f"FAIL versions: jaxlib {jaxlib} {reason}")
    assert line.endswith(compilation.INSTALL)


def test_missing_package_fails(diagnose, monkeypatch):
    def version(package):
        if package == "optax":
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    assert diagnose("versions") == (1, ["FAIL versions: optax is missing; pip install optax"])


def test_wrong_sums_fail(diagnose, monkeypatch):
    monkeypatch.setattr(compilation, "_square_norms", lambda rows: (rows**2).sum(1) * np.float32(0.998))
    code, (line,) = diagnose("sums")
    assert code == 1
    assert line.startswith("FAIL sums: jaxlib")
    assert "39103" in line
    assert "pip install" in line


def test_wrong_arctan_fails(diagnose, monkeypatch):
    monkeypatch.setattr(doctor.jnp, "arctan", lambda x: x)
    code, (line,) = diagnose("arctan")
    assert code == 1
    assert line.startswith("FAIL arctan: jnp.arctan is off by 1.8e+00 (jax issue 39352)")


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
@pytest.mark.parametrize("layer", doctor.LAYERS)
def test_wrong_gradients_fail(diagnose, monkeypatch, layer, wrong):
    def broken(loss, params):
        gradient = doctor.numeric_gradient(loss, params)
        last = gradient[list(gradient)[-1]]
        last.flat[np.abs(last).argmax()] *= 1 + wrong
        return gradient

    layer_, shapes = doctor.LAYERS[layer]
    monkeypatch.setitem(doctor.LAYERS, layer, (lambda xp, p: layer_(np, p), shapes))
    monkeypatch.setattr(doctor, "jax_gradient", broken)
    code, (line,) = diagnose(f"gradient of {layer}")
    assert code == 1
    assert line.startswith(f"FAIL gradient of {layer}: relative error {wrong:.1e}, more than 0.0001; pip")


def test_gradient_of_a_wrong_engine_fails(diagnose, monkeypatch):
    real = doctor.lax.conv_general_dilated  # now in bfloat16, as an engine that ignores the precision would

    def rounded(x, kernel, *args, **kwargs):
        return real(x.astype("bfloat16"), kernel.astype("bfloat16"), *args, **kwargs).astype("float32")

    monkeypatch.setattr(doctor.lax, "conv_general_dilated", rounded)
    code, (line,) = diagnose("gradient of strided convolution")
    assert code == 1
    assert line.startswith("FAIL gradient of strided convolution: relative error")


def test_slow_scatter_fails(diagnose, monkeypatch):
    monkeypatch.setattr(doctor, "scatter_ratio", lambda: 500.0)
    code, (line,) = diagnose("scatter-add")
    assert code == 1
    assert line.startswith("FAIL scatter-add: 500 times slower")
    assert "46225" in line


@pytest.mark.parametrize(
    "probe, words",
    [
        ("print('hits', 0)", "38445"),
        ("raise SystemExit('no memory left')", "a second process cannot compile: no memory left"),
    ],
)
def test_cache_that_does_not_hit_is_a_warning(diagnose, monkeypatch, tmp_path, probe, words):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "zoo"))
    monkeypatch.setattr(doctor, "PROBE", probe)
    code, (line,) = diagnose("compilation cache")
    assert code == 0
    assert line.startswith("warn compilation cache: ")
    assert words in line


def test_cache_in_an_unsafe_folder_is_a_warning(diagnose, monkeypatch, tmp_path):
    tmp_path.chmod(0o777)
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    code, (line,) = diagnose("compilation cache")
    assert code == 0
    assert line.startswith("warn compilation cache: every start compiles anew: others may write")


def test_cache_switched_off_is_said(diagnose, monkeypatch):
    monkeypatch.setenv("ZOO_NO_CACHE", "1")
    assert diagnose("compilation cache")[1][0].endswith("switched off by ZOO_NO_CACHE")


def test_no_device_ends_the_diagnosis(diagnose, monkeypatch):
    def broken():
        raise RuntimeError("Unable to initialize backend 'cuda'\nand more")

    monkeypatch.setattr(jax, "local_devices", broken)
    code, lines = diagnose("devices", "sums")
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("FAIL devices: JAX finds no device (RuntimeError: Unable to initialize")
    assert "and more" not in lines[0]


def test_a_check_that_raises_fails_in_one_line(diagnose, monkeypatch):
    def broken():
        raise UserError("first\nsecond")

    monkeypatch.setattr(doctor, "scatter_ratio", broken)
    code, lines = diagnose("scatter-add", "environment")
    assert code == 1
    assert lines[0] == "FAIL scatter-add: UserError: first"
    assert lines[1].startswith("ok   environment")


def test_environment_is_shown(diagnose, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_some=1")
    monkeypatch.setenv("JAX_THING", "2")
    line = diagnose("environment")[1][0]
    assert "XLA_FLAGS='--xla_some=1'" in line
    assert "JAX_THING='2'" in line


def test_command_exits_with_one_and_without_a_traceback():
    command = [sys.executable, "-m", "zoo.doctor"]
    env = os.environ | {"JAX_PLATFORMS": "none_such"}
    found = subprocess.run(command, env=env, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert "FAIL devices: JAX finds no device" in found.stdout
    assert "Traceback" not in found.stdout + found.stderr
