"""Mistakes of the user, reported in one clear line.

Anything a user can get wrong (a name, a file, a number) raises `UserError`; the command line prints its one
line and exits with 2, a library user sees an ordinary exception. Bugs of ours keep their traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What is wrong, where, and what would be right, in one line."""


class NonFiniteError(ArithmeticError):
    """A loss or a gradient became NaN or infinite; the command line exits with 3."""


def did_you_mean(name: str, known: Iterable[str], most: int = 10) -> str:
    """The end of an error line: `; did you mean 'adam'?`, or the known names when none is near, `most` of them."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    if near:
        return perhaps(near)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"; known: {', '.join(known[:most])}{more}" if known else "; none are known"


def perhaps(names: Iterable[str]) -> str:
    """`; did you mean 'adam' or 'adamw'?`"""
    return "; did you mean " + " or ".join(map(repr, names)) + "?"


def few(values: Iterable) -> str:
    """The first of many values, such as `0, 1, 2, 3, 4, ...`."""
    listed = list(map(str, values))
    return ", ".join(listed[:5]) + ", ..." * (len(listed) > 5)


def lookup(kind: str, name: str, table: dict):
    """`table[name]`, or a UserError that says `unknown <kind> '<name>'` and names the nearest ones, or all."""
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}{did_you_mean(name, table, most=len(table))}")
    return table[name]


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended a run after its state was saved; the command line exits with 128 + signal."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
