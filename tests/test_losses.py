"""Losses of single examples against their formulas in NumPy; tests/peers compares them with PyTorch and Keras."""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from zoo import losses
from zoo.errors import UserError

ROWS = 9


def case(outputs, size=2.0):
    rng = np.random.default_rng(outputs)
    logits = np.float32(size * rng.standard_normal((ROWS, outputs)))
    return logits, rng.integers(max(outputs, 2), size=ROWS).astype(np.int32)


def probabilities(logits):
    """[classes], two of them for one logit."""
    return np.exp(log_softmax(np.r_[0, logits] if len(logits) == 1 else logits))


def yes(logits, label):
    return np.array([label]) if len(logits) == 1 else np.eye(len(logits))[label]


# (logits float64 [C], label) -> the loss of one example
FORMULAS = {
    "binary_cross_entropy": lambda z, k: np.mean(-np.log(np.where(yes(z, k), expit(z), 1 - expit(z)))),
    "categorical_hinge": lambda z, k: max(0, 1 + max(np.delete(z, k)) - z[k]),
    "cross_entropy": lambda z, k: -np.log(probabilities(z)[k]),
    "focal": lambda z, k: -((1 - probabilities(z)[k]) ** 2) * np.log(probabilities(z)[k]),
    "squared_hinge": lambda z, k: np.mean(np.maximum(0, 1 - z * (2 * yes(z, k) - 1)) ** 2),
}
OF_NUMBERS = {
    "huber": lambda e, p, t: np.where(np.abs(e) <= 1, e**2 / 2, np.abs(e) - 0.5),
    "log_cosh": lambda e, p, t: np.log(np.cosh(e)),
    "mae": lambda e, p, t: np.abs(e),
    "mse": lambda e, p, t: e**2,
    "poisson": lambda e, p, t: np.exp(p) - t * p,
}


def test_every_loss_is_tested():
    assert FORMULAS.keys() == losses.CLASSIFICATION.keys()
    assert OF_NUMBERS.keys() == losses.REGRESSION.keys()


@pytest.mark.parametrize("outputs", [1, 2, 5])
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, outputs):
    if name == "categorical_hinge" and outputs == 1:
        pytest.skip("it compares logits; the task refuses one alone")
    logits, label = case(outputs)
    wanted = [FORMULAS[name](z, k) for z, k in zip(np.float64(logits), label, strict=True)]
    np.testing.assert_allclose(losses.CLASSIFICATION[name](logits, label), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_formula_of_numbers(name):
    rng = np.random.default_rng(0)
    prediction, target = np.float32(2 * rng.standard_normal((2, ROWS)))
    e, p, t = (np.float64(x) for x in (prediction - target, prediction, target))
    found = losses.REGRESSION[name](prediction, target)
    np.testing.assert_allclose(found, OF_NUMBERS[name](e, p, t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("name", FORMULAS)
def test_extreme_logits_have_finite_losses_and_gradients(name, outputs):
    if name == "categorical_hinge" and outputs == 1:
        return
    logits, label = case(outputs, size=300.0)
    value, gradient = jax.value_and_grad(lambda z: losses.CLASSIFICATION[name](z, label).mean())(logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_smoothing_mixes_with_the_even_distribution():
    logits, label = case(5)
    log_p = log_softmax(np.float64(logits), -1)
    target = 0.8 * np.eye(5)[label] + 0.2 / 5
    np.testing.assert_allclose(
        losses.cross_entropy(logits, label, label_smoothing=0.2), -(target * log_p).sum(-1), rtol=1e-5
    )
    target, p = 0.8 * np.eye(5)[label] + 0.1, expit(np.float64(logits))  # over yes and no
    wanted = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean(-1)
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, label, label_smoothing=0.2), wanted, rtol=1e-5)
    one, label = case(1)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(one, label, label_smoothing=0.2),
        losses.cross_entropy(one, label, label_smoothing=0.2),
        rtol=1e-6,
    )


def test_options_of_the_focal_loss():
    logits, label = case(3)
    np.testing.assert_allclose(losses.focal(logits, label, gamma=0.0), losses.cross_entropy(logits, label), rtol=1e-6)
    weights = (0.5, 1.0, 3.0)
    np.testing.assert_allclose(
        losses.focal(logits, label, alpha=weights), np.float32(weights)[label] * losses.focal(logits, label), rtol=1e-6
    )
    with pytest.raises(UserError, match=r"alpha is 0\.25; with 3 classes it must be 3 weights"):
        losses.focal(logits, label, alpha=0.25)


def test_the_delta_of_huber():
    error = np.float32([0.1, 0.5, 2.0])
    np.testing.assert_allclose(losses.huber(error, 0 * error, delta=0.5), [0.005, 0.125, 0.5 * (2 - 0.25)], rtol=1e-6)


def test_kl_divergence():
    """Zero where both agree; else the cross-entropy less the entropy of the target, which may hold zeros."""
    logits, _ = case(4)
    target = np.random.default_rng(0).dirichlet(np.ones(4), ROWS)
    target[0] = [0, 1, 0, 0]
    log_p = log_softmax(np.float64(logits), -1)
    wanted = -(target * log_p).sum(-1) + np.where(target > 0, target * np.log(np.where(target > 0, target, 1)), 0).sum(
        -1
    )
    np.testing.assert_allclose(losses.kl_divergence(logits, np.float32(target)), wanted, rtol=1e-4)
    np.testing.assert_allclose(
        losses.kl_divergence(logits, np.exp(log_p).astype(np.float32)), np.zeros(ROWS), atol=1e-6
    )


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_counts_every_alignment(blank):
    """Against the sum over all paths of 4 steps through 3 classes; the third row has only 3 steps."""
    rng = np.random.default_rng(0)
    logits = np.float32(rng.standard_normal((3, 4, 3)))
    one, other = (k for k in range(3) if k != blank)
    token = np.int32([[one, other], [one, one], [other, -1]])
    keep = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]], bool)
    log_p, wanted = log_softmax(np.float64(logits), -1), []
    for row, steps in enumerate(keep.sum(1)):
        total = 0.0
        for path in itertools.product(range(3), repeat=steps):
            read = [k for k, _ in itertools.groupby(path) if k != blank]
            if read == [k for k in token[row] if k >= 0]:
                total += np.exp(sum(log_p[row, t, k] for t, k in enumerate(path)))
        wanted.append(-np.log(total))
    np.testing.assert_allclose(
        jax.jit(losses.ctc, static_argnames="blank")(logits, token, keep, blank=blank), wanted, rtol=1e-4
    )
    whole = losses.ctc(logits[:2], token[:2], blank=blank)
    np.testing.assert_allclose(whole, wanted[:2], rtol=1e-4)
