"""Losses of segmentation: pure functions of logits and a label map.

All take `logits` [B, H, W, C] and integer `label` [B, H, W]; C = 1 is binary, the logit of class 1 against class 0.
Labels outside of the classes must have weight 0.

- `*_map` functions give a loss per pixel [B, H, W].
- `overlaps` gives per class what the region losses are quotients of, as `region` says; with C = 1 there is one class,
  the foreground.
- The others are scalars. `weight` [B, H, W] is a weight per pixel or a mask of the valid ones; None counts all alike.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from zoo import losses

# Region loss -> the weights of false positives and false negatives in the Tversky index that it is.
TVERSKY_WEIGHTS = {
    "dice": {"alpha": 0.5, "beta": 0.5},
    "jaccard": {"alpha": 1.0, "beta": 1.0},
    "tversky": {"alpha": 0.3, "beta": 0.7},
}
SMOOTH = 1.0


def cross_entropy_map(logits, label, *, label_smoothing: float = 0.0):
    """-log p of the label, in nats.

    Args:
      label_smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, arXiv:1512.00567,
        section 7).
    """
    log_p = log_probabilities(logits)
    # An out-of-range label (one that is ignored) takes any class: its weight is 0.
    loss = -jnp.take_along_axis(log_p, label[..., None].astype(jnp.int32), axis=-1, mode="clip")[..., 0]
    return (1 - label_smoothing) * loss - label_smoothing * jnp.mean(log_p, axis=-1) if label_smoothing else loss


def focal_map(logits, label, *, gamma: float = 2.0, alpha: float | Sequence[float] | None = None):
    """-alpha_t (1 - p_t)^gamma log p_t, with p_t the probability of the label (Lin et al. 2017, arXiv:1708.02002).

    Args:
      gamma: how much less a pixel counts the better it is classified; 0 is the cross-entropy.
      alpha: weight of class 1, and 1 - alpha that of class 0, as in the paper; or a weight per class; None: 1 for all.
    """
    return losses.focal_from_cross_entropy(
        cross_entropy_map(logits, label), label, logits.shape[-1], gamma=gamma, alpha=alpha
    )


def overlaps(logits, label, weight=None, *, alpha: float, beta: float):
    """Soft true positives TP, and TP + alpha FP + beta FN, over all pixels of the batch: two arrays [C].

    TP = sum p g, FP = sum p (1 - g), FN = sum (1 - p) g, for probabilities p and one-hot labels g.
    """
    p = jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)
    classes = jnp.asarray([1]) if logits.shape[-1] == 1 else jnp.arange(logits.shape[-1])
    g = (label[..., None] == classes.reshape(1, 1, 1, -1)).astype(p.dtype)
    w = jnp.ones((1, 1, 1, 1)) if weight is None else weight[..., None].astype(p.dtype)
    p, g = jnp.where(w > 0, p, 0) * w, jnp.where(w > 0, g, 0)  # whatever the logits of pixels that do not count
    true_positive, predicted, actual = (jnp.sum(x, (0, 1, 2)) for x in (p * g, p, w * g))
    return true_positive, true_positive + alpha * (predicted - true_positive) + beta * (actual - true_positive)


def region(numerator, denominator, smooth: float = SMOOTH):
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth), the mean over the classes, of what `overlaps` gives.

    Args:
      smooth: in pixels; keeps the quotient defined, and near 1 for a class that the batch does not have.
    """
    return 1 - jnp.mean((numerator + smooth) / (denominator + smooth))


def cross_entropy(logits, label, weight=None, *, label_smoothing: float = 0.0):
    """-log p of the label: the weighted mean over the pixels, sum w l / sum w.

    Ronneberger et al. 2015, equation 1, has the sum.
    """
    return weighted_mean(cross_entropy_map(logits, label, label_smoothing=label_smoothing), weight)


def focal(logits, label, weight=None, *, gamma: float = 2.0, alpha: float | Sequence[float] | None = None):
    """-alpha_t (1 - p_t)^gamma log p_t: the weighted mean of `focal_map` over the pixels (Lin et al. 2017)."""
    return weighted_mean(focal_map(logits, label, gamma=gamma, alpha=alpha), weight)


def tversky(
    logits,
    label,
    weight=None,
    *,
    alpha: float = TVERSKY_WEIGHTS["tversky"]["alpha"],
    beta: float = TVERSKY_WEIGHTS["tversky"]["beta"],
    smooth: float = SMOOTH,
):
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth), the mean over the classes (Salehi et al. 2017).

    arXiv:1706.05721, equation 3; beta > alpha prefers a false alarm to a miss.
    """
    return region(*overlaps(logits, label, weight, alpha=alpha, beta=beta), smooth)


def dice(logits, label, weight=None, *, smooth: float = SMOOTH):
    """1 - 2 sum p g / (sum p + sum g), the mean over the classes (Milletari et al. 2016, arXiv:1606.04797, section 3).

    That is Tversky with 1/2 and 1/2. Without the paper's squares in the denominator, as is usual: for probabilities
    of 0 and 1 they make no difference.
    """
    return tversky(logits, label, weight, **TVERSKY_WEIGHTS["dice"], smooth=smooth)


def jaccard(logits, label, weight=None, *, smooth: float = SMOOTH):
    """1 - intersection / union (Rahman & Wang 2016): Tversky with 1 and 1.

    Of one class, dice / (2 - dice) in terms of the coefficients.
    """
    return tversky(logits, label, weight, **TVERSKY_WEIGHTS["jaccard"], smooth=smooth)


def weighted_sum(values, weight=None):
    """(sum w v, sum w) over all pixels; where w = 0, v may be anything."""
    if weight is None:
        return jnp.sum(values), jnp.asarray(values.size, jnp.float32)
    weight = weight.astype(jnp.float32)
    return jnp.sum(jnp.where(weight > 0, weight * values, 0)), jnp.sum(weight)


def weighted_mean(values, weight=None):
    """0 where nothing counts."""
    total, count = weighted_sum(values, weight)
    return total / jnp.where(count > 0, count, 1)


def log_probabilities(logits):
    """[B, H, W, classes], for two classes where there is one logit."""
    if logits.shape[-1] > 1:
        return jax.nn.log_softmax(logits)
    return jnp.concatenate([jax.nn.log_sigmoid(-logits), jax.nn.log_sigmoid(logits)], axis=-1)
