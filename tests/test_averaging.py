"""Averaged weights: which ones are averaged, the batch statistics that fit them, and how they are kept."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import averaging
from zoo.checkpoint import load_variables
from zoo.data import feed
from zoo.errors import Interrupted, UserError
from zoo.types import TrainState

ROOT = pathlib.Path(__file__).parent.parent
SWA = {"name": "swa", "start_steps": 4, "every_steps": 3}
LENGTH = {"total_steps": 20, "steps_per_epoch": 3, "batch_size": 8}


def config(kind, **overrides):
    config = zoo.config.load(ROOT / "tests/tiny.py", {k.replace("__", "."): v for k, v in overrides.items()}.items())
    config.averaging = kind
    return config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


# --- which weights -----------------------------------------------------------------------------------------------


def ema_of(weights):
    """The recursion as TensorFlow documents it: ExponentialMovingAverage with num_updates."""
    average = np.zeros_like(weights[0])
    for t, weight in enumerate(weights):
        decay = min(0.9, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weight
    return average


KINDS = {
    "ema": ({"name": "ema", "decay": 0.9}, ema_of),
    "polyak": ({"name": "polyak", "start_percent": 35}, lambda w: np.mean(w[7:], 0) if len(w) > 7 else w[-1]),
    "polyak from the first": ({"name": "polyak", "start_steps": 0}, lambda w: np.mean(w, 0)),
    "swa": (SWA, lambda w: np.mean(w[3::3], 0) if len(w) >= 4 else w[-1]),
    "swa each epoch": ({"name": "swa"}, lambda w: np.mean(w[14::3], 0) if len(w) >= 15 else w[-1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_that_of_these_steps(kind):
    options, wanted = KINDS[kind]
    made = averaging.make(options, **LENGTH)
    weights = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    average = {"params": jnp.zeros(5), "batch_stats": jnp.zeros(5)}
    update = jax.jit(lambda average, state: averaging.update(made, average, state))
    for done in range(1, 21):
        newest = weights[done - 1]
        model_state = {"batch_stats": -newest, "carry": newest}
        average = update(average, TrainState(jnp.int32(done), newest, model_state, (), None))
        np.testing.assert_allclose(average["params"], wanted(weights[:done]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(average["batch_stats"], -average["params"])
        if done <= made.start:
            np.testing.assert_array_equal(average["params"], newest)


def test_no_averaging_keeps_nothing():
    assert averaging.make({"name": "none"}, **LENGTH) is None
    assert zoo.run.prepare(config({"name": "none"})).shapes[0].average is None


@pytest.mark.parametrize(
    "options, line",
    [
        ({"name": "swaa"}, r"unknown averaging 'swaa'; did you mean 'swa'"),
        ({"name": "none", "decay": 0.9}, r"config\.averaging: none has no option 'decay'"),
        ({"name": "ema", "start_steps": 3}, r"config\.averaging: ema has no option 'start_steps'"),
        ({"name": "ema", "decay": 0.0}, r"config\.averaging\.decay is 0\.0; it must be between 0 and 1"),
        ({"name": "polyak", "every_steps": 3}, r"config\.averaging: polyak has no option 'every_steps'"),
        ({"name": "swa", "every_steps": 0}, r"config\.averaging\.every_steps is 0; it must be at least 1 step"),
        ({"name": "swa", "start_steps": 1, "start_epochs": 1}, r"two durations .*start_steps and config\.averaging\.s"),
        ({"name": "polyak", "start_steps": 20}, r"polyak would start after step 20, but the run has 20 steps"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line):
        averaging.make(options, **LENGTH)


# --- in a run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swa_run(tmp_path_factory):
    """SWA from step 4 on in 24 steps, evaluated every 10: (work directory, report)."""
    workdir = tmp_path_factory.mktemp("swa")
    return workdir, zoo.train(config(SWA, total_steps=24, data__augment__shift=0), workdir)


@pytest.mark.parametrize("device", ["yes", "no"])
def test_batch_statistics_are_those_of_the_average(swa_run, tmp_path, device):
    """Mean and variance of the first layer under the averaged weights, over all whole batches, by NumPy."""
    workdir, report = swa_run
    if device == "no":
        again = zoo.train(config(SWA, total_steps=24, data__augment__shift=0, data__device="no"), tmp_path)
        assert again["metrics"]["test"]["loss"] == pytest.approx(report["metrics"]["test"]["loss"], rel=1e-4)
        workdir = tmp_path
    variables = load_variables(workdir)
    run = zoo.run.prepare(config(SWA, total_steps=24))
    batches = [jax.device_get(batch) for batch in run.dataset.eval("train")]
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    steps = run.dataset.meta["steps_per_epoch"]
    rows = feed.epoch_order(len(images), 128, 0, -(-24 // steps))
    x = np.asarray(run.dataset.preprocess({"image": images[rows]})["image"]).reshape(len(rows), -1)
    dense = x @ variables["params"]["dense1"]["kernel"] + variables["params"]["dense1"]["bias"][None]
    stats = variables["batch_stats"]["norm1"]
    np.testing.assert_allclose(stats["mean"], dense.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], dense.var(0), rtol=1e-4)


def test_evaluated_beside_the_raw_weights(swa_run, tmp_path):
    workdir, report = swa_run
    plain = zoo.train(config({"name": "none"}, total_steps=24, data__augment__shift=0), tmp_path / "plain")
    assert report["metrics"]["test_raw"] == plain["metrics"]["test"]  # averaging does not touch training
    assert report["metrics"]["test"] != report["metrics"]["test_raw"]
    step, results = zoo.evaluate(config(SWA, total_steps=24, checkpoint__best=0), workdir)  # of the last checkpoint
    assert (step, results["test"]) == (24, report["metrics"]["test"])


def test_before_the_start_the_average_is_the_raw_weights(tmp_path):
    zoo.train(config({"name": "polyak", "start_steps": 10}, total_steps=20), tmp_path)
    by_step = {line["step"]: line for line in lines(tmp_path) if "validation/loss" in line}
    assert by_step[10]["validation/loss"] == by_step[10]["validation_raw/loss"]
    assert by_step[20]["validation/loss"] != by_step[20]["validation_raw/loss"]


def test_killed_and_resumed(swa_run, signalled, tmp_path):
    """Between two evaluations, after the average began."""
    options = {"total_steps": 24, "data__augment__shift": 0}
    with signalled(12), pytest.raises(Interrupted):
        zoo.train(config(SWA, **options), tmp_path)
    zoo.train(config(SWA, **options), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (swa_run[0] / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, load_variables(tmp_path), load_variables(swa_run[0]))
