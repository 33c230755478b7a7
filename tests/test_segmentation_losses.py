"""Losses of segmentation against slow NumPy, and their limits."""

import math

import jax
import numpy as np
import pytest

from zoo import segmentation_losses as losses
from zoo.errors import UserError

SHAPE = (2, 3, 4)
rng = np.random.default_rng(0)
WEIGHT = np.float32(rng.random(SHAPE) * (rng.random(SHAPE) < 0.7))


def case(channels):
    classes = max(channels, 2)
    logits = np.float32(2 * np.random.default_rng(1).standard_normal((*SHAPE, channels)))
    return logits, np.random.default_rng(2).integers(classes, size=SHAPE).astype(np.uint8)


def probabilities(logits):
    """[B, H, W, classes] in float64, two classes for one logit."""
    logits = np.float64(logits)
    if logits.shape[-1] == 1:
        logits = np.concatenate([0 * logits, logits], -1)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def slow_pixel_loss(logits, label, weight, of_pixel):
    p, total, count = probabilities(logits), 0.0, 0.0
    for b, i, j in np.ndindex(*SHAPE):
        total += weight[b, i, j] * of_pixel(p[b, i, j], label[b, i, j])
        count += weight[b, i, j]
    return total / count


def slow_region_loss(logits, label, weight, quotient):
    """quotient: (p, g) -> (numerator, denominator) of one pixel and class, summed over all pixels."""
    p = probabilities(logits)
    each = []
    for k in range(p.shape[-1]) if logits.shape[-1] > 1 else (1,):
        top = bottom = 0.0
        for b, i, j in np.ndindex(*SHAPE):
            a, c = quotient(p[b, i, j, k], float(label[b, i, j] == k))
            top, bottom = top + weight[b, i, j] * a, bottom + weight[b, i, j] * c
        each.append((top, bottom))
    return each


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_pixel_losses(channels, weight):
    logits, label = case(channels)
    w = np.ones(SHAPE) if weight is None else weight
    wanted = slow_pixel_loss(logits, label, w, lambda p, k: -math.log(p[k]))
    assert losses.cross_entropy(logits, label, weight) == pytest.approx(wanted, rel=1e-5)
    wanted = slow_pixel_loss(logits, label, w, lambda p, k: -0.9 * math.log(p[k]) - 0.1 * np.log(p).mean())
    assert losses.cross_entropy(logits, label, weight, label_smoothing=0.1) == pytest.approx(wanted, rel=1e-5)
    wanted = slow_pixel_loss(logits, label, w, lambda p, k: -((1 - p[k]) ** 1.5) * math.log(p[k]))
    assert losses.focal(logits, label, weight, gamma=1.5) == pytest.approx(wanted, rel=1e-5)
    alpha = (0.5, 1.0, 2.0, 3.0)[: max(channels, 2)]
    wanted = slow_pixel_loss(logits, label, w, lambda p, k: -alpha[k] * (1 - p[k]) ** 2 * math.log(p[k]))
    assert losses.focal(logits, label, weight, alpha=alpha) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("weight", [None, np.float32(WEIGHT > 0)])
def test_region_losses(channels, weight):
    logits, label = case(channels)
    w = np.ones(SHAPE) if weight is None else weight
    quotients = {
        losses.dice: lambda p, g: (2 * p * g, p + g),
        losses.jaccard: lambda p, g: (p * g, p + g - p * g),
        losses.tversky: lambda p, g: (p * g, p * g + 0.3 * p * (1 - g) + 0.7 * (1 - p) * g),
    }
    for loss, quotient in quotients.items():
        parts = slow_region_loss(logits, label, w, quotient)
        wanted = 1 - np.mean([top / bottom for top, bottom in parts])
        assert loss(logits, label, weight, smooth=0.0) == pytest.approx(wanted, rel=1e-5), loss.__name__
    parts = slow_region_loss(logits, label, w, lambda p, g: (p * g, (p + g) / 2))
    wanted = 1 - np.mean([(top + 1) / (bottom + 1) for top, bottom in parts])
    assert losses.dice(logits, label, weight) == pytest.approx(wanted, rel=1e-5)
    parts = slow_region_loss(logits, label, w, lambda p, g: (p * g, p * g + 2 * p * (1 - g) + 5 * (1 - p) * g))
    wanted = 1 - np.mean([top / bottom for top, bottom in parts])
    assert losses.tversky(logits, label, weight, alpha=2, beta=5, smooth=0) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_limits(channels):
    logits, label = case(channels)
    plain = losses.cross_entropy_map(logits, label)
    np.testing.assert_allclose(losses.focal_map(logits, label, gamma=0.0), plain, rtol=1e-6)
    for smooth in (0.0, 2.0):
        half = losses.tversky(logits, label, alpha=0.5, beta=0.5, smooth=smooth)
        assert losses.dice(logits, label, smooth=smooth) == half
    some, all_ = losses.overlaps(logits, label, alpha=0.5, beta=0.5)
    dice = np.asarray(some / all_)
    jaccard = 1 - losses.jaccard(logits, label, smooth=0.0)
    assert jaccard == pytest.approx(np.mean(dice / (2 - dice)), rel=1e-5)
    right = 30 * (2 * label - 1.0)[..., None] if channels == 1 else 30 * np.eye(3)[label]
    for loss in (losses.cross_entropy, losses.focal, losses.dice, losses.jaccard, losses.tversky):
        assert abs(loss(np.float32(right), label)) < 1e-5
        assert loss(-np.float32(right), label) > (10 if loss in (losses.cross_entropy, losses.focal) else 0.7)


def test_alpha_of_two_classes():
    """The paper's single number weighs class 1; one logit is the same as two that differ by it."""
    logits, label = case(1)
    both = np.concatenate([0 * logits, logits], -1)
    for alpha in (0.25, (0.75, 0.25)):
        np.testing.assert_allclose(
            losses.focal_map(logits, label, alpha=alpha), losses.focal_map(both, label, alpha=(0.75, 0.25)), rtol=1e-5
        )


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal, losses.dice, losses.jaccard, losses.tversky])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_without_weight_count_for_nothing(loss, channels):
    logits, label = case(channels)
    valid = WEIGHT > 0
    for value in (np.nan, 1e30):
        other, marked = np.where(valid[..., None], logits, np.float32(value)), np.where(valid, label, 255)
        assert loss(other, marked, valid) == loss(logits, label, valid)
    assert np.isfinite(loss(logits, label, np.zeros(SHAPE)))
    plain, changed = np.where(valid, label, 0), 1 - np.minimum(label, 1)
    assert loss(logits, plain, valid) == loss(logits, label, valid) != loss(logits, changed, valid)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [0.0, 1e-3, 200.0])
def test_gradients_of_the_focal_loss_are_finite(gamma, size):
    """Also where the probability rounds to 0 or 1."""
    logits, label = case(3)
    grads = jax.grad(lambda x: losses.focal(x, label, gamma=gamma))(size * logits)
    assert np.isfinite(grads).all()


def test_a_weight_per_class_for_each_class():
    logits, label = case(3)
    with pytest.raises(UserError, match=r"focal loss: alpha is 0\.25; with 3 classes it must be 3 weights"):
        losses.focal(logits, label, alpha=0.25)
