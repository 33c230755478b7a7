"""Penalties in the training loss, and what else holds the parameters back: `config.regularize`.

A rule is (kind, regex, value, ...): each of its numbers is an argument of the kind. Rules of different kinds add up; of
one kind, the first that matches a path counts. Frozen parameters (`optim.freeze`) are left out. The metric `loss` stays
that of the task; the sum of all penalties is the training metric `penalty`.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.core import tracers

from zoo import interceptors, rules, sparsity
from zoo import options as options_of
from zoo.constraints import CONSTRAINTS
from zoo.errors import UserError, lookup
from zoo.step import sum_of_squares
from zoo.tasks.supervised import model_input
from zoo.types import LossFn, Params, Task

Penalty = Callable[[jax.Array], jax.Array]  # of one parameter, or of one output


def l1(strength: float) -> Penalty:
    """`strength` times the sum of absolute values: the lasso (Tibshirani 1996)."""
    return lambda w: strength * jnp.sum(jnp.abs(w))


def l2(strength: float) -> Penalty:
    """`strength / 2` times the sum of squares: ridge, with plain SGD the same as `optim.weight_decay`.

    (Goodfellow et al. 2016, "Deep Learning", 7.1.1, and scikit-learn's elastic net; Keras's l2 has no half.)
    """
    return lambda w: strength / 2 * sum_of_squares(w)


def elastic_net(strength: float, ratio: float = 0.5) -> Penalty:
    """`ratio` of l1 and `1 - ratio` of l2 (Zou & Hastie 2005): scikit-learn's alpha and l1_ratio."""
    if ratio > 1:
        raise UserError(f"elastic_net: ratio is {ratio}; it must be in [0, 1], the share of l1")
    return lambda w: l1(strength * ratio)(w) + l2(strength * (1 - ratio))(w)


def group_lasso(strength: float, groups: str = "output") -> Penalty:
    """`strength` times the sum of the L2 norms of groups of weights, which become zero together (Yuan & Lin 2006).

    A group is what enters one 'output' unit or channel (the last axis), or what leaves one 'input' (the axis before).
    Without the paper's factor for the size of a group, as in scikit-learn's MultiTaskLasso.
    """
    if groups not in ("output", "input"):
        raise UserError(f"group_lasso: groups is {groups!r}; it must be 'output' or 'input'")

    def penalty(w):
        if groups == "input":
            if w.ndim < 2:
                raise UserError("group_lasso: a vector has no inputs; match kernels alone")
            w = w.swapaxes(-1, -2)
        # The gradient of a norm is not a number at zero; here it is zero.
        return strength * jnp.sum(optax.safe_norm(w.reshape(-1, w.shape[-1]), 0.0, axis=0))

    return penalty


PENALTIES: dict[str, Callable[..., Penalty]] = {
    "elastic_net": elastic_net,
    "group_lasso": group_lasso,
    "l1": l1,
    "l2": l2,
}
ACTIVITY = {kind: PENALTIES[kind] for kind in ("elastic_net", "l1", "l2")}  # those of outputs


class Regularizer(NamedTuple):
    task: Task  # with penalties in its training loss, fresh weights and gradients only where there are connections
    project: Callable[[Params], Params] = lambda params: params  # the first ones, and those after every update
    masks: sparsity.Masks = MappingProxyType({})


def make(options: Mapping[str, Any], task: Task, params, labels, *, seed: int) -> Regularizer:
    """What `config.regularize` asks for; with nothing set, `task` itself and no projection.

    Args:
      options: penalties, activity, constraints, sparsity, sparsity_kind.
      task: the task to regularize.
      params: its parameters, or their shapes.
      labels: 'train' or 'freeze' for every parameter, as `zoo.fine_tuning.frozen_labels` gives them.
      seed: of the run; decides the connections.

    Raises:
      UserError: an unknown kind, a value that makes no sense, or a rule that matches nothing (rules of `activity` are
        matched when the loss is traced first).
    """
    labels = rules.flatten(labels)

    def of_trained(key: str, kinds: Mapping) -> dict[str, list[Callable]]:
        setting = f"regularize.{key}"
        found = _by_path(_parse(options[key], kinds, setting), params, setting)
        kept = {path: functions for path, functions in found.items() if labels[path] == "train"}
        if found and not kept:
            raise UserError(f"{setting}: optim.freeze freezes every parameter that its rules match")
        return kept

    masks = sparsity.make(options["sparsity"], options["sparsity_kind"], params, seed)
    penalties, projections = of_trained("penalties", PENALTIES), of_trained("constraints", CONSTRAINTS)
    activity = _parse(options["activity"], ACTIVITY, "regularize.activity")
    if activity:
        task = task._replace(loss=_with_activity(task.loss, activity))
    if penalties:
        jax.eval_shape(partial(_total, penalties), params)
        task = task._replace(loss=_with_penalties(task.loss, penalties))
    if masks:
        task = task._replace(loss=_with_masks(task.loss, masks), init=_with_rescaled(task.init, masks))
    if not (masks or projections):
        return Regularizer(task)

    def project(params: Params) -> Params:
        def one(key_path, w):
            for projection in projections.get(rules.path_of(key_path), ()):
                w = projection(w)
            return w

        params = sparsity.apply(masks, params)
        return jax.tree_util.tree_map_with_path(one, params)

    return Regularizer(task, project, masks)


def _with_penalties(loss: LossFn, penalties: Mapping[str, list[Penalty]]) -> LossFn:
    def penalized(params, model_state, batch, key, *, train: bool):
        result = loss(params, model_state, batch, key, train=train)
        return _add(result, _total(penalties, params)) if train else result

    return penalized


def _with_activity(loss: LossFn, parsed) -> LossFn:
    """Adds penalties on what modules give out, as a mean over the rows of the batch."""

    def penalized(params, model_state, batch, key, *, train: bool):
        if not train:
            return loss(params, model_state, batch, key, train=False)
        outputs: dict[str, list[jax.Array]] = {}
        inner, here = set(), tracers.current_trace()

        def record(call, args, kwargs, context):
            output = call(*args, **kwargs)
            if context.method_name == "__call__" and context.module.path:
                path = "/".join(context.module.path)
                floats = [x for x in jax.tree.leaves(output) if jnp.issubdtype(x.dtype, jnp.floating)]
                outputs.setdefault(path, []).extend(floats)
                if tracers.current_trace() != here:
                    inner.add(path)
            return output

        with interceptors.of_trained(record):
            result = loss(params, model_state, batch, key, train=True)
        penalties = _by_path(parsed, dict.fromkeys(outputs, 0), "regularize.activity", "module")
        if hidden := sorted(inner & set(penalties)):
            raise UserError(
                f"regularize.activity: the output of {hidden[0]} is inside of a block that is computed twice; set "
                "model.remat to False"
            )
        total = sum(p(x) for path, functions in penalties.items() for p in functions for x in outputs[path])
        return _add(result, total / len(model_input(batch)))

    return penalized


def _with_masks(loss: LossFn, masks: sparsity.Masks) -> LossFn:
    """With no gradient where there is no connection: clipping, moments and norms are those of the sparse network."""
    return lambda params, *args, **kwargs: loss(sparsity.apply(masks, params), *args, **kwargs)


def _with_rescaled(init: Callable, masks: sparsity.Masks) -> Callable:
    def rescaled(key, batch):
        variables = init(key, batch)
        return {**variables, "params": sparsity.rescale(masks, variables["params"])}

    return rescaled


def _total(penalties: Mapping[str, list[Penalty]], params) -> jax.Array:
    leaves = rules.flatten(params)
    return sum(penalty(leaves[path]) for path, functions in penalties.items() for penalty in functions)


def _add(result, penalty):
    """The result of a loss function with one more penalty, in the loss and in its metric."""
    loss, (model_state, metrics) = result
    before, steps = metrics.get("penalty", (0.0, jnp.float32(1)))
    return loss + penalty, (model_state, {**metrics, "penalty": (before + penalty, steps)})


def _parse(given: Sequence, kinds: Mapping, setting: str) -> dict[str, list[tuple[str, Callable]]]:
    """Kind -> its (regex, function) rules, in the order of `kinds`."""
    parsed = {kind: [] for kind in kinds}
    for rule in given:
        if isinstance(rule, str) or not isinstance(rule, Sequence) or [type(x) for x in rule[:2]] != [str, str]:
            raise UserError(f"{setting}: a rule is (kind, regex, value), not {rule!r}")
        kind, regex, *values = rule
        make_one = lookup(f"kind of {setting}", kind, kinds)
        parameters = inspect.signature(make_one).parameters
        needed = [name for name, p in parameters.items() if p.default is p.empty]
        if not len(needed) <= len(values) <= len(parameters):
            wanted = ", ".join(("kind", "regex", *parameters))
            raise UserError(f"{setting}: {kind} takes ({wanted}), not {tuple(rule)!r}")
        named = dict(zip(parameters, values, strict=False))
        options_of.check(f"{setting}: {kind}", make_one, named, known=parameters)
        for name, value in named.items():
            if isinstance(value, Real) and not 0 <= value < math.inf:
                raise UserError(f"{setting}: {name} of {kind} is {value}; it must be zero or more")
        parsed[kind].append((regex, make_one(*values)))
    return {kind: group for kind, group in parsed.items() if group}


def _by_path(parsed, tree, setting: str, what: str = "parameter") -> dict[str, list[Callable]]:
    """Path -> the functions of the first matching rule of each kind."""
    found: dict[str, list[Callable]] = {}
    for group in parsed.values():
        assigned = rules.assign(group, tree, default=None, setting=setting, what=what)
        for path, function in rules.flatten(assigned).items():
            found.setdefault(path, []).append(function)
    return found
