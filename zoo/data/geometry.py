"""Moving images, and the label maps that belong to them, on the device.

Batches are raw: 'image' [B, H, W, C] and, in segmentation, 'label' [B, H, W] (integers) and perhaps 'weight'
[B, H, W]. All of them move by the very same map: images and weights are interpolated linearly, labels take the
nearest pixel's and keep their type. Outside of an image is 0. With a label map the outside is mirrored at the middle
of the border pixels (Ronneberger et al. 2015, section 2, extrapolate by mirroring), so that no false label appears.

A warp is a function `(key, rows, columns, shape, strength) -> (rows, columns)`: from where the pixel at these places
comes. Places are in pixels, [B or 1, H, 1] and [B or 1, 1, W] as long as they form a grid, else both [B, H, W]; shape
is (B, H, W). Everything else here has the form `(key, batch, strength) -> batch`.
"""

import jax
import jax.numpy as jnp

from zoo.errors import UserError


def shape_of(batch) -> tuple[int, int, int]:
    """(B, H, W)"""
    return batch["image"].shape[:3]


def has_label_map(batch) -> bool:
    return "label" in batch and batch["label"].ndim == 3


def _maps(batch) -> dict:
    """What moves: the images, and the maps of their shape."""
    return {key: batch[key] for key in ("image", "label", "weight") if key in batch and batch[key].ndim >= 3}


def _grid(h: int, w: int):
    """Places of the pixels, [1, H, 1] and [1, 1, W]."""
    return jnp.arange(h, dtype=jnp.float32)[None, :, None], jnp.arange(w, dtype=jnp.float32)[None, None]


# --- without interpolation ---------------------------------------------------------------------------------------


def _some(key, batch, probability: float, change):
    """`change` of every map of the examples that are chosen with this probability."""
    chosen = jax.random.bernoulli(key, probability, (len(batch["image"]), 1, 1, 1))
    return batch | {
        k: jnp.where(chosen if x.ndim == 4 else chosen[..., 0], change(x), x) for k, x in _maps(batch).items()
    }


def flip(key, batch, probability: float):
    """Left and right exchanged with this probability."""
    return _some(key, batch, probability, lambda x: x[:, :, ::-1])


def flip_vertical(key, batch, probability: float):
    """Top and bottom exchanged with this probability."""
    return _some(key, batch, probability, lambda x: x[:, ::-1])


def transpose(key, batch, probability: float):
    """Rows and columns exchanged with this probability; with both flips, all 8 symmetries of the square."""
    _, h, w = shape_of(batch)
    if h != w:
        raise UserError(f"config.data.augment.transpose needs square images; these are {h}x{w}")
    return _some(key, batch, probability, lambda x: x.swapaxes(1, 2))


def _windows(batch, tops, lefts, h: int, w: int):
    """The window of h x w pixels at (tops, lefts) [B] of every map."""

    def window(x, top, left):
        return jax.lax.dynamic_slice(x, (top, left, *(0,) * (x.ndim - 2)), (h, w, *x.shape[2:]))

    return batch | {key: jax.vmap(window)(x, tops, lefts) for key, x in _maps(batch).items()}


def crop(key, batch, side: float):
    """A random window of side x side pixels."""
    (b, h, w), side = shape_of(batch), int(side)
    if side > min(h, w):
        raise UserError(f"config.data.augment.crop is {side}, larger than the images ({h}x{w})")
    places = jax.random.randint(key, (2, b), 0, jnp.asarray([[h - side + 1], [w - side + 1]]))
    return _windows(batch, *places, side, side)


def shift(key, batch, pixels: float):
    """Moved by whole pixels, up to `pixels` up or down and left or right.

    The same as padding by `pixels` and cropping at random, as in the training on CIFAR-10 (He et al. 2015, 4.2).
    """
    (b, h, w), most = shape_of(batch), int(pixels)
    if most > min(h, w):
        raise UserError(f"config.data.augment.shift is {most}, more than the images have pixels ({h}x{w})")
    offsets = jax.random.randint(key, (2, b, 1), -most, most + 1)[..., 0]
    mode = {"mode": "reflect"} if has_label_map(batch) else {}
    padded = {
        k: jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0))[: x.ndim], **mode) for k, x in _maps(batch).items()
    }
    return _windows(batch | padded, *(offsets + most), h, w)


# --- places ------------------------------------------------------------------------------------------------------


def rotate(key, rows, columns, shape, degrees: float):
    """Turned about the centre by an angle in -degrees .. degrees."""
    b, h, w = shape
    angle = jnp.deg2rad(jax.random.uniform(key, (b, 1, 1), minval=-degrees, maxval=degrees))
    y, x = rows - (h - 1) / 2, columns - (w - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * y - sin * x + (h - 1) / 2, sin * y + cos * x + (w - 1) / 2


def elastic(key, rows, columns, shape, std: float):
    """Every pixel moved by a smooth field: random normal moves of this deviation, in pixels, at 3 x 3 points.

    The points are the corners, the middles of the sides and the centre; bicubic in between (Ronneberger et al. 2015,
    section 3.1, with 10 pixels). Takes places that form a grid.
    """
    b, h, w = shape
    moves = std * jax.random.normal(key, (2, b, 3, 3))
    down, right = _cubic(rows[:, :, 0], h), _cubic(columns[:, 0], w)
    down, right = (jnp.broadcast_to(x, (b, *x.shape[1:])) for x in (down, right))
    field = jnp.einsum("bip,kbpq,bjq->kbij", down, moves, right)
    return rows + field[0], columns + field[1]


def _cubic(places, size: int):
    """places [B, N] -> [B, N, 3]: weights of 3 points spread over an axis, by Keys' cubic convolution (1981, a = -1/2).

    The points at the ends count for the missing ones beyond them too.
    """
    place = jnp.clip(places * (2 / max(size - 1, 1)), 0, 2)
    d = jnp.abs(place[..., None] - jnp.arange(-1.0, 4)[None, None])
    near, far = (1.5 * d - 2.5) * d**2 + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = jnp.where(d < 1, near, jnp.where(d < 2, far, 0))
    return jnp.stack([weights[..., 0] + weights[..., 1], weights[..., 2], weights[..., 3] + weights[..., 4]], -1)


def random_resized_crop(key, rows, columns, shape, smallest: float):
    """A random window resized to the whole: a share of the area in smallest .. 1, width / height in 3/4 .. 4/3.

    Szegedy et al. 2015, section 6; a window higher or wider than the image is cut to it.
    """
    b, h, w = shape
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = h * w * jax.random.uniform(area_key, (b, 1, 1), minval=smallest, maxval=1)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (b, 1, 1), minval=jnp.log(3 / 4), maxval=jnp.log(4 / 3)))
    place = jax.random.uniform(place_key, (2, b, 1, 1))

    def axis(places, size, length, place):
        length = jnp.minimum(length, size)
        inside = place * (size - length) + (places + 0.5) * (length / size) - 0.5
        return jnp.clip(inside, 0, size - 1)  # the outer half of the border pixels is not mixed with the outside

    return axis(rows, h, jnp.sqrt(area / ratio), place[0]), axis(columns, w, jnp.sqrt(area * ratio), place[1])


def translate(key, rows, columns, shape, fraction: float):
    """Moved up or down and left or right by up to this fraction of the height and width, by parts of pixels too."""
    b, h, w = shape
    offsets = jax.random.uniform(key, (2, b, 1, 1), minval=-fraction, maxval=fraction)
    return rows + h * offsets[0], columns + w * offsets[1]


def warp(batch, *steps):
    """Warps `(key, warp, strength)`, in the order in which they act, but interpolated only once."""
    shape = shape_of(batch)
    rows, columns = _grid(*shape[1:])
    for key, fn, strength in reversed(steps):
        rows, columns = fn(key, rows, columns, shape, strength)
    return _resample(batch, rows, columns)


def zoom(key, batch, fraction: float):
    """Height and width stretched about the centre, each by its own factor in 1 - fraction .. 1 + fraction."""
    b, h, w = shape_of(batch)
    factor = jax.random.uniform(key, (2, b, 1), minval=1 - fraction, maxval=1 + fraction)[..., None]
    rows, columns = _grid(h, w)
    rows = (rows - (h - 1) / 2) / factor[0] + (h - 1) / 2
    columns = (columns - (w - 1) / 2) / factor[1] + (w - 1) / 2
    return _resample(batch, rows, columns)


# --- interpolation -----------------------------------------------------------------------------------------------


def _resample(batch, rows, columns):
    """Every map of the batch at these places."""
    _, h, w = shape_of(batch)
    if has_label_map(batch):
        rows, columns = _mirrored(rows, h), _mirrored(columns, w)
    linear = _by_products if rows.shape[2] == columns.shape[1] == 1 else _by_gather
    moved = {"image": linear(batch["image"], rows, columns)}
    if has_label_map(batch):
        moved["label"] = _nearest(batch["label"], rows, columns)
        if "weight" in batch:
            moved["weight"] = linear(batch["weight"][..., None], rows, columns)[..., 0]
    return batch | moved


def _mirrored(places, size: int):
    """Places outside of 0 .. size - 1 folded back into it."""
    last, period = size - 1, max(2 * (size - 1), 1)
    places = jnp.abs(places)
    places = places - period * jnp.floor(places / period)  # a float `%` takes many times longer on the CPU
    return last - jnp.abs(places - last) if last else jnp.zeros_like(places)


def _nearest(labels, rows, columns):
    """labels [B, H, W] at the pixels nearest to places inside."""
    b, h, w = labels.shape
    i, j = (jnp.floor(places + 0.5).astype(jnp.int32) for places in (rows, columns))
    return _taken(labels.reshape(b, h * w), i * w + j)


def _taken(pixels, index):
    """pixels [B, N, ...] at index [B, ...] of each row: by example, so that rows on several devices stay there."""
    return jax.vmap(lambda x, i: x.at[i].get(mode="promise_in_bounds"))(pixels, index)


def _interpolation(places, size: int):
    """places [B, N] -> [B, N, size]: linear interpolation at these places of an axis as a matrix product.

    A product with these (mostly zero) matrices is many times faster than a gather on the CPU.
    """
    pixels = jnp.expand_dims(jnp.arange(size, dtype=jnp.float32), range(places.ndim))
    return jnp.maximum(0, 1 - jnp.abs(places[..., None] - pixels))


def _by_products(images, rows, columns):
    """Bilinear at the grid of rows [B, H, 1] by columns [B, 1, W]; 0 outside."""
    x = images.astype(jnp.float32)
    x = jnp.einsum("bij,bjwc->biwc", _interpolation(rows[:, :, 0], x.shape[1]), x)
    return jnp.einsum("bij,bhjc->bhic", _interpolation(columns[:, 0], x.shape[2]), x)


def _by_gather(images, rows, columns):
    """Bilinear at the places rows, columns [B, H, W]; 0 outside."""
    b, h, w, c = images.shape
    padded = jnp.pad(images.astype(jnp.float32), ((0, 0), (1, 2), (1, 2), (0, 0))).reshape(b, -1, c)
    # Places outside move onto the black frame, whose last row and column have one more to interpolate with.
    (top, down), (left, right) = (
        (jnp.floor(place), (place % 1)[..., None])
        for place in (jnp.clip(rows + 1, 0, h + 1), jnp.clip(columns + 1, 0, w + 1))
    )
    corner = top.astype(int) * (w + 3) + left.astype(int)

    def pixel(i, j):
        return _taken(padded, corner + i * (w + 3) + j)

    above = pixel(0, 0) * (1 - right) + pixel(0, 1) * right
    below = pixel(1, 0) * (1 - right) + pixel(1, 1) * right
    return above * (1 - down) + below * down


# --- boxes -------------------------------------------------------------------------------------------------------


def boxes(key, shape, height, width):
    """[B, H, W], true in a box around a random place of each image; it may reach over the border.

    Args:
      shape: (B, H, W).
      height, width: in pixels, numbers or [B, 1].
    """
    b, h, w = shape
    centre = jax.random.uniform(key, (2, b, 1), maxval=jnp.asarray([h, w], jnp.float32)[:, None, None])
    rows, columns = _grid(h, w)
    down = jnp.abs(rows[..., 0] + 0.5 - centre[0]) < height / 2
    right = jnp.abs(columns[:, 0] + 0.5 - centre[1]) < width / 2
    return down[:, :, None] & right[:, None, :]
