"""How fast the zoo is, and what it costs: measured on the CPU of this machine, beside PyTorch and Keras where asked.

    python scripts/benchmark.py loop models         # or: loop, memory, start, models, conv, keras, lstm, words,
                                                    # weights, all
    python scripts/benchmark.py loop --quick        # does it run at all? no figures to believe

loop     the training loop beside the bare compiled step, in one process: it may cost 3 %
memory   resident memory over 10,000 steps of the MLP: it must stay flat
start    the whole command `train.py --config configs/digits_lenet.py`, with an empty and with a filled cache
models   training steps and evaluation of every family beside the same network by hand in flax (0.98 times as fast) and
         in PyTorch, eager and compiled: MLP 1.8 times as fast, LeNet 0.8, ResNet-20 0.6, U-Net 0.9
conv     formulations of convolutions, up-convolutions and batch normalization, on their own and in a `lax.scan`
keras    whole epochs beside Keras `fit` on the jax backend: 1.3 times as fast
lstm     training steps of word language models beside torch.nn.LSTM, hidden 200, 650 and 1500: as fast
weights  a file of a ResNet-50 read beside PyTorch: at most 1.5 times its time, and 2.2 times the memory of its weights
words    whole trainings of skip-gram (2 times as fast) and CBOW (as fast) beside gensim, and how good their vectors are

Prints Markdown tables, and keeps the results in benchmarks/<machine>.json with the date, the versions and whether
the machine was idle. PyTorch, Keras and gensim: pip install -e '.[bench]'.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark_cases import CASES, LAYERS, REPEATS, Case
from benchmark_harness import MIN_WINDOWS, compare, machine_name, merge, provenance, wait_until_idle
from benchmark_imports import weights
from benchmark_report import markdown, target
from benchmark_sequences import ON_CPU, Results, lstm, words
from benchmark_worker import ROOT, UnavailableError, Worker, WorkerError, require

SCRIPTS = pathlib.Path(__file__).parent
MNIST = ("mlp", "lenet5")  # what `loop` and `keras` measure
BARE, LAST, COMPILED = "bare flax", "torch channels_last", "torch compile"


def engine(name: str, model: str, folder: str, **options) -> Worker:
    """The engine of benchmark_<name>.py in a process of its own, which keeps its files and caches in `folder`."""
    if name != "bare":  # our own flax
        require(name)
    environment = {**ON_CPU, "TMPDIR": folder, "ZOO_CACHE_DIR": os.path.join(folder, "zoo")}
    options = {"rows": CASES[model].rows, "batch_size": CASES[model].batch_size} | options
    return Worker(SCRIPTS / f"benchmark_{name}.py", model, options, environment=environment)


def loop(options) -> Results:
    """A window is one epoch, so that each holds one shuffling and all the log lines of an epoch."""
    for model in filter(MNIST.__contains__, options.model):
        rows = 2_000 if options.quick else CASES[model].rows
        with tempfile.TemporaryDirectory() as folder, engine("zoo", model, folder, rows=rows, dtype="uint8") as zoo:
            sides = {"bare step": "bare", "loop": "loop", "loop, progress bar": "bar"}
            sides = {name: zoo.side(operation) for name, operation in sides.items()}
            result = compare(sides, steps=rows // CASES[model].batch_size, **options.how)
        ratio = result["ratios"]["loop"]["median"]
        yield model, result | {"targets": [target("loop / bare step", ratio, at_most=1.03)]}


def memory(options) -> Results:
    """A whole run with its evaluations and checkpoints: the first of those fill the allocator's pools once and for
    all, while what leaks at every step goes on in the second half of the run.
    """
    middle, end = marks = (100, 150) if options.quick else (5_000, 10_000)
    machine = {} if options.quick else wait_until_idle(timeout_s=options.idle_timeout)
    with tempfile.TemporaryDirectory() as folder, engine("zoo", "mlp", folder, rows=12_800, dtype="uint8") as zoo:
        found = zoo.ask("memory", end // 10, *marks)
    growth = 100 * (found[str(end)] / found[str(middle)] - 1)
    what = f"growth of the resident memory from step {middle} to {end}, %"
    figures = {f"resident at step {step}, MB": mb for step, mb in found.items()}
    yield "mlp", {"machine": machine, "figures": figures, "targets": [target(what, growth, at_most=2)]}


def start(options) -> Results:
    """Each cold start has a cache folder of its own; the warm ones share the folder that their first start fills."""
    runs = itertools.count()
    compilations: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def command(kind: str, *overrides: str):
            def side(steps: int) -> float:
                number = next(runs)
                workdir = os.path.join(folder, f"run{number}")
                cache = os.path.join(folder, "warm" if kind == "warm" else f"cold{number}")
                arguments = ["--config", "configs/digits_lenet.py", "--workdir", workdir, *overrides]
                started = time.perf_counter()
                found = subprocess.run(
                    [sys.executable, "train.py", *arguments],
                    cwd=ROOT,
                    env={**os.environ, **ON_CPU, "ZOO_CACHE_DIR": cache},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                seconds = time.perf_counter() - started
                if found.returncode:
                    last = (found.stderr.strip().splitlines() or ["it said nothing"])[-1]
                    raise WorkerError(f"train.py ended with {found.returncode}: {last}")
                compilations[kind] = json.loads(pathlib.Path(workdir, "report.json").read_text())["compilations"]
                return seconds

            return side

        overrides = ["--config.total_epochs=2"] if options.quick else []
        sides = {kind: command(kind, *overrides) for kind in ("warm", "cold")}
        result = compare(sides, steps=1, warmup=0, **options.how)
    compiled, hits = (compilations["warm"][key] for key in ("count", "cache_hits"))
    note = f"the second start compiled {compiled} programs and loaded {hits} from the cache"
    if not hits:
        note += "; on this machine the cache never hits (jax issue 38445)"
    cold, warm = (result["sides"][kind]["step_s"]["median"] for kind in ("cold", "warm"))
    targets = [
        target("cold start, s", cold, at_most=20),
        target("second start, s", warm, at_most=12),
        target("programs that the second start compiles", compiled, at_most=0),
    ]
    yield "digits_lenet", result | {"compilations": compilations, "note": note, "targets": targets}


def models(options) -> Results:
    for model in options.model:
        case = CASES[model].smallest() if options.quick else CASES[model]
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            yield from _family(model, case, options, folder, stack)


def _family(model: str, case: Case, options, folder: str, stack: contextlib.ExitStack) -> Results:
    workers: dict[str, Worker] = {}
    cold, missing = {}, {}

    def start(name: str, kind: str, *, cached: bool = False, **more) -> None:
        """Those that keep compiled programs are started twice: the first step with an empty and with a filled cache."""
        own = os.path.join(folder, name.replace(" ", "_"))
        os.mkdir(own, mode=0o700)
        more |= {"rows": case.rows, "batch_size": case.batch_size}
        try:
            if cached:
                with engine(kind, model, own, **more) as worker:
                    cold[name] = worker.ask("train", 1)
            workers[name] = stack.enter_context(engine(kind, model, own, **more))
        except UnavailableError as reason:
            if kind != "torch":
                raise
            missing[name] = str(reason)

    start("zoo", "zoo", cached=True, dtype="float32")
    start(BARE, "bare")
    start("torch eager", "torch")
    if len(case.shape) == 3 and model != "mlp":  # it has convolutions of images
        start(LAST, "torch", channels_last=True)
    eager = {name: worker for name, worker in workers.items() if name.startswith("torch")}
    last = bool(eager) and not options.no_compile and _quickest(eager) == LAST
    if options.no_compile:
        missing[COMPILED] = "left out by --no_compile"
    else:
        start(COMPILED, "torch", cached=True, compiled=True, channels_last=last)

    for operation, what in (("train", "training step"), ("eval", "evaluation")):
        sides = {name: worker.side(operation) for name, worker in workers.items()}
        result = compare(sides, window_s=options.window_s, **options.how)
        result["work"] = {"amount": case.batch_size, "unit": "examples"}
        if operation == "train":
            result["not_available"] |= missing
            for name, found in result["sides"].items():
                if name in cold:
                    found["first_cold_s"] = cold[name]
            if last and COMPILED in result["sides"]:
                result["note"] = f"{COMPILED} is of {LAST}, the quicker one"
            result["targets"] = list(_targets(case, result["ratios"]))
        yield f"{model}, {what}", result


def _quickest(workers: Mapping[str, Worker]) -> str:
    """By the best of three training steps, taken in turn after a first one."""
    seconds = {name: [] for name in workers}
    for _ in range(4):
        for name, worker in workers.items():
            seconds[name].append(worker.ask("train", 1))
    return min(seconds, key=lambda name: min(seconds[name][1:]))


def _targets(case: Case, ratios: Mapping[str, Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    if torch := [ratio["median"] for name, ratio in ratios.items() if name.startswith("torch")]:
        yield target("best of PyTorch / zoo", min(torch), at_least=case.goal)
    if BARE in ratios:
        yield target(f"{BARE} / zoo", ratios[BARE]["median"], at_least=0.98)


def conv(options) -> Results:
    for layer in dict.fromkeys(layer.smallest() for layer in LAYERS) if options.quick else LAYERS:
        with Worker(SCRIPTS / "benchmark_conv.py", layer, environment=ON_CPU) as worker:
            for what, names in worker.ask("sides").items():
                sides = {name: worker.side(f"{what}/{name}") for name in names}
                result = compare(sides, window_s=options.window_s, **options.how)
                worker.ask("check", what)
                for found in result["sides"].values():
                    del found["peak_mb"]  # of the process that they share
                if layer.gflop:
                    result["work"] = {"amount": REPEATS * layer.gflop, "unit": "GFLOP"}
                yield f"{REPEATS} x {layer.name}, {what}", result


def keras(options) -> Results:
    for model in filter(MNIST.__contains__, options.model):
        rows = 2_000 if options.quick else CASES[model].rows
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            keras = stack.enter_context(engine("keras", model, folder, rows=rows))
            zoo = stack.enter_context(engine("zoo", model, folder, rows=rows, dtype="uint8"))
            sides = {"zoo": zoo.side("epochs"), "keras fit": keras.side("epochs")}
            result = compare(sides, steps=1, **options.how)
        ratio = result["ratios"]["keras fit"]["median"]
        yield f"{model}, epoch", result | {"targets": [target("keras fit / zoo", ratio, at_least=1.3)]}


SUBCOMMANDS = {
    "loop": loop, "memory": memory, "start": start, "models": models, "conv": conv, "keras": keras, "lstm": lstm,
    "words": words, "weights": weights,
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subcommand", nargs="+", help=f"{', '.join(SUBCOMMANDS)}, or all")
    parser.add_argument("--model", action="append", choices=CASES, help="only this one (loop, models, keras)")
    parser.add_argument(
        "--no_compile", action="store_true", help="leave torch.compile out, which takes minutes (models)"
    )
    parser.add_argument("--windows", type=int, default=MIN_WINDOWS, help="how often each side is timed")
    parser.add_argument("--window_s", type=float, default=0.5, help="length of a window where it is not an epoch")
    parser.add_argument("--idle_timeout", type=float, default=120, help="seconds to wait for an idle machine")
    parser.add_argument("--quick", action="store_true", help="a smoke run: little data, two windows, nothing kept")
    parser.add_argument("--output", help="the JSON file; default: benchmarks/<machine>.json, none for --quick")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.subcommand if name not in (*SUBCOMMANDS, "all")]:
        parser.error(f"unknown subcommand {unknown[0]!r}; known: {', '.join(SUBCOMMANDS)}, all")
    asked = set(SUBCOMMANDS) if "all" in options.subcommand else set(options.subcommand)
    for option, users in (("model", ("loop", "models", "keras")), ("no_compile", ("models",))):
        if getattr(options, option) and not asked & set(users):
            parser.error(f"--{option} is for {', '.join(users)}")
    other = next((model for model in options.model or () if model not in MNIST), None)
    if other and (few := [name for name in ("loop", "keras") if name in asked]):
        parser.error(f"--model {other}: {few[0]} measures only {' and '.join(MNIST)}")
    if options.windows < MIN_WINDOWS:
        parser.error(f"--windows {options.windows}: take at least {MIN_WINDOWS}")
    if options.quick:
        options.windows, options.window_s = 2, 0.02
    elif options.output is None:
        options.output = ROOT / "benchmarks" / f"{machine_name()}.json"
    options.model = options.model or list(CASES)
    options.how = {"windows": options.windows, "idle_timeout_s": options.idle_timeout, "quick": options.quick}
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 when something that is there failed; what is not installed is only said."""
    options = parse(arguments)
    code = 0
    for name in SUBCOMMANDS if "all" in options.subcommand else dict.fromkeys(options.subcommand):
        found: dict[str, dict[str, Any]] = {}
        try:
            for case, result in SUBCOMMANDS[name](options):
                entry = {f"{name}: {case}": result | provenance() | {"quick": options.quick}}
                found |= entry
                if options.output:  # at once: what is measured is not lost when a later one fails
                    merge(options.output, entry)
        except UnavailableError as reason:
            print(f"{name}: not measured: {reason}", file=sys.stderr)
            code = max(code, int(isinstance(reason, WorkerError)))
        if found:
            print(markdown(found), end="\n\n", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
