"""Rules match whole paths, the first one wins, and a rule that does nothing is a mistake."""

from typing import NamedTuple

import numpy as np
import pytest

from zoo import rules
from zoo.errors import UserError


class Pair(NamedTuple):
    left: object
    right: object


TREE = {
    "conv1": {"bias": 0, "kernel": 1},
    "conv10": {"bias": 2, "kernel": 3},
    "layer3_0": {"conv1": {"kernel": 4}},
}


def assigned(given, default="rest", tree=TREE):
    return rules.flatten(rules.assign(given, tree, default=default, setting="optim.lr_mults"))


def test_flatten_names_leaves_by_path():
    tree = {"b": {"kernel": 1}, "a": [2, Pair(3, {"x": 4})]}
    assert rules.flatten(tree) == {"a/0": 2, "a/1/left": 3, "a/1/right/x": 4, "b/kernel": 1}


def test_a_rule_matches_the_whole_path():
    # Neither the prefix 'conv1' of 'conv10' nor the inner 'conv1' of 'layer3_0/conv1' counts.
    assert assigned([("conv1/kernel", "hit")]) == {
        "conv1/bias": "rest",
        "conv1/kernel": "hit",
        "conv10/bias": "rest",
        "conv10/kernel": "rest",
        "layer3_0/conv1/kernel": "rest",
    }


def test_a_rule_does_not_match_the_beginning_of_a_path():
    tree = {"head": {"kernel": 0, "kernel_scale": 1}, "my_head": {"kernel": 2}}
    found = assigned([("head/kernel", "hit")], tree=tree)
    assert found == {"head/kernel": "hit", "head/kernel_scale": "rest", "my_head/kernel": "rest"}


def test_the_first_matching_rule_wins():
    values = assigned([("conv1/.*", "first"), (".*/kernel", "second"), ("conv10/.*", "third")])
    assert list(values.values()) == ["first", "first", "third", "second", "second"]


def test_a_rule_shadowed_by_an_earlier_one_still_matches_something():
    assert set(assigned([(".*", "all"), ("conv1/bias", "never")]).values()) == {"all"}


def test_structure_and_values_are_kept():
    tree = {"a": (np.zeros(2), {"b": np.ones(3)})}
    result = rules.assign([("a/1/b", 0.0)], tree, default=None, setting="x")
    assert result == {"a": (None, {"b": 0.0})}


def test_no_rules_give_the_default():
    assert set(assigned([]).values()) == {"rest"}


def test_a_rule_that_matches_nothing_names_the_nearest_paths():
    with pytest.raises(UserError) as error:
        assigned([(".*", 1), ("layer3_0/conv1/kernal", 2)])
    (line,) = str(error.value).splitlines()
    assert line.startswith("optim.lr_mults: rule 'layer3_0/conv1/kernal' matches no parameter")
    first_near = line.partition("nearest paths are ")[2].split(",")[0]
    assert first_near == "['layer3_0/conv1/kernel'"


def test_a_partial_match_is_no_match():
    with pytest.raises(UserError, match=r"rule 'kernel' matches no parameter.*conv1/kernel"):
        assigned([("kernel", 1)])


def test_bad_regex():
    with pytest.raises(UserError, match=r"optim\.lr_mults: 'conv\(' is not a regular expression: "):
        assigned([("conv(", 1)])


@pytest.mark.parametrize("rule", ["conv1/.*", ("conv1/.*",), ("a", 1, 2), (3, 1), 7, None], ids=str)
def test_a_rule_is_a_pair(rule):
    with pytest.raises(UserError, match=r"optim\.lr_mults: a rule is a pair \(regex, value\), not "):
        assigned([rule])
