"""A run that was killed, at any moment, ends exactly like one that was not."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import zoo
from zoo.checkpoint import Checkpoints
from zoo.errors import UserError
from zoo.run import prepare

ROOT = pathlib.Path(__file__).parent.parent


def command(script, *args):
    return [sys.executable, str(ROOT / script), *map(str, args)]


def run(script, *args, **kwargs):
    return subprocess.run(command(script, *args), cwd=ROOT, capture_output=True, text=True, timeout=120, **kwargs)


def train(workdir, *args):
    return run("train.py", "--config", "tests/tiny.py", "--workdir", workdir, *args)


def final_state(workdir):
    """Every array of the last checkpoint, by path."""
    config = zoo.config.load(ROOT / "tests/tiny.py")
    shapes = prepare(config).shapes
    with Checkpoints(workdir / "checkpoints", keep=9, best=0) as checkpoints:
        step, tree, _ = checkpoints.restore(shapes)
    return step, {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def assert_same_run(a, b):
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    (step_a, state_a), (step_b, state_b) = final_state(a), final_state(b)
    assert step_a == step_b == 60
    assert state_a.keys() == state_b.keys()
    for path in state_a:
        assert state_a[path].tobytes() == state_b[path].tobytes(), path
    reports = [json.loads((folder / "report.json").read_text()) for folder in (a, b)]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert reports[0]["best"] == reports[1]["best"]


def test_bit_exact_after_sigkill(uninterrupted, tmp_path):
    """Seven kills in one run: before the first checkpoint, between steps, and while a checkpoint is being written."""
    workdir = tmp_path / "run"
    rng = np.random.default_rng(time.time_ns() % 2**32)
    kills = [("step", 3), ("save", 1, 0.0), ("step", int(rng.integers(7, 16))), ("save", 2, rng.uniform(0, 0.02)),
             ("save", 1, rng.uniform(0, 0.03)), ("step", int(rng.integers(7, 16))), ("save", 2, 0.01)]  # fmt: skip
    for kill in kills:
        died = run("tests/killed_run.py", workdir, *kill)
        assert died.returncode == -signal.SIGKILL, (kill, died.stderr)
        assert not (workdir / "report.json").exists()
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stdout
    assert_same_run(uninterrupted, workdir)


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_resumes(uninterrupted, tmp_path, signum, code):
    workdir = tmp_path / "run"
    args = ("--config", "tests/tiny.py", "--workdir", workdir)
    process = subprocess.Popen(command("train.py", *args), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.005)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stderr.count("\n") == 1
    assert "run the same command again" in stderr
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, workdir)


def test_finished_run_says_so_and_evaluates(uninterrupted):
    names = ("report.json", "metrics.jsonl", "config.json", "model.json")
    before = [(uninterrupted / name).read_bytes() for name in names]
    again = train(uninterrupted)
    assert again.returncode == 0, again.stderr
    assert "already finished at step 60" in again.stdout
    assert "test accuracy" in again.stdout
    assert [(uninterrupted / name).read_bytes() for name in names] == before


def test_longer_run_goes_on_and_tells_the_change(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    assert train(workdir, "--config.total_steps=6").returncode == 0
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    assert "total_steps: 6 -> 60" in done.stdout
    assert json.loads((workdir / "report.json").read_text())["step"] == 60


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_damaged_last_checkpoint_falls_back(uninterrupted, tmp_path, damage):
    workdir = tmp_path / "run"
    assert train(workdir, "--config.total_steps=24").returncode == 0
    before = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())[-2]
    largest = max((workdir / "checkpoints/24").rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    if damage == "truncated":
        largest.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        for i in range(0, len(data), len(data) // 16):  # some bytes of Orbax's files belong to nothing any more
            data[i] ^= 0xFF
        largest.write_bytes(data)
    else:
        largest.unlink()
    done = train(workdir)
    assert done.returncode == 0, done.stderr
    assert "warning: checkpoint" in done.stderr
    assert "24 is damaged" in done.stderr
    assert f"resuming from step {before} of" in done.stdout
    assert (workdir / "damaged-24").is_dir()
    assert final_state(workdir)[0] == 60


def test_only_damaged_checkpoints_are_refused(tmp_path):
    workdir = tmp_path / "run"
    assert train(workdir, "--config.total_steps=6").returncode == 0
    for file in (workdir / "checkpoints/6").rglob("d/*"):
        file.write_bytes(b"")
    refused = train(workdir)
    assert refused.returncode == 2
    assert "can be read" in refused.stderr
    assert (workdir / "checkpoints/6").is_dir()


@pytest.mark.parametrize(
    "change, path", [("widths=(33,)", "params/dense1/kernel"), ("widths=(32,32)", "params/dense2")]
)
def test_checkpoint_of_another_model_is_refused(uninterrupted, change, path):
    before = (uninterrupted / "metrics.jsonl").read_bytes(), (uninterrupted / "config.json").read_bytes()
    refused = train(uninterrupted, f"--config.model.{change}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert path in refused.stderr
    assert "float32[" in refused.stderr
    assert ((uninterrupted / "metrics.jsonl").read_bytes(), (uninterrupted / "config.json").read_bytes()) == before


def test_two_runs_in_one_folder(tmp_path):
    from zoo.run_folder import RunFolder

    with RunFolder(tmp_path), pytest.raises(UserError, match="in use by process"):
        RunFolder(tmp_path)
    with RunFolder(tmp_path):
        pass
