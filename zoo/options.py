"""Checking options by name and type against the signature of what takes them."""

import inspect
import types
import typing
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from zoo.errors import UserError, did_you_mean

# type -> its reader from a word, and what to call it
WRITTEN = {
    str: (str, "a word"),
    int: (int, "an integer"),
    float: (float, "a number"),
    bool: ({"yes": True, "no": False}.__getitem__, "yes or no"),
}


def check(what: str, fn: Callable, options: Mapping[str, Any], *, known: Iterable[str] | None = None) -> None:
    """Refuses options that `fn` does not take, or of another type than its annotations say.

    Args:
      what: for the error line, such as "model 'mlp'".
      fn: a function or class; the names and annotations of its parameters decide.
      options: name -> value.
      known: the names that are options; default: all parameters with a default.
    """
    parameters = inspect.signature(fn).parameters
    if known is None:
        known = [name for name, p in parameters.items() if p.default is not p.empty]
    known = set(known)
    for key, value in options.items():
        if key not in known:
            raise UserError(f"{what} has no option {key!r}{did_you_mean(key, known, most=len(known))}")
        kind = parameters[key].annotation if key in parameters else inspect.Parameter.empty
        if kind is not inspect.Parameter.empty and not _fits(value, kind):
            raise UserError(f"{what}: {key} is {value!r}; it must be {_describe(kind)}")


def from_query(what: str, fn: Callable, query: str) -> dict[str, Any]:
    """Options of `fn` that stand in a name as in a URL, such as noise=4&shift=yes, of the types that it says.

    Args:
      what: for the error line.
      fn: its parameters of the types in WRITTEN are the options.
      query: a space is written `+` or `%20`, and `+` itself `%2B`.
    """
    kinds = {name: p.annotation for name, p in inspect.signature(fn).parameters.items() if p.annotation in WRITTEN}
    options = {}
    for part in query.split("&") if query else []:
        key, equals, value = part.partition("=")
        if not equals or key in options:
            raise UserError(f"{what}: {part!r} must be <option>=<value>, and an option may be given only once")
        if key not in kinds:
            raise UserError(f"{what} has no option {key!r}{did_you_mean(key, kinds)}")
        read, right = WRITTEN[kinds[key]]
        try:
            options[key] = read(urllib.parse.unquote_plus(value))
        except (KeyError, ValueError):
            raise UserError(f"{what}: {key} is {value!r}; it must be {right}") from None
    return options


def check_ranges(what: str, **ranges: tuple[float, float, float]) -> None:
    """Refuses values outside of their range; name -> (value, least, most)."""
    for key, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise UserError(f"{what}: {key} is {value}; it must be in {least}..{most}")


def check_rate(what: str, **rates: float) -> None:
    """Refuses rates of dropout and the like outside of [0, 1)."""
    for key, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{what}: {key} is {rate}; it must be in [0, 1)")


def is_number(value, kind: type = Real) -> bool:
    """Whether `value` is a number of this kind; True and False, which Python counts as integers, are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_least(what: str, model, **least: int) -> None:
    """Refuses options of a model that are below the least that they may be; one that is None is not judged."""
    for key, smallest in least.items():
        if (value := getattr(model, key)) is not None and value < smallest:
            raise UserError(f"{what}: {key} is {value}; it must be at least {smallest}")


def check_choices(what: str, model, **choices: Sequence[str]) -> None:
    """Refuses options of a model that are none of their choices, of which there are two at least."""
    for key, known in choices.items():
        if (value := getattr(model, key)) not in known:
            *first, last = map(repr, known)
            raise UserError(f"{what}: {key} is {value!r}; it must be {', '.join(first)} or {last}")


def _fits(value, kind) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if kind is None or kind is type(None):
        return value is None
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, *arguments) for v in value)
    if kind in (int, float):
        return is_number(value, int if kind is int else Real)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _describe(kind) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is Sequence:
        example = ("one", "two") if arguments[0] is str else (1, 2)
        return f"a tuple of {_describe(arguments[0]).removeprefix('a ').removeprefix('an ')}s, such as {example}"
    words = {int: "an integer", float: "a number", str: "a string", bool: "True or False", type(None): "None"}
    return words.get(kind, str(kind))
