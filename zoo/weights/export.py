"""Weights under the names of others: the tables of the import, read backwards."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import numpy as np

from zoo.errors import UserError, lookup
from zoo.weights import archives, hdf5, pytorch_file, rules, safetensors, tables
from zoo.weights.rules import Table

# layout -> whose names these are
LAYOUTS = {
    "buda": "mateuszbuda/brain-segmentation-pytorch: unet",
    "cifar": "the usual ResNets for CIFAR in PyTorch: resnet*_cifar, resnet*",
    "keras": "Keras: resnet{50,101,152}, resnetv2_{50,101,152}, and models that are a stack of layers",
    "milesial": "milesial/Pytorch-UNet: unet",
    "timm": "timm: resnet*, resnetv2_*",
    "torch": "PyTorch by the usual names (conv1, fc1, rnn): lenet5, mlp, lstm_lm, lstm_classifier",
    "torchvision": "torchvision: resnet*, wide_resnet*, alexnet",
}
_TORCH: dict[str, Callable] = {
    ".npz": archives.write_npz,
    ".pt": pytorch_file.write,
    ".pth": pytorch_file.write,
    ".safetensors": lambda path, tensors: safetensors.write(path, tensors, {"format": "pt"}),
    ".th": pytorch_file.write,
}


def write(path, model: nn.Module, arrays: Mapping[str, np.ndarray], layout: str, input, metadata) -> None:
    """The arguments are those of `zoo.save_weights`, with the arrays by path with their collection."""
    lookup("layout of weights", layout, LAYOUTS | {"zoo": ""})
    if metadata:
        raise UserError(f"save_weights: {', '.join(metadata)} can be said in our own files only (layout 'zoo')")
    path = pathlib.Path(path)
    keras = layout == "keras"
    writers = {".h5": hdf5.write} if keras else _TORCH
    if path.suffix not in writers:
        raise UserError(f"{path}: weights of layout {layout!r} go to a file that ends in {' or '.join(writers)}")
    if keras and not path.name.endswith(".weights.h5"):
        layout = "keras h5"
    theirs, notes = tensors(model, arrays, layout, input)
    writers[path.suffix](path, theirs)
    for note in notes:
        print(f"{path}: {note}", flush=True)


def tensors(
    model: nn.Module, arrays: Mapping[str, np.ndarray], layout: str, input: Sequence[int] | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the tensors of a layout by their names there, in the order of its table; notes for the user)."""
    inner = {name.partition("/")[2]: array for name, array in arrays.items()}
    paths = dict(zip(inner, arrays, strict=True))
    found = [table for table in tables.candidates(model, paths, (), input) if layout in table.layouts]
    fits = [(rules.plan(table, list(paths)), table) for table in found]
    if not fits:
        layout = layout.removesuffix(" h5")
        raise UserError(f"layout {layout!r} ({LAYOUTS[layout]}) has no {type(model).__name__}")
    (plan, unfilled), table = min(fits, key=lambda fit: len(fit[0][1]))
    if unfilled:
        some = ", ".join(list(unfilled)[:3])
        raise UserError(
            f"layout {layout!r} has no place for {len(unfilled)} of {len(paths)} parameters, such as {some}"
        )
    for option, value in table.requires.items():
        if (has := getattr(model, option, value)) != value:
            raise UserError(f"{table.name} computes with {option}={value!r}; the model has {option}={has!r}")
    if table.norms and model.norm.partition(":")[0] not in table.norms:
        raise UserError(f"{table.name} normalizes by {' or '.join(table.norms)}; the model has norm={model.norm!r}")
    done: dict[str, np.ndarray] = {}
    # What is made of one array alone comes first; the rest may need it.
    for path, (sources, rule) in sorted(plan.items(), key=lambda item: len(item[1][0])):
        theirs = rule.inverse(inner[path], *(done[name] for name in sources[1:] if name in done))
        theirs = theirs if isinstance(theirs, tuple) else (theirs,)
        done |= zip(sources, map(np.ascontiguousarray, theirs), strict=False)
    order = {name: i for i, name in enumerate(_names(table, plan))}
    return dict(sorted(done.items(), key=lambda item: order[item[0]])), rules.unusual(table, model)


def _names(table: Table, plan) -> list[str]:
    """All names in the file, by the order of the rules, then of our paths."""
    place = {rule: i for i, rule in enumerate(table.rules)}
    ordered = sorted(plan.values(), key=lambda item: place[item[1]])
    return list(dict.fromkeys(name for sources, _ in ordered for name in sources))
