"""What can be learned: a task makes the loss and the metrics of a model. The loop sees nothing else.

A task module has `make(model, meta, **options) -> Task` and `num_outputs(meta, **options) -> int`, the width of
the model's head. A new task is one file here and one line in TASKS.
"""

from collections.abc import Mapping

from zoo import options as options_of
from zoo.errors import lookup
from zoo.tasks import classification, language_model, regression, segmentation, transcription, word2vec
from zoo.types import Task

TASKS = {
    "classification": classification,
    "language_model": language_model,
    "regression": regression,
    "segmentation": segmentation,
    "transcription": transcription,
    "word2vec": word2vec,
}


def num_outputs(options: Mapping, meta: Mapping) -> int:
    """How many outputs the model of `config.task` needs on this data set."""
    name, own = _split(options)
    return TASKS[name].num_outputs(meta, **own)


def make(options: Mapping, model, meta: Mapping) -> Task:
    """The task of `config.task`.

    Raises:
      UserError: an unknown task or option, or a data set that the task cannot learn from.
    """
    name, own = _split(options)
    return TASKS[name].make(model, meta, **own)


def _split(options: Mapping) -> tuple[str, dict]:
    own = {key: value for key, value in options.items() if value is not None}
    name = own.pop("name")
    options_of.check(f"config.task: {name}", lookup("task", name, TASKS).make, own)
    return name, own
