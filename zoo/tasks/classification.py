"""Classification of whole examples: softmax over the classes, or one logit for two classes."""

import inspect
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from zoo import losses
from zoo.errors import UserError, lookup
from zoo.options import check_rate
from zoo.tasks.supervised import apply_model, check_outputs, fitting, init_model, masked_mean, masked_sum
from zoo.types import Task


def num_outputs(meta: Mapping, *, binary: bool = False, **_) -> int:
    classes = meta["num_classes"]
    if classes is None or "label" not in meta.get("shapes", ("label",)):
        raise UserError(f"task classification: data set {meta['name']!r} has no labels; use task {fitting(meta)}")
    if meta.get("shapes", {}).get("label"):
        raise UserError(f"task classification: data set {meta['name']!r} has label maps; use task segmentation")
    if classes < 2:
        only = "".join(f", {name!r}" for name in meta.get("class_names") or ())
        raise UserError(f"task classification: data set {meta['name']!r} has only one class{only}; it needs 2 or more")
    if binary and classes != 2:
        raise UserError(f"task classification: binary=True needs 2 classes, data set {meta['name']!r} has {classes}")
    return 1 if binary else classes


def is_one_vs_rest(*, loss: str = "cross_entropy", binary: bool = False, **_) -> bool:
    """Whether each logit is that of its class against the rest: then log_sigmoid comes before the softmax."""
    return loss == "binary_cross_entropy" and not binary


def make(
    model,
    meta: Mapping,
    *,
    binary: bool = False,
    loss: str = "cross_entropy",
    label_smoothing: float | None = None,
    focal_gamma: float | None = None,
    focal_alpha: float | Sequence[float] | None = None,
    class_weights: str | Sequence[float] = (),
    temperature: float = 1.0,
    teacher: str = "",
    teacher_share: float | None = None,
    teacher_temperature: float | None = None,
    top_k: Sequence[int] = (),
    metrics: Sequence[str] = (),
    coverage_threshold: float | None = None,
) -> Task:
    """Metrics loss, accuracy and `top<k>_accuracy`, each as (sum, count), and those of `zoo.scores` that are asked for.

    The loss that evaluation reports is the one that is trained, without label smoothing, class weights and teacher.

    Mixed examples (zoo.data.mixing: 'label_mixed' [B], 'label_share' [B]) have their loss shared between both labels
    in training; what counts as correct is 'label'.

    Args:
      model: module from batch['image'] or batch['feature'] to logits [B, num_outputs].
      meta: of the data set; `num_classes`, `class_names` and `class_counts` are read.
      binary: one logit and the logistic loss instead of two logits and softmax.
      loss: a name of `zoo.losses.CLASSIFICATION`. After binary_cross_entropy the probabilities of several logits are
        the logistic ones, scaled to a sum of 1.
      label_smoothing: of both cross-entropies in training; default 0.
      focal_gamma, focal_alpha: of the focal loss; default 2 and no weights.
      class_weights: factors on the training losses of the rows of each class; or 'balanced', rows / (classes * rows
        of the class) in the training split, as in scikit-learn. The mean is still over the number of rows, as in Keras.
      temperature: logits are divided by it, in training and evaluation: above 1, probabilities are more even. With
        --eval_only it is the temperature scaling of Guo et al. 2017 (section 4.2), to be judged by calibration_error.
      teacher: a run folder or file of `save_weights` whose probabilities are learned too: knowledge distillation
        (Hinton et al. 2015, arXiv:1503.02531). It sees the same augmented inputs, normalized as in this run, and needs
        the same classes; its own weights stand still, and are constants of the compiled step. It must stay where it
        is as long as the run is used. One that was trained without label smoothing teaches better (Mueller et al.
        2019, arXiv:1906.02629; so it is on MNIST here).
      teacher_share: of the training loss (0 to 1) that is T^2 times the Kullback-Leibler divergence from the teacher's
        probabilities, both softened by T = `teacher_temperature`; default 0.9 and T = 4.
      top_k: the k for which to report how often the label is among the k largest logits.
      metrics: names of `zoo.scores.SCORES`.
      coverage_threshold: of the metric coverage; default 0.9.
    """
    classes, outputs = meta["num_classes"], num_outputs(meta, binary=binary)
    options = {"label_smoothing": label_smoothing, "focal_gamma": focal_gamma, "focal_alpha": focal_alpha}
    loss_of, trained = _loss(loss, outputs, {key: value for key, value in options.items() if value is not None})
    evaluated = {key: value for key, value in trained.items() if key != "label_smoothing"}
    weights = _class_weights(class_weights, meta)
    if not temperature > 0:
        raise UserError(f"task classification: temperature is {temperature}; it must be above 0")
    if teacher_share == 1 and (label_smoothing or weights is not None):
        what = "label_smoothing" if label_smoothing else "class_weights"
        raise UserError(f"task classification: {what} has no effect with teacher_share=1, which ignores the labels")
    one_vs_rest = is_one_vs_rest(loss=loss, binary=binary)
    taught = _taught(teacher, teacher_share, teacher_temperature, outputs, meta, one_vs_rest)
    if binary and top_k:
        raise UserError("task classification: binary=True has one logit, and no top_k beside the accuracy")
    if any(not 0 < k < classes for k in top_k):
        raise UserError(f"task classification: top_k is {tuple(top_k)}; each k must be between 1 and {classes - 1}")

    def logits_of(params, model_state, batch, key, *, train: bool):
        logits, model_state = apply_model(model, params, model_state, batch, key, train=train)
        check_outputs("classification", logits, 2, "mlp")
        return logits if temperature == 1 else logits / temperature, model_state

    def losses_of(logits, label, *, train: bool):
        each = loss_of(logits, label, **(trained if train else evaluated))
        return each * jnp.take(weights, label) if train and weights is not None else each

    def loss_fn(params, model_state, batch, key, *, train: bool):
        logits, model_state = logits_of(params, model_state, batch, key, train=train)
        label, mask = batch["label"], batch.get("mask")
        each = losses_of(logits, label, train=train)
        if train and "label_mixed" in batch:  # images made of two, see zoo.data.mixing
            share = batch["label_share"]
            each = share * each + (1 - share) * losses_of(logits, batch["label_mixed"], train=train)
        if train and taught is not None:
            each = taught(each, logits, batch)
        correct = ((logits[:, 0] > 0) if binary else jnp.argmax(logits, -1)) == label
        sums = {"loss": masked_sum(each, mask), "accuracy": masked_sum(correct, mask)}
        for k in top_k:  # of equal logits the first counts as the largest, as in the accuracy
            found = jax.lax.top_k(logits, k)[1] == label[:, None]
            sums[f"top{k}_accuracy"] = masked_sum(jnp.any(found, -1), mask)
        return masked_mean(each, mask), (model_state, sums)

    def predict(params, model_state, batch):
        logits, _ = logits_of(params, model_state, batch, None, train=False)
        return logits, batch["label"]

    scores = _scores(metrics, meta, coverage_threshold, one_vs_rest)
    return Task(init_model(model), loss_fn, predict=predict, scores=scores)


def _loss(name: str, outputs: int, options: Mapping):
    """The loss called `name` and its options, by the names that it has for them."""
    loss_of = lookup("classification loss", name, losses.CLASSIFICATION)
    if name == "categorical_hinge" and outputs == 1:
        raise UserError("task classification: loss categorical_hinge compares logits, and binary=True has only one")
    own = {key.removeprefix("focal_"): value for key, value in options.items()}
    for option, key in zip(own, options, strict=True):
        takes = [other for other, fn in losses.CLASSIFICATION.items() if option in inspect.signature(fn).parameters]
        if name not in takes:
            raise UserError(
                f"task classification: {key} is an option of loss {' and '.join(takes)}, and loss is {name}; leave it "
                "out"
            )
    check_rate("task classification", label_smoothing=own.get("label_smoothing", 0.0))
    if own.get("gamma", 0) < 0:
        raise UserError(f"task classification: focal_gamma is {own['gamma']}; it must be zero or more")
    if "alpha" in own:
        losses.focal_weights(own["alpha"], outputs)
    return loss_of, own


def _taught(path: str, share: float | None, temperature: float | None, outputs: int, meta: Mapping, one_vs_rest: bool):
    """(losses [B], logits, batch) -> losses that are the teacher's in part; None without a teacher."""
    if not path:
        for name, value in (("teacher_share", share), ("teacher_temperature", temperature)):
            if value is not None:
                raise UserError(f"task classification: {name} is {value}, but there is no teacher; set teacher too")
        return None
    share, temperature = 0.9 if share is None else share, 4.0 if temperature is None else temperature
    if not 0 < share <= 1:
        raise UserError(f"task classification: teacher_share is {share}; it must be in (0, 1]")
    if not temperature > 0:
        raise UserError(f"task classification: teacher_temperature is {temperature}; it must be above 0")
    from zoo import teacher  # which makes tasks of its own

    teach = teacher.logits(path, outputs, meta)

    def softened(logits):
        logits = logits if outputs > 1 else jnp.pad(logits, ((0, 0), (1, 0)))  # of class 0, against that of class 1
        return logits / temperature

    def losses_of(each, logits, batch):
        wanted = jax.nn.softmax(softened(jax.lax.stop_gradient(teach(batch))))
        divergence = losses.kl_divergence(softened(jax.nn.log_sigmoid(logits) if one_vs_rest else logits), wanted)
        return (1 - share) * each + share * temperature**2 * divergence

    return losses_of


def _class_weights(given: str | Sequence[float], meta: Mapping) -> np.ndarray | None:
    """float32 [classes], or None for no weights."""
    classes = meta["num_classes"]
    if isinstance(given, str):
        if given != "balanced":
            raise UserError(f"task classification: class_weights is {given!r}; it must be 'balanced', or numbers")
        counts = np.array(meta["class_counts"])
        if not counts.all():
            missing = int(np.flatnonzero(counts == 0)[0])
            raise UserError(
                f"task classification: class_weights is 'balanced', but class {missing} has no training rows; give "
                "numbers"
            )
        return np.float32(counts.sum() / (classes * counts))
    if given and (len(given) != classes or min(given) < 0 or not any(given)):
        raise UserError(
            f"task classification: class_weights is {tuple(given)}; it must be {classes} numbers of 0 or more, and not "
            "only 0"
        )
    return np.float32(given) if given else None


def _scores(names: Sequence[str], meta: Mapping, threshold: float | None, one_vs_rest: bool):
    if threshold is not None:
        if "coverage" not in names:
            raise UserError("task classification: coverage_threshold is for the metric coverage; add it to metrics")
        if not 0 < threshold <= 1:
            raise UserError(f"task classification: coverage_threshold is {threshold}; it must be in (0, 1]")
    if not names:
        return None
    from zoo import scores  # imports all of scikit-learn's metrics: only where they are asked for

    return scores.make(names, meta, threshold=0.9 if threshold is None else threshold, one_vs_rest=one_vs_rest)
