"""All models by name. A new model is one file here and one line in MODELS."""

import dataclasses
import fnmatch
import inspect
from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import numpy as np

from zoo import options as zoo_options
from zoo.errors import UserError, lookup
from zoo.models import alexnet, convnet, lenet, lstm, mlp, resnet, text_cnn, unet, wide_resnet, word2vec

MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet.make,
    "cbow": word2vec.CBOW,
    "convnet1d": partial(convnet.make, "convnet1d"),
    "convnet2d": partial(convnet.make, "convnet2d"),
    "lenet5": lenet.make,
    "lstm_classifier": lstm.LSTMClassifier,
    "lstm_lm": lstm.LSTMLanguageModel,
    "mlp": mlp.MLP,
    "resnet18": partial(resnet.make, "resnet18"),
    "resnet34": partial(resnet.make, "resnet34"),
    "resnet50": partial(resnet.make, "resnet50"),
    "resnet101": partial(resnet.make, "resnet101"),
    "resnet152": partial(resnet.make, "resnet152"),
    "resnetv2_18": partial(resnet.make, "resnetv2_18"),
    "resnetv2_34": partial(resnet.make, "resnetv2_34"),
    "resnetv2_50": partial(resnet.make, "resnetv2_50"),
    "resnetv2_101": partial(resnet.make, "resnetv2_101"),
    "resnetv2_152": partial(resnet.make, "resnetv2_152"),
    "wide_resnet50_2": partial(resnet.make, "wide_resnet50_2"),
    "wide_resnet101_2": partial(resnet.make, "wide_resnet101_2"),
    "resnet20_cifar": partial(resnet.make, "resnet20_cifar"),
    "resnet32_cifar": partial(resnet.make, "resnet32_cifar"),
    "resnet44_cifar": partial(resnet.make, "resnet44_cifar"),
    "resnet56_cifar": partial(resnet.make, "resnet56_cifar"),
    "resnet110_cifar": partial(resnet.make, "resnet110_cifar"),
    "text_cnn": text_cnn.TextCNN,
    "skipgram": word2vec.SkipGram,
    "unet": unet.make,
    "unet_resnet18": partial(unet.make_resnet, "unet_resnet18"),
    "unet_resnet34": partial(unet.make_resnet, "unet_resnet34"),
    "unet_resnet50": partial(unet.make_resnet, "unet_resnet50"),
    "wrn16_2": partial(wide_resnet.make, "wrn16_2"),
    "wrn16_4": partial(wide_resnet.make, "wrn16_4"),
    "wrn16_8": partial(wide_resnet.make, "wrn16_8"),
    "wrn16_10": partial(wide_resnet.make, "wrn16_10"),
    "wrn22_8": partial(wide_resnet.make, "wrn22_8"),
    "wrn28_2": partial(wide_resnet.make, "wrn28_2"),
    "wrn28_10": partial(wide_resnet.make, "wrn28_10"),
    "wrn28_12": partial(wide_resnet.make, "wrn28_12"),
    "wrn40_2": partial(wide_resnet.make, "wrn40_2"),
    "wrn40_4": partial(wide_resnet.make, "wrn40_4"),
    "wrn40_8": partial(wide_resnet.make, "wrn40_8"),
}


def create_model(name: str, **options) -> nn.Module:
    """The model called `name`: a linen Module, used as `.init(rngs, x)` and `.apply(variables, x, train=...)`.

    To train by hand:

        variables = model.init(key, x)
        y, state = model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    `train` is for dropout. Batch normalization takes the statistics of the batch if and only if 'batch_stats' is
    mutable, and `state` then has the new running ones; without such layers it is empty. Recurrent layers, and
    convolutions on the CPU, have gradients of their own, in reverse mode alone: `jax.grad`, or `jax.jvp` of `jax.grad`;
    `jax.jvp` and `jax.jacfwd` of the model itself raise a TypeError.

    Raises:
      UserError: an unknown name or option, an option's value that makes no sense, or a module without the keyword
        `train`.
    """
    make, module = _signatures(name)
    if "train" not in inspect.signature(module.__call__).parameters:
        raise UserError(f"model {name!r}: {module.__name__}.__call__ has no keyword `train`; add `train: bool = False`")
    if isinstance(kind := options.get("dtype"), type | np.dtype):  # such as jnp.bfloat16
        options["dtype"] = np.dtype(kind).name
    known = model_options(name)
    for fn in (make, module):
        own = {k: v for k, v in options.items() if k in inspect.signature(fn).parameters or k not in known}
        zoo_options.check(f"model {name!r}", fn, own, known=known)
    return make(**options)


def make(options: Mapping, outputs: int, meta: Mapping) -> nn.Module:
    """The model of `config.model`, for the data set of `meta` and a task that needs so many outputs.

    Raises:
      UserError: as `create_model`, or another `num_classes` than that.
    """
    options = {key: value for key, value in options.items() if value is not None}
    name = options.pop("name")
    if options.setdefault("num_classes", outputs) != outputs:
        raise UserError(
            f"config.model.num_classes is {options['num_classes']}, but the task on data set {meta['name']!r} needs "
            f"{outputs} outputs; leave it out"
        )
    known, channels = model_options(name), meta["shapes"].get("image", ())[2:]
    if channels and "in_channels" in known:
        options.setdefault("in_channels", *channels)
    if meta.get("vocab") and "vocab_size" in known:
        options.setdefault("vocab_size", len(meta["vocab"]))
    if meta.get("cardinalities"):
        if "cardinalities" not in known:
            raise UserError(
                f"config.data.categories is 'embed', but model {name!r} has no embeddings; mlp has, and 'one_hot' "
                "suits every model"
            )
        options.setdefault("cardinalities", meta["cardinalities"])
    return create_model(name, **options)


def model_options(name: str) -> dict[str, object]:
    """Every option of a model with its default, which is what the variant called `name` is made of."""
    make, module = _signatures(name)
    model = make()
    own = {} if make is module else {k: p.default for k, p in inspect.signature(make).parameters.items()}
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return {k: default for k, default in (own | fields).items() if k not in ("options", "parent", "name")}


def _signatures(name: str) -> tuple[Callable, Callable]:
    """What makes the model, and the module it makes (a table of variants is `make(variant, **options) -> Module`)."""
    make = lookup("model", name, MODELS)
    return make, make if isinstance(make, type) else inspect.signature(make).return_annotation


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern such as 'resnet*', sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))
