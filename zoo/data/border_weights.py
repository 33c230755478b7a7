"""The weight map of the U-Net paper (Ronneberger et al. 2015, section 3, equation 2): thin borders count more."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.types import Source

IGNORE = 255
REACH = 6  # in sigmas; beyond, the border term is below 2e-8 of w0


def make(options: Mapping[str, Any], source: Source, train: Mapping[str, np.ndarray]) -> np.ndarray:
    """`border_weights` of the training label maps, with the settings of `config.data`: border_weight, border_sigma
    and border_class.

    Raises:
      UserError: settings that make no sense, or no label maps.
    """
    w0, sigma, separator = (options[f"border_{key}"] for key in ("weight", "sigma", "class"))
    if train.get("label", np.empty(0)).ndim != 3:
        raise UserError(f"config.data.border_weight is {w0}; data set {options['name']!r} has no label maps")
    for key, value in (("weight", w0), ("sigma", sigma)):
        if not value > 0:
            raise UserError(f"config.data.border_{key} is {value}; it must be more than 0")
    names = source.class_names
    if not 0 <= separator < len(names):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        raise UserError(f"config.data.border_class is {separator}; the classes are {known}")
    return border_weights(train["label"], separator=separator, w0=w0, sigma=sigma)


def border_weights(label: np.ndarray, *, separator: int = 0, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)) for each pixel of label maps.

    w_c balances the classes: all pixels / (number of classes x pixels of the class), so that its mean over all maps
    is 1. d1 and d2 are the distances, in pixels, to the nearest and second nearest object of the same map, 0
    inside of an object; the paper does not say which distance it means there, and this one has no jump at the border.
    Objects are the connected pixels (by their sides) of one class other than the separator. A map with fewer than two
    objects has no border term. Ignored pixels weigh 0.

    Args:
      label: [N, H, W], the class of each pixel; 255: ignored.
      separator: the class that lies between objects.
      w0, sigma: height and width of the border term; the paper's 10 and 5.

    Returns:
      float32 [N, H, W].
    """
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    counts[IGNORE] = 0
    present = counts > 0
    balance = np.zeros(len(counts), np.float32)
    balance[present] = counts.sum() / (present.sum() * counts[present])
    weights = balance[label]
    for weight, row in zip(weights, label, strict=True):
        distance = _nearest_two(row, separator, math.ceil(REACH * sigma))
        weight += np.where(row == IGNORE, 0, w0 * np.exp(-np.square(distance) / (2 * sigma**2)))
    return weights


def _nearest_two(label: np.ndarray, separator: int, reach: int) -> np.ndarray:
    """d1 + d2 [H, W], exact where both objects are within `reach`, larger (or infinite) elsewhere.

    Each object updates only its surroundings, so hundreds of them cost little more than a few whole maps.
    """
    from scipy import ndimage  # takes a quarter of a second: only where the weights are asked for

    nearest, second = (np.full(label.shape, np.inf, np.float32) for _ in range(2))
    for value in np.unique(label):
        if value in (separator, IGNORE):
            continue
        objects, _ = ndimage.label(label == value)
        for number, box in enumerate(ndimage.find_objects(objects), start=1):
            box = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
            distance = ndimage.distance_transform_edt(objects[box] != number)
            second[box] = np.minimum(second[box], np.maximum(nearest[box], distance))
            nearest[box] = np.minimum(nearest[box], distance)
    return nearest + second
