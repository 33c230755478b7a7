"""Losses of single examples, optax's own wherever it has them: pure functions of predictions and targets.

- CLASSIFICATION: (logits [B, C], label int [B], **options) -> [B]. C = 1 is binary: the logit of class 1 against 0.
- REGRESSION: (prediction [...], target [...], **options) -> [...].
- `kl_divergence` is what a classification learns from its `task.teacher`, `ctc` the loss of task transcription.

`zoo.segmentation_losses` has those of whole images.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from zoo.errors import UserError


def cross_entropy(logits, label, *, label_smoothing: float = 0.0):
    """-log p of the label in nats, p by softmax, or by the logistic function of one logit.

    Args:
      label_smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, section 7).
    """
    if logits.shape[-1] == 1:
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], label * (1 - label_smoothing) + label_smoothing / 2)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return losses


def binary_cross_entropy(logits, label, *, label_smoothing: float = 0.0):
    """-log p of a yes or no for every class (one against the rest), the mean over the classes; p is logistic.

    Args:
      label_smoothing: share of each answer spread evenly over yes and no.
    """
    target = _one_vs_rest(logits, label) * (1 - label_smoothing) + label_smoothing / 2
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)


def focal(logits, label, *, gamma: float = 2.0, alpha: float | Sequence[float] | None = None):
    """-alpha_t (1 - p_t)^gamma log p_t, with p_t the probability of the label (Lin et al. 2017, arXiv:1708.02002).

    Args:
      gamma: how much less an example counts the better it is classified; 0 is the cross-entropy.
      alpha: weight of class 1, and 1 - alpha that of class 0, as in the paper; or a weight per class; None: 1 for all.
    """
    return focal_from_cross_entropy(cross_entropy(logits, label), label, logits.shape[-1], gamma=gamma, alpha=alpha)


def focal_from_cross_entropy(losses, label, outputs: int, *, gamma: float, alpha: float | Sequence[float] | None):
    """The focal loss from cross-entropies of any shape, for logits with `outputs` channels."""
    # 1 - p_t, exact near 0. The bound keeps the gradient of the power finite there for gamma < 1.
    wrong = jnp.maximum(-jnp.expm1(-losses), 1e-12)
    if alpha is not None:
        losses = losses * jnp.take(jnp.asarray(focal_weights(alpha, outputs)), label, mode="clip")
    return wrong**gamma * losses


def focal_weights(alpha: float | Sequence[float], outputs: int) -> tuple[float, ...]:
    """`alpha` of the focal loss as a weight per class, for logits with `outputs` channels."""
    classes = max(outputs, 2)
    weights = tuple(alpha) if isinstance(alpha, Sequence) else (1 - alpha, alpha)
    if len(weights) != classes:
        raise UserError(f"focal loss: alpha is {alpha}; with {classes} classes it must be {classes} weights")
    if min(weights) < 0 or max(weights) <= 0:
        raise UserError(f"focal loss: alpha is {alpha}; the weights of classes cannot be negative")
    return weights


def squared_hinge(logits, label):
    """max(0, 1 - y z)^2, y = 1 for the label and -1 for other classes, the mean over the classes (Tang 2013)."""
    return jnp.mean(optax.hinge_loss(logits, 2 * _one_vs_rest(logits, label) - 1) ** 2, axis=-1)


def categorical_hinge(logits, label):
    """max(0, 1 + the largest other logit - the label's) (Crammer & Singer 2001).

    Keras's function of this name takes max(0, the largest other logit) in place of the latter.
    """
    return optax.losses.multiclass_hinge_loss(logits, label)


def _one_vs_rest(logits, label):
    """1 for the class of each example and 0 for the others, of the shape of `logits`."""
    return label[:, None].astype(logits.dtype) if logits.shape[-1] == 1 else jax.nn.one_hot(label, logits.shape[-1])


def kl_divergence(logits, target):
    """Kullback-Leibler divergence of softmax(logits) [..., C] from distributions `target` [..., C], in nats [...]."""
    return optax.kl_divergence(jax.nn.log_softmax(logits), target)


def ctc(logits, token, keep=None, *, blank: int = 0):
    """Connectionist temporal classification: -log p of a sequence, however it is aligned (Graves et al. 2006), in nats.

    Args:
      logits: [B, T, C] at every time step.
      token: int [B, L], the sequence (-1: padding, at the end), without blanks.
      keep: bool [B, T], the time steps that are real; None: all.
      blank: the class that stands for no token.

    Returns:
      [B]; what no alignment can give is about 1e5.
    """
    gone = jnp.zeros(logits.shape[:2]) if keep is None else 1.0 - keep
    padding = (token < 0).astype(jnp.float32)
    return optax.ctc_loss(logits, gone, jnp.where(token < 0, blank, token), padding, blank_id=blank)


def mae(prediction, target):
    """|prediction - target|."""
    return jnp.abs(prediction - target)


def huber(prediction, target, *, delta: float = 1.0):
    """Half the square of errors up to `delta`, beyond it linear (Huber 1964)."""
    return optax.huber_loss(prediction, target, delta=delta)


def mse(prediction, target):
    """(prediction - target)^2."""
    return optax.squared_error(prediction, target)


def log_cosh(prediction, target):
    """log cosh(prediction - target): as half the square near 0, as the distance less log 2 far away."""
    return optax.log_cosh(prediction, target)


def poisson(log_rate, target):
    """exp(log_rate) - target log_rate: -log p of a count by its Poisson rate, less the part that no rate changes."""
    return jnp.exp(log_rate) - target * log_rate


CLASSIFICATION: dict[str, Callable] = {
    "binary_cross_entropy": binary_cross_entropy,
    "categorical_hinge": categorical_hinge,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "squared_hinge": squared_hinge,
}

REGRESSION: dict[str, Callable] = {
    "huber": huber,
    "log_cosh": log_cosh,
    "mae": mae,
    "mse": mse,
    "poisson": poisson,
}
