"""The settings of a run: defaults, config files, and `--config.key=value` from the command line.

A config file is Python with `get_config()`, which starts from `default()` and changes what its recipe needs. The
groups in `OPEN` take options of the thing they name (a model, a schedule, ...), which that thing checks itself;
every other key must exist here. (We do not use ml_collections' own flag parser: it cannot take an option that
the file does not mention, and it stops with a traceback.)
"""

import ast
import difflib
import importlib.util
import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from zoo import durations, optim
from zoo.data import text
from zoo.errors import UserError, did_you_mean, perhaps

# Groups that take more keys than `default` has, and the ones that survive when their `name` is changed.
OPEN: dict[str, tuple[str, ...]] = {
    "model": (),
    "task": (),
    "optim": tuple(optim.COMMON),
    "schedule": tuple(f"warmup_{unit}" for unit in durations.UNITS),
    "data.augment": (),
    "averaging": (),
}
UNIT_TYPES = {"steps": int, "epochs": float, "examples": int, "percent": float}


def _duration(stem: str, **given) -> dict[str, Any]:
    return {f"{stem}_{unit}": given.get(unit, placeholder(kind)) for unit, kind in UNIT_TYPES.items()}


def default() -> ConfigDict:
    """A fresh config: LeNet-5 on the embedded digits. The comments here are the reference of the settings."""
    config = ConfigDict(
        {
            "seed": 0,  # decides the initial weights, the order of the batches, augmentation and dropout
            **_duration("total"),  # length of the run: total_epochs, total_steps or total_examples
            **_duration("eval_every"),  # default: once per epoch
            **_duration("log_every"),  # a line of training metrics in metrics.jsonl; default: every 50 steps
            # Averaged weights, evaluated and kept beside the raw ones: zoo.averaging.AVERAGES, and its options
            "averaging": {"name": "none"},
            # Steps in one compiled call, at most: 'auto' is 1 on the CPU, several on an accelerator. Same results.
            "loop": {"steps_per_call": FieldReference("auto", field_type=object)},
            "init_from": placeholder(str),  # start from the weights of a run folder or a file (zoo.load_weights)
            "freeze_stats": (),  # regexes of batch normalizations that keep their statistics, such as layer1_.*
            "probe": False,  # train the head alone, on features of init_from that are computed once (zoo.probe)
            "model": {"name": "lenet5"},  # options: those of the model
            "task": {"name": "classification"},  # options: those of the task
            "data": {
                # zoo.data.DATASETS or TEXTS, grammar, tfds:<name>, or csv:, folder:, sentences:, text:, words:<path>
                "name": "digits",
                "batch_size": 128,  # over all devices together
                "eval_batch_size": 1000,
                "validation": 0.0,  # share (or number, if >= 1) cut from the training rows where the set has no split
                "test": 0.2,  # likewise; a set that brings its own test split keeps it
                "split_seed": 0,
                "per_class": 0,  # training rows of each class that are kept, chosen by split_seed; 0: all
                # zoo.data.preprocess.NORMALIZE, or a tuple in order; statistics from the training split alone
                "normalize": FieldReference("standardize", field_type=object),
                "statistics": "auto",  # for it: of 'train', of the 'weights' in init_from, 'auto': theirs if known
                # Missing numbers of a table: 'mean', 'median' or 'mode' (categories too), 'drop' their rows; '' refuses
                "impute": "",
                "categories": "one_hot",  # columns of categories: 'one_hot', or 'embed' (mlp with model.embed_dim)
                "image_size": 0,  # resize images to this height and width (folder: their middle square); 0: as they are
                "on_error": "stop",  # at images of a folder: set that cannot be read: 'stop', or 'skip' them
                # w0 of the U-Net paper's weight maps (zoo.data.border_weights), for the training images; 0: none
                "border_weight": 0.0,
                "border_sigma": 5.0,  # how far from a border it reaches, in pixels
                "border_class": 0,  # the class between the objects: background, membrane, ...
                **text.OPTIONS,  # of sets that are text: tokens, min_count, vocab_size, length
                "sample": 1e-3,  # of a corpus: the share of the text above which a word is thinned out; 0: never
                "curriculum": {  # zoo.data.curriculum: the easy training rows first
                    "by": "",  # how hard a row is: a column of the set, or teacher:<run folder or weights>; empty: off
                    "start_share": 0.2,  # of the rows, the easiest ones, at the first step
                    **_duration("full", percent=50.0),  # when all rows are drawn
                    "pace": "linear",  # how the share grows: zoo.data.curriculum.PACES
                },
                "augment": {},  # zoo.data.augment.AUGMENTS: name -> strength
                "device": "auto",  # keep the set on the device: 'yes', 'no' (stream batches), or 'auto' by size
                "dir": placeholder(str),  # folder of the data; default: ZOO_DATA_DIR, else ~/.cache/zoo/data
            },
            "optim": {"name": "adamw", **optim.COMMON},  # more options: those of the optimizer
            # Rules (kind, regex, value, ...), such as (('l2', '.*kernel', 1e-4),); see zoo.regularize.
            "regularize": {
                "penalties": (),  # on parameters, in the training loss: zoo.regularize.PENALTIES
                "activity": (),  # on outputs of modules, such as ('l1', 'dropout1', 1e-4), as a mean over the batch
                "constraints": (),  # after every step: zoo.constraints.CONSTRAINTS, such as ('max_norm', '.*kernel', 3)
                "sparsity": (),  # (regex, density): the share of the connections that exist at all; zoo.sparsity
                "sparsity_kind": "random",  # where they are: zoo.sparsity.KINDS
                "input_noise": 0.0,  # standard deviation of noise on the normalized images or features; zoo.noise
                "label_noise": 0.0,  # share of the training labels that each step draws anew
                # Standard deviation of noise on the weights in training: of all kernels, or pairs (regex, deviation)
                "weight_noise": FieldReference(0.0, field_type=object),
            },
            "schedule": {"name": "cosine"},  # options: those of the schedule, and warmup_*
            "checkpoint": {
                **_duration("every"),  # default: a tenth of the run; an evaluation that is one of the best is saved too
                "keep": 2,  # the last ones; two, so that a damaged one does not end the run
                "best": 1,  # the best ones by `monitor`
                "monitor": "",  # a metric such as 'validation/accuracy'; default: validation/loss, if there is one
                "mode": "auto",  # 'min', 'max', or 'auto': as in early_stopping, else max where higher is better
            },
            "early_stopping": {
                "monitor": "",  # a metric such as 'validation/loss'; empty: off
                "patience": 10,  # evaluations without an improvement
                "min_delta": 0.0,  # what counts as an improvement
                "mode": "auto",
                "baseline": placeholder(float),  # the metric must get better than this at all
                "restore_best": True,  # end with the weights of the best evaluation
            },
            "plateau": {  # a factor on the learning rate of the schedule, smaller when a metric gets no better
                "monitor": "",  # a metric such as 'validation/loss'; empty: off
                "factor": 0.1,  # what the rate is multiplied by, once more at every plateau
                "patience": 5,  # evaluations without an improvement
                "min_delta": 0.0,  # what counts as an improvement
                "cooldown": 0,  # evaluations after a reduction that do not count
                "min_scale": 0.0,  # the least that the rate is multiplied by
                "mode": "auto",
            },
        }
    )
    config.lock()
    for group in (config.averaging, config.model, config.task, config.optim, config.schedule, config.data.augment):
        group.unlock()
    return config


def load(path: str | pathlib.Path, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """The config of a recipe file, with overrides such as `("optim.lr", "0.1")` applied in order.

    Raises:
      UserError: no such file, no `get_config`, an unknown key or a value of another type.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"no config file {str(path)!r}{did_you_mean(str(path), siblings)}")
    if path.suffix != ".py":
        raise UserError(
            f"{path} is not a recipe: a recipe is a Python file with get_config(), such as configs/digits_lenet.py"
        )
    spec = importlib.util.spec_from_file_location("zoo_recipe", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except (AttributeError, KeyError) as error:
        if unknown := re.match(r"""["']Key "(\w+)" does not exist""", str(error)):
            raise UserError(f"{path}: unknown setting {unknown[1]!r}{_near(unknown[1], flat(default()))}") from None
        raise UserError(f"{path}: {_one_line(error)}") from error
    except UserError:
        raise
    except Exception as error:  # anything: the recipe is a program of the user
        raise UserError(f"{path}: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returns {type(config).__name__}; it must return the config")
    return override(config, overrides)


def override(config: ConfigDict, overrides: Iterable[tuple[str, Any]]) -> ConfigDict:
    """Sets `key` to `value` for each pair; a string is read as a Python literal where the key is not a string.

    A new `name` in an open group drops the options of the old one. A duration in one unit replaces the same
    duration in another unit, unless that was overridden too (then `durations.resolve` refuses the pair).
    """
    overrides = [(key, value) for key, value in overrides]
    given = {key for key, _ in overrides}
    for key, value in sorted(overrides, key=lambda item: not item[0].endswith(".name")):
        group_name, _, leaf = key.rpartition(".")
        group = _find(config, key)
        if leaf == "name" and group_name in OPEN and value != group[leaf]:
            for other in list(group):
                if other not in ("name", *OPEN[group_name]):
                    del group[other]
        stem, _, unit = leaf.rpartition("_")
        if stem and unit in durations.UNITS:
            for other in durations.UNITS:
                sibling = f"{stem}_{other}"
                if other != unit and sibling in group and f"{group_name}.{sibling}".lstrip(".") not in given:
                    group[sibling] = None
        _set(group, leaf, value, key)
    return config


def _find(config: ConfigDict, key: str) -> ConfigDict:
    """The group that holds `key`, or a UserError that names the nearest keys."""
    group, path = config, key.split(".")
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if part not in group and not (last and not group.is_locked):
            raise UserError(f"unknown setting config.{key}{_near(key, flat(config))}")
        if last:
            if isinstance(group.get(part), ConfigDict):
                raise UserError(f"config.{key} is a group of settings: {', '.join(group[part])}; set one of them")
            return group
        if not isinstance(group[part], ConfigDict):
            raise UserError(f"unknown setting config.{key}: config.{'.'.join(path[: depth + 1])} is not a group")
        group = group[part]
    raise AssertionError("unreachable: a key has at least one part")


def _near(key: str, known: Collection[str]) -> str:
    """The end of an error line: the settings of that name in any group, or whose name begins so, or the nearest ones.

    A group is near by its own name, too: `optimizer` is to be `optim.name`.
    """
    leaf, leaves = key.rpartition(".")[2], {name: name.rpartition(".")[2] for name in known}
    same = [name for name in known if leaves[name] == leaf] or [n for n in known if leaves[n].startswith(leaf)]
    if same:
        return perhaps(difflib.get_close_matches(key, same, n=3, cutoff=0.0))
    words = {name: (leaves[name], name.removesuffix(".name")) for name in known}
    near = difflib.get_close_matches(key, sorted({word for pair in words.values() for word in pair}))
    found = dict.fromkeys(name for word in near for name in known if word in words[name])
    return perhaps(found) if found else "; zoo/config.py lists them all"


def _set(group: ConfigDict, leaf: str, value: Any, key: str) -> None:
    kind = group.get_type(leaf) if leaf in group else type(None)
    name = kind is object and isinstance(value, str) and value.isalpha()  # as 'none' is for data.normalize
    if isinstance(value, str) and kind is not str and not name:
        value = _literal(value)
    try:
        if value is None and group.get(leaf) is not None and flat(default()).get(key) is not None:
            raise TypeError  # ConfigDict would take None and forget the type
        group[leaf] = value
    except TypeError:
        shown = (value,) if group[leaf] == () else group[leaf]
        example = "" if shown is None else f", for example {shown!r}"
        raise UserError(f"config.{key} is {value!r}; it must be of type {kind.__name__}{example}") from None


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def flat(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """`{'optim.lr': 0.1, ...}`: every setting by its full key."""
    result = {}
    for key in config:
        value = config[key]
        if isinstance(value, Mapping | ConfigDict) and (len(value) or prefix + key in OPEN):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2)


def changes(old: Mapping, new: Mapping) -> list[str]:
    """`['optim.lr: 0.1 -> 0.2', ...]` between two configs, as JSON sees them.

    A setting that `old` lacks, as an older version of the zoo had none, stood at what is the default today.
    """
    old, new, defaults = (flat(json.loads(json.dumps(dict(c)))) for c in (old, new, default().to_dict()))
    old = {k: defaults[k] for k in new.keys() & defaults.keys()} | old
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in sorted(old | new) if old.get(k) != new.get(k)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).strip("'\"").split())
