"""Training examples made of two: the images mixed, and the loss shared between their two labels.

Each image's partner is the one before it in the batch, which is as random as the order of the batches. To the batch
come 'label_mixed' [B], the partner's label, and 'label_share' [B] float32, the share of the image's own: the
classification task trains on `share * loss(label) + (1 - share) * loss(label_mixed)`.

Every image draws its own share (Zhang et al.'s code draws one per batch): it costs the same, and the gradient of a
batch then averages over many shares.
"""

import jax
import jax.numpy as jnp

from zoo.data.geometry import boxes, shape_of
from zoo.errors import UserError


def _partners(x):
    return jnp.roll(x, 1, axis=0)


def mixup(key, batch, alpha: float):
    """Each image averaged with its partner, its own share drawn from Beta(alpha, alpha) (Zhang et al. 2018)."""
    share = jax.random.beta(key, alpha, alpha, (len(batch["image"]),))
    images, weight = batch["image"].astype(jnp.float32), share[:, None, None, None]
    return batch | {
        "image": weight * images + (1 - weight) * _partners(images),
        "label_mixed": _partners(batch["label"]),
        "label_share": share,
    }


def cutmix(key, batch, alpha: float):
    """A box of each image taken from its partner (Yun et al. 2019).

    The box has the image's proportions, an area drawn from Beta(alpha, alpha), a centre anywhere, and is cut at the
    border. The share of the label is the exact share of the pixels that stay.
    """
    b, h, w = shape_of(batch)
    area_key, place_key = jax.random.split(key)
    side = jnp.sqrt(jax.random.beta(area_key, alpha, alpha, (b, 1)))
    inside = boxes(place_key, (b, h, w), h * side, w * side)
    return batch | {
        "image": jnp.where(inside[..., None], _partners(batch["image"]), batch["image"]),
        "label_mixed": _partners(batch["label"]),
        "label_share": jnp.sum(~inside, (1, 2)) / (h * w),
    }


def mix(batch, *steps):
    """The step `(key, mixup or cutmix, alpha)`; of two steps one for the whole batch, by the toss of a coin.

    Raises:
      UserError: no label per image, or no partner.
    """
    names = " and ".join(f"config.data.augment.{fn.__name__}" for _, fn, _ in steps)
    label = batch.get("label")
    if label is None or label.ndim != 1:
        found = "label maps" if label is not None else "no labels"
        raise UserError(f"{names}: only images with one class each can be mixed; this data has {found}")
    if len(label) < 2:
        raise UserError(f"{names}: batches must have at least 2 images to mix")
    if len(steps) == 1:
        ((key, fn, alpha),) = steps
        return fn(key, batch, alpha)
    batch = batch | {"image": batch["image"].astype(jnp.float32)}  # mixup gives floats, and both must give the same
    (key, first, alpha), (other_key, second, other_alpha) = steps
    return jax.lax.cond(
        jax.random.bernoulli(jax.random.fold_in(key, 1)),
        lambda: first(key, batch, alpha),
        lambda: second(other_key, batch, other_alpha),
    )
