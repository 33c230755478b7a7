"""A picture of what augmentation does: the original, then several draws, one row per augmentation."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image, ImageDraw

from zoo import data
from zoo.data import augment
from zoo.errors import UserError
from zoo.types import Batch

SMALLEST, GAP, TITLE = 64, 4, 16  # images at least this large, the space around them, the height of a title; in pixels
# Of the classes in label maps, over and over; the first one, class 0, is not drawn.
COLOURS = np.uint8([[0, 0, 0], [230, 60, 60], [60, 180, 75], [0, 130, 220], [245, 190, 40], [150, 60, 200]])


def examples(side: int) -> dict[str, float]:
    """Strengths that show well on images of this side, in pixels."""
    probability = dict.fromkeys(("flip", "flip_vertical", "transpose"), 0.5)
    pixels = {"elastic": side / 16, "shift": max(side // 6, 1), "crop": max(side * 3 // 4, 1), "cutout": side / 3}
    share = {"random_resized_crop": 0.25, "translate": 0.2, "zoom": 0.3, "brightness": 0.5, "contrast": 0.7}
    strengths = probability | pixels | share | {"rotate": 30, "noise": 25, "mixup": 1.0, "cutmix": 1.0}
    return {name: strengths[name] for name in augment.AUGMENTS}


def read(config, rows: int) -> Batch:
    """The first training examples, raw."""
    options = config.data.to_dict() | {"augment": {}, "batch_size": rows, "device": "no"}
    feed = data.make(options, seed=config.seed, mesh=Mesh(np.array(jax.local_devices()[:1]), ("data",))).train
    batch = {key: np.asarray(value) for key, value in feed.batch(feed.fetch(0), 0).items()}
    if "image" not in batch:
        raise UserError(f"data set {config.data.name!r} has no images")
    return batch


def panels(batch, row: int, scale: int) -> list[np.ndarray]:
    """The pictures of one example: the image, and with its label map over it."""
    image = np.clip(np.round(np.asarray(batch["image"][row], np.float32)), 0, 255).astype(np.uint8)
    pictures = [np.broadcast_to(image[..., :3] if image.shape[-1] >= 3 else image[..., :1], (*image.shape[:2], 3))]
    if "label" in batch and batch["label"].ndim == 3:
        label = np.asarray(batch["label"][row])[..., None]
        colour = COLOURS[label[..., 0] % len(COLOURS)]
        pictures.append(np.where(label > 0, pictures[0] // 2 + colour // 2, pictures[0]))
    return [picture.repeat(scale, 0).repeat(scale, 1) for picture in pictures]


def draw(batch: Batch, settings: Sequence[Mapping[str, float]], seed: int) -> tuple[Image.Image, list[str]]:
    """One row for each of `settings`, and why those are missing that cannot work on this data.

    Args:
      batch: raw examples: the first is shown, the others are partners to mix with, one for each draw.
      settings: each as `config.data.augment`.
      seed: decides the draws.
    """
    draws = len(batch["image"]) - 1
    # The partner to mix with is the example before.
    order = np.stack([np.arange(1, draws + 1), np.zeros(draws, int)], 1).ravel()
    examples = {key: value[order] for key, value in batch.items()}
    height, width = batch["image"].shape[1:3]
    scale = -(-SMALLEST // min(height, width))
    original, rows, left_out = panels(batch, 0, scale), [], []
    for setting in settings:
        try:
            augmented = jax.device_get(jax.jit(augment.make(setting))(jax.random.key(seed), examples))
        except UserError as error:
            left_out.append(str(error))
            continue
        title = ", ".join(f"{name} = {strength:g}" for name, strength in setting.items())
        rows.append((title, original + [p for i in range(draws) for p in panels(augmented, 2 * i + 1, scale)]))
    step, stride = TITLE + scale * height + GAP, scale * width + GAP
    canvas = Image.new("RGB", (GAP + len(original) * (draws + 1) * stride, len(rows) * step), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (title, pictures) in enumerate(rows):
        pen.text((GAP, i * step + 2), title, fill="black")
        for j, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(picture), (GAP + j * stride, i * step + TITLE))
    return canvas, left_out
