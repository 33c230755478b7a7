"""The header of our safetensors files: everything needed to use the weights."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from zoo import models, options
from zoo.errors import UserError
from zoo.models.normalization import EPSILON

# Options with which the same weights mean the same function, that the import adapts, or that the shapes alone tell.
FREE = (
    "num_classes", "in_channels", "dropout", "dropout_input", "block_dropout", "dropout_kind", "dropconnect",
    "embed_dropout", "recurrent_dropout", "variational", "stochastic_depth", "dtype", "remat", "kernel_init",
    "bias_init", "zero_init", "forget_bias", "init_scale", "features_only", "embed_dim", "embed_size",
)  # fmt: skip


class Metadata(NamedTuple):
    """What may be said of weights beside the model; None: unknown."""

    input_size: Sequence[int] | None = None  # of one example, (height, width, channels), (features,) or (tokens,)
    mean: Sequence[float] | None = None  # per channel, of images in 0..1, or per feature: the input is (x - mean) / std
    std: Sequence[float] | None = None
    channel_order: str | None = None  # 'RGB', 'BGR' or 'L' (grey)
    crop: float | None = None  # part of the shorter side that an evaluation keeps, such as 0.875; 0: all is stretched
    interpolation: str | None = None  # of resizing, such as 'bilinear'
    class_names: Sequence[str] | None = None  # in the order of the logits
    task: str | None = None  # what the outputs are: 'classification', 'segmentation', 'regression', ...
    feature_names: Sequence[str] | None = None  # in the order of the inputs
    csv_options: str | None = None  # of csv:, how tables are read, as in a name: 'header=no&missing=-999'
    vocab: Sequence[str] | None = None  # of inputs that are text: the token of each id
    tokens: str | None = None  # what these are: 'words' or 'characters'
    temperature: float | None = None  # the probabilities of classification are softmax(output / temperature); None: 1
    target_mean: float | Sequence[float] | None = None  # a regression predicts output * target_std + target_mean
    target_std: float | Sequence[float] | None = None
    # 'log' where it is exp(output) * target_mean, a rate (Poisson); of classification 'logit' where each output is that
    # of its class against the rest, and the probabilities are the logistic ones, scaled to a sum of 1
    target_link: str | None = None
    source: str | None = None  # where the weights come from
    source_sha256: str | None = None  # the hash of that file
    licence: str | None = None  # its terms


def describe(model: nn.Module, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, str]:
    """The safetensors metadata (words only): everything is JSON under 'zoo'."""
    info = semantics(model, given) | {"sha256": checksum(arrays)}
    if any(path.startswith("batch_stats/") for path in arrays):
        info["batch_norm"] = {
            "epsilon": getattr(model, "bn_eps", getattr(model, "norm_eps", EPSILON)),
            "momentum": 0.9,
        }  # flax's momentum, 1 - PyTorch's
    if any(array.ndim > 2 for path, array in arrays.items() if path.endswith("/kernel")):  # convolutions
        info["padding"] = getattr(model, "padding", "explicit, (kernel - 1) / 2 on each side")
    return {"format": "np", "zoo": json.dumps(info)}


def semantics(model: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """What weights of this model mean: its name and options, and `given` of `Metadata`, whose other names are None."""
    given = {name: _plain(value) for name, value in given.items()}
    options.check("save_weights", Metadata, given)
    if given.get("channel_order") not in (None, "RGB", "BGR", "L"):
        raise UserError(f"save_weights: channel_order is {given['channel_order']!r}; it must be 'RGB', 'BGR' or 'L'")
    name, chosen = identify(model)
    return {"model": name, "options": chosen, **dict.fromkeys(Metadata._fields), **given}


def _plain(value):
    """Arrays and numbers of NumPy and JAX, and lists, as tuples and numbers of Python, which JSON knows."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def check_vocabulary(source, info: Mapping[str, Any], vocab: Sequence[str] | None) -> None:
    """Refuses a vocabulary that is not the one of the weights; where either is not known, there is none to refuse."""
    saved = info.get("vocab")
    if saved is None or vocab is None or list(saved) == list(vocab):
        return
    at, (theirs, ours) = next(
        (i, pair) for i, pair in enumerate(itertools.zip_longest(saved, vocab)) if pair[0] != pair[1]
    )
    raise UserError(
        f"{source} has a vocabulary of {len(saved)} tokens, the data set one of {len(vocab)}: token {at} is {theirs!r} "
        f"there and {ours!r} here; give the text and the settings (tokens, min_count, vocab_size) of its training"
    )


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and contents, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def identify(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """(name, options) with which `create_model` makes this very model, with the fewest options."""
    found = []
    for name, make in models.MODELS.items():
        other = make()
        if type(other) is type(model):
            differ = {f: v for f, v in _fields(model).items() if v != getattr(other, f)}
            if models.create_model(name, **differ) == model:
                found.append((len(differ), name, differ))
    if not found:
        raise UserError(
            f"no name of zoo.list_models makes {type(model).__name__}; its weights cannot say what they are"
        )
    _, name, differ = min(found, key=lambda item: item[0])
    return name, differ


def _fields(model: nn.Module) -> dict[str, Any]:
    return {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in ("parent", "name")}


def read(source, weights) -> dict[str, Any]:
    """What the header of a file says; refuses a file whose contents are not those that were saved."""
    try:
        info = json.loads(weights.metadata["zoo"])
        wanted = info["sha256"]
        _ = info["model"], info["options"].items(), info["input_size"]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{source} has no header of this zoo; use load_weights(model, ...)") from None
    if checksum(weights.tensors) != wanted:
        raise UserError(f"{source} is damaged: its checksum is not the one in its header")
    return info


def model_of(source, info: Mapping[str, Any]) -> nn.Module:
    """The model that a header names."""
    try:
        chosen = {k: _plain(v) for k, v in info["options"].items()}
        return models.create_model(info["model"], **chosen)
    except UserError as error:
        raise UserError(f"the header of {source}: {error}") from None


def check_options(source, info: Mapping[str, Any], model: nn.Module) -> None:
    """Refuses a model that computes another function with these weights than the one that they were saved from."""
    saved = model_of(source, info)
    if hasattr(model, "make_encoder") and type(saved) is type(encoder := model.make_encoder(parent=None)):
        model = encoder  # which alone the weights are for
    if type(saved) is not type(model):
        raise UserError(f"{source} holds a {type(saved).__name__} ({info['model']}), not a {type(model).__name__}")
    for name, value in _fields(saved).items():
        if name not in FREE and _plain(getattr(model, name)) != _plain(value):
            raise UserError(f"{source} was saved with {name}={value!r}; the model has {getattr(model, name)!r}")
