"""Noise on inputs, labels and weights: how much of it, where, and never in evaluation."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import create_model, noise, tasks
from zoo.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
OFF = dict.fromkeys(noise.OPTIONS, 0.0)
META = {"name": "test", "num_classes": None, "target_mean": 0.0, "target_std": 1.0}
META |= {"shapes": {"feature": (6,), "target": ()}}


@pytest.fixture(scope="module")
def linear():
    """Linear regression on 40 rows: (task, params, batch, predictions)."""
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.standard_normal((40, 6))), np.float32(rng.standard_normal(40))
    task = tasks.make({"name": "regression"}, create_model("mlp", widths=(), num_classes=1), META)
    params = {"head": {"kernel": np.float32(rng.standard_normal((6, 1))), "bias": np.float32([0.5])}}
    return task, params, {"feature": x, "target": y}, x @ params["head"]["kernel"][:, 0] + 0.5


def drawn(task, params, batch, draws=4_000):
    """Training loss and its gradients with this many keys, [draws] each."""
    fn = jax.value_and_grad(lambda p, key: task.loss(p, {}, batch, key, train=True)[0])
    return jax.jit(jax.vmap(fn, (None, 0)))(params, jax.random.split(jax.random.key(0), draws))


def close(samples, wanted):
    """Whether the mean is `wanted`, to 5 standard errors."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0) / len(samples) ** 0.5
    assert (error > 0).all()
    np.testing.assert_array_less(np.abs(samples.mean(0) - wanted), 5 * error)


def test_input_noise_is_ridge_regression(linear):
    """Bishop 1995: on average, noise of deviation s adds s^2 |w|^2 to the mean squared error."""
    task, params, batch, predicted = linear
    x, y, w = batch["feature"], batch["target"], params["head"]["kernel"][:, 0]
    losses, grads = drawn(noise.add(task, OFF | {"input_noise": 0.3}, META, params), params, batch)
    close(losses, np.mean((predicted - y) ** 2) + 0.09 * w @ w)
    close(grads["head"]["kernel"][..., 0], 2 * x.T @ (predicted - y) / 40 + 2 * 0.09 * w)


def test_weight_noise(linear):
    """On average, it adds s^2 |x|^2; the bias stays as it is, and the clean weights get the gradient."""
    task, params, batch, predicted = linear
    x, y = batch["feature"], batch["target"]
    losses, grads = drawn(noise.add(task, OFF | {"weight_noise": 0.2}, META, params), params, batch)
    close(losses, np.mean((predicted - y) ** 2) + 0.04 * np.mean(np.sum(x**2, 1)))
    close(grads["head"]["kernel"][..., 0], 2 * x.T @ (predicted - y) / 40)
    moved = noise.noisy(jax.random.key(0), params, {"head": {"kernel": 0.2, "bias": 0.0}})
    np.testing.assert_array_equal(moved["head"]["bias"], params["head"]["bias"])
    assert (moved["head"]["kernel"] != params["head"]["kernel"]).all()


def test_weight_noise_by_rules():
    big = {"a": {"kernel": jnp.zeros((300, 400))}, "b": {"kernel": jnp.zeros((300, 400)), "bias": jnp.zeros(3)}}
    seen = {}

    def loss(params, model_state, batch, key, *, train):
        seen[train] = params
        return jnp.zeros(()), (model_state, {})

    task = noise.add(
        zoo.types.Task(None, loss), OFF | {"weight_noise": (("a/.*", 0.5), (".*/bias", 0.0), (".*", 2.0))}, META, big
    )
    for train in (True, False):
        task.loss(big, {}, {}, jax.random.key(0), train=train)
    assert seen[False] is big
    assert np.std(seen[True]["a"]["kernel"]) == pytest.approx(0.5, rel=0.01)
    assert np.std(seen[True]["b"]["kernel"]) == pytest.approx(2.0, rel=0.01)
    assert not seen[True]["b"]["bias"].any()
    correlation = np.corrcoef(seen[True]["a"]["kernel"].ravel(), seen[True]["b"]["kernel"].ravel())[0, 1]
    assert abs(correlation) < 0.02


def test_label_noise():
    labels = np.repeat(np.arange(5, dtype=np.int32), 20_000)
    found = noise.disturbed(jax.random.key(0), labels, 0.3, 5)
    assert found.dtype == np.int32
    counts = np.histogram2d(labels, np.asarray(found), bins=5)[0] / 20_000
    wanted = 0.06 + 0.7 * np.eye(5)  # every fifth of the replaced ones is right by chance
    np.testing.assert_allclose(counts, wanted, atol=5 * (0.24 * 0.76 / 20_000) ** 0.5)


def test_label_noise_reaches_both_labels_of_a_mixed_image():
    seen = {}

    def loss(params, model_state, batch, key, *, train):
        seen[train] = batch
        return jnp.zeros(()), (model_state, {})

    meta = META | {"num_classes": 7, "shapes": {"image": (2, 2, 1), "label": ()}}
    task = noise.add(zoo.types.Task(None, loss), OFF | {"label_noise": 1.0}, meta, {})
    batch = {"image": np.zeros((900, 2, 2, 1)), **dict.fromkeys(("label", "label_mixed"), np.zeros(900, np.int32))}
    for train in (True, False):
        task.loss({}, {}, batch, jax.random.key(0), train=train)
    for key in ("label", "label_mixed"):
        assert set(np.asarray(seen[True][key])) == set(range(7))
        assert not seen[False][key].any()
    assert (seen[True]["label"] != seen[True]["label_mixed"]).any()
    assert seen[True]["image"] is batch["image"]


def test_no_noise_is_the_same_task(linear):
    task, params, *_ = linear
    assert noise.add(task, OFF, META, params) is task
    assert noise.add(task, OFF | {"weight_noise": ((".*", 0.0),)}, META, params) is task


@pytest.mark.parametrize(
    "data, still",
    [
        ({"feature": (6,), "category": (2,)}, 2),  # numbers of categories, which the model embeds
        ({"image": (4, 4, 1)}, 0),  # as data.normalize='pca' leaves them
    ],
)
def test_input_noise_on_what_the_model_sees(data, still):
    seen = {}

    def loss(params, model_state, batch, key, *, train):
        seen[train] = batch["feature"]
        return jnp.zeros(()), (model_state, {})

    meta = META | {"shapes": data, "cardinalities": (4,) * still or None}
    task = noise.add(zoo.types.Task(None, loss), OFF | {"input_noise": 0.3}, meta, {})
    feature = np.ones((900, 8), np.float32)
    task.loss({}, {}, {"feature": feature}, jax.random.key(0), train=True)
    moved = np.asarray(seen[True]) - feature
    np.testing.assert_allclose(moved.std(0), [0.3] * (8 - still) + [0] * still, rtol=0.1)


@pytest.mark.parametrize(
    "options, line",
    [
        ({"input_noise": -0.1}, r"config\.regularize\.input_noise is -0\.1; a standard deviation is a number"),
        ({"weight_noise": -1.0}, r"config\.regularize\.weight_noise is -1\.0"),
        ({"weight_noise": ((".*", "big"),)}, r"config\.regularize\.weight_noise is 'big'"),
        ({"weight_noise": (("body/.*", 0.1),)}, r"regularize\.weight_noise: rule 'body/\.\*' matches no parameter"),
        ({"weight_noise": "much"}, r"regularize\.weight_noise: a rule is a pair \(regex, value\), not 'm'"),
        ({"label_noise": 1.5}, r"config\.regularize\.label_noise is 1\.5; it is a share of the labels"),
        ({"label_noise": 0.1}, r"config\.regularize\.label_noise: data set 'test' does not have one class per example"),
    ],
)
def test_mistakes(linear, options, line):
    with pytest.raises(UserError, match=line):
        noise.add(linear[0], OFF | options, META, linear[1])


def test_words_have_no_input_noise(linear):
    with pytest.raises(UserError, match=r"input_noise: data set 'test' has neither images nor features"):
        noise.add(linear[0], OFF | {"input_noise": 0.1}, META | {"shapes": {"token": (5,)}}, linear[1])


def test_a_run_with_all_three(tmp_path):
    """They reach the training step, and evaluation is without."""
    config = zoo.config.load(ROOT / "tests/tiny.py", [("total_steps", "20"), ("averaging.name", "none")])
    plain = zoo.train(config, tmp_path / "plain")
    config.regularize.update(input_noise=0.3, label_noise=0.2, weight_noise=((".*kernel", 0.05),))
    noisy = zoo.train(config, tmp_path / "noisy")
    assert noisy["metrics"]["test"]["loss"] > plain["metrics"]["test"]["loss"]
    config.regularize.update(input_noise=0.0, label_noise=0.0, weight_noise=0.0)
    assert zoo.evaluate(config, tmp_path / "noisy")[1] == noisy["metrics"]
