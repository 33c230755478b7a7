"""All models by name. A new model is one file here and one line in MODELS."""

import fnmatch
import inspect
from collections.abc import Callable

import flax.linen as nn

from zoo import options as zoo_options
from zoo.errors import lookup
from zoo.models import lenet, mlp

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet.make,
    "mlp": mlp.MLP,
}


def create_model(name: str, **options) -> nn.Module:
    """The model called `name`: a linen Module, used as `.init(rngs, x)` and `.apply(variables, x, train=...)`.

    Raises:
      UserError: an unknown name or option, or an option's value that makes no sense.
    """
    make, module = _signatures(name)
    known = model_options(name)
    for fn in (make, module):
        own = {k: v for k, v in options.items() if k in inspect.signature(fn).parameters or k not in known}
        zoo_options.check(f"model {name!r}", fn, own, known=known)
    return make(**options)


def model_options(name: str) -> dict[str, object]:
    """Every option of a model with its default."""
    parameters = {k: p for fn in _signatures(name) for k, p in inspect.signature(fn).parameters.items()}
    return {k: p.default for k, p in parameters.items() if k not in ("options", "parent", "name")}


def _signatures(name: str) -> tuple[Callable, Callable]:
    """What makes the model, and the module it makes (a table of variants is `make(variant, **options) -> Module`)."""
    make = lookup("model", name, MODELS)
    return make, make if isinstance(make, type) else inspect.signature(make).return_annotation


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern such as 'resnet*', sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))
