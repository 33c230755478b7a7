"""Metrics of regression against scikit-learn over several uneven batches, in the units of the data."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn import metrics as sk

from zoo import metrics, tasks
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


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
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


def test_r2_of_targets_that_are_all_equal():
    task = make()
    _, found = evaluate(task, np.float32([1, 2, 3]), np.full(3, 152.1, np.float32))
    assert np.isnan(task.finalize(metrics.divide(metrics.total([found])))["r2"])


def errors(rows):
    prediction, target = rows
    return (np.float64(prediction) - target) / META["target_std"]


LOSSES = {
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
    assert LOSSES.keys() == tasks.regression.LOSSES.keys()


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
        ({}, {"target_std": None}, r"data set 'test' has no targets; use task classification"),
    ],
)
def test_mistakes(options, meta, line):
    options, meta = {"name": "regression", **options}, META | meta
    with pytest.raises(UserError, match=line):
        tasks.make(options, MODEL, {**meta, "outputs": num_outputs(options, meta)})
