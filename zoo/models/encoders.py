"""Residual networks as the encoder of another model: which there are, and their options as an attribute of it."""

from zoo import options
from zoo.errors import UserError
from zoo.models import resnet, wide_resnet

# Name -> what makes it, `make(name, **options) -> ResNet`.
ENCODERS = {name: module.make for module in (resnet, wide_resnet) for name in module.VARIANTS}
# Options that the model around the encoder gives, and those of a head, which an encoder does not have.
OTHERS = {"in_channels", "dtype", "remat", "features_only", "num_classes", "global_pool", "dropout", "parent", "name"}


def pairs(what: str, given) -> tuple[tuple[str, object], ...]:
    """A dict or (name, value) pairs of options of `ResNet` as sorted pairs: they hash, and come back from JSON equal.

    Raises:
      UserError: anything else, an unknown option, or a value of the wrong type.
    """
    try:
        found = {key: tuple(v) if isinstance(v, list) else v for key, v in dict(given).items()}
    except (TypeError, ValueError):
        raise UserError(f"{what} is {given!r}; it must be pairs such as (('norm', 'group:8'),)") from None
    options.check(what, resnet.ResNet, found, known=resnet.ResNet.__dataclass_fields__.keys() - OTHERS)
    return tuple(sorted(found.items()))
