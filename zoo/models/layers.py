"""Layers and options that all image models share. Images are NHWC; padding is always written out.

Every image model has these options beside its own:
  num_classes: width of the head; 0 returns the pooled features [B, width] before it.
  in_channels: refuse images with another number of channels; None takes any.
  features_only: return the feature maps of `model.stages` (a list, one [B, H / stride, W / stride, width] per stage).
  global_pool: 'avg' or 'max' over height and width, before the head. Neither a U-Net, which has logits for each pixel,
    nor LeNet-5, whose dense layers see the whole last map, has this one.
  dropout: rate on the pooled features.
  dtype: of the computation, 'float32' or 'bfloat16'; parameters and statistics stay float32.
  remat: recompute the blocks' activations in the backward pass: less memory, about a third more time.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from zoo.errors import UserError, lookup
from zoo.options import check_least, check_rate

DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}
POOLS = {"avg": jnp.mean, "max": jnp.max}


class Stage(NamedTuple):
    """Of a feature pyramid: one input pixel in `stride` per axis, and the number of channels."""

    stride: int
    width: int


def check_image_options(name: str, model) -> None:
    """Raises UserError where an option that all image models share makes no sense."""
    if model.num_classes < 0:
        raise UserError(f"{name}: num_classes is {model.num_classes}; it must be at least 1, or 0 for features")
    check_least(name, model, in_channels=1)
    if hasattr(model, "global_pool"):
        lookup(f"global_pool of {name}", model.global_pool, POOLS)
    lookup(f"dtype of {name}", model.dtype, DTYPES)
    check_rate(name, dropout=model.dropout)


def check_images(name: str, x, in_channels: int | None, smallest: int = 1) -> None:
    """Raises UserError unless `x` is [B, H, W, C] with the right C, and H and W of at least `smallest`."""
    if x.ndim != 4:
        raise UserError(f"{name}: the input has shape {x.shape}; it must be [B, H, W, C]")
    if in_channels is not None and x.shape[-1] != in_channels:
        raise UserError(f"{name}: the images have {x.shape[-1]} channels; the model takes {in_channels}")
    if min(x.shape[1:3]) < smallest:
        raise UserError(f"{name}: the images are {x.shape[1]}x{x.shape[2]}; the network needs {smallest}x{smallest}")


def head(x, *, num_classes: int, global_pool: str, dropout: float, dtype: str, train: bool):
    """Feature maps [B, H, W, C] to pooled features (num_classes 0) or float32 logits; call it in a compact module."""
    x = POOLS[global_pool](x, axis=(1, 2))
    if not num_classes:
        return x
    x = nn.Dropout(dropout, deterministic=not train, name="head_dropout")(x)
    return nn.Dense(num_classes, dtype=DTYPES[dtype], name="head")(x).astype(jnp.float32)
