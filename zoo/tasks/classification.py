"""Classification of whole examples: softmax over the classes, or one logit for two classes."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from zoo.errors import UserError
from zoo.tasks.supervised import apply_model, init_model, masked_mean, masked_sum
from zoo.types import Task


def num_outputs(meta: Mapping, *, binary: bool = False, **_) -> int:
    classes = meta["num_classes"]
    if classes is None:
        raise UserError(f"task classification: data set {meta['name']!r} has no labels; use task regression")
    if meta.get("shapes", {}).get("label"):
        raise UserError(f"task classification: data set {meta['name']!r} has label maps; use task segmentation")
    if binary and classes != 2:
        raise UserError(f"task classification: binary=True needs 2 classes, data set {meta['name']!r} has {classes}")
    return 1 if binary else classes


def make(
    model,
    meta: Mapping,
    *,
    binary: bool = False,
    label_smoothing: float = 0.0,
    top_k: Sequence[int] = (),
) -> Task:
    """Cross-entropy in nats; metrics loss, accuracy and `top<k>_accuracy`, each as (sum, count).

    Mixed examples (zoo.data.mixing: 'label_mixed' [B], 'label_share' [B]) have their loss shared between both labels
    in training; what counts as correct is 'label'.

    Args:
      model: module from batch['image'] or batch['feature'] to logits [B, num_outputs].
      meta: of the data set; `num_classes` is read.
      binary: one logit and the logistic loss instead of two logits and softmax.
      label_smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, section 7); in the
        training loss alone: evaluation reports the plain cross-entropy.
      top_k: the k for which to report how often the label is among the k largest logits.
    """
    classes = meta["num_classes"]
    if not 0 <= label_smoothing < 1:
        raise UserError(f"task classification: label_smoothing is {label_smoothing}; it must be in [0, 1)")
    if binary and top_k:
        raise UserError("task classification: binary=True has one logit, and no top_k beside the accuracy")
    if any(not 0 < k < classes for k in top_k):
        raise UserError(f"task classification: top_k is {tuple(top_k)}; each k must be between 1 and {classes - 1}")

    def cross_entropy(logits, labels, smooth: float):
        if binary:
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels * (1 - smooth) + smooth / 2)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        if smooth:
            losses = (1 - smooth) * losses - smooth * jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        return losses

    def loss(params, model_state, batch, key, *, train: bool):
        logits, model_state = apply_model(model, params, model_state, batch, key, train=train)
        labels, mask = batch["label"], batch.get("mask")
        smooth = label_smoothing if train else 0.0
        losses = cross_entropy(logits, labels, smooth)
        if train and "label_mixed" in batch:  # images made of two, see zoo.data.mixing
            share = batch["label_share"]
            losses = share * losses + (1 - share) * cross_entropy(logits, batch["label_mixed"], smooth)
        correct = ((logits[:, 0] > 0) if binary else jnp.argmax(logits, -1)) == labels
        metrics = {"loss": masked_sum(losses, mask), "accuracy": masked_sum(correct, mask)}
        for k in top_k:  # of equal logits the first counts as the largest, as in the accuracy
            found = jax.lax.top_k(logits, k)[1] == labels[:, None]
            metrics[f"top{k}_accuracy"] = masked_sum(jnp.any(found, -1), mask)
        return masked_mean(losses, mask), (model_state, metrics)

    return Task(init_model(model), loss)
