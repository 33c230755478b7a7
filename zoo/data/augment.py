"""Augmentation on the device: pure functions of a key and a batch of raw images, inside the compiled step.

`config.data.augment` maps names of AUGMENTS to their strength: `{'shift': 2, 'flip': 0.5}`. They run in the order of
AUGMENTS, each with its own key, on images [B, H, W, C] in 0..255 (or whatever the raw range is); what is moved in
from outside is 0.
"""

from collections.abc import Callable, Mapping
from numbers import Real

import jax
import jax.numpy as jnp

from zoo.errors import UserError, lookup
from zoo.types import Augment


def flip(key, images, probability: float):
    """Left and right exchanged with this probability."""
    chosen = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images)


def _pixels(size: int):
    """Coordinates [1, size] of the pixels of one axis."""
    return jnp.arange(size, dtype=jnp.float32)[None]


def _interpolation(positions, size: int):
    """positions [B, N] -> [B, N, size]: linear interpolation at these places of an axis as a matrix product.

    A product with these (mostly zero) matrices is many times faster than a gather on the CPU.
    """
    pixels = jnp.expand_dims(jnp.arange(size, dtype=jnp.float32), range(positions.ndim))
    return jnp.maximum(0, 1 - jnp.abs(positions[..., None] - pixels))


def _resample(images, rows, columns):
    """Images at the grid of `rows` [B, H] by `columns` [B, W], in pixels; 0 outside."""
    x = images.astype(jnp.float32)
    x = jnp.einsum("bij,bjwc->biwc", _interpolation(rows, x.shape[1]), x)
    return jnp.einsum("bij,bhjc->bhic", _interpolation(columns, x.shape[2]), x)


def shift(key, images, pixels: float):
    """Moved by whole pixels, up to `pixels` up or down and left or right."""
    b, h, w, _ = images.shape
    offsets = jax.random.randint(key, (2, b, 1), -int(pixels), int(pixels) + 1).astype(jnp.float32)
    return _resample(images, _pixels(h) + offsets[0], _pixels(w) + offsets[1])


def zoom(key, images, fraction: float):
    """Height and width stretched about the centre, each by its own factor in 1 - fraction .. 1 + fraction."""
    b, h, w, _ = images.shape
    factor = jax.random.uniform(key, (2, b, 1), minval=1 - fraction, maxval=1 + fraction)
    rows = (_pixels(h) - (h - 1) / 2) / factor[0] + (h - 1) / 2
    columns = (_pixels(w) - (w - 1) / 2) / factor[1] + (w - 1) / 2
    return _resample(images, rows, columns)


def _sample(images, rows, columns):
    """Bilinear at the places `rows`, `columns` [B, H, W], in pixels; 0 outside."""
    b, h, w, c = images.shape
    padded = jnp.pad(images.astype(jnp.float32), ((0, 0), (1, 2), (1, 2), (0, 0))).reshape(-1, c)
    # Places outside move onto the black frame, whose last row and column have one more to interpolate with.
    (top, down), (left, right) = (
        (jnp.floor(place), (place % 1)[..., None])
        for place in (jnp.clip(rows + 1, 0, h + 1), jnp.clip(columns + 1, 0, w + 1))
    )
    corner = (jnp.arange(b)[:, None, None] * (h + 3) + top.astype(int)) * (w + 3) + left.astype(int)

    def pixel(i, j):
        return padded.at[corner + i * (w + 3) + j].get(mode="promise_in_bounds")

    above = pixel(0, 0) * (1 - right) + pixel(0, 1) * right
    below = pixel(1, 0) * (1 - right) + pixel(1, 1) * right
    return above * (1 - down) + below * down


def rotate(key, images, degrees: float):
    """Turned about the centre by an angle in -degrees .. degrees."""
    b, h, w, _ = images.shape
    angle = jnp.deg2rad(jax.random.uniform(key, (b, 1, 1), minval=-degrees, maxval=degrees))
    y = _pixels(h)[..., None] - (h - 1) / 2
    x = _pixels(w)[:, None] - (w - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _sample(images, cos * y - sin * x + (h - 1) / 2, sin * y + cos * x + (w - 1) / 2)


def cutout(key, images, size: float):
    """A size x size square around a random pixel set to 0 (DeVries & Taylor 2017); it may reach over the border."""
    b, h, w, _ = images.shape
    centre = jax.random.uniform(key, (2, b, 1), maxval=jnp.asarray([h, w], jnp.float32)[:, None, None])
    near = [jnp.abs(_pixels(n) + 0.5 - c) < size / 2 for n, c in zip((h, w), centre, strict=True)]
    hidden = near[0][:, :, None] & near[1][:, None, :]
    return jnp.where(hidden[..., None], jnp.zeros((), images.dtype), images)


# name -> (function of (key, images, strength), largest sensible strength)
AUGMENTS: dict[str, tuple[Callable, float]] = {
    "flip": (flip, 1.0),
    "rotate": (rotate, 90.0),
    "zoom": (zoom, 0.9),
    "shift": (shift, 1e4),
    "cutout": (cutout, 1e4),
}


def make(settings: Mapping[str, float | None]) -> Augment | None:
    """The augmentation of `config.data.augment`, or None when there is none. A strength of 0 or None turns one off.

    Raises:
      UserError: an unknown name or a strength that makes no sense.
    """
    for name, strength in settings.items():
        largest = lookup("augmentation", name, AUGMENTS)[1]
        if strength is not None and (not isinstance(strength, Real) or not 0 <= strength <= largest):
            raise UserError(f"config.data.augment.{name} is {strength!r}; it must be a number in 0..{largest:g}")
    if (settings.get("shift") or 0) % 1:
        raise UserError(f"config.data.augment.shift is {settings['shift']}; it must be a whole number of pixels")
    chosen = [(AUGMENTS[name][0], settings[name]) for name in AUGMENTS if settings.get(name)]
    if not chosen:
        return None

    def augment(key, batch):
        images = batch["image"]
        for fn, strength in chosen:
            key, own = jax.random.split(key)
            images = fn(own, images, strength)
        return batch | {"image": images}

    return augment
