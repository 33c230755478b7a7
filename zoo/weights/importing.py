"""Filling the variables of a model from the tensors of a file: complete or refused, every adaptation reported."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo import rules as tree
from zoo.errors import UserError
from zoo.types import Variables
from zoo.weights import rules, shapes, tables
from zoo.weights.files import Weights
from zoo.weights.rules import Match, Row, Table

STRIPE = 16  # numbers in a cache line
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")  # what wrappers put before every name


class Import(NamedTuple):
    """What came of an import."""

    variables: Variables  # {'params': ..., 'batch_stats': ...} of float32 NumPy arrays
    table: list[Row]
    notes: list[str]  # one line for each adaptation
    rules: str  # the name of the table that was used
    metadata: dict[str, Any]  # what the file says of itself


def fill(model: nn.Module, source, weights: Weights, given, input, seed: int) -> Import:
    """The arguments are those of `zoo.load_weights`, with the file read."""
    notes = [f"{name} left out ({n} tensors)" for name, n in weights.metadata.get("left_out", {}).items()]
    template, x = shapes.of(model, input)
    paths = {name.partition("/")[2]: name for name in tree.flatten(template)}
    sizes = dict(zip(paths, (leaf.shape for leaf in jax.tree.leaves(template)), strict=True))
    names = dict(zip(weights.tensors, weights.tensors, strict=True))
    fresh = []
    if given is None:
        prefix = prefix_of(names)
        names = {name.removeprefix(prefix): name for name in names}
        if prefix:
            notes.append(f"names without their {prefix!r}")
        try:
            fit = _best(model, paths, list(names), None if input is None else x.shape[1:])
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        if fit.misfits and (inner := _encoder(model, paths, list(names))):
            fit = inner
            fresh = [path for path in paths if path not in fit.plan]
            new = sorted({path.split("/")[0] for path in fresh})
            notes.append(f"the encoder from {fit.table.name}; new: {', '.join(new)} ({len(fresh)} parameters)")
        _check_requires(source, model, fit, len(names))
    else:
        table = given if isinstance(given, Table) else rules.make(given)
        fit = rules.match(table, list(paths), list(names))

    notes += fit.table.notes
    leaves, misfits, kinds, stem = {}, {}, {}, tables.stem(paths)
    table = [Row(path, (), "new", sizes[path]) for path in fresh]
    for path, (sources, transform) in fit.plan.items():
        tensors = [weights.tensors[names[s]] for s in sources]
        if not all(np.issubdtype(t.dtype, np.floating) or t.dtype.kind == "V" for t in tensors):
            misfits[path] = f"{sources[0]!r} is {tensors[0].dtype}, not a floating-point tensor"
            continue
        kinds.update({s: t.dtype.name for s, t in zip(sources, tensors, strict=True) if t.dtype != np.float32})
        wanted, how = sizes[path], getattr(transform, "__name__", type(transform).__name__)
        try:
            array = transform(*tensors)
            array = np.asarray(array) if hasattr(array, "dtype") else array
        except Exception as error:  # a tensor of another rank than the rule is for; a user's function raises anything
            listed = " and ".join(str(list(t.shape)) for t in tensors)
            misfits[path] = f"{how} cannot take {listed}: {(str(error) or type(error).__name__).splitlines()[0]}"
            continue
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubV":
            misfits[path] = f"{how} gives {getattr(array, 'dtype', type(array).__name__)}, not an array of numbers"
            continue
        if path == stem and (adapted := _channels(array, wanted, model, input)) is not None:
            array, note = adapted
            wanted = array.shape
            if note:
                notes.append(f"{path}: {note}")
                how += ", channels adapted"
        elif path.startswith(f"{fit.table.head}/") and array.shape != wanted and array.shape[:-1] == wanted[:-1]:
            if path.endswith("kernel"):
                notes.append(f"a new head: {array.shape[-1]} classes in the file, {wanted[-1]} in the model")
            fresh.append(path)
            table.append(Row(path, (), "new", wanted))
            continue
        if array.shape != wanted:
            misfits[path] = f"{list(array.shape)} in the file ({', '.join(sources)}), {list(wanted)} in the model"
            continue
        leaves[path] = array
        table.append(Row(path, sources, how, wanted))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy copies without Python's lock
        copies = pool.map(_float32, leaves.values())
        for path, (copy, finite) in zip(list(leaves), copies, strict=True):
            leaves[path] = copy
            if not finite:
                misfits[path] = f"{', '.join(fit.plan[path][0])} has values that are NaN or infinite"
    rules.refuse(f"{source} does not fit the model", fit, list(names), list(paths), misfits)
    for kind in sorted(set(kinds.values())):
        notes.append(f"{sum(k == kind for k in kinds.values())} tensors are {kind}; float32 from here on")
    if fresh:
        leaves |= initialized(model, x, seed, {path: paths[path] for path in fresh})
    ordered = [leaves[path] for path in paths]
    variables = jax.tree.unflatten(jax.tree.structure(template), ordered)
    return Import(variables, table, notes, fit.table.name, weights.metadata)


def _float32(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """A copy of its own, and whether all of it is finite."""
    copy = np.empty(array.shape, np.float32)
    with np.errstate(over="ignore"):
        if array.flags.c_contiguous:
            copy[...] = array
        else:  # transposed kernels, in stripes of one cache line: as a whole they take 3 times as long
            for at in range(0, array.shape[-1], STRIPE):
                copy[..., at : at + STRIPE] = array[..., at : at + STRIPE]
    return copy, bool(np.isfinite(copy).all())


def initialized(model: nn.Module, x, seed: int, paths: dict[str, str]) -> dict[str, np.ndarray]:
    """Freshly initialised leaves: path -> array, of path -> path with its collection."""

    def init(key):
        found = tree.flatten(model.init({"params": key}, jnp.zeros(x.shape, x.dtype)))
        return {path: found[full] for path, full in paths.items()}  # XLA drops the rest

    # It runs once: not to be optimized saves 9 of 10 seconds (the expanding path of a U-Net, 2 busy cores).
    quick = jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})
    return {path: np.asarray(array) for path, array in quick(jax.random.key(seed)).items()}


def _best(model: nn.Module, paths: dict[str, str], names: list[str], input) -> Match:
    found = []
    for table in tables.candidates(model, paths, names, input):
        found.append(rules.match(table, list(paths), names))
        if not found[-1].misfits:
            return found[-1]
    nearest = min(found, key=lambda match: match.misfits)
    return nearest if nearest.plan else rules.match(Table("none of the known layouts", ()), list(paths), names)


def _encoder(model: nn.Module, paths: dict[str, str], names: list[str]) -> Match | None:
    """How the file fits the encoder of the model alone, if it does."""
    inner = {p.removeprefix("encoder/"): full for p, full in paths.items() if p.startswith("encoder/")}
    if not inner:
        return None
    encoder = model.make_encoder(parent=None)
    fit = _best(encoder, {path: full.replace("/encoder/", "/", 1) for path, full in inner.items()}, names, None)
    if fit.misfits:
        return None
    return fit._replace(plan={f"encoder/{path}": rule for path, rule in fit.plan.items()})


def _check_requires(source, model: nn.Module, fit: Match, names: int) -> None:
    """Refuses a model that would compute something else with these weights; all options that must be set, in a line."""
    if fit.misfits > names / 2:
        return  # another kind of file: what does not fit is told instead
    model = model.make_encoder(parent=None) if hasattr(model, "make_encoder") else model
    wrong = {k: v for k, v in fit.table.requires.items() if getattr(model, k, v) != v}
    if wrong:
        must = ", ".join(f"{option}={value!r}" for option, value in wrong.items())
        has = ", ".join(repr(getattr(model, option)) for option in wrong)
        raise UserError(f"{source} holds {fit.table.name}; the model must have {must}, not {has}")


def prefix_of(names) -> str:
    """What wrappers put before every name of the file, all of it."""
    prefix = ""
    while wrapper := next((p for p in PREFIXES if all(name.startswith(prefix + p) for name in names)), ""):
        prefix += wrapper
    return prefix


def _channels(array, wanted, model, input):
    """(stem kernel, note) for the model's input channels, or None where no adaptation is known."""
    if array.ndim != len(wanted) or array.shape == wanted:
        return None
    if (*array.shape[:-2], array.shape[-1]) != (*wanted[:-2], wanted[-1]):
        return None
    if input is None and getattr(model, "in_channels", None) is None:
        return array, ""  # the model takes what the file is for
    n = wanted[-2]
    if array.ndim != 4 or array.shape[-2] != 3:
        return None
    if n == 1:
        return array.sum(-2, keepdims=True, dtype=np.float32), "3 input channels summed to 1"
    cyclic = array[:, :, np.arange(n) % 3].astype(np.float32) * np.float32(3 / n)
    return cyclic, f"3 input channels repeated to {n}, scaled by 3/{n}"
