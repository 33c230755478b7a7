"""Segmentation: a class for every pixel (softmax over the classes, or one logit for two classes).

Batch: 'image' float [B, H, W, C], 'label' integer [B, H, W]; optional 'weight' float [B, H, W], which multiplies the
losses per pixel (Ronneberger et al. 2015, equation 2), and 'mask' [B], the real rows of an evaluation. Where the
model's output is smaller than the label map (valid padding), that is cut to its centre.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from zoo import losses, segmentation_losses
from zoo.errors import UserError, lookup
from zoo.metrics import class_words
from zoo.options import check_rate, is_number
from zoo.tasks.supervised import apply_model, fitting, init_model
from zoo.types import Task

PIXEL_LOSSES = {"cross_entropy": segmentation_losses.cross_entropy_map, "focal": segmentation_losses.focal_map}
REGION_LOSSES = segmentation_losses.TVERSKY_WEIGHTS
# option -> the losses that read it; in the order of `make`
OPTIONS = {
    "label_smoothing": ("cross_entropy",),
    "focal_gamma": ("focal",),
    "focal_alpha": ("focal",),
    "tversky_alpha": ("tversky",),
    "tversky_beta": ("tversky",),
    "smooth": tuple(REGION_LOSSES),
}


def num_outputs(meta: Mapping, *, binary: bool = False, **_) -> int:
    classes = meta["num_classes"]
    if classes is None or len(meta.get("shapes", {"label": (0, 0)}).get("label", ())) != 2:
        raise UserError(f"task segmentation: data set {meta['name']!r} has no label maps; use task {fitting(meta)}")
    if binary and classes != 2:
        raise UserError(f"task segmentation: binary=True needs 2 classes, data set {meta['name']!r} has {classes}")
    return 1 if binary else classes


def make(
    model,
    meta: Mapping,
    *,
    binary: bool = False,
    loss: str | Mapping[str, float] = "cross_entropy",
    ignore_index: int = 255,
    label_smoothing: float | None = None,
    focal_gamma: float | None = None,
    focal_alpha: float | Sequence[float] | None = None,
    tversky_alpha: float | None = None,
    tversky_beta: float | None = None,
    smooth: float | None = None,
    views: int = 1,
) -> Task:
    """Metrics: loss, pixel_accuracy, `iou_<class>` and `dice_<class>` over all pixels of a split, mean_iou, mean_dice.

    A class that the split does not have is NaN, and left out of the means. The loss of an evaluation takes the
    split as one batch, so it does not depend on the batch size; without label smoothing and `smooth`.

    Args:
      model: module from batch['image'] to logits [B, H, W, num_outputs].
      meta: of the data set; `num_classes` and `class_names` are read.
      binary: one logit and the logistic loss instead of two logits and softmax.
      loss: a name of PIXEL_LOSSES or REGION_LOSSES, or several with a weight for each, such as
        {'cross_entropy': 1.0, 'dice': 0.5}. Region losses are over the batch, the mean of all classes (of the
        foreground where binary).
      ignore_index: the label of pixels that count nowhere.
      label_smoothing: of the cross-entropy in training; default 0.
      focal_gamma, focal_alpha: see `zoo.segmentation_losses.focal_map`; default 2 and no weights.
      tversky_alpha, tversky_beta: weight of false positives and false negatives; default 0.3 and 0.7.
      smooth: pixels added to both sides of the quotients of region losses in training; default 1.
      views: 8 evaluates the mean of the probabilities over the rotations by 90 degrees and mirror images of square
        images (Ronneberger et al. 2015, table 1, averages 7 rotations); 1 the image alone.
    """
    if views not in (1, 8):
        raise UserError(f"task segmentation: views is {views}; it must be 1, or 8 for all rotations and mirror images")
    if binary and (head := getattr(model, "head_activation", "linear")) != "linear":
        raise UserError(
            "task segmentation: binary=True is the logistic loss of logits, and the model has "
            f"head_activation={head!r} behind them; it must be 'linear'"
        )
    parts = _parts(loss)
    values = (label_smoothing, focal_gamma, focal_alpha, tversky_alpha, tversky_beta, smooth)
    given = {key: value for key, value in zip(OPTIONS, values, strict=True) if value is not None}
    _check_options(given, parts, num_outputs(meta, binary=binary))
    classes = range(meta["num_classes"])
    names = class_words(meta)
    focal, tversky = (
        {key.removeprefix(loss): value for key, value in given.items() if key.startswith(loss)}
        for loss in ("focal_", "tversky_")
    )
    pixel_options = {"cross_entropy": {"label_smoothing": given.get("label_smoothing", 0.0)}, "focal": focal}
    tversky_weights = REGION_LOSSES | {"tversky": REGION_LOSSES["tversky"] | tversky}
    constant = given.get("smooth", segmentation_losses.SMOOTH)

    def outputs(params, model_state, batch, key, *, train: bool):
        if train or views == 1:
            return apply_model(model, params, model_state, batch, key, train=train)
        apply = functools.partial(apply_model, model, params, model_state, key=None, train=False)
        return _mean_over_views(lambda view: apply(batch=view)[0], batch, binary=binary), model_state

    def to_labels(logits):
        return (logits[..., 0] > 0).astype(jnp.int32) if binary else jnp.argmax(logits, -1)

    def predict(params, model_state, batch):
        logits, _ = outputs(params, model_state, batch, None, train=False)
        return to_labels(logits), _targets(logits, batch, ignore_index)[0]

    def loss_fn(params, model_state, batch, key, *, train: bool):
        logits, model_state = outputs(params, model_state, batch, key, train=train)
        label, valid, weight = _targets(logits, batch, ignore_index)
        if "weight" in batch and not set(parts) & set(PIXEL_LOSSES):
            raise UserError(
                f"task segmentation: loss is {' and '.join(parts)}, without a weight per pixel; add cross_entropy or "
                "focal, or leave out data.border_weight"
            )
        total, metrics = 0.0, {}
        for name, factor in parts.items():
            if name in PIXEL_LOSSES:
                options = pixel_options[name] if train or name == "focal" else {}
                values = PIXEL_LOSSES[name](logits, label, **options)
                metrics[f"_loss_{name}"] = segmentation_losses.weighted_sum(values, weight)
                total += factor * segmentation_losses.weighted_mean(values, weight)
            else:
                quotients = segmentation_losses.overlaps(logits, label, valid, **tversky_weights[name])
                total += factor * segmentation_losses.region(*quotients, constant)
                # Never 0 / 0, where the softmax has rounded an absent class to nothing.
                metrics |= {
                    f"_loss_{name}_{k}": (numerator + 1e-6, denominator + 1e-6)
                    for k, (numerator, denominator) in enumerate(zip(*quotients, strict=True))
                }
        counts = _counts(logits, label, valid)
        if train:  # added up over many steps on the device, where integers would overflow
            counts = jax.tree.map(jnp.float32, counts)
        return total, (model_state, metrics | counts)

    def _counts(logits, label, valid):
        found = to_labels(logits)
        pixels, metrics = _count(valid), {"pixel_accuracy": (_count((found == label) & valid), _count(valid))}
        for k, name in zip(classes, names, strict=True):
            true_positive, predicted, actual = (
                _count(pixel & valid) for pixel in ((found == k) & (label == k), found == k, label == k)
            )
            metrics[f"iou_{name}"] = (true_positive, predicted + actual - true_positive)
            metrics[f"dice_{name}"] = (2 * true_positive, predicted + actual)
            metrics[f"_share_{name}"] = (actual, pixels)
        return metrics

    def finalize(values: dict[str, float]) -> dict[str, float]:
        result = {"loss": 0.0, "pixel_accuracy": values["pixel_accuracy"]}
        for name, factor in parts.items():
            ratios = [value for key, value in values.items() if key.startswith(f"_loss_{name}_")]
            result["loss"] += factor * (1 - math.fsum(ratios) / len(ratios) if ratios else values[f"_loss_{name}"])
        present = [name for name in names if values[f"_share_{name}"] > 0]
        for kind in ("iou", "dice"):
            result |= {f"{kind}_{n}": values[f"{kind}_{n}"] if n in present else float("nan") for n in names}
            found = [values[f"{kind}_{n}"] for n in present]
            result[f"mean_{kind}"] = math.fsum(found) / len(found) if found else float("nan")
        others = {name: value for name, value in values.items() if not name.startswith("_") and name not in result}
        return result | others  # perhaps a penalty

    return Task(init_model(model), loss_fn, finalize, predict=predict)


def _mean_over_views(apply, batch, *, binary: bool):
    """Logits of the mean probabilities over the 8 symmetries of the square; one view at a time, to save memory."""
    image = batch["image"]
    if image.shape[1] != image.shape[2]:
        raise UserError(
            f"task segmentation: views is 8, but the images are {image.shape[1]}x{image.shape[2]}, not square"
        )

    def turned(x, view):
        x = jnp.where(view & 1, x.swapaxes(1, 2), x)
        x = jnp.where(view & 2, x[:, ::-1], x)
        return jnp.where(view & 4, x[:, :, ::-1], x)

    def turned_back(x, view):
        x = jnp.where(view & 4, x[:, :, ::-1], x)
        x = jnp.where(view & 2, x[:, ::-1], x)
        return jnp.where(view & 1, x.swapaxes(1, 2), x)

    def log_p(view):
        return segmentation_losses.log_probabilities(turned_back(apply({**batch, "image": turned(image, view)}), view))

    mean = jax.nn.logsumexp(jax.lax.map(log_p, jnp.arange(8)), axis=0) - math.log(8)
    return mean[..., 1:] - mean[..., :1] if binary else mean


def _targets(logits, batch, ignore_index: int):
    """The label [B, h, w], which pixels count, and their weight, all cut to the centre that the logits are for."""
    label = batch["label"]
    if logits.ndim != 4 or label.ndim != 3:
        raise UserError(
            f"task segmentation: the model's output has shape {logits.shape} and the label {label.shape}; they must be "
            "[B, H, W, classes], as of unet, and [B, H, W]"
        )
    (height, width), size = logits.shape[1:3], label.shape[1:3]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    if min(top, left) < 0 or (size[0] - height) % 2 or (size[1] - width) % 2:
        raise UserError(
            f"task segmentation: the model's output is {height}x{width}, the label {size[0]}x{size[1]}; it must be as "
            "large, or smaller by the same number of pixels on all opposite sides"
        )

    def centre(x):
        return x[:, top : top + height, left : left + width]

    label = centre(label).astype(jnp.int32)
    valid = label != ignore_index
    if "mask" in batch:
        valid &= batch["mask"].reshape(-1, 1, 1)
    weight = valid.astype(jnp.float32)
    return label, valid, jnp.where(valid, centre(batch["weight"]), 0) if "weight" in batch else weight


def _count(pixels):
    """How many are true, int32: a float32 is exact only up to 16.8 million."""
    return jnp.sum(pixels, dtype=jnp.int32)


def _parts(loss) -> dict[str, float]:
    """Loss -> its factor."""
    parts = {loss: 1.0} if isinstance(loss, str) else dict(loss.items()) if hasattr(loss, "items") else {}
    for name, factor in parts.items():
        lookup("segmentation loss", name, PIXEL_LOSSES | REGION_LOSSES)
        if not is_number(factor) or not 0 < factor < math.inf:
            raise UserError(f"task segmentation: the weight of loss {name!r} is {factor!r}; it must be above 0")
    if not parts:
        raise UserError(
            f"task segmentation: loss is {loss!r}; it must be a name, or names with weights such as "
            "{'cross_entropy': 1.0, 'dice': 0.5}"
        )
    return parts


def _check_options(given: Mapping, parts: Mapping, outputs: int) -> None:
    for key, value in given.items():
        if not set(OPTIONS[key]) & set(parts):
            raise UserError(
                f"task segmentation: {key} is an option of loss {' and '.join(OPTIONS[key])}, and loss is "
                f"{' and '.join(parts)}; leave it out"
            )
        if key == "focal_alpha":
            losses.focal_weights(value, outputs)
        elif key == "label_smoothing":
            check_rate("task segmentation", label_smoothing=value)
        elif value < 0:
            raise UserError(f"task segmentation: {key} is {value}; it must be zero or more")
    if given.get("tversky_alpha") == given.get("tversky_beta") == 0:
        raise UserError("task segmentation: tversky_alpha and tversky_beta are 0; then every prediction is perfect")
