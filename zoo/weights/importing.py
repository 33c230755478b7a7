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
from zoo.weights import keras_tables, rules, shapes, tables
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
    template, x = shapes.of(model, input)
    paths = {name.partition("/")[2]: name for name in tree.flatten(template)}
    sizes = dict(zip(paths, (leaf.shape for leaf in jax.tree.leaves(template)), strict=True))
    fit, names, notes = _matched(model, source, weights, given, paths, None if input is None else x.shape[1:])
    leaves, misfits, stem = {}, {}, tables.stem(paths)
    table = [Row(path, (), "new", sizes[path]) for path in paths if path not in fit.plan]
    for path, (sources, transform) in fit.plan.items():
        row = Row(path, sources, getattr(transform, "__name__", type(transform).__name__), sizes[path])
        try:
            array = _transformed(row, transform, [weights.tensors[names[s]] for s in sources])
            array, row, note = _adapted(array, row, stem, fit.table.head, model, input)
        except UserError as reason:
            misfits[path] = str(reason)
            continue
        table.append(row)
        notes += [note] if note else []
        if array is not None:
            leaves[path] = array

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy copies without Python's lock
        for path, (copy, finite) in zip(list(leaves), pool.map(_float32, leaves.values()), strict=True):
            leaves[path] = copy
            if not finite:
                misfits[path] = f"{', '.join(fit.plan[path][0])} has values that are NaN or infinite"
    rules.refuse(f"{source} does not fit the model", fit, list(names), list(paths), misfits)
    used = [weights.tensors[names[s]].dtype for s in {s for sources, _ in fit.plan.values() for s in sources}]
    kinds = [dtype.name for dtype in used if dtype != np.float32]
    notes += [f"{kinds.count(kind)} tensors are {kind}; float32 from here on" for kind in sorted(set(kinds))]
    if fresh := {path: full for path, full in paths.items() if path not in leaves}:
        leaves |= initialized(model, x, seed, fresh)
    variables = jax.tree.unflatten(jax.tree.structure(template), [leaves[path] for path in paths])
    return Import(variables, table, notes, fit.table.name, weights.metadata)


def _matched(model, source, weights: Weights, given, paths: dict[str, str], input):
    """(how the names fit; name without what wrappers put before it -> name in the file; notes)."""
    notes = [f"{name} left out ({n} tensors)" for name, n in weights.metadata.get("left_out", {}).items()]
    names = dict(zip(weights.tensors, weights.tensors, strict=True))
    if given is not None:
        table = given if isinstance(given, Table) else rules.make(given)
        return rules.match(table, list(paths), list(names)), names, [*notes, *table.notes]
    if prefix := prefix_of(names):
        names = {name.removeprefix(prefix): name for name in names}
        notes.append(f"names without their {prefix!r}")
    try:
        fit = _best(model, paths, list(names), input)
        fit = fit._replace(table=keras_tables.told(fit.table, weights.metadata, model))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if fit.misfits and hasattr(model, "make_encoder") and (found := _encoder(model, paths, list(names))):
        fit = found
        fresh = [path for path in paths if path not in fit.plan]
        new = sorted({path.split("/")[0] for path in fresh})
        notes.append(f"the encoder from {fit.table.name}; new: {', '.join(new)} ({len(fresh)} parameters)")
    inner = model.make_encoder(parent=None) if hasattr(model, "make_encoder") else model
    _check_requires(source, inner, fit, len(names))
    return fit, names, [*notes, *fit.table.notes, *rules.unusual(fit.table, inner)]


def _transformed(row: Row, transform, tensors) -> np.ndarray:
    """What a rule makes of its tensors; raises UserError where that is not an array of numbers."""
    if not all(np.issubdtype(t.dtype, np.floating) or t.dtype.kind == "V" for t in tensors):
        raise UserError(f"{row.sources[0]!r} is {tensors[0].dtype}, not a floating-point tensor")
    try:
        array = transform(*tensors)
        array = np.asarray(array) if hasattr(array, "dtype") else array
    except Exception as error:  # a tensor of another rank than the rule is for; a user's function raises anything
        listed, line = " and ".join(str(list(t.shape)) for t in tensors), str(error) or type(error).__name__
        raise UserError(f"{row.transform} cannot take {listed}: {line.splitlines()[0]}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubV":
        kind = getattr(array, "dtype", type(array).__name__)
        raise UserError(f"{row.transform} gives {kind}, not an array of numbers")
    return array


def _adapted(array, row: Row, stem: str, head: str, model, input):
    """(the array for the channels and classes of the model, or None for a new one; its row; a note or '')."""
    path, sources, _, wanted = row
    if array.shape == wanted:
        return array, row, ""
    if path == stem and array.ndim == len(wanted) and array.shape == (*wanted[:-2], array.shape[-2], wanted[-1]):
        if input is None and getattr(model, "in_channels", None) is None:
            return array, row._replace(shape=array.shape), ""  # the model takes what the file is for
        if array.ndim == 4 and array.shape[-2] == 3:
            array, note = _channels(array, wanted[-2])
            return array, row._replace(transform=f"{row.transform}, channels adapted"), f"{path}: {note}"
    if path.startswith(f"{head}/") and array.shape[:-1] == wanted[:-1]:
        kernel = path.endswith("kernel")
        note = f"a new head: {array.shape[-1]} classes in the file, {wanted[-1]} in the model" if kernel else ""
        return None, Row(path, (), "new", wanted), note
    raise UserError(f"{list(array.shape)} in the file ({', '.join(sources)}), {list(wanted)} in the model")


def _channels(array, n: int):
    """(the kernel of a stem for 3 input channels as one for `n`, note)."""
    if n == 1:
        return array.sum(-2, keepdims=True, dtype=np.float32), "3 input channels summed to 1"
    cyclic = array[:, :, np.arange(n) % 3].astype(np.float32) * np.float32(3 / n)
    return cyclic, f"3 input channels repeated to {n}, scaled by 3/{n}"


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
    encoder = model.make_encoder(parent=None)
    fit = _best(encoder, {path: full.replace("/encoder/", "/", 1) for path, full in inner.items()}, names, None)
    return None if fit.misfits else fit._replace(plan={f"encoder/{path}": rule for path, rule in fit.plan.items()})


def _check_requires(source, model: nn.Module, fit: Match, names: int) -> None:
    """Refuses a model that would compute something else with these weights; all options that must be set, in a line."""
    if fit.misfits > names / 2:
        return  # another kind of file: what does not fit is told instead
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
