"""The learning-rate range test: its arithmetic, what it leaves alone, and that its rates are good to train with."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import zoo
from zoo import lr_find
from zoo.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


def tiny(*overrides):
    return zoo.config.load(ROOT / "tests/tiny.py", overrides)


@pytest.fixture(scope="module")
def found():
    return lr_find.range_test(tiny(), low=1e-5, high=100.0, steps=120)


def test_smoothing():
    np.testing.assert_allclose(lr_find.smooth([3.0] * 5), 3.0)  # the start at zero does not show
    np.testing.assert_allclose(lr_find.smooth([1.0, 2.0]), [1.0, (0.09 * 1 + 0.1 * 2) / 0.19])


def curve(*, fastest, lowest, noise=0.0):
    """Losses over 200 rates: a smooth fall, fastest at one rate, and a rise after another."""
    rates = np.geomspace(1e-6, 10, 200)
    x = np.log10(rates)
    losses = 1 + 1 / (1 + np.exp(4 * (x - np.log10(fastest)))) + np.maximum(x - np.log10(lowest), 0)
    return rates, losses + noise * np.random.default_rng(0).normal(size=200)


@pytest.mark.parametrize("fastest", [1e-4, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_suggestion(fastest, noise):
    rates, losses = curve(fastest=fastest, lowest=30 * fastest, noise=noise)
    suggestion, maximum = lr_find.suggest(rates, losses)
    assert abs(np.log10(suggestion / fastest)) < (0.15 if noise else 0.05)
    assert abs(np.log10(maximum / (30 * fastest))) < (0.3 if noise else 0.1)


def test_the_first_losses_are_noise():
    """The average of a few losses jumps more than the loss ever falls in one step."""
    rates, losses = curve(fastest=1e-2, lowest=0.3)
    losses[:3] += [0.3, -0.3, 0.3]
    suggestion, _ = lr_find.suggest(rates, lr_find.smooth(losses))
    assert 3e-3 < suggestion < 3e-2


def test_a_loss_that_never_fell():
    rates = np.geomspace(1e-3, 1, 50)
    with pytest.raises(UserError, match=r"the loss never fell between rates of 0\.001 and 1; start lower"):
        lr_find.suggest(rates, np.linspace(1, 2, 50))


def test_the_rates_grow_until_the_loss_explodes(found):
    assert found.exploded
    steps = len(found.rates)
    assert len(found.losses) == len(found.smoothed) == steps < 120
    np.testing.assert_allclose(found.rates, 1e-5 * 1e7 ** (np.arange(steps) / 120), rtol=1e-4)
    assert found.smoothed[-1] > 4 * found.smoothed.min() >= max(found.smoothed[:-1])
    assert found.suggestion < found.maximum < found.rates[-1]


def test_a_range_without_an_explosion():
    """Of a recipe whose other settings fit its own length and evaluations alone."""
    config = tiny(("averaging.name", "swa"), ("averaging.start_steps", "70"), ("total_steps", "100"))
    config.early_stopping.monitor = config.checkpoint.monitor = "validation_raw/loss"
    found = lr_find.range_test(config, low=1e-5, high=1e-2, steps=60)
    assert not found.exploded
    assert len(found.rates) == 60


def test_it_starts_where_the_recipe_does_and_leaves_all_alone(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny()
    before = config.to_json_best_effort()
    again = lr_find.range_test(config, low=1e-5, high=100.0, steps=120)
    np.testing.assert_array_equal(again.losses, found.losses)  # the same seed
    assert config.to_json_best_effort() == before
    assert not list(tmp_path.iterdir())
    zoo.train(tiny(), tmp_path / "run")
    trained = lr_find.range_test(tiny(("init_from", str(tmp_path / "run"))), low=1e-5, high=1e-2, steps=60)
    assert trained.losses[0] < 0.5 * found.losses[0]


@pytest.mark.parametrize(
    "options, line",
    [
        ({"low": 1.0, "high": 0.1}, r"the rates go from 1 to 0\.1; they must be positive, and the second the larger"),
        ({"low": 0.0}, r"the rates go from 0 to 10"),
        ({"steps": 39}, r"39 steps are too few for a range test; take at least 40"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line):
        lr_find.range_test(tiny(), **options)


def run(*command):
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)


@pytest.mark.slow
@pytest.mark.parametrize("recipe, epochs", [("digits_lenet", 20), ("mnist_mlp", 2)])
def test_the_suggestion_is_good_to_train_with(recipe, epochs, tmp_path):
    """Kept constant from start to end, and the maximum as the peak of a cycle; 100 times the suggestion is not."""
    done = run("tests/range_tested_run.py", recipe, str(epochs), tmp_path)
    assert done.returncode == 0, done.stderr
    accuracies = json.loads(done.stdout.splitlines()[-1])
    assert accuracies["suggestion"] >= 0.95
    assert accuracies["peak of a cycle"] >= 0.95
    assert accuracies["100 times"] < 0.85


ARGUMENTS = ["--config=tests/tiny.py", "--low=1e-5", "--high=100", "--steps=100"]


def test_the_command(tmp_path):
    done = run("scripts/lr_find.py", *ARGUMENTS, f"--output={tmp_path / 'lr.png'}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["rate", "loss"]
    assert len(lines) >= 8
    assert "exploded at a rate of" in done.stdout
    assert "suggestion: --config.optim.lr=" in done.stdout
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_without_matplotlib(tmp_path):
    without = (
        "import sys, runpy; sys.modules['matplotlib'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    done = run("-c", without, "scripts/lr_find.py", *ARGUMENTS, f"--output={tmp_path / 'lr.png'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "suggestion: --config.optim.lr=" in done.stdout
    assert "pip install -e '.[plot]'" in done.stdout
    assert not (tmp_path / "lr.png").exists()
