"""Per-parameter settings as lists of `(regex, value)` on paths such as `layer3_0/conv1/kernel`.

A regex must match the whole path; the first rule that matches wins. Freezing, decay, learning-rate multipliers
and import all use this one mechanism. (The idea of rules that must cover something is big_vision's.)
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import jax

from zoo.errors import UserError


def path_of(key_path) -> str:
    """`layer1/kernel` for the key path of a leaf in nested dicts, tuples and named tuples."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def flatten(tree) -> dict[str, Any]:
    """Path -> leaf, in the order of `jax.tree.leaves`."""
    return {path_of(kp): leaf for kp, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assign(rules: Sequence[tuple[str, Any]], tree, *, default, setting: str, what: str = "parameter"):
    """A tree like `tree` whose leaves are the values of the first matching rule, or `default`.

    Args:
      rules: `(regex, value)` pairs; the regex is matched in full on the path of each leaf.
      tree: parameters (only the structure is used).
      default: the value of leaves that no rule matches.
      setting: what the rules are called in the config, for the error line.
      what: what each leaf is, for the error line.

    Raises:
      UserError: a rule is not a pair, its regex does not compile, or it matches no path at all.
    """
    paths = list(flatten(tree))
    compiled = [_compile(rule, setting) for rule in rules]
    for regex, _ in compiled:
        if not any(regex.fullmatch(path) for path in paths):
            near = difflib.get_close_matches(regex.pattern, paths, n=3, cutoff=0.0)
            raise UserError(f"{setting}: rule {regex.pattern!r} matches no {what}; the nearest paths are {near}")
    values = [next((v for regex, v in compiled if regex.fullmatch(path)), default) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(tree), values)


def _compile(rule, setting: str) -> tuple[re.Pattern, Any]:
    try:
        if isinstance(rule, str):
            raise TypeError
        pattern, value = rule
        return re.compile(pattern), value
    except (TypeError, ValueError):
        raise UserError(f"{setting}: a rule is a pair (regex, value), not {rule!r}") from None
    except re.error as error:
        raise UserError(f"{setting}: {rule[0]!r} is not a regular expression: {error}") from None
