"""Augmentation on the device: pure functions of a key and a batch of raw examples, inside the compiled step.

`config.data.augment` maps names of AUGMENTS to their strength: `{'shift': 2, 'flip': 0.5}`. They act in the order of
AUGMENTS, each with its own key and every example with its own draw, on images [B, H, W, C] of 0..255; `geometry` says
what happens to label maps and outside of the images, `mixing` how mixup and cutmix reach the loss.
"""

import itertools
from collections.abc import Callable, Mapping
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp

from zoo.data import geometry, mixing
from zoo.errors import UserError, lookup
from zoo.types import Augment


def _pixelwise(batch, change):
    """`change` of the images as floats, cut to 0..255."""
    return batch | {"image": jnp.clip(change(batch["image"].astype(jnp.float32)), 0, 255)}


def _factors(key, batch, strength: float):
    return jax.random.uniform(key, (len(batch["image"]), 1, 1, 1), minval=1 - strength, maxval=1 + strength)


def brightness(key, batch, change: float):
    """All pixels times a factor in 1 - change .. 1 + change."""
    return _pixelwise(batch, lambda x: x * _factors(key, batch, change))


def contrast(key, batch, change: float):
    """The distance of all pixels from the image's mean times a factor in 1 - change .. 1 + change."""

    def spread(x):
        mean = jnp.mean(x, (1, 2, 3), keepdims=True)
        return mean + (x - mean) * _factors(key, batch, change)

    return _pixelwise(batch, spread)


def noise(key, batch, std: float):
    """Gaussian noise of this deviation, in units of the pixels (0..255), drawn for each channel of each pixel."""
    return _pixelwise(batch, lambda x: x + std * jax.random.normal(key, x.shape))


def cutout(key, batch, size: float):
    """A size x size square around a random pixel set to 0 (DeVries & Taylor 2017); it may reach over the border.

    Label maps are unchanged: the network must infer hidden pixels from their surroundings.
    """
    images = batch["image"]
    hidden = geometry.boxes(key, geometry.shape_of(batch), size, size)
    return batch | {"image": jnp.where(hidden[..., None], jnp.zeros((), images.dtype), images)}


def each(batch, *steps):
    """Steps `(key, function of (key, batch, strength), strength)`, one after the other."""
    for key, fn, strength in steps:
        batch = fn(key, batch, strength)
    return batch


class Augmentation(NamedTuple):
    fn: Callable  # what it takes depends on `apply`
    largest: float  # sensible strength
    apply: Callable = each  # (batch, *steps) -> batch, for neighbours of the same kind together
    whole: bool = False  # the strength counts pixels


AUGMENTS: dict[str, Augmentation] = {
    "flip": Augmentation(geometry.flip, 1),
    "flip_vertical": Augmentation(geometry.flip_vertical, 1),
    "transpose": Augmentation(geometry.transpose, 1),
    "rotate": Augmentation(geometry.rotate, 180, geometry.warp),
    "elastic": Augmentation(geometry.elastic, 1e3, geometry.warp),
    "random_resized_crop": Augmentation(geometry.random_resized_crop, 1, geometry.warp),
    "translate": Augmentation(geometry.translate, 1, geometry.warp),
    "zoom": Augmentation(geometry.zoom, 0.9),  # interpolates on its own, as in the runs that the README reports
    "shift": Augmentation(geometry.shift, 1e4, whole=True),
    "crop": Augmentation(geometry.crop, 1e4, whole=True),
    "brightness": Augmentation(brightness, 1),
    "contrast": Augmentation(contrast, 1),
    "noise": Augmentation(noise, 255),
    "cutout": Augmentation(cutout, 1e4),
    "mixup": Augmentation(mixing.mixup, 100, mixing.mix),
    "cutmix": Augmentation(mixing.cutmix, 100, mixing.mix),
}


def make(settings: Mapping[str, float | None]) -> Augment | None:
    """The augmentation of `config.data.augment`, or None when there is none. A strength of 0 or None turns one off.

    Raises:
      UserError: an unknown name or a strength that makes no sense; when the augmentation is traced, data that it
        cannot work on.
    """
    for name, strength in settings.items():
        known = lookup("augmentation", name, AUGMENTS)
        if strength is not None and (not isinstance(strength, Real) or not 0 <= strength <= known.largest):
            raise UserError(f"config.data.augment.{name} is {strength!r}; it must be a number in 0..{known.largest:g}")
        if known.whole and (strength or 0) % 1:
            raise UserError(f"config.data.augment.{name} is {strength}; it must be a whole number of pixels")
    chosen = {name: float(settings[name]) for name in AUGMENTS if settings.get(name)}
    if not chosen:
        return None

    def augment(key, batch):
        found, steps = batch["image"].dtype, []
        for name, strength in chosen.items():
            fn, _, apply, *_ = AUGMENTS[name]
            if fn in (brightness, contrast, noise) and found != jnp.uint8:
                raise UserError(f"config.data.augment.{name} needs pixels of 0..255 (uint8); these are {found.name}")
            key, own = jax.random.split(key)
            steps.append((apply, (own, fn, strength)))
        for apply, group in itertools.groupby(steps, lambda step: step[0]):
            batch = apply(batch, *(step for _, step in group))
        return batch

    return augment
