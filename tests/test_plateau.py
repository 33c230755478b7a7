"""The scale of the learning rate at plateaus: when, how far, and the same in a run that was killed."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from zoo import checkpoint, loop, plateau

ROOT = pathlib.Path(__file__).parent.parent
DEFAULT = {
    "monitor": "validation/loss",
    "factor": 0.1,
    "patience": 2,
    "min_delta": 0.0,
    "cooldown": 0,
    "min_scale": 0.0,
    "mode": "auto",
}


def scales(values, **settings):
    """The scale after each evaluation."""
    return [plateau.scale(values[: n + 1], DEFAULT | settings) for n in range(len(values))]


@pytest.mark.parametrize(
    "values, settings, wanted",
    [
        ([5, 4, 3, 2], {}, [1, 1, 1, 1]),
        ([5, 4, 4, 4, 4, 4], {}, [1, 1, 1, 0.1, 0.1, 0.01]),  # equal is no improvement; the count starts again
        ([5, 6, 4, 5, 5], {}, [1, 1, 1, 1, 0.1]),  # 4 starts the count again
        ([5, 6, 6, 6], {"patience": 1, "factor": 0.5}, [1, 0.5, 0.25, 0.125]),
        ([5, 6, 6, 6], {"patience": 1, "min_scale": 0.05}, [1, 0.1, 0.05, 0.05]),
        ([5, 6, 6, 6, 6, 6], {"patience": 1, "cooldown": 2, "factor": 0.5}, [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ([5, 6, 4, 4.5, 3, 3], {"patience": 1, "cooldown": 1, "factor": 0.5}, [1, 0.5, 0.5, 0.25, 0.25, 0.125]),
        ([1.0, 0.95, 0.92, 0.85], {"min_delta": 0.1}, [1, 1, 0.1, 0.1]),
        ([1, 2, 3, 2, 2], {"monitor": "validation/accuracy"}, [1, 1, 1, 1, 0.1]),
        ([1, 2, 3, 2, 2], {"mode": "min"}, [1, 1, 0.1, 0.1, 0.01]),
        ([float("nan")] * 2, {}, [1, 0.1]),
        ([], {}, []),
    ],
)
def test_when(values, settings, wanted):
    assert scales(values, **settings) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(20))
def test_against_optax(seed):
    """optax.contrib keeps the same rule inside a step; its tolerance cannot be zero."""
    rng = np.random.default_rng(seed)
    values = np.round(np.cumsum(rng.normal(-0.05, 0.3, size=60)), 2)
    settings = {
        "factor": rng.uniform(0.2, 0.9),
        "patience": int(rng.integers(1, 5)),
        "min_delta": rng.choice([1e-6, 0.105]),
        "cooldown": int(rng.integers(0, 4)),
        "min_scale": rng.choice([0.0, 0.1]),
        "mode": rng.choice(["min", "max"]),
    }
    renamed = {key: settings[key] for key in ("factor", "patience", "cooldown", "min_scale")}
    tx = optax.contrib.reduce_on_plateau(**renamed, rtol=0.0, atol=settings["min_delta"])
    signed = values if settings["mode"] == "min" else -values

    def update(state, value):
        _, state = tx.update(jnp.float32(0), state, value=value)
        return state, state.scale

    _, theirs = jax.lax.scan(update, tx.init(jnp.float32(0)), signed.astype(np.float32))
    np.testing.assert_allclose(scales(values, **settings), theirs, rtol=1e-5)


def tiny(**overrides):
    settings = {
        "total_steps": 40,
        "eval_every_steps": 5,
        "log_every_steps": 2,
        "averaging.name": "none",
        "plateau.monitor": "validation/loss",
        "plateau.patience": 1,
        "plateau.factor": 0.5,
        "plateau.min_delta": 0.5,  # more than some of the evaluations gain
    }
    return zoo.config.load(ROOT / "tests/tiny.py", (settings | overrides).items())


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    zoo.train(tiny(), workdir)
    return workdir


def test_the_scale_is_in_the_logged_rate(whole):
    history = [(line["step"], line["validation/loss"]) for line in lines(whole) if "validation/loss" in line]
    schedule = zoo.run.prepare(tiny()).schedule
    seen = set()
    for line in lines(whole):
        if "lr" in line:
            last = line["step"] - 1  # the rate of the step that ended there; evaluations before it count
            scale = plateau.scale([value for step, value in history if step <= last], tiny().plateau)
            assert line["lr"] == pytest.approx(scale * float(schedule(last)), rel=1e-5)
            seen.add(scale)
    assert len(seen) >= 3


def test_the_scale_is_in_the_update(tmp_path):
    """With plain gradients, a run that is scaled from the first evaluation on is one of a dropped rate."""
    plain = {"optim.name": "sgd", "optim.lr": 0.1, "schedule.warmup_steps": None, "total_steps": 10}
    plateaus = {"plateau.min_delta": 100.0, "plateau.patience": 1, "plateau.factor": 0.5, "eval_every_steps": 2}
    # The first evaluation is the best, those of steps 4, 6 and 8 are not.
    zoo.train(tiny(**plain, **plateaus, **{"schedule.name": "constant"}), tmp_path / "scaled")
    steps = {"schedule.name": "step", "schedule.at": (40, 60, 80), "schedule.factor": 0.5}
    unset = {key: value for key, value in zoo.config.flat(zoo.config.default()).items() if "plateau" in key}
    zoo.train(tiny(**plain, **steps, **unset), tmp_path / "dropped")
    scaled, dropped = (checkpoint.load_variables(tmp_path / name) for name in ("scaled", "dropped"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scaled, dropped)


@pytest.mark.parametrize("killed_at", [7, 31])
def test_a_killed_run_has_the_same_scales(whole, tmp_path, monkeypatch, killed_at):
    prepare = loop.prepare

    def prepare_and_die(*args):
        run = prepare(*args)

        def train_step(state, *rest):
            if int(state.step) == killed_at:
                raise RuntimeError("killed")
            return run.train_step(state, *rest)

        return run._replace(train_step=train_step)

    monkeypatch.setattr(loop, "prepare", prepare_and_die)
    with pytest.raises(RuntimeError, match="killed"):
        zoo.train(tiny(), tmp_path)
    monkeypatch.undo()
    zoo.train(tiny(), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ours, theirs = checkpoint.load_variables(tmp_path), checkpoint.load_variables(whole)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_several_steps_per_call_have_the_same_scales(whole, tmp_path):
    zoo.train(tiny(**{"loop.steps_per_call": 4}), tmp_path)
    assert lines(tmp_path) == lines(whole)


def test_a_task_with_its_own_step_is_scaled(tmp_path):
    settings = {
        "model": {"name": "skipgram", "features": 8},
        "task": {"name": "word2vec", "block": 32, "shared": 8},
        "optim": {"name": "sgd", "lr": 0.05},
        "schedule": {"name": "constant"},
        "plateau": {"monitor": "analogies/accuracy", "patience": 1, "min_delta": 100.0, "factor": 0.5},
    }
    config = zoo.config.default()
    config.update(settings, total_steps=6, eval_every_steps=2, log_every_steps=1)
    config.data.update(name="grammar", batch_size=4096, sample=0.01)
    zoo.train(config, tmp_path)
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    np.testing.assert_allclose(np.divide(rates, rates[0]), [1, 1, 1, 1, 0.5, 0.5], rtol=1e-6)
