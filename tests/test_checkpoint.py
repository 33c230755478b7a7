"""Which checkpoints are kept, found and read."""

import contextlib
import gc
import itertools
import json
import pathlib
import shutil
import sys
import threading
import types

import jax
import numpy as np
import optax
import pytest

import zoo
from zoo import checkpoint, metrics, optim
from zoo.checkpoint import Checkpoints
from zoo.errors import UserError
from zoo.types import TrainState

ROOT = pathlib.Path(__file__).parent.parent


def tiny(**overrides):
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return zoo.config.load(ROOT / "tests/tiny.py", settings.items())


def damage(folder):
    """Cuts the largest file to the half."""
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture
def damages():
    """Orbax leaves coroutines of reads that failed, which end with a warning when they are collected: here."""
    yield
    gc.collect()


ORBAX_LEAVES_COROUTINES = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


HISTORIES = [
    ("max", [0.5, 0.9, 0.9, 0.8, 0.7]),  # of equal values the first is the best
    ("min", [0.5, 0.3, 0.3, 0.4, 0.3]),
    ("max", [0.5, 0.9, np.nan, 0.8, 0.7]),  # NaN is never the best
    ("min", [np.nan, None, 0.9, np.nan, 1.0]),  # None: not evaluated
]


@pytest.mark.parametrize("mode, values", HISTORIES)
@pytest.mark.parametrize("reopened", [False, True])
def test_the_best_is_kept(tmp_path, mode, values, reopened):
    """By one process, or by one for each checkpoint, as after restarts: no others pile up."""
    evaluated = [np.nan if value is None else value for value in values]
    with contextlib.ExitStack() as opened:
        for step in range(1, len(values) + 1):
            if reopened or step == 1:
                opened.close()
                checkpoints = opened.enter_context(Checkpoints(tmp_path, keep=1, best=1))
            ranked = [i + 1 for i in metrics.ranked(evaluated[:step], mode)]
            checkpoints.save(step, {"w": np.full(3, step, np.float32)}, {}, ranked)
        checkpoints.wait()
        found = [value for value in evaluated if not np.isnan(value)]
        best = evaluated.index(max(found) if mode == "max" else min(found))
        assert checkpoints.steps() == [best + 1, len(values)]


def state_of(options, total_steps):
    """A train state of `config.optim`, in which every array has another value."""
    params = {name: {"kernel": np.zeros((2, 2), np.float32)} for name in ("conv", "dense1", "dense2", "head")}
    tx = optim.make({"lr": 0.1, **options}, optax.constant_schedule(1.0), params, total_steps=total_steps)
    state = TrainState(np.int32(0), params, {}, jax.device_get(tx.init(params)), None)
    values = itertools.count()
    return jax.tree.map(lambda x: np.full_like(x, next(values)), state)


CLIPS = {"clip_value": 1.0, "clip_global_norm": 1.0, "noise": (0.01, 0.55)}
LATER = {"unfreeze": ((25, "dense1/.*"), (50, "dense2/.*"))}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "before, after",
    [
        (({}, 12), (CLIPS, 12)),
        ((CLIPS, 12), ({}, 12)),
        (({"lookahead": (2, 0.5), "accumulate": 2}, 12), ({"lookahead": (2, 0.5), "accumulate": 2, **CLIPS}, 12)),
        ((LATER, 12), (LATER, 60)),  # from other steps on: groups in optax with other numbers
        ((LATER | {"freeze": ("head/.*",), "sam_rho": 0.1}, 12), (LATER | {"freeze": ("head/.*",), "sam_rho": 0.1}, 8)),
    ],
)
def test_settings_that_keep_the_arrays_may_change(tmp_path, name, before, after):
    old, new = (state_of({"name": name, **options}, total) for options, total in (before, after))
    assert jax.tree.structure(old) != jax.tree.structure(new)
    with Checkpoints(tmp_path, keep=1, best=0) as checkpoints:
        checkpoints.save(1, (old, np.float32(0)), {}, [])
        checkpoints.wait()
        _, (found, _), _ = checkpoints.restore(jax.device_put((new, np.float32(0))))
    jax.tree.map(np.testing.assert_array_equal, found, new)  # `new` counts its arrays as `old` does


@pytest.mark.parametrize("after", [{"name": "adamw"}, {"name": "adamw", "unfreeze": LATER["unfreeze"][:1]}])
def test_settings_that_change_the_arrays_are_refused(tmp_path, after):
    with Checkpoints(tmp_path, keep=1, best=0) as checkpoints:
        checkpoints.save(1, state_of({"name": "adamw", **LATER}, 12), {}, [])
        checkpoints.wait()
        with pytest.raises(UserError, match=r"1 does not fit this config: 0?/?opt_state/inner/.*; and \d+ more"):
            checkpoints.restore(jax.device_put(state_of(after, 12)))


def test_one_that_was_cut_off_does_not_exist(tmp_path):
    assert not checkpoint.exists(tmp_path)
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not checkpoint.exists(tmp_path)
    (tmp_path / "checkpoints" / "6").mkdir()
    assert checkpoint.exists(tmp_path)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A finished run of 12 steps, with checkpoints of the steps 10 and 12."""
    workdir = tmp_path_factory.mktemp("other")
    zoo.train(tiny(total_steps=12), workdir)
    return workdir


def test_init_from_survives_a_kill_in_the_first_save(other, tmp_path):
    """The imported weights are what the second start begins with too, not fresh ones."""
    killed = tmp_path / "killed"
    (killed / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir(parents=True)
    (killed / ".lock").touch()
    reports = [zoo.train(tiny(total_steps=6, init_from=str(other)), path) for path in (killed, tmp_path / "whole")]
    assert reports[0]["metrics"] == reports[1]["metrics"]


@ORBAX_LEAVES_COROUTINES
def test_a_damaged_last_checkpoint_of_a_run_to_start_from(damages, other, tmp_path):
    shutil.copytree(other, folder := tmp_path / "run")
    damage(folder / "checkpoints" / "12")
    with pytest.warns(UserWarning, match=r"12 is damaged \(.*\); looking for another"):
        found = checkpoint.load_variables(folder)
    shutil.rmtree(folder / "checkpoints" / "12")
    wanted = checkpoint.load_variables(folder)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))
    damage(folder / "checkpoints" / "10")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        checkpoint.load_variables(folder)
    with pytest.raises(UserError, match=r"nowhere is not a run folder \(it has no checkpoints\); train there first"):
        checkpoint.load_variables(tmp_path / "nowhere")


def test_weights_are_those_that_the_report_is_about(tmp_path):
    """With restore_best, the best and not the last, and the last again when the run goes on."""
    monitor = {"monitor": "validation/loss", "patience": 1, "restore_best": True}
    overrides = {f"early_stopping__{key}": value for key, value in monitor.items()}
    settings = {
        "optim__name": "sgd",
        "optim__lr": 5.0,
        "schedule__name": "constant",
        "checkpoint__monitor": "validation/loss",
    }
    report = zoo.train(config := tiny(total_steps=60, averaging__name="none", **overrides, **settings), tmp_path)
    with Checkpoints(tmp_path / "checkpoints", keep=2, best=1) as checkpoints:
        assert report["step"] < max(checkpoints.steps())
    variables = zoo.load_model(tmp_path)[1]
    run = zoo.run.prepare(config, workdir=tmp_path)
    batch = next(iter(run.dataset.eval("validation")))
    sums, _ = run.eval_step(variables, batch)
    assert float(sums["loss"][0] / sums["loss"][1]) == pytest.approx(report["metrics"]["validation"]["loss"], rel=1e-5)
    again = zoo.train(zoo.config.override(config, [("log_every_steps", 5)]), tmp_path)
    assert again["step"] == report["step"]  # no step more, though another setting
    jax.tree.map(np.testing.assert_array_equal, zoo.load_model(tmp_path)[1], variables)
    (tmp_path / "config.json").write_text(json.dumps({**report["config"], "total_steps": 90}))  # as a run that goes on
    last = zoo.load_model(tmp_path)[1]
    assert not jax.tree.all(jax.tree.map(np.array_equal, variables["params"], last["params"]))


@ORBAX_LEAVES_COROUTINES
def test_evaluation_falls_back_when_the_best_is_damaged(damages, tmp_path):
    config = tiny(total_steps=24, averaging__name="none", checkpoint__monitor="validation/accuracy")
    best = zoo.train(config, tmp_path)["best"]["step"]
    damage(tmp_path / "checkpoints" / str(best))
    with pytest.warns(UserWarning, match="is damaged"):
        step, values = zoo.evaluate(config, tmp_path)
    assert step != best
    assert values["validation"]["accuracy"] > 0.1


def test_reads_that_end_after_the_first_damaged_one_print_nothing(monkeypatch):
    """What Orbax does now and then, on a busy machine."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: shown.append(str(found.exc_value)))

    def late(message):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(message)))

    @checkpoint._late_reads_ignored()
    def read():
        threading.Timer(0.1, late, ["Event loop is closed"]).start()
        late("something else")
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        read()
    late("Event loop is closed")
    assert shown == ["something else", "Event loop is closed"]


def test_damaged_checkpoints_never_take_the_place_of_one_another(tmp_path):
    for content in "ab":
        (tmp_path / "checkpoints" / "7").mkdir(parents=True)
        (tmp_path / "checkpoints" / "7" / content).touch()
        checkpoint._move_aside(tmp_path / "checkpoints" / "7")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "damaged-7", "damaged-7-2"]
