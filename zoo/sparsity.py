"""Pre-defined sparsity: which connections exist is decided before training and never changes.

Dey, Huang, Beerel & Chugg 2019, "Pre-defined sparse neural networks with hardware acceleration" (arXiv:1812.01164).
A connection is one entry of a kernel; the inputs of a unit are all positions of its kernel but the last axis (for a
convolution: height, width and channel). Biases stay. What exists is a pure function of the seed and the parameter's
path, so that no checkpoint holds it; the other weights are zero from the start, and stay zero by projection.

The matrix products are still dense: what is saved are parameters, and the operations of hardware that skips zeros.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from zoo import rules
from zoo.errors import UserError, lookup
from zoo.options import is_number

Masks = Mapping[str, np.ndarray]  # path of a parameter -> bool of its shape, True where there is a connection


def random(rng: np.random.Generator, inputs: int, units: int, density: float) -> np.ndarray | None:
    """That share of all connections, anywhere: a unit may have more than another, or none."""
    count = round(density * inputs * units)
    return (rng.permutation(inputs * units) < count).reshape(inputs, units) if count else None


def structured(rng: np.random.Generator, inputs: int, units: int, density: float) -> np.ndarray | None:
    """Equally many connections to every unit, and from every input (or one more, where the number does not divide).

    The paper allows the densities that come out even: multiples of 1 / gcd(inputs, units).
    """
    degree = round(density * inputs)
    if degree * units < inputs:  # or, with no connection at all to any unit, 0
        return None
    mask, used = np.zeros((inputs, units), bool), np.zeros(inputs)
    for unit in range(units):  # takes the inputs that were used least; chance decides between equal ones
        chosen = np.argpartition(used + rng.random(inputs), degree - 1)[:degree]
        mask[chosen, unit] = True
        used[chosen] += 1
    return mask


# (rng, inputs, units, density) -> bool [inputs, units], or None where some would have no connection
KINDS: dict[str, Callable] = {"random": random, "structured": structured}


def make(densities: Sequence, kind: str, params, seed: int) -> Masks:
    """The masks of `config.regularize.sparsity`, for the parameters that have one.

    Args:
      densities: (regex, density) rules, density in (0, 1]; what no rule matches is dense.
      kind: a name of KINDS.
      params: arrays or their shapes.
      seed: of the run.

    Raises:
      UserError: a rule that matches nothing, a vector, or a density that leaves a unit without a connection.
    """
    draw = lookup("regularize.sparsity_kind", kind, KINDS)
    if kind != "random" and not densities:
        raise UserError(f"regularize.sparsity_kind is {kind!r}, but regularize.sparsity is empty; set densities there")
    chosen = rules.assign(densities, params, default=1, setting="regularize.sparsity")
    masks, leaves = {}, rules.flatten(params)
    for path, density in zip(leaves, jax.tree.leaves(chosen, is_leaf=lambda x: x is None), strict=True):
        if not is_number(density) or not 0 < density <= 1:
            raise UserError(
                f"regularize.sparsity: the density of {path} is {density!r}; it must be more than 0 and at most 1: at "
                "least one connection per unit"
            )
        if density == 1:
            continue
        *fan_in, units = shape = leaves[path].shape
        if not fan_in:
            raise UserError(f"regularize.sparsity: {path} is a vector, which has no connections; match kernels alone")
        rng, inputs = np.random.default_rng([seed, zlib.crc32(path.encode())]), int(np.prod(fan_in))
        mask = draw(rng, inputs, units, density)
        if mask is None:
            raise UserError(
                f"regularize.sparsity: a density of {density} leaves no connection to some of the {inputs} inputs or "
                f"{units} units of {path}; one per unit is a density of {1 / min(inputs, units):.2g}"
            )
        masks[path] = mask.reshape(shape)
    return masks


def apply(masks: Masks, params):
    """The parameters with zeros where there is no connection."""

    def one(key_path, w):
        mask = masks.get(rules.path_of(key_path))
        return w if mask is None else jnp.where(mask, w, 0)

    return jax.tree_util.tree_map_with_path(one, params)


def rescale(masks: Masks, params):
    """Fresh parameters with the variance that they would have for the fan-in that is kept: divided by the density.

    Initializers see the dense fan-in; without this, a layer's outputs would start too small by its square root.
    """

    def one(key_path, w):
        mask = masks.get(rules.path_of(key_path))
        return w if mask is None else w * np.float32(mask.mean() ** -0.5)

    return jax.tree_util.tree_map_with_path(one, params)


def parameters_kept(masks: Masks, params) -> int:
    """How many parameters there are without those that are zero for good."""
    return sum(leaf.size for leaf in jax.tree.leaves(params)) - sum(int((~mask).sum()) for mask in masks.values())
