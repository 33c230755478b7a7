"""A functional model zoo in JAX: the classic architectures, one training loop."""

import time

_started = time.perf_counter()

from zoo import memory  # noqa: E402

memory.keep_freed_pages()  # before any other import starts a thread

from zoo import compilation, config, report, rng, tiling, words  # noqa: E402
from zoo.dry_run import dry_run  # noqa: E402
from zoo.errors import UserError  # noqa: E402
from zoo.loop import evaluate, train  # noqa: E402
from zoo.models import create_model, list_models  # noqa: E402
from zoo.summary import summary  # noqa: E402
from zoo.types import Source  # noqa: E402
from zoo.weights import load_model, load_weights, save_weights  # noqa: E402

compilation.reserve_threads()
report.IMPORT_SECONDS = time.perf_counter() - _started

__all__ = [
    "Source",
    "UserError",
    "config",
    "create_model",
    "dry_run",
    "evaluate",
    "list_models",
    "load_model",
    "load_weights",
    "rng",
    "save_weights",
    "summary",
    "tiling",
    "train",
    "words",
]
