"""What a run takes from the weights that it starts from, and what it says of its own."""

import json

import jax
import numpy as np
import pytest

import zoo
from zoo import predict, semantics
from zoo.errors import UserError
from zoo.run import prepare

GIVEN = {"input_size": (8, 8, 1), "mean": (0.25,), "std": (0.5,)}


def tiny(**overrides):
    config = zoo.config.load(
        "tests/tiny.py", [("model.widths", "(4,)"), ("total_steps", "6"), ("averaging.name", "none")]
    )
    config.data.augment = {}
    return zoo.config.override(config, [(key.replace("__", "."), value) for key, value in overrides.items()])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file that knows its mean and deviation."""
    path = tmp_path_factory.mktemp("semantics") / "w.safetensors"
    model = zoo.create_model("mlp", widths=(4,), norm="batch", dropout=0.1)
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, np.zeros((1, 8, 8, 1), np.float32))
    zoo.save_weights(path, model, jax.tree.map(lambda s: np.ones(s.shape, np.float32), shapes), **GIVEN)
    return str(path)


def moments(run):
    """What the preprocessing does to 0 and 255."""
    batch = {"image": np.uint8([0, 255]).reshape(2, 1, 1, 1)}
    return np.asarray(run.dataset.preprocess(batch)["image"]).ravel().tolist()


def test_fine_tuning_normalizes_as_the_weights_want(weights):
    own = prepare(tiny()).dataset.meta
    for statistics, wanted in (("auto", GIVEN), ("weights", GIVEN), ("train", own)):
        run = prepare(tiny(init_from=weights, data__statistics=statistics))
        mean, std = wanted["mean"][0], wanted["std"][0]
        assert (run.dataset.meta["mean"], run.dataset.meta["std"]) == ([mean], [std])
        np.testing.assert_allclose(moments(run), [-mean / std, (1 - mean) / std], rtol=1e-5)
    other = prepare(tiny(init_from=weights, data__normalize="none"))
    np.testing.assert_allclose(moments(other), [0, 1], atol=1e-6)


def test_a_run_says_what_its_logits_are():
    said = []
    for task in ({}, {"loss": "binary_cross_entropy"}):
        config = tiny()
        config.task.update(task)
        run = prepare(config)
        said.append(semantics.of(run.config, run.model, run.dataset)["target_link"])
    assert said == [None, "logit"]


def test_images_are_turned_to_the_channel_order_of_the_weights(tmp_path):
    """And a run that starts from such a run, or its predictions, do so too."""
    image = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
    source = zoo.Source({"image": image, "label": np.arange(200, dtype=np.int32) % 10}, class_names=tuple("0123456789"))
    model = zoo.create_model("mlp", widths=(4,), norm="batch", dropout=0.1)
    variables = model.init({"params": jax.random.key(0)}, np.zeros((1, 8, 8, 3), np.float32))
    said = {"input_size": (8, 8, 3), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "channel_order": "BGR"}
    zoo.save_weights(tmp_path / "bgr.safetensors", model, variables, **said)
    config = tiny(init_from=str(tmp_path / "bgr.safetensors"), data__batch_size=8)
    zoo.train(config, tmp_path / "run", source=source)
    chained = tiny(init_from=str(tmp_path / "run"), data__batch_size=8)
    wanted = (image[:2, ..., ::-1] / 255 - said["mean"]) / said["std"]
    for found in (prepare(config, source), prepare(chained, source)):
        np.testing.assert_allclose(
            found.dataset.preprocess({"image": image[:2]})["image"], wanted, rtol=1e-4, atol=1e-5
        )
    assert json.loads((tmp_path / "run/model.json").read_text())["channel_order"] == "BGR"
    trained, variables, _ = zoo.load_model(tmp_path / "run")
    wanted = jax.nn.softmax(trained.apply(variables, np.float32(wanted)))
    np.testing.assert_allclose(predict.outputs(predict.load(tmp_path / "run"), list(image[:2])), wanted, rtol=1e-3)
    other = predict.load(tmp_path / "run", channel_order="RGB")  # given, it counts for a run folder too
    assert np.abs(predict.outputs(other, list(image[:2])) - wanted).max() > 1e-3
    turned = predict.outputs(other, list(image[:2, ..., ::-1]))
    np.testing.assert_allclose(turned, wanted, rtol=1e-3)


def test_statistics_that_nobody_knows(weights, tmp_path):
    for settings in ({}, {"init_from": weights, "data__normalize": "minmax"}):
        with pytest.raises(UserError, match=r"config\.data\.statistics is 'weights': it needs normalize='standardize'"):
            prepare(tiny(data__statistics="weights", **settings))
    with pytest.raises(UserError, match=r"choice \(config\.data\.statistics\) 'wieghts'; did you mean 'weights'"):
        prepare(tiny(data__statistics="wieghts"))
    model = zoo.create_model("mlp", widths=())
    params = {"head": {"kernel": np.ones((64, 10), np.float32), "bias": np.ones(10, np.float32)}}
    path = str(tmp_path / "colour")
    zoo.save_weights(path, model, {"params": params}, input_size=(8, 8, 3), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    own = prepare(tiny()).dataset.meta["mean"]
    assert prepare(tiny(init_from=path)).dataset.meta["mean"] == own  # of three channels; the data has one
    with pytest.raises(UserError, match="the mean of 3 image channels, the data has 1; set it to 'train'"):
        prepare(tiny(init_from=path, data__statistics="weights"))


def test_a_run_says_so_and_goes_on_without_the_file(weights, tmp_path):
    """A stored mean gives the same bits as the statistics that it was: training goes on from model.json alone."""
    settings = {"init_from": weights, "checkpoint__every_steps": 3, "eval_every_steps": 3}
    zoo.train(tiny(**settings), tmp_path / "a")
    said = json.loads((tmp_path / "a/model.json").read_text())
    assert (said["mean"], said["std"], said["model"]) == ([0.25], [0.5], "mlp")
    again = prepare(tiny(**settings | {"init_from": "gone"}), None, tmp_path / "a")
    assert moments(again) == moments(prepare(tiny(**settings)))
    with pytest.raises(UserError, match="cannot read the weights gone"):
        prepare(tiny(**settings | {"init_from": "gone"}))


def test_a_chain_of_runs_has_the_statistics_of_the_first(tmp_path):
    zoo.train(tiny(), tmp_path / "a")
    first, second = prepare(tiny()), prepare(tiny(init_from=str(tmp_path / "a"), data__split_seed=7))
    assert second.dataset.meta["mean"] == first.dataset.meta["mean"]
    assert moments(second) == moments(first)
    assert prepare(tiny(data__split_seed=7)).dataset.meta["mean"] != first.dataset.meta["mean"]
