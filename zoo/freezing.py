"""Freezing: parameters as constants of the loss, and batch normalizations with fixed statistics.

`config.optim.freeze` keeps the optimizer away from parameters; here they become constants of the loss as well, so that
no gradient is computed that nobody uses. `config.freeze_stats` makes batch normalization use its running statistics in
training, as in evaluation, and leave them alone (He et al. 2015, arXiv:1512.03385, section 4.3, fine-tunes like that).
"""

from collections.abc import Mapping, Sequence

import jax

from zoo import interceptors, rules
from zoo.errors import UserError
from zoo.models.batch_norm import BatchNorm
from zoo.types import Task, Variables


def frozen(task: Task, labels, norms: Mapping[str, bool]) -> Task:
    """The task with a loss that sees frozen parameters and running statistics as constants; as it is, without any.

    Args:
      task: with a loss.
      labels: 'freeze' or 'train' for every parameter, as `zoo.fine_tuning.frozen_labels` gives them.
      norms: as the function of this name gives them.
    """
    constants = "freeze" in jax.tree.leaves(labels)
    if not (constants or any(norms.values())):
        return task

    def running(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and norms["/".join(context.module.path)]:
            kwargs = {**kwargs, "use_running_average": True}
        return call(*args, **kwargs)

    def loss(params, model_state, batch, key, *, train: bool):
        if not train:
            return task.loss(params, model_state, batch, key, train=False)
        if constants:
            params = jax.tree.map(_constant, params, labels)
        with interceptors.of_trained(running):
            return task.loss(params, model_state, batch, key, train=True)

    return task._replace(loss=loss)


def _constant(param, label: str):
    return jax.lax.stop_gradient(param) if label == "freeze" else param


def norms(regexes: Sequence[str], variables: Variables) -> dict[str, bool]:
    """Path of every batch normalization, such as `layer1_0/norm2` -> whether a regex matches it in full.

    Raises:
      UserError: a word in place of a tuple, a regex that matches none, or a model without batch normalization.
    """
    if isinstance(regexes, str):
        raise UserError(f"config.freeze_stats is {regexes!r}; it must be a tuple of regexes, such as ({regexes!r},)")
    stats = rules.flatten(variables.get("batch_stats", {}))
    if regexes and not stats:
        raise UserError("config.freeze_stats: the model has no batch normalization; leave it out")
    paths = dict.fromkeys((path.rpartition("/")[0] for path in stats), False)
    return rules.assign([(regex, True) for regex in regexes], paths, default=False, setting="config.freeze_stats")
