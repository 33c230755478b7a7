"""Which parameters move, when they begin to, and how fast: for weights that were trained before."""

import itertools
import math
import re
from collections.abc import Sequence

import jax

from zoo import rules
from zoo.errors import UserError
from zoo.options import is_number

# The stages of the models from the input to the output, by their paths: numbers count up within a kind, those of `up`
# down. Numbers with a gap, or that start late, are no order (text_cnn's conv3, conv4, conv5 lie side by side).
STAGES = (
    r"embed",
    r"stem|stem_norm",
    r"layer(?P<stage>\d+)_(?P<block>\d+)|(?:layer|conv|down)(?P<number>\d+)(?:_reverse)?",
    r"bottom",
    r"up(?P<falling>\d+)",
    r"(?:dense|norm)(?P<number>\d+)",
    r"norm|key|query|score",
    r"head",
)
INSIDE = r"(?:(?:encoder|recurrent)/)?(?:%s)(?:/.*)?"  # an encoder or a stack of recurrent layers is no stage itself


def frozen_labels(freeze: Sequence[str], params):
    """'freeze' or 'train' for every parameter."""
    if isinstance(freeze, str):
        raise UserError(f"optim.freeze is {freeze!r}; it must be a tuple of regexes, such as ({freeze!r},)")
    labels = rules.assign([(regex, "freeze") for regex in freeze], params, default="train", setting="optim.freeze")
    if "train" not in jax.tree.leaves(labels):
        raise UserError("optim.freeze: the rules freeze every parameter; nothing is left to train")
    return labels


def first_steps(unfreeze: Sequence[tuple[float, str]], labels, total_steps: int | None):
    """The step at which each parameter begins to move: 0 where no rule matches, math.inf where it is frozen.

    Args:
      unfreeze: (percent of the run, regex) pairs, the first that matches wins.
      labels: of `frozen_labels`.
      total_steps: length of the run.
    """
    starts = [percent_of_run("unfreeze", rule, total_steps) for rule in unfreeze]
    if 0 in starts:
        raise UserError(f"optim.unfreeze: {unfreeze[starts.index(0)]!r} begins with the run; leave it out")
    assigned = [(regex, index) for index, (_, regex) in enumerate(unfreeze)]
    indices = rules.assign(assigned, labels, default=None, setting="optim.unfreeze")
    indices = jax.tree.map(lambda i, label: i if label == "train" else math.inf, indices, labels, is_leaf=_is_none)
    found = jax.tree.leaves(indices, is_leaf=_is_none)
    for index, (_, regex) in enumerate(unfreeze):
        if index not in found:
            raise UserError(f"optim.unfreeze: rule {regex!r} has no parameter that is not frozen or an earlier rule's")
    if None not in found:
        raise UserError("optim.unfreeze: every parameter waits; nothing is left to train at the start")
    return jax.tree.map(lambda i: 0 if i is None else i if i == math.inf else starts[i], indices, is_leaf=_is_none)


def _is_none(x) -> bool:
    return x is None


def percent_of_run(setting: str, pair, total_steps: int | None) -> int:
    """The step at the percentage with which a pair of `config.optim` begins."""
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise UserError(f"config.optim.{setting}: {pair!r} is not a pair that begins with a percentage of the run")
    percent = pair[0]
    if not is_number(percent) or not 0 <= percent < 100:
        raise UserError(f"config.optim.{setting}: {percent!r} in {pair!r} must be a percentage of the run below 100")
    if percent and total_steps is None:
        raise UserError(f"config.optim.{setting} has percentages of the run, whose length is not known here")
    return round(total_steps * percent / 100) if percent else 0


def depth_factors(layer_decay: float, params):
    """`layer_decay ** (stages above)` for every parameter: 1 for the head, less for each stage below.

    Layer-wise learning rates as in Howard & Ruder 2018 (arXiv:1801.06146, section 3.2) and Clark et al. 2020. A stage
    is one entry of `STAGES`: the stem, each residual block, each numbered layer with its norm, the attention, ...

    Raises:
      UserError: a parameter whose place cannot be told from its path.
    """
    stages = {path: _stage(path) for path in rules.flatten(params)}
    for path, stage in stages.items():
        if stage is None:
            raise UserError(f"optim.layer_decay: the place of {path!r} in the model is unknown; use lr_mults")
    for kind, members in itertools.groupby(sorted(set(stages.values())), key=lambda stage: stage[0]):
        _refuse_gaps(kind, [abs(numbers[0]) for _, *numbers in members if numbers], stages)
    order = sorted(set(stages.values()), reverse=True)
    factors = [layer_decay ** order.index(stage) for stage in stages.values()]
    return jax.tree.unflatten(jax.tree.structure(params), factors)


def _stage(path: str) -> tuple[int, ...] | None:
    """(kind of stage, number, number of the block), which sorts from the input to the output."""
    for kind, regex in enumerate(STAGES):
        if found := re.fullmatch(INSIDE % regex, path):
            numbers = {name: int(number) for name, number in found.groupdict().items() if number is not None}
            if "falling" in numbers:
                return kind, -numbers["falling"]
            return kind, *numbers.values()
    return None


def _refuse_gaps(kind: int, numbers: list[int], stages: dict[str, tuple]) -> None:
    least = min(numbers, default=0)
    if least > 1 or set(numbers) != set(range(least, least + len(set(numbers)))):
        example = next(path for path, stage in stages.items() if stage[0] == kind)
        found = sorted(set(numbers))
        raise UserError(
            f"optim.layer_decay: {example!r} is numbered {found}, from which no order follows; use lr_mults"
        )
