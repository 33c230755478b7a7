"""A segmentation set that is drawn, not stored: discs and rings that touch and overlap, under noise.

Brightness tells an object from the background, but nothing of it tells a disc from a ring: a network has to look for
the hole, over a window as wide as the object.
"""

import numpy as np

from zoo.types import Source

CLASSES = ("background", "disc", "ring")
SIZE, TRAIN, TEST = 64, 400, 100
NOISE = 15.0  # standard deviation; backgrounds are around 50 to 110, objects 140 to 230


def shapes(data_dir=None) -> Source:
    """400 training and 100 test images [64, 64, 1] with label maps of 3 classes; always the same ones."""
    image, label = _draw(np.random.default_rng(2015), TRAIN + TEST)
    arrays = {"image": image, "label": label}
    train, test = ({key: value[rows] for key, value in arrays.items()} for rows in (slice(TRAIN), slice(TRAIN, None)))
    return Source(train, test=test, class_names=CLASSES)


def _draw(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, SIZE, SIZE, 1] and label maps uint8 [N, SIZE, SIZE]; later objects cover earlier ones."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    pixels = np.empty((number, SIZE, SIZE), np.float32)
    labels = np.zeros((number, SIZE, SIZE), np.uint8)
    for canvas, label in zip(pixels, labels, strict=True):
        slope = rng.uniform(-20, 20, 2) / SIZE
        canvas[:] = rng.uniform(70, 90) + slope[0] * (y - SIZE / 2) + slope[1] * (x - SIZE / 2)
        for row, column, radius in _places(rng):
            kind = rng.integers(1, len(CLASSES))
            distance = np.hypot(y - row, x - column)
            inside = (distance < radius) & (distance > (0.45 * radius if CLASSES[kind] == "ring" else -1))
            canvas[inside] = rng.uniform(140, 230)
            label[inside] = kind
    pixels += NOISE * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)[..., None], labels


def _places(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Row, column and radius of 4 to 8 circles, which overlap by at most a fifth of their radii.

    Every second one is put against an earlier one: so there are borders to find.
    """
    placed = []
    for index in range(rng.integers(4, 9)):
        for _ in range(20):
            radius = rng.uniform(6, 11)
            row, column = rng.uniform(0.6 * radius, SIZE - 0.6 * radius, 2)  # the hole of a ring stays in the frame
            if placed and index % 2:
                beside, angle = placed[rng.integers(len(placed))], rng.uniform(0, 2 * np.pi)
                apart = rng.uniform(0.8, 1.0) * (radius + beside[2])
                row, column = beside[0] + apart * np.sin(angle), beside[1] + apart * np.cos(angle)
            free = all(np.hypot(row - r, column - c) >= 0.799 * (radius + other) for r, c, other in placed)
            if free and 0.6 * radius <= min(row, column) and max(row, column) <= SIZE - 0.6 * radius:
                placed.append((row, column, radius))
                break
    return placed
