"""From raw rows to model input: scaling and normalization, with statistics of the training split alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from zoo.errors import UserError, lookup
from zoo.types import Batch

# name -> the (shift, scale) of x -> (x - shift) / scale, from training rows [N, ..., channels or features]
NORMALIZE: dict[str, Callable[[np.ndarray], tuple[Any, Any]]] = {
    "none": lambda x: (0.0, 1.0),
    "standardize": lambda x: moments(x),
    "minmax": lambda x: (x.min(_all_but_last(x)), np.ptp(x, _all_but_last(x))),
}


def _all_but_last(x) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over everything but the last axis, in float64; exact for uint8."""
    if x.dtype == np.uint8:  # a histogram per channel, in pieces: bincount takes 8 bytes per pixel
        channels, values = x.shape[-1], np.arange(256)
        counts = np.zeros((channels, 256), np.int64)
        for rows in np.array_split(x.reshape(-1, channels), x.size // 2**20 + 1):
            counts += np.stack([np.bincount(rows[:, c], minlength=256) for c in range(channels)])
        mean = counts @ values / counts.sum(1)
        return mean, np.sqrt(counts @ values**2 / counts.sum(1) - mean**2)
    return x.mean(_all_but_last(x), dtype=np.float64), x.std(_all_but_last(x), dtype=np.float64)


def fit(train: Mapping[str, np.ndarray], normalize: str) -> tuple[Callable[[Batch], Batch], dict[str, Any]]:
    """The preprocessing of a batch, and its statistics for `meta`.

    Images become float32; `none` leaves them in 0..1, everything else is computed on that scale too. A channel or
    feature that is constant in the training rows is only centred.

    Args:
      train: the training rows, and nothing else.
      normalize: a name of NORMALIZE.

    Returns:
      A pure function for the compiled step, and {'mean', 'std'} as lists of one number per channel or feature.
    """
    statistics = lookup("normalization", normalize, NORMALIZE)
    key = "image" if "image" in train else "feature"
    unit = 255.0 if train[key].dtype == np.uint8 else 1.0
    shift, scale = (np.broadcast_to(np.asarray(s, np.float64), channels(train)) for s in statistics(train[key]))
    if normalize == "none":
        shift, scale = shift * unit, scale * unit
    constant = scale <= 1e-7 * np.abs(shift)  # for float32; the deviation of equal float64 rounds to about 1e-17
    scale = np.where(constant, unit, scale)
    return given(train, (shift / unit).tolist(), (scale / unit).tolist())


def channels(train: Mapping[str, np.ndarray]) -> int:
    """Of the images, or the number of features."""
    return train["image" if "image" in train else "feature"].shape[-1]


def given(
    train: Mapping[str, np.ndarray], mean: Sequence[float], std: Sequence[float]
) -> tuple[Callable[[Batch], Batch], dict[str, Any]]:
    """As `fit`, with a mean and a deviation that are known: one per feature, or per channel of images in 0..1."""
    key = "image" if "image" in train else "feature"
    if channels(train) != len(mean):
        raise UserError(
            f"config.data.statistics: the weights know the mean of {len(mean)} {key} channels, the data has "
            f"{channels(train)}; set it to 'train'"
        )
    unit = 255.0 if train[key].dtype == np.uint8 else 1.0
    centre = np.float32(np.asarray(mean) * unit)
    factor = np.float32(1 / (np.asarray(std) * unit))

    def preprocess(batch: Batch) -> Batch:
        x = batch[key].astype(jnp.float32)
        lead = range(x.ndim - 1)
        return batch | {key: (x - jnp.expand_dims(centre, lead)) * jnp.expand_dims(factor, lead)}

    return preprocess, {"mean": list(mean), "std": list(std)}
