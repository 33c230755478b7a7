"""Overlap-tile prediction of images of any size (Ronneberger et al. 2015, arXiv:1505.04597, section 2 and figure 2).

Only one batch of tiles is on the device, and one image's logits on the host.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from zoo.errors import UserError


def predict(
    apply: Callable, images: Sequence[np.ndarray], *, tile: int, margin: int = 0, multiple: int = 1, batch_size: int = 4
) -> Iterator[np.ndarray]:
    """The logits [H, W, K] of each image [H, W, C], one after the other.

    An image is cut into overlapping tiles; what lies outside of it is mirrored at its border; of each tile's logits the
    part away from the edges of the tile is kept. With a margin of at least the network's `receptive_radius`, no pixel
    that is kept has seen the edge of a tile: the result depends on the size of the tiles only by rounding, unless the
    network normalizes over whole maps.

    Args:
      apply: [batch_size, tile, tile, C] to logits, either of that size, or smaller by the same number of pixels on each
        side (valid convolutions). Compiled once: all batches have this shape, the last one filled up.
      images: arrays whose sizes may differ, but with the same number of channels.
      tile: side of a tile, as the network sees it.
      margin: how many pixels at each side of a tile are context only, at least; a network whose output is smaller needs
        none beside the pixels that it loses.
      multiple: the coarsest stride of the network (`2 ** depth` of a U-Net); tiles start at distances that are
        multiples of it, because pooling is not translation invariant in between.

    Raises:
      UserError: sizes that leave nothing of a tile, or logits of another shape.
    """
    for name, value, least in (
        ("tile", tile, 1), ("margin", margin, 0), ("multiple", multiple, 1), ("batch_size", batch_size, 1)
    ):  # fmt: skip
        if value < least:
            raise UserError(f"tiling: {name} is {value}; it must be at least {least}")
    if not len(images):
        return iter(())
    for number, image in enumerate(images):
        if image.ndim != 3 or image.shape[-1] != images[0].shape[-1] or not image.size:
            raise UserError(
                f"tiling: image {number} has shape {image.shape}; it must be [H, W, {images[0].shape[-1]}], not empty"
            )
    batch = jax.ShapeDtypeStruct((batch_size, tile, tile, images[0].shape[-1]), images[0].dtype)
    logits = jax.eval_shape(apply, batch)
    lost = (tile - logits.shape[1]) // 2 if len(logits.shape) == 4 else 0
    if logits.shape[:-1] != (batch_size, tile - 2 * lost, tile - 2 * lost) or lost < 0:
        raise UserError(
            f"tiling: tiles of shape {batch.shape} give logits of shape {logits.shape}; they must be as large, or "
            "smaller by the same number of pixels on each side"
        )
    # Same-size outputs lose a multiple of the stride, which puts the first tile on the grid of the whole image.
    cut = -(-max(margin - lost, 0) // multiple) * multiple
    step = (tile - 2 * (lost + cut)) // multiple * multiple
    if step < 1:
        least = 2 * (lost + cut) + multiple
        raise UserError(
            f"tiling: nothing is left of a tile of {tile} pixels with {lost + cut} of context on each side; it must be "
            f"at least {least}"
        )
    return _stitched(apply, images, batch, logits, step=step, context=lost + cut, cut=cut)


def _stitched(apply, images, batch, logits, *, step: int, context: int, cut: int) -> Iterator[np.ndarray]:
    """Runs batches of tiles, which may belong to several images, and gives an image when its last tile is done."""
    (batch_size, tile), channels = batch.shape[:2], logits.shape[-1]
    places = (
        (number, top, left)
        for number, image in enumerate(images)
        for top in range(0, image.shape[0], step)
        for left in range(0, image.shape[1], step)
    )
    current, result = 0, None
    while group := list(itertools.islice(places, batch_size)):
        tiles = [_tile(images[n], top - context, left - context, tile) for n, top, left in group]
        tiles += tiles[:1] * (batch_size - len(group))
        outputs = np.asarray(apply(np.stack(tiles).astype(batch.dtype)))
        for (number, top, left), output in zip(group, outputs, strict=False):
            if number != current:
                yield result
                current, result = number, None
            if result is None:
                result = np.empty((*images[number].shape[:2], channels), logits.dtype)
            part = result[top : top + step, left : left + step]
            part[:] = output[cut : cut + part.shape[0], cut : cut + part.shape[1]]
    yield result


def _tile(image, top: int, left: int, side: int):
    """[side, side, C] from this place on, mirrored at the border as often as needed."""
    rows, columns = (
        _mirrored(np.arange(start, start + side), size)
        for start, size in zip((top, left), image.shape[:2], strict=True)
    )
    return image[rows[:, None], columns]


def _mirrored(index, size: int):
    """Places on an endless axis to those of the image; the border pixel is not repeated (as `np.pad`'s 'reflect')."""
    period = max(2 * (size - 1), 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)
