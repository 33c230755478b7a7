"""Everything that a setting can name, by kind, with one line that says what it is.

python scripts/list.py                      # all of them
python scripts/list.py --kind=schedules     # one kind
python scripts/list.py --markdown           # the table in the README; scripts/readme.py writes it there
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags

from zoo import (
    activations,
    averaging,
    cli,
    constraints,
    data,
    initializers,
    losses,
    models,
    optim,
    regularize,
    schedules,
    scores,
    segmentation_losses,
    sparsity,
    tasks,
)
from zoo.data import augment, csv_table, curriculum, preprocess, tfds_source
from zoo.data import folder as image_folder
from zoo.errors import UserError, lookup
from zoo.models import convnet, dropout, normalization, recurrent, resnet, unet, wide_resnet
from zoo.tasks import segmentation


class Kind(NamedTuple):
    setting: str  # what takes one of the names
    table: Mapping[str, Any]  # name -> what it stands for: its docstring says what that is


VARIANTS = resnet.VARIANTS | wide_resnet.VARIANTS | convnet.VARIANTS | unet.RESNET_VARIANTS
KINDS: dict[str, Kind] = {
    "models": Kind(
        "model.name",
        {name: functools.partial(type(make()), **VARIANTS.get(name, {})) for name, make in models.MODELS.items()},
    ),
    "cells": Kind("model.cell", recurrent.CELLS),
    "activations": Kind("model.activation", activations.ACTIVATIONS | {"maxout": activations.maxout}),
    "initializers": Kind("model.kernel_init", initializers.INITIALIZERS),
    "normalizations": Kind("model.norm", normalization.NORMS),
    "dropouts": Kind("model.dropout_kind", dropout.DROPOUTS),
    "tasks": Kind("task.name", tasks.TASKS),
    "losses of classification": Kind("task.loss", losses.CLASSIFICATION),
    "losses of regression": Kind("task.loss", losses.REGRESSION),
    "losses of segmentation": Kind(
        "task.loss",
        {
            name: getattr(segmentation_losses, name)
            for name in (*segmentation.PIXEL_LOSSES, *segmentation.REGION_LOSSES)
        },
    ),
    "loss of transcription": Kind("task.name=transcription", {"ctc": losses.ctc}),
    "loss of a teacher": Kind("task.teacher=<run folder>", {"kl_divergence": losses.kl_divergence}),
    "metrics of classification": Kind("task.metrics", scores.SCORES),
    "data sets": Kind(
        "data.name",
        data.DATASETS
        | data.TEXTS
        | {f"{kind}:<path>": load for kind, load in data.TEXT_KINDS.items()}
        | {"grammar": data.grammar, "words:<path>": data.corpus.sentences}
        | {
            "csv:<path>?target=<column>": csv_table.load,
            "folder:<path>": image_folder.load,
            "tfds:<name>": tfds_source.load,
        },
    ),
    "preprocessing": Kind("data.normalize", preprocess.NORMALIZE),
    "augmentations": Kind("data.augment", augment.AUGMENTS),
    "optimizers": Kind("optim.name", optim.OPTIMIZERS),
    "schedules": Kind("schedule.name", schedules.SCHEDULES),
    "averages of the weights": Kind("averaging.name", averaging.AVERAGES),
    "penalties": Kind("regularize.penalties", regularize.PENALTIES),
    "constraints": Kind("regularize.constraints", constraints.CONSTRAINTS),
    "sparsity": Kind("regularize.sparsity_kind", sparsity.KINDS),
    "paces of a curriculum": Kind("data.curriculum.pace", curriculum.PACES),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("kind", None, "Only this kind.")
flags.DEFINE_bool("markdown", False, "The table in the README: the names, without what they are.")


def describe(thing: Any) -> str:
    """The first line of the docstring of what a table holds, with its options; of a tuple, of the function in it."""
    options = {}
    while isinstance(thing, functools.partial | tuple):
        options |= getattr(thing, "keywords", {})
        thing = thing.func if isinstance(thing, functools.partial) else next(filter(callable, thing))
    line = (inspect.getdoc(thing) or "").partition("\n")[0]
    shown = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "num_classes")
    return f"{line.partition('. ')[0].rstrip('.')}; {shown}" if shown else line


def listing(kinds: Mapping[str, Kind]) -> str:
    """A heading per kind, then a line per name."""
    lines = []
    for kind, (setting, table) in kinds.items():
        lines += ["", f"{kind} (config.{setting})"]
        width = max(map(len, table))
        lines += [f"  {name:{width}}  {describe(thing)}" for name, thing in table.items()]
    return "\n".join(lines[1:])


def markdown(kinds: Mapping[str, Kind]) -> str:
    """A row per kind."""
    rows = [
        f"| {kind} | `{setting}` | {', '.join(f'`{name}`' for name in table)} |"
        for kind, (setting, table) in kinds.items()
    ]
    return "\n".join(["| kind | setting | names |", "|---|---|---|", *rows])


def main(overrides):
    if overrides:
        raise UserError("scripts/list.py has no --config settings")
    kinds = {FLAGS.kind: lookup("kind", FLAGS.kind, KINDS)} if FLAGS.kind else KINDS
    print((markdown if FLAGS.markdown else listing)(kinds))


if __name__ == "__main__":
    cli.run(main)
