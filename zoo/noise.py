"""Noise in training alone, as a regularizer: on what the model sees, on the labels, and on the weights.

All of it is drawn anew in every step, inside the compiled step, and no evaluation sees any.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from zoo import rules
from zoo.errors import UserError
from zoo.options import is_number
from zoo.types import Task

OPTIONS = ("input_noise", "label_noise", "weight_noise")  # of config.regularize


def add(task: Task, options: Mapping[str, Any], meta: Mapping[str, Any], params) -> Task:
    """`task` with the noise of `config.regularize` in its training loss; the same object where there is none.

    Args:
      options: input_noise, the standard deviation of Gaussian noise on the normalized images or features (Bishop
        1995, "Training with noise is equivalent to Tikhonov regularization"), not on categories that the model embeds;
        label_noise, see `disturbed`; weight_noise, see `noisy`: a number for all kernels, or pairs (regex, number).
        Penalties see the noisy weights too.
      meta: of the data set.
      params: only their paths are used.

    Raises:
      UserError: a number that makes no sense, a rule that matches nothing, or data without what is to be disturbed.
    """
    input_std, label_rate, weight_std = (options[key] for key in OPTIONS)
    given = ((".*kernel", weight_std),) if isinstance(weight_std, Real) else weight_std
    stds = rules.assign(given if weight_std else (), params, default=0.0, setting="regularize.weight_noise")
    for key, number in (("input_noise", input_std), *(("weight_noise", std) for std in jax.tree.leaves(stds))):
        if not is_number(number) or not 0 <= number < float("inf"):
            raise UserError(f"config.regularize.{key} is {number!r}; a standard deviation is a number, zero or more")
    if not 0 <= label_rate <= 1:
        raise UserError(f"config.regularize.label_noise is {label_rate}; it is a share of the labels, in 0..1")
    shapes, name = meta["shapes"], meta["name"]
    if input_std and not shapes.keys() & {"image", "feature"}:
        raise UserError(f"config.regularize.input_noise: data set {name!r} has neither images nor features")
    if label_rate and shapes.get("label") != ():
        raise UserError(f"config.regularize.label_noise: data set {name!r} does not have one class per example")
    if not (input_std or label_rate or any(jax.tree.leaves(stds))):
        return task
    embedded = len(meta.get("cardinalities") or ())

    def loss(params, model_state, batch, key, *, train: bool):
        if train:
            # Keys of their own, so that the same dropout masks are drawn with and without noise.
            keys = jax.random.split(jax.random.fold_in(key, 1), 4)
            if input_std:
                x = "image" if "image" in batch else "feature"  # which 'pca' and 'lda' make of an image
                batch = batch | {x: batch[x] + input_std * _normal(keys[0], batch[x], embedded)}
            for label, own in zip(("label", "label_mixed"), keys[1:3], strict=True):
                if label_rate and label in batch:
                    batch = batch | {label: disturbed(own, batch[label], label_rate, meta["num_classes"])}
            params = noisy(keys[3], params, stds)
        return task.loss(params, model_state, batch, key, train=train)

    return task._replace(loss=loss)


def _normal(key, x, embedded: int):
    """Gaussian noise for `x`; zero in its last columns where they are numbers of categories (zoo.data.columns)."""
    drawn = jax.random.normal(key, x.shape)
    return drawn.at[:, -embedded:].set(0) if embedded and x.ndim == 2 else drawn


def disturbed(key, labels, rate: float, classes: int):
    """Labels of which this share is replaced by a class drawn uniformly, the right one included (Xie et al. 2016)."""
    chosen_key, class_key = jax.random.split(key)
    drawn = jax.random.randint(class_key, labels.shape, 0, classes, labels.dtype)
    return jnp.where(jax.random.bernoulli(chosen_key, rate, labels.shape), drawn, labels)


def noisy(key, params, stds):
    """Parameters with Gaussian noise, `stds` of each leaf; the clean ones get the gradient (Graves 2011)."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        x + std * jax.random.normal(own, x.shape, x.dtype) if std else x
        for x, std, own in zip(leaves, jax.tree.leaves(stds), keys, strict=True)
    )
