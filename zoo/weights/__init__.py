"""Weights of other ecosystems in and ours out: `load_weights`, `save_weights`, `load_model`.

Nothing but NumPy is needed (h5py for Keras files): neither torch nor TensorFlow nor Keras.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo import rules as tree
from zoo.errors import UserError
from zoo.models.lenet import LeNet5
from zoo.models.mlp import MLP
from zoo.run_folder import read_json
from zoo.types import Variables
from zoo.weights import files, header, rules, safetensors, tables
from zoo.weights.rules import Row, Table

SIDES = (32, 64, 572)  # of the image from which the shapes come: the first that the model takes
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")  # what wrappers put before every name


class Import(NamedTuple):
    """What came of an import."""

    variables: Variables  # {'params': ..., 'batch_stats': ...} of float32 NumPy arrays
    table: list[Row]
    notes: list[str]  # one line for each adaptation
    rules: str  # the name of the table that was used
    metadata: dict[str, Any]  # what the file says of itself


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    rules: Sequence | Table | None = None,
    *,
    input: Sequence[int] | jax.Array | np.ndarray | None = None,
    seed: int = 0,
) -> Variables:
    """The variables of `model` from a file of weights, complete or refused; every adaptation is told in a line.

    Three things are adapted: another number of classes gives a new head; a stem kernel for 3 channels is summed for
    1, and repeated and scaled by 3 / n for n; 16-bit and float64 sources become float32.

    Args:
      model: a module of the zoo.
      source: safetensors, PyTorch, npz or Keras (told by the bytes), or a run folder.
      rules: your own, (regex on our path, a name or names in the file, function) each; default: the table that fits.
      input: shape of one example, such as (32, 32, 3), or a batch (its shape and dtype are used); default: what the
        model and the file say.
      seed: of a new head.

    Raises:
      UserError: a file that cannot be read, or one line with all that does not fit, on both sides.
    """
    done = import_weights(model, source, rules, input=input, seed=seed)
    for note in done.notes:
        print(f"{source}: {note}", flush=True)
    return done.variables


def load_model(source: str | os.PathLike) -> tuple[nn.Module, Variables, dict[str, Any]]:
    """(model, variables, metadata) of a file that `save_weights` wrote, or of a run folder: both say what they hold."""
    said = metadata(source)
    if not said:
        raise UserError(f"{source} has no header of this zoo; use load_weights(model, ...)")
    model = header.model_of(source, said)
    size = said["input_size"]
    if said.get("vocab"):
        size = jax.ShapeDtypeStruct((1, *size), jnp.int32)
    return model, _import(model, source, files.read(source), None, size, 0).variables, said


def metadata(source: str | os.PathLike) -> dict[str, Any]:
    """What a file of `save_weights` or a run folder says of its weights (see `header.metadata`), or {}."""
    if os.path.isdir(source):
        return read_json(pathlib.Path(source, "model.json")) or {}
    weights = files.read(source)
    return header.read(source, weights) if "zoo" in weights.metadata else {}


def save_weights(path: str | os.PathLike, model: nn.Module, variables: Variables, **metadata) -> None:
    """Writes safetensors whose header says what the weights mean, for `load_model` and `load_weights`.

    Args:
      path: the file; replaced in one move.
      model: a module that `create_model` can make.
      variables: as `model.init` gives them.
      **metadata: names and types of `zoo.weights.header.METADATA`: input_size, mean, std, channel_order, crop,
        interpolation, class_names, source, source_sha256, licence.

    Raises:
      UserError: other names, values of other types, or a path that cannot be written.
    """
    arrays = {name: np.asarray(array) for name, array in tree.flatten(variables).items()}
    safetensors.write(path, arrays, header.describe(model, arrays, metadata))


def import_weights(model: nn.Module, source, rules=None, *, input=None, seed: int = 0) -> Import:
    """`load_weights` with everything that it found out, and silent."""
    weights = files.read(source)
    if "zoo" in weights.metadata:
        header.check_options(source, header.read(source, weights), model)
    return _import(model, source, weights, rules, input, seed)


def _import(model, source, weights: files.Weights, given, input, seed: int) -> Import:
    notes = [f"{name} left out ({n} tensors)" for name, n in weights.metadata.get("left_out", {}).items()]
    template, x = _template(model, input)
    given_shape = None if input is None else x.shape[1:]
    full = list(tree.flatten(template))
    paths = {name.partition("/")[2]: name for name in full}
    names, prefix = dict(zip(weights.tensors, weights.tensors, strict=True)), ""
    if given is None:
        prefix = _prefix(names)
        names = {name.removeprefix(prefix): name for name in names}
        if prefix:
            notes.append(f"names without their {prefix!r}")
        known = list(names)
        fit = min(
            (rules.match(t, list(paths), known) for t in tables.candidates(paths, known, given_shape)),
            key=lambda match: match.misfits,
        )
        for option, value in fit.table.requires.items():
            if not fit.misfits and getattr(model, option, value) != value:
                raise UserError(
                    f"{source} holds {fit.table.name}; the model must have {option}={value!r}, not "
                    f"{getattr(model, option)!r}"
                )
    else:
        table = given if isinstance(given, Table) else rules.make(given)
        fit = rules.match(table, list(paths), list(names))

    leaves, table, misfits, fresh, kinds = {}, [], {}, [], {}
    stem = tables.stem(paths)
    shapes = dict(zip(paths, (leaf.shape for leaf in jax.tree.leaves(template)), strict=True))
    for path, (sources, transform) in fit.plan.items():
        tensors = [weights.tensors[names[s]] for s in sources]
        if not all(np.issubdtype(t.dtype, np.floating) or t.dtype.kind == "V" for t in tensors):
            misfits[path] = f"{sources[0]!r} is {tensors[0].dtype}, not a floating-point tensor"
            continue
        kinds.update({s: t.dtype.name for s, t in zip(sources, tensors, strict=True) if t.dtype != np.float32})
        try:
            array = transform(*tensors)
        except (ValueError, IndexError) as error:  # a tensor of another rank than the rule is for
            misfits[path] = f"{transform.__name__} cannot take {_shapes(tensors)}: {error}"
            continue
        wanted, how = shapes[path], transform.__name__
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
        with np.errstate(over="ignore"):
            leaves[path] = np.array(array, np.float32, order="C")
        if not np.isfinite(leaves[path]).all():
            misfits[path] = f"{', '.join(sources)} has values that are NaN or infinite"
        table.append(Row(path, sources, how, wanted))
    rules.refuse(f"{source} does not fit the model", fit, list(names), list(paths), misfits)
    for kind in sorted(set(kinds.values())):
        notes.append(f"{sum(k == kind for k in kinds.values())} tensors are {kind}; float32 from here on")
    if fresh:
        leaves |= _new(model, x, seed, {path: paths[path] for path in fresh})
    ordered = [leaves[path] for path in paths]
    variables = jax.tree.unflatten(jax.tree.structure(template), ordered)
    return Import(variables, table, notes, fit.table.name, weights.metadata)


def _template(model: nn.Module, input):
    """The shapes of the variables, and of the batch that they are for."""
    channels = getattr(model, "in_channels", None) or (1 if isinstance(model, LeNet5) else 3)
    if hasattr(input, "dtype"):
        shapes = [input.shape[1:]]
    elif input is not None:
        shapes = [tuple(input)]
    elif isinstance(model, MLP):
        shapes = [(1,)]  # the width of the input is the file's
    elif isinstance(model, LeNet5):
        shapes = [(32 - 2 * model.padding,) * 2 + (channels,)]
    else:
        shapes = [(side, side, channels) for side in SIDES]
    refused = None
    for shape in shapes:
        x = jax.ShapeDtypeStruct((1, *shape), getattr(input, "dtype", jnp.float32))
        try:
            return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x), x
        except UserError as error:
            refused = error
    hint = "" if input is not None else "; give input=(height, width, channels)"
    raise UserError(f"the shapes of the model: {refused}{hint}") from None


def _prefix(names) -> str:
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


def _new(model, x, seed: int, paths: dict[str, str]) -> dict[str, np.ndarray]:
    """Freshly initialised leaves: path -> array, of path -> path with its collection."""

    def init(key):
        found = tree.flatten(model.init({"params": key}, jnp.zeros(x.shape, x.dtype)))
        return {path: found[full] for path, full in paths.items()}  # XLA drops the rest

    return {path: np.asarray(array) for path, array in jax.jit(init)(jax.random.key(seed)).items()}


def _shapes(tensors) -> str:
    return " and ".join(str(list(t.shape)) for t in tensors)
