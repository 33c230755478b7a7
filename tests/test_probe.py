"""Linear probes: the same head as full training with a frozen encoder, and a whole model in the end."""

import json

import jax
import numpy as np
import pytest

import zoo
from zoo import checkpoint, loop
from zoo.errors import UserError
from zoo.probe import Head
from zoo.rules import flatten

SMALL = {
    "mlp": {"widths": (8,)},
    "resnet20_cifar": {"depths": (1,), "width": 4, "dtype": "bfloat16"},
}


def tiny(**overrides):
    config = zoo.config.load("tests/tiny.py")
    config.data.augment = {}
    config.model.dropout = 0.0
    return zoo.config.override(config, [(key.replace("__", "."), value) for key, value in overrides.items()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a trained model, and of a probe and a training with a frozen encoder from it."""
    folder = tmp_path_factory.mktemp("probe")
    zoo.train(tiny(total_steps=12, seed=5), folder / "first")
    start = {"total_steps": 24, "init_from": str(folder / "first"), "optim__weight_decay": 0.1}
    zoo.train(tiny(**start, optim__freeze=("(?!head/).*",), freeze_stats=(".*",)), folder / "frozen")
    zoo.train(tiny(**start, probe=True), folder / "probe")
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_what_full_training_with_a_frozen_encoder_learns(runs):
    first, frozen, probe = (flatten(checkpoint.load_variables(runs / n)) for n in ("first", "frozen", "probe"))
    assert probe.keys() == frozen.keys()
    for path in frozen:
        np.testing.assert_allclose(probe[path], frozen[path], rtol=1e-4, atol=1e-6, err_msg=path)
        assert np.array_equal(probe[path], first[path]) != path.startswith("params/head/"), path
    for a, b in zip(lines(runs / "probe"), lines(runs / "frozen"), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=f"{name} at step {a['step']}")


def test_a_frozen_encoder_is_the_same_function_afterwards(runs):
    """Bit for bit, after steps with weight decay: parameters, statistics, and so the features."""
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    (model, before, _), (_, after, _) = (zoo.load_model(runs / name) for name in ("first", "frozen"))
    np.testing.assert_array_equal(*(model.clone(num_classes=0).apply(v, x) for v in (before, after)))
    before, after = flatten(before), flatten(after)
    moved = [path for path in before if not np.array_equal(before[path], after[path])]
    assert moved == ["params/head/bias", "params/head/kernel"]


def test_the_network_runs_once_over_each_split(runs, monkeypatch, tmp_path):
    """What the steps get is the features; the images are gone."""
    found, on_features = [], loop.on_features

    def watched(run, variables):
        run = on_features(run, variables)
        found.append((run.dataset, jax.tree.map(np.shape, run.dataset.train.fetch(0)[0])))
        return run

    monkeypatch.setattr(loop, "on_features", watched)
    report = zoo.train(tiny(total_steps=6, init_from=str(runs / "first"), probe=True), tmp_path)
    assert "features" in report["seconds"]
    ((dataset, resident),) = found
    rows = dataset.meta["splits"]
    assert resident == {"feature": (rows["train"], 32), "label": (rows["train"],)}
    for split in rows:
        batches = list(dataset.eval(split))
        assert sum(int(batch["mask"].sum()) for batch in batches) == rows[split]
        assert batches[0].keys() == {"feature", "label", "mask"}


def test_a_whole_model_comes_out(runs):
    """Evaluation runs the network itself, and finds what the probe found on its features."""
    report = json.loads((runs / "probe/report.json").read_text())
    step, results = zoo.evaluate(tiny(total_steps=24, init_from=str(runs / "first"), probe=True), runs / "probe")
    assert step == report["best"]["step"]
    np.testing.assert_allclose(results["validation"]["loss"], report["best"]["value"], rtol=1e-5)
    model, variables, said = zoo.load_model(runs / "probe")
    assert model.num_classes == 10
    assert said["mean"] == json.loads((runs / "first/model.json").read_text())["mean"]
    assert model.apply(variables, np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 10)


def test_a_killed_probe_goes_on_to_the_same_bits(runs, tmp_path):
    config = tiny(init_from=str(runs / "first"), optim__weight_decay=0.1, probe=True, total_steps=24)
    prepare = loop.prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prepare", lambda *args: prepare(*args)._replace(total_steps=13))
        zoo.train(config, tmp_path)
    config.init_from = str(tmp_path / "gone")  # the checkpoint has the encoder, model.json the statistics
    zoo.train(config, tmp_path)
    goes_on, whole = (flatten(checkpoint.load_variables(folder)) for folder in (tmp_path, runs / "probe"))
    for path, array in whole.items():
        np.testing.assert_array_equal(goes_on[path], array, err_msg=path)


@pytest.mark.parametrize("name", SMALL)
def test_the_head_on_features_is_the_model(name):
    model = zoo.create_model(name, num_classes=3, **SMALL[name])
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)
    variables = jax.tree.map(lambda s: np.random.default_rng(1).random(s.shape, np.float32), shapes)

    @jax.jit
    def both(variables, x):
        features = model.clone(num_classes=0).apply(variables, x)
        return Head(3).apply(variables, features), model.apply(variables, x)

    np.testing.assert_allclose(*both(variables, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings, line",
    [
        ({}, r"config\.probe trains a head on given features; set config\.init_from"),
        ({"data__augment__shift": 1}, r"leave data\.augment\.shift out"),
        ({"optim__freeze": ("dense1/.*",)}, r"leave optim\.freeze out"),
        ({"freeze_stats": (".*",)}, r"leave freeze_stats out"),
        ({"regularize__activity": (("l1", "dense1", 1e-4),)}, r"leave regularize\.activity out"),
        ({"data__curriculum__by": "label"}, r"leave data\.curriculum\.by out"),
        ({"regularize__label_noise": 0.1}, r"leave regularize\.label_noise out"),
        ({"model__dropout": 0.5}, r"set model\.dropout to 0 \(it is 0\.5\)"),
        ({"model__widths": (), "model__norm": "none"}, r"needs layers that give features.*model mlp does not have"),
        ({"data__name": "shapes", "task__name": "segmentation", "model__name": "unet"}, r"model unet does not have"),
    ],
)
def test_what_it_has_no_use_for(tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        zoo.train(tiny(probe=True, **settings), tmp_path / "x")
