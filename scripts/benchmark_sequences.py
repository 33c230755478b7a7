"""`benchmark.py lstm` and `benchmark.py words`: language models beside PyTorch, word vectors beside gensim."""

import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

from benchmark_cases import LANGUAGE_MODELS, SMALLEST_LANGUAGE_MODEL
from benchmark_harness import compare
from benchmark_report import target
from benchmark_worker import Worker, require

SCRIPTS = pathlib.Path(__file__).parent
ON_CPU = {"JAX_PLATFORMS": "cpu"}  # as PyTorch is, and as the name of the machine says
Results = Iterator[tuple[str, dict[str, Any]]]  # case -> what was found, plain data
WORD_GOALS = {"skipgram": 2.0, "cbow": 1.0}  # times the words per second of gensim


def _worker(file: str, library: str, *arguments) -> Worker:
    require(library)
    return Worker(SCRIPTS / file, library, *arguments, environment=ON_CPU)


def lstm(options) -> Results:
    cases = {"smallest": SMALLEST_LANGUAGE_MODEL} if options.quick else LANGUAGE_MODELS
    for name, case in cases.items():
        with _worker("benchmark_lstm.py", "zoo", case) as zoo, _worker("benchmark_lstm.py", "torch", case) as torch:
            sides = {"zoo": zoo.side("train"), "torch": torch.side("train")}
            result = compare(sides, window_s=4 * options.window_s, **options.how)
        result["work"] = {"amount": case.batch_size * case.length, "unit": "words"}
        result["targets"] = [target("torch / zoo", result["ratios"]["torch"]["median"], at_least=1.0)]
        yield f"{name}, training step", result


def words(options) -> Results:
    """Whole trainings take turns, each with a seed of its own; the vectors of the timed ones are evaluated."""
    for recipe, goal in WORD_GOALS.items():
        workers = (_worker("benchmark_words.py", library, recipe, options.quick) for library in ("zoo", "gensim"))
        with next(workers) as zoo, next(workers) as gensim:
            sides = {"zoo": zoo.side("train"), "gensim": gensim.side("train")}
            result = compare(sides, steps=1, warmup=0, **options.how)
            # The first training of each is not timed: the zoo's compiles.
            spearman = {name: side.worker.ask("spearman")[1:] for name, side in sides.items()}
            result["work"] = {"amount": gensim.ask("words"), "unit": "words"}
        means = {name: statistics.mean(found) for name, found in spearman.items()}
        shown = (f"{name} {means[name]:.3f} \u00b1 {statistics.stdev(found):.3f}" for name, found in spearman.items())
        result["spearman"] = spearman
        result["note"] = f"WordSim-353 of the timed vectors, Spearman: {', '.join(shown)}"
        result["targets"] = [
            target("gensim / zoo", result["ratios"]["gensim"]["median"], at_least=goal),
            target("Spearman, zoo less gensim", means["zoo"] - means["gensim"], at_least=0),
        ]
        yield recipe, result
