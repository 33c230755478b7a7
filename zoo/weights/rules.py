"""Which tensor of a file fills which parameter: complete, or refused.

The rules start from our side: each names one or more of our paths by a regex (matched in full, as everywhere in the
zoo), the tensors it needs, and the function that makes our array of them. An import is complete: every path of the
model is filled by exactly one rule, every tensor of the file is used or ignored by name, every shape is the model's.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from zoo.errors import UserError

NEAREST = 20  # misfits of a side for which near names are looked up
LISTED = 100  # misfits in an error


class Rule(NamedTuple):
    """`transform(*tensors)` is the array at every path that `path` matches."""

    path: str  # regex on our path, such as r"layer(\d)_(\d+)/conv(\d)/kernel"
    sources: tuple[str, ...]  # names in the file, with \1 and the like for groups of the regex
    transform: Callable[..., np.ndarray]
    inverse: Callable | None = None  # for exports, see `zoo.weights.transforms`


class Table(NamedTuple):
    """All rules for one kind of file."""

    name: str
    rules: tuple[Rule, ...]
    ignore: tuple[str, ...] = ()  # regexes on names in the file that have no place in the model
    head: str = "head"  # the layer that sees the classes: made anew for other classes
    requires: Mapping[str, Any] = {}  # options of the model without which the weights mean something else
    usual: Mapping[str, Any] = {}  # the same, but other networks have these names and shapes too: the user is told
    notes: tuple[str, ...] = ()  # what the file cannot tell, as lines for the user
    norms: tuple[str, ...] = ()  # those that an export may have, where the networks do not take any
    layouts: tuple[str, ...] = ()  # whose names these are, for `save_weights(..., layout=...)`


class Row(NamedTuple):
    """One line of the table of an import."""

    path: str
    sources: tuple[str, ...]  # () for a parameter that is made anew
    transform: str
    shape: tuple[int, ...]


class Match(NamedTuple):
    """How a table fits the names of both sides."""

    table: Table
    plan: dict[str, tuple[tuple[str, ...], Callable]]  # path -> names in the file, transform
    unfilled: dict[str, str]  # path -> what is missing
    unused: list[str]  # names in the file

    @property
    def misfits(self) -> int:
        return len(self.unfilled) + len(self.unused)


def make(rules: Sequence, ignore: Sequence[str] = ()) -> Table:
    """The table of a user's own rules: (regex on our path, a name or names in the file, function) each."""
    made = []
    if isinstance(rules, str | Mapping) or not isinstance(rules, Iterable):
        raise UserError(f"import rules: they are a list of rules, not {rules!r}")
    for rule in rules:
        try:
            path, sources, transform = rule
            re.compile(path)
            sources = (sources,) if isinstance(sources, str) else tuple(sources)
            if not sources or not all(isinstance(s, str) for s in sources) or not callable(transform):
                raise TypeError
        except (TypeError, ValueError):
            line = "a rule is (regex on our path, a name or names in the file, function of the tensors)"
            raise UserError(f"import rules: {line}, not {rule!r}") from None
        except re.error as error:
            raise UserError(f"import rules: {rule[0]!r} is not a regular expression: {error}") from None
        made.append(Rule(path, sources, transform))
    if isinstance(ignore, str) or not isinstance(ignore, Iterable):
        raise UserError(f"import rules: what is ignored is a list of regular expressions, not {ignore!r}")
    for pattern in (ignore := tuple(ignore)):
        try:
            re.compile(pattern)
        except (TypeError, re.error) as error:
            raise UserError(f"import rules: ignored is {pattern!r}, no regular expression: {error}") from None
    return Table("your rules", tuple(made), ignore)


def plan(table: Table, paths: Sequence[str]) -> tuple[dict[str, tuple[tuple[str, ...], Rule]], dict[str, str]]:
    """(path -> names in the file and the rule, path -> why there is none), by the names of our side."""
    compiled, planned, unfilled = [(re.compile(rule.path), rule) for rule in table.rules], {}, {}
    for path in paths:
        found = [(m, rule) for regex, rule in compiled if (m := regex.fullmatch(path))]
        if len(found) == 1:
            ((m, rule),) = found
            planned[path] = expand(m, rule), rule
        else:
            some = " and ".join(repr(rule.path) for _, rule in found)
            unfilled[path] = f"{len(found)} rules fill it: {some}" if found else "no rule fills it"
    return planned, unfilled


def unusual(table: Table, model) -> list[str]:
    """A line for each option of the model that is not the `usual` one."""
    return [
        f"{option}={value!r} is usual for {table.name}; the model has {has!r}, and the file cannot tell which is right"
        for option, value in table.usual.items()
        if (has := getattr(model, option, value)) != value
    ]


def match(table: Table, paths: Sequence[str], names: Sequence[str]) -> Match:
    """Fits a table to our paths and the names in a file, by names alone."""
    planned, unfilled = plan(table, paths)
    known, filled, used = set(names), {}, set()
    for path, (sources, rule) in planned.items():
        used.update(sources)
        if missing := [name for name in sources if name not in known]:
            unfilled[path] = f"needs {' and '.join(map(repr, missing))}"
        else:
            filled[path] = sources, rule.transform
    ignored = [re.compile(pattern) for pattern in table.ignore]
    if not any(path.startswith(f"{table.head}/") for path in paths):  # a model without head: theirs is not needed
        for rule in table.rules:
            for leaf in ("kernel", "bias"):
                if m := re.fullmatch(rule.path, f"{table.head}/{leaf}"):
                    used.update(expand(m, rule))
    unused = [name for name in names if name not in used and not any(i.fullmatch(name) for i in ignored)]
    return Match(table, filled, unfilled, unused)


def expand(found: re.Match, rule: Rule) -> tuple[str, ...]:
    """The names in the file that a rule asks for at one path."""
    try:
        return tuple(found.expand(source) for source in rule.sources)
    except (re.error, IndexError) as error:
        raise UserError(f"import rules: {rule.sources} for {rule.path!r}: {error}") from None


def refuse(what: str, fit: Match, names: Sequence[str], paths: Sequence[str], shapes: Mapping[str, str]) -> None:
    """Raises the one UserError that lists what does not fit, on both sides; `shapes` is path -> line."""
    lines = []
    for n, (path, line) in enumerate(fit.unfilled.items()):
        wanted = re.findall(r"'([^']*)'", line)
        lines.append(f"{path}: {line}{_near(wanted[0] if wanted else path, names, n)}")
    lines += [f"{path}: {line}" for path, line in shapes.items()]
    lines += [f"{name!r} in the file is not used{_near(name, paths, n)}" for n, name in enumerate(fit.unused)]
    if lines:
        more = f"; and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        raise UserError(f"{what} (by {fit.table.name}): {'; '.join(lines[:LISTED])}{more}")


def _near(name: str, known: Sequence[str], number: int) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5) if number < NEAREST else ()
    return f" (near: {', '.join(near)})" if near else ""
