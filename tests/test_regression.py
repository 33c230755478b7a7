"""Metrics of regression against scikit-learn over several uneven batches, in the units of the data."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn import metrics as sk

import zoo
from zoo import losses, metrics, predict, tasks
from zoo.errors import UserError
from zoo.tasks import num_outputs

META = {"name": "test", "num_classes": None, "target_mean": 152.1, "target_std": 77.0}

# A model whose outputs are its inputs.
MODEL = SimpleNamespace(
    init=lambda rngs, x, train: {"params": {}},
    apply=lambda variables, x, train, **kwargs: (x, {}) if kwargs else x,
)


def make(loss="mse"):
    return tasks.make({"name": "regression", "loss": loss}, MODEL, META)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    target = np.float32(rng.gamma(4, 40, size=103))
    prediction = target * 0.8 + 30 * rng.standard_normal(103) + 20  # in the units of the data
    return np.float32(prediction), target


def evaluate(task, prediction, target, mask=None, *, train=False):
    feature = np.float32((prediction - META["target_mean"]) / META["target_std"])[:, None]
    batch = {"feature": feature, "target": target} | ({} if mask is None else {"mask": mask})
    loss, (_, found) = jax.jit(lambda b: task.loss({}, {}, b, jax.random.key(0), train=train))(batch)
    return float(loss), jax.device_get(found)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "log_cosh"])
def test_metrics_against_sklearn_over_uneven_batches(rows, loss):
    prediction, target = rows
    task, parts = make(loss), []
    for start in range(0, 103, 40):  # the last batch has 23 rows and 17 of padding
        index = np.arange(start, start + 40)
        mask, index = index < 103, np.where(index < 103, index, 0)
        parts.append(evaluate(task, prediction[index], target[index], mask)[1])
    found = task.finalize(metrics.divide(metrics.total(parts)))
    assert found["mse"] == pytest.approx(sk.mean_squared_error(target, prediction), rel=1e-4)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(target, prediction), rel=1e-4)
    assert found["r2"] == pytest.approx(sk.r2_score(target, prediction), abs=1e-4)
    assert set(found) == {"loss", "mse", "mae", "r2"}
    # R2 is not the mean of the R2 of the batches.
    each = [sk.r2_score(target[i : i + 40], prediction[i : i + 40]) for i in range(0, 103, 40)]
    assert abs(np.mean(each) - found["r2"]) > 1e-3


def test_r2_of_simple_predictions(rows):
    _, target = rows
    task = make()

    def r2(prediction):
        _, found = evaluate(task, np.float32(prediction), target)
        return task.finalize(metrics.divide(metrics.total([found])))["r2"]

    assert r2(target) == pytest.approx(1, abs=1e-6)
    assert r2(np.full_like(target, target.mean())) == pytest.approx(0, abs=1e-5)
    assert r2(np.full_like(target, 0)) < -1


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_r2_of_targets_that_are_all_equal(rows):
    task = make()
    for target in np.float32([152.1, *np.linspace(160, 9000, 20)]):
        _, found = evaluate(task, np.arange(rows, dtype=np.float32), np.full(rows, target))
        assert np.isnan(task.finalize(metrics.divide(metrics.total([found])))["r2"])


def test_r2_of_targets_far_from_those_of_training(rows):
    """All of them more than 100 deviations above, and yet not equal."""
    prediction, target = (np.float64(each) + 100 * META["target_std"] for each in rows)
    task = make()
    found = task.finalize(metrics.divide(metrics.total([evaluate(task, prediction, np.float32(target))[1]])))
    assert found["r2"] == pytest.approx(sk.r2_score(target, prediction), abs=0.01)


def errors(rows):
    prediction, target = rows
    return (np.float64(prediction) - target) / META["target_std"]


LOSSES = {
    "log_cosh": lambda e: np.log(np.cosh(e)),
    "mse": lambda e: e**2,
    "mae": np.abs,
    "huber": lambda e: np.where(np.abs(e) <= 1, e**2 / 2, np.abs(e) - 0.5),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_of_standardized_targets(rows, name, train):
    each = LOSSES[name](errors(rows) * 4)
    prediction, target = rows
    far = target + 4 * (prediction - target)  # some errors beyond one deviation
    loss, found = evaluate(make(name), far, target, train=train)
    assert loss == pytest.approx(each.mean(), rel=1e-4)
    assert found["loss"] == (pytest.approx(each.sum(), rel=1e-4), 103)
    if name == "huber":
        assert 0.1 < (np.abs(errors(rows) * 4) > 1).mean() < 0.9


def test_every_loss_is_tested():
    assert {*LOSSES, "poisson"} == set(losses.REGRESSION)


def test_the_delta_of_huber(rows):
    prediction, target = rows
    task = tasks.make({"name": "regression", "loss": "huber", "delta": 0.2}, MODEL, META)
    e = np.abs(errors(rows))
    assert 0.1 < (e > 0.2).mean() < 0.9
    wanted = np.where(e <= 0.2, e**2 / 2, 0.2 * (e - 0.1))
    assert evaluate(task, prediction, target)[0] == pytest.approx(wanted.mean(), rel=1e-4)


def test_poisson_learns_the_log_of_a_rate():
    """An output of 0 is the mean of the training targets; the other metrics are of rates, in units of the data."""
    rng = np.random.default_rng(0)
    log_ratio, target = np.float32(0.5 * rng.standard_normal(103)), np.float32(rng.poisson(3, 103))
    meta = META | {"target_mean": 3.0, "target_std": 1.7, "target_min": 0.0}
    task = tasks.make({"name": "regression", "loss": "poisson"}, MODEL, meta)
    loss, (_, found) = task.loss({}, {}, {"feature": log_ratio[:, None], "target": target}, None, train=False)
    rate = 3 * np.exp(np.float64(log_ratio))
    assert loss == pytest.approx((rate - target * np.log(rate)).mean(), rel=1e-5)
    assert 2 * loss + 2 * (target * np.log(np.where(target, target, 1)) - target).mean() == pytest.approx(
        sk.mean_poisson_deviance(target, rate), rel=1e-4
    )
    values = task.finalize(metrics.divide(metrics.total([jax.device_get(found)])))
    assert values["mse"] == pytest.approx(sk.mean_squared_error(target, rate), rel=1e-4)
    assert values["r2"] == pytest.approx(sk.r2_score(target, rate), abs=1e-4)


@pytest.mark.parametrize("loss", ["mse", "huber", "poisson"])
def test_several_targets(loss):
    rng = np.random.default_rng(0)
    target = np.float32(rng.poisson((3, 40), (103, 2)))
    outputs = np.float32(0.3 * rng.standard_normal((103, 2)))
    mean, std = target.mean(0), target.std(0)
    meta = META | {"target_mean": mean.tolist(), "target_std": std.tolist(), "target_min": 0.0}
    task = tasks.make({"name": "regression", "loss": loss}, MODEL, meta)
    assert num_outputs({"name": "regression"}, meta) == 2
    parts = []
    for start in (0, 60):  # the second batch has 43 rows and 17 of padding
        index = np.arange(start, start + 60)
        batch = {"feature": outputs[index % 103], "target": target[index % 103], "mask": index < 103}
        parts.append(jax.device_get(task.loss({}, {}, batch, None, train=False)[1][1]))
    found = task.finalize(metrics.divide(metrics.total(parts)))
    prediction = mean * np.exp(outputs) if loss == "poisson" else outputs * std + mean
    assert found["mse"] == pytest.approx(sk.mean_squared_error(target, prediction), rel=1e-4)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(target, prediction), rel=1e-4)
    assert found["r2"] == pytest.approx(sk.r2_score(target, prediction), abs=1e-4)
    if loss == "mse":
        assert found["loss"] == pytest.approx((((prediction - target) / std) ** 2).mean(), rel=1e-4)


def test_a_run_with_several_targets(tmp_path):
    """From the arrays of a user to predictions: the head is as wide as there are targets, each with its own scale."""
    x = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32)
    y = np.stack([x @ np.float32([1, -2, 0.5, 0]), 1000 + 300 * x[:, 3]], 1)
    config = zoo.config.default()
    config.model, config.task = {"name": "mlp", "widths": ()}, {"name": "regression"}
    config.optim.update(lr=0.05)
    config.update(total_epochs=30, eval_every_epochs=30)
    config.data.batch_size = 64
    report = zoo.train(config, tmp_path / "run", source=zoo.Source({"feature": x, "target": y}))
    assert report["metrics"]["test"]["r2"] > 0.99
    assert report["parameters"] == 4 * 2 + 2
    found = predict.outputs(predict.load(tmp_path / "run"), list(x))
    assert sk.r2_score(y, found, multioutput="raw_values") == pytest.approx([1, 1], abs=0.01)


def test_a_run_on_counts(tmp_path):
    """Poisson regression finds the rates, and predicts them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    rate = 3 * np.exp(x @ [1.0, -0.5])
    config = zoo.config.default()
    config.model, config.task = {"name": "mlp", "widths": ()}, {"name": "regression", "loss": "poisson"}
    config.optim.update(lr=0.05)
    config.update(total_epochs=20, eval_every_epochs=20)
    source = zoo.Source({"feature": x, "target": np.float32(rng.poisson(rate))})
    zoo.train(config, tmp_path / "run", source=source)
    found = predict.outputs(predict.load(tmp_path / "run"), list(x))
    assert np.abs(found / rate - 1).max() < 0.2


def test_masked_rows_count_for_nothing(rows):
    prediction, target = rows
    mask = np.random.default_rng(1).random(103) < 0.5
    loss, found = evaluate(make(), np.where(mask, prediction, np.nan), np.where(mask, target, np.nan), mask)
    wanted_loss, wanted = evaluate(make(), prediction[mask], target[mask])
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4)


def test_num_outputs():
    assert num_outputs({"name": "regression"}, META) == 1


@pytest.mark.parametrize(
    "options, meta, line",
    [
        ({"loss": "mes"}, {}, r"unknown regression loss 'mes'; did you mean 'mse'"),
        ({"los": "mse"}, {}, r"config\.task: regression has no option 'los'; did you mean 'loss'"),
        ({"binary": True}, {}, r"regression has no option 'binary'"),
        ({"loss": "mse", "delta": 1.0}, {}, r"delta is an option of loss huber, and loss is mse; leave it out"),
        ({"loss": "huber", "delta": 0.0}, {}, r"delta is 0\.0; it must be above 0"),
        ({"loss": "poisson"}, {"target_min": -1.0}, r"loss poisson needs counts, but the smallest target is -1"),
        ({}, {"target_std": None, "num_classes": 3}, r"data set 'test' has no targets; use task classification"),
    ],
)
def test_mistakes(options, meta, line):
    options, meta = {"name": "regression", **options}, META | meta
    with pytest.raises(UserError, match=line):
        tasks.make(options, MODEL, {**meta, "outputs": num_outputs(options, meta)})
