"""The loop: what it waits for, what it compiles, when it stops, and what it leaves behind."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event

import zoo
from zoo import checkpoint, compilation, loop, run_folder
from zoo import step as steps
from zoo.errors import Interrupted, NonFiniteError, UserError
from zoo.step import Window
from zoo.types import Dataset, Feed, Task

ROOT = pathlib.Path(__file__).parent.parent


def tiny(**overrides):
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return zoo.config.load(ROOT / "tests/tiny.py", settings.items())


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def watched(monkeypatch):
    """The order of what the loop does: ('step', k) when step k is dispatched, 'fetch' when it waits for the device.

    A number that is read by float, int, bool, item or tolist counts too (what NumPy reads on the CPU does not).
    """
    events = []
    prepare, device_get = loop.prepare, jax.device_get
    array, read = type(jnp.zeros(1)), type(jnp.zeros(1))._value.fget

    def watched_prepare(*args):
        run = prepare(*args)

        def train_step(*step_args):
            events.append(("step", sum(e[0] == "step" for e in events) + 1, compilation.compilations()))
            return run.train_step(*step_args)

        return run._replace(train_step=train_step)

    def watched_get(tree):
        events.append(("window",) if isinstance(tree, Window) else ("fetch",))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(array, "_value", property(read))
            return device_get(tree)

    monkeypatch.setattr(loop, "prepare", watched_prepare)
    monkeypatch.setattr(jax, "device_get", watched_get)
    monkeypatch.setattr(array, "_value", property(lambda x: (events.append(("fetch",)), read(x))[1]))
    return events


def test_metrics_of_a_step_are_fetched_after_the_next_was_dispatched(watched, tmp_path):
    zoo.train(tiny(total_steps=30, eval_every_steps=30, log_every_steps=10, checkpoint__every_steps=30), tmp_path)
    order = [e[1] if e[0] == "step" else e[0] for e in watched]
    windows = [order[:i].count("window") for i in range(len(order))]
    first, second = (i for i, e in enumerate(order) if e == "window" and windows[i] < 2)
    assert order[first - 1] == 11  # the window of step 10, after step 11 went off
    assert order[second - 1] == 21
    between = order[order.index(1) : order.index(30)]
    assert between.count("fetch") == 0  # nothing else waited in 30 steps


def test_a_number_read_between_steps_is_seen(watched):
    """The test above can fail."""
    float(jnp.ones(3).sum())
    assert watched == [("fetch",)]


def test_no_hidden_transfers(tmp_path):
    """Whatever moves from the host to the device was asked for (on an accelerator, both ways)."""
    with jax.transfer_guard("disallow"):
        zoo.train(tiny(total_steps=12), tmp_path)
    assert lines(tmp_path)[-1]["step"] == 12


def test_nothing_compiles_after_the_first_steps(watched, tmp_path):
    """Several epochs, partial batches, two splits of unequal size, averaged and raw weights, checkpoints."""
    zoo.train(tiny(total_steps=40), tmp_path)
    steps = {e[1]: e[2] for e in watched if e[0] == "step"}
    end = compilation.compilations()
    # Step 2 found the training step compiled; the first evaluation, at step 10, is the last to compile anything.
    assert steps[10][::2] == steps[3][::2]
    evaluated = steps[12]
    late = end - evaluated
    assert evaluated.count + evaluated.cache_hits > 0
    assert (late.count, late.cache_hits) == (0, 0)


def test_one_device_and_four_agree(tmp_path):
    # Plain gradients: Adam divides tiny ones by their own size, rounding included.
    settings = {"total_steps": "20", "optim.name": "sgd", "optim.lr": "0.05"}
    zoo.train(zoo.config.load(ROOT / "tests/tiny.py", settings.items()), tmp_path / "four")
    assert json.loads((tmp_path / "four/report.json").read_text())["device"]["count"] == 4
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    command = [sys.executable, "train.py", "--config", "tests/tiny.py", "--workdir", tmp_path / "one"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=120)
    assert json.loads((tmp_path / "one/report.json").read_text())["device"]["count"] == 1
    for a, b in zip(lines(tmp_path / "four"), lines(tmp_path / "one"), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if "accuracy" in name:
                assert abs(a[name] - b[name]) < 0.01
            else:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=f"{name} at step {a['step']}")


def test_streamed_and_resident_data_give_the_same_run(tmp_path):
    zoo.train(tiny(total_steps=20), tmp_path / "device")
    zoo.train(tiny(total_steps=20, data__device="no"), tmp_path / "host")
    for a, b in zip(lines(tmp_path / "device"), lines(tmp_path / "host"), strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)


def test_a_finished_run_is_not_what_other_settings_give(tmp_path):
    zoo.train(tiny(total_steps=6), tmp_path)
    before = (tmp_path / "report.json").read_bytes(), (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"is finished, with other settings \(optim\.lr: 0\.01 -> 0\.5\); give another"):
        zoo.train(tiny(total_steps=6, optim__lr="0.5"), tmp_path)
    assert before == ((tmp_path / "report.json").read_bytes(), (tmp_path / "config.json").read_bytes())


def test_the_report_of_a_finished_run_stays_when_settings_were_added_since(tmp_path):
    zoo.train(tiny(total_steps=6), tmp_path)
    for name in ("report.json", "config.json"):
        content = json.loads((tmp_path / name).read_text())
        content.get("config", content).pop("plateau")
        (tmp_path / name).write_text(json.dumps(content))
    before = (tmp_path / "report.json").read_bytes()
    zoo.train(tiny(total_steps=6), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before


def test_a_run_without_held_out_rows(tmp_path, capsys):
    config = tiny(total_steps=6, data__validation=0.0, data__test=0.0)
    zoo.train(config, tmp_path)
    assert "trained, with no rows held out to evaluate (6 steps" in capsys.readouterr().out
    with pytest.raises(UserError, match="nothing to evaluate"):
        zoo.evaluate(config, tmp_path)


def test_what_json_has_no_word_for_is_null(tmp_path):
    with run_folder.RunFolder(tmp_path) as folder:
        folder.start(0)
        folder.write(1, {"a": float("nan"), "b": 0.5})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": null, "b": 0.5}\n'
        (line,) = folder.read()
        assert np.isnan(line["a"])
    assert run_folder.to_json({"x": [1.0, (float("inf"), "y")]}) == '{"x": [1.0, [null, "y"]]}'


def test_the_files_of_a_run(tmp_path):
    config = tiny(total_steps=20)
    report = zoo.train(config, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(config.to_dict()))
    wanted = {
        "config",
        "model",
        "parameters",
        "seed",
        "step",
        "seconds",
        "metrics",
        "best",
        "versions",
        "device",
        "commit",
    }
    assert wanted <= report.keys()
    assert {"import", "data", "compile", "train", "eval", "checkpoint", "total"} <= report["seconds"].keys()
    assert set(report["metrics"]) == {"validation", "validation_raw", "test", "test_raw"}
    assert report["versions"]["jax"] == jax.__version__
    assert "XLA_FLAGS" in report["versions"]
    assert report["parameters"] == 64 * 32 + 32 + 2 * 32 + 32 * 10 + 10

    logged = [line for line in lines(tmp_path) if "train/loss" in line]
    assert [line["step"] for line in logged] == [7, 14, 20]
    assert all({"train/accuracy", "lr", "grad_norm", "update_ratio"} <= line.keys() for line in logged)
    assert [line["step"] for line in lines(tmp_path) if "validation/loss" in line] == [10, 20]

    scalars = {(value.tag, event.step) for event in events(tmp_path) for value in event.summary.value}
    assert {("train/loss", 7), ("lr", 14), ("grad_norm", 20), ("update_ratio", 7), ("validation/loss", 10)} <= scalars


def events(workdir):
    """The TensorBoard events of a folder: records of length, its checksum, the event, its checksum."""
    for path in sorted(workdir.glob("events.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_the_learning_rate_and_norms_in_the_log_are_right(tmp_path):
    config = tiny(total_steps=8, log_every_steps=1, averaging__name="none")
    config.optim = {"name": "sgd", "lr": 1e-3}
    config.schedule = {"name": "linear"}
    zoo.train(config, tmp_path)
    logged = [line for line in lines(tmp_path) if "lr" in line]
    np.testing.assert_allclose([line["lr"] for line in logged], 1e-3 * (1 - np.arange(8) / 8), rtol=1e-6)
    # The update of plain SGD is lr times the gradient.
    variables = checkpoint.load_variables(tmp_path)
    norm = np.sqrt(sum(float((x.astype(np.float64) ** 2).sum()) for x in jax.tree.leaves(variables["params"])))
    last = logged[-1]
    np.testing.assert_allclose(last["update_ratio"], last["lr"] * last["grad_norm"] / norm, rtol=1e-3)


def test_early_stopping_ends_with_the_best_weights(tmp_path):
    config = tiny(total_steps=400, optim__lr=0.3, averaging__name="none", eval_every_steps=5)
    config.early_stopping.update(monitor="validation/loss", patience=3)
    report = zoo.train(config, tmp_path)
    history = [(line["step"], line["validation/loss"]) for line in lines(tmp_path) if "validation/loss" in line]
    best_step, best = min(history, key=lambda item: item[1])
    assert history[-1][0] < 400
    assert len([step for step, _ in history if step > best_step]) == 3
    assert report["step"] == report["best"]["step"] == best_step
    assert report["metrics"]["validation"]["loss"] == best
    again = zoo.train(config, tmp_path)  # a finished run stays finished
    assert again["step"] == best_step
    assert lines(tmp_path)[-1]["step"] == history[-1][0]


def test_early_stopping_without_restoring(tmp_path):
    config = tiny(total_steps=400, optim__lr=0.3, averaging__name="none", eval_every_steps=5)
    config.early_stopping.update(monitor="validation/loss", patience=3, restore_best=False)
    report = zoo.train(config, tmp_path)
    assert report["step"] == lines(tmp_path)[-1]["step"] > report["best"]["step"]


def test_the_best_checkpoint_is_the_best_of_early_stopping(tmp_path):
    """By its mode too, which matters for a metric with a name of one's own; here the highest loss stands in."""
    config = tiny(total_steps=60, averaging__name="none")
    config.early_stopping.update(monitor="validation/loss", mode="max", patience=2)
    report = zoo.train(config, tmp_path)
    assert lines(tmp_path)[-1]["step"] == 30  # it falls
    assert report["step"] == report["best"]["step"] == 10
    assert zoo.evaluate(config, tmp_path)[0] == 10


def test_eval_only_takes_the_best_checkpoint(tmp_path):
    config = tiny(total_steps=60, optim__lr=0.3, averaging__name="none", eval_every_steps=5)
    report = zoo.train(config, tmp_path)
    step, results = zoo.evaluate(config, tmp_path)
    assert step == report["best"]["step"]
    assert results["validation"]["loss"] == report["best"]["value"]
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert step in kept
    assert len(kept) <= 3  # the last two and the best


@pytest.mark.parametrize("keep, best", [(1, 0), (3, 2), (1, 4)])
def test_how_many_checkpoints_are_kept(tmp_path, keep, best):
    """The last ones, and the best of all evaluations, which were saved when they were made."""
    noisy = {"optim__name": "sgd", "optim__lr": 6.0, "schedule__name": "constant"}
    config = tiny(total_steps=60, averaging__name="none", eval_every_steps=2, **noisy)
    config.checkpoint.update(keep=keep, best=best, monitor="validation/loss")
    zoo.train(config, tmp_path)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    history = {line["step"]: line["validation/loss"] for line in lines(tmp_path) if "validation/loss" in line}

    def best_until(last):
        return sorted((step for step in history if step <= last), key=history.get)[:best]

    saved = [step for step in history if step % 6 == 0 or step in best_until(step)]
    assert kept == {*saved[-keep:], *best_until(60)}


def test_a_signal_saves_the_step_that_it_interrupts(signalled, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    saved = "SIGTERM: stopped after step 13 of 60, which is saved in"
    with signalled(12), pytest.raises(Interrupted, match=saved) as error:
        zoo.train(tiny(), tmp_path)
    assert error.value.signum == signal.SIGTERM
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == 13
    assert signal.getsignal(signal.SIGTERM) is before


def test_nan_names_the_parameter_and_keeps_the_checkpoint(tmp_path):
    config = tiny(total_steps=60, averaging__name="none")
    config.optim = {"name": "sgd", "lr": 1e30}
    config.schedule = {"name": "step", "at": (40,), "factor": 1.0, "warmup_steps": 0}
    config.model.norm = "none"
    with pytest.raises(NonFiniteError, match=r"gradient of \w+/\w+ is NaN or infinite at step \d+"):
        zoo.train(config, tmp_path / "diverged")

    good = zoo.train(tiny(total_steps=12), tmp_path / "run")
    config = tiny(total_steps=60)
    config.data.augment = {}
    config.data.normalize = "none"
    before = {p.name for p in (tmp_path / "run/checkpoints").iterdir()}
    source = zoo.data.load("digits")
    poisoned = source._replace(
        train={"feature": np.full((1797, 4), np.inf, np.float32), "label": source.train["label"]}
    )
    assert good["step"] == 12
    with pytest.raises(NonFiniteError, match="at step 1; no checkpoint"):
        zoo.train(config, tmp_path / "nan", source=poisoned)
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == before


@pytest.mark.parametrize("bad", [0, 3, 5, 8])
@pytest.mark.parametrize("log_every", [4, 100])
def test_a_nan_gradient_beside_a_finite_loss_is_found_at_its_step(bad, log_every):
    """sqrt(0 * b) has the value 0 and a NaN gradient."""

    def loss(params, model_state, batch, key, *, train):
        b = jax.lax.cond(batch["step"] == bad, lambda b: jnp.sqrt(0 * b), lambda b: b, params["b"])
        value = params["a"] ** 2 + b
        return value, ({}, {"loss": (value, jnp.float32(1))})

    task = Task(lambda key, batch: {"params": {"a": jnp.float32(1), "b": jnp.float32(1)}}, loss)
    dataset = Dataset(Feed(None, lambda fetched, step: {"step": step}), None, lambda batch: batch, {})
    tx = optax.sgd(0.01, momentum=0.5)
    train_step = jax.jit(
        steps.make_train_step(
            task, tx, lambda step: 0.01, dataset, None, averaging=None, log_every=log_every, total_steps=12
        )
    )
    state = steps.first_state(tx, task.init(None, None), average=False)
    window = steps.empty_window({"loss": (jnp.zeros(()), jnp.zeros(()))})
    for _ in range(12):
        state, window = train_step(state, window, None, jnp.uint32(0))
    assert (int(window.bad_step), int(window.bad_leaf)) == (bad, 1)


def test_a_checkpoint_never_holds_a_nan(monkeypatch, tmp_path):
    """A gradient that breaks at the very step that is saved, with a loss that is still fine."""
    prepare = loop.prepare

    def prepare_and_break(*args):
        run = prepare(*args)

        def train_step(state, *rest):
            broken = int(state.step) == 11
            state, window = run.train_step(state, *rest)
            params = jax.tree.map(lambda x: x * jnp.nan, state.params) if broken else state.params
            return state._replace(params=params), window

        return run._replace(train_step=train_step)

    monkeypatch.setattr(loop, "prepare", prepare_and_break)
    with pytest.raises(NonFiniteError, match=r"gradient of dense1/bias .* at step 12; the checkpoint of step 10"):
        zoo.train(tiny(total_steps=30), tmp_path)
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == 10


def test_nan_on_the_command_line_exits_with_3(tmp_path):
    arguments = ["--config.optim.name=sgd", "--config.optim.lr=1e30", "--config.model.norm=none"]
    done = subprocess.run(
        [sys.executable, "train.py", "--config", "tests/tiny.py", "--workdir", tmp_path / "run", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "NaN or infinite" in done.stderr


def test_weights_by_hand_and_from_another_run(tmp_path):
    plain = {"averaging__name": "none"}
    config = tiny(total_steps=1, optim__lr=1e-12, schedule__name="constant", schedule__warmup_steps=0, **plain)
    first = zoo.train(tiny(total_steps=30, **plain), tmp_path / "first")
    config.init_from = str(tmp_path / "first")
    again = zoo.train(config, tmp_path / "again")
    assert again["metrics"]["test"]["loss"] == pytest.approx(first["metrics"]["test"]["loss"], rel=1e-2)  # BN moved
    config.init_from = None
    given = zoo.train(config, tmp_path / "given", variables=checkpoint.load_variables(tmp_path / "first"))
    assert given["metrics"]["test"] == again["metrics"]["test"]
    with pytest.raises(UserError, match=r"first was saved with widths=\(32,\); the model has \(16,\)"):
        zoo.train(tiny(model__widths="(16,)", init_from=str(tmp_path / "first")), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_arrays_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    feature = rng.normal(size=(512, 5)).astype(np.float32)
    label = (feature @ [1, -2, 3, 0, 1] > 0).astype(np.int32)
    config = zoo.config.default()
    config.model = {"name": "mlp", "widths": ()}
    config.optim.lr = 0.05
    config.total_epochs = 30
    config.data.batch_size = 64
    source = zoo.Source({"feature": feature, "label": label}, class_names=("no", "yes"))
    report = zoo.train(config, tmp_path, source=source)
    assert report["metrics"]["test"]["accuracy"] > 0.95


def test_ema_is_evaluated_beside_the_raw_weights(tmp_path):
    report = zoo.train(tiny(total_steps=20), tmp_path)
    assert report["metrics"]["test"] != report["metrics"]["test_raw"]
    plain = zoo.train(tiny(total_steps=20, averaging__name="none"), tmp_path / "plain")
    assert plain["metrics"]["test"] == report["metrics"]["test_raw"]  # averaging does not touch training


def test_several_steps_per_call_are_the_same_steps(watched, tmp_path):
    """To the bit, over log lines, evaluations, checkpoints and epochs at other steps than the calls end."""
    results = {}
    for per_call in (1, 4):
        watched.clear()
        workdir = tmp_path / str(per_call)
        zoo.train(tiny(loop__steps_per_call=per_call), workdir)
        assert (sum(e[0] == "step" for e in watched) == 60) == (per_call == 1)
        results[per_call] = lines(workdir), zoo.checkpoint.load_variables(workdir)
    assert results[1][0] == results[4][0]
    assert len(results[1][0]) > 10
    jax.tree.map(np.testing.assert_array_equal, results[1][1], results[4][1])


@pytest.mark.parametrize("setting", [0, -1, 2.5, True, "many"])
def test_steps_per_call_that_make_no_sense(setting):
    with pytest.raises(UserError, match=r"steps_per_call is .*'auto' or a number of at least 1"):
        zoo.run.prepare(tiny(loop__steps_per_call=setting))


def test_streamed_batches_take_one_step_per_call():
    assert zoo.run.prepare(tiny(data__device="no")).steps_per_call == 1
    with pytest.raises(UserError, match="steps_per_call is 2, but the data is streamed"):
        zoo.run.prepare(tiny(data__device="no", loop__steps_per_call=2))
