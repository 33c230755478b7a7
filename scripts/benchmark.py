"""How fast the zoo is, and what it costs: measured on the CPU of this machine, beside PyTorch and Keras where asked.

    python scripts/benchmark.py loop models         # or: loop, memory, start, models, keras, all
    python scripts/benchmark.py loop --quick        # does it run at all? no figures to believe

loop     the training loop beside the bare compiled step, in one process: it may cost 3 %
memory   resident memory over 10,000 steps of the MLP: it must stay flat
start    the whole command `train.py --config configs/digits_lenet.py`, with an empty and with a filled cache
models   training steps and evaluation beside PyTorch, eager and compiled: MLP 1.8 times as fast, LeNet 0.8 times
keras    whole epochs beside Keras `fit` on the jax backend: 1.3 times as fast

Prints Markdown tables, and keeps the results in benchmarks/<machine>.json with the date, the versions and whether
the machine was idle. PyTorch and Keras: pip install -e '.[bench]'.
"""

import argparse
import contextlib
import importlib.util
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

from benchmark_engines import BATCH_SIZE
from benchmark_harness import MIN_WINDOWS, compare, machine_name, merge, provenance, wait_until_idle
from benchmark_worker import ROOT, UnavailableError, Worker, WorkerError

ENGINES = pathlib.Path(__file__).with_name("benchmark_engines.py")
MODELS = {"mlp": 1.8, "lenet5": 0.8}  # how many times as fast as PyTorch a training step should be
ON_CPU = {"JAX_PLATFORMS": "cpu"}  # as PyTorch is, and as the name of the machine says
Results = Iterator[tuple[str, dict[str, Any]]]  # case -> what was found, plain data


def engine(name: str, model: str, folder: str, **options) -> Worker:
    """An engine of benchmark_engines.py in a process of its own, which keeps its files and caches in `folder`."""
    if name != "zoo" and importlib.util.find_spec(name) is None:
        raise UnavailableError(f"{name} is not installed; pip install -e '.[bench]'")
    environment = {**ON_CPU, "TMPDIR": folder, "ZOO_CACHE_DIR": os.path.join(folder, "zoo")}
    return Worker(ENGINES, name, model, options, environment=environment)


def target(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    reached = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    bound = f"at most {at_most:g}" if at_least is None else f"at least {at_least:g}"
    return {"what": what, "value": value, "target": bound, "reached": reached}


def loop(options) -> Results:
    """A window is one epoch, so that each holds one shuffling and all the log lines of an epoch."""
    rows = 2_000 if options.quick else 60_000
    for model in options.model:
        with tempfile.TemporaryDirectory() as folder, engine("zoo", model, folder, rows=rows, dtype="uint8") as zoo:
            sides = {"bare step": "bare", "loop": "loop", "loop, progress bar": "bar"}
            sides = {name: zoo.side(operation) for name, operation in sides.items()}
            result = compare(sides, steps=rows // BATCH_SIZE, **options.how)
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
    said = f"the second start compiled {compiled} programs and loaded {hits} from the cache"
    if not hits:
        said += "; on this machine the cache never hits (jax issue 38445)"
    cold, warm = (result["sides"][kind]["step_s"]["median"] for kind in ("cold", "warm"))
    targets = [
        target("cold start, s", cold, at_most=20),
        target("second start, s", warm, at_most=12),
        target("programs that the second start compiles", compiled, at_most=0),
    ]
    yield "digits_lenet", result | {"compilations": compilations, "note": said, "targets": targets}


def models(options) -> Results:
    """The first step is timed in two processes: with an empty and with a filled cache of compiled programs."""
    rows = 2_000 if options.quick else 60_000
    kinds = {
        "zoo": ("zoo", {"dtype": "float32"}),
        "torch eager": ("torch", {"compiled": False}),
        "torch compile": ("torch", {"compiled": True}),
    }
    for model in options.model:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            workers, cold, missing = {}, {}, {}
            for name, (kind, more) in kinds.items():
                own = os.path.join(folder, name.replace(" ", "_"))
                os.mkdir(own, mode=0o700)
                try:
                    with engine(kind, model, own, rows=rows, **more) as worker:
                        cold[name] = worker.ask("train", 1)
                    workers[name] = stack.enter_context(engine(kind, model, own, rows=rows, **more))
                except UnavailableError as reason:
                    if kind == "zoo":
                        raise
                    missing[name] = str(reason)
            for operation, what in (("train", "training step"), ("eval", "evaluation")):
                sides = {name: worker.side(operation) for name, worker in workers.items()}
                result = compare(sides, window_s=options.window_s, **options.how)
                if operation == "train":
                    result["not_available"] |= missing
                    for name, found in result["sides"].items():
                        found["first_cold_s"] = cold[name]
                    if result["ratios"]:
                        best = min(ratio["median"] for ratio in result["ratios"].values())
                        result["targets"] = [target("best of PyTorch / zoo", best, at_least=MODELS[model])]
                yield f"{model}, {what}", result


def keras(options) -> Results:
    rows = 2_000 if options.quick else 60_000
    for model in options.model:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            keras = stack.enter_context(engine("keras", model, folder, rows=rows))
            zoo = stack.enter_context(engine("zoo", model, folder, rows=rows, dtype="uint8"))
            sides = {"zoo": zoo.side("epochs"), "keras fit": keras.side("epochs")}
            result = compare(sides, steps=1, **options.how)
        ratio = result["ratios"]["keras fit"]["median"]
        yield f"{model}, epoch", result | {"targets": [target("keras fit / zoo", ratio, at_least=1.3)]}


SUBCOMMANDS = {"loop": loop, "memory": memory, "start": start, "models": models, "keras": keras}


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """All results as one table, with a line for every target, note and side that is missing."""
    titles = ("", "side", "median", "from .. to", "CPU", "ratio", "first", "first, cold", "peak MB")
    lines, after = [_row(*titles), _row("---", "---", *["---:"] * 7)], []
    for name, result in results.items():
        for side, found in result.get("sides", {}).items():
            step, ratio = found["step_s"], result["ratios"].get(side, {"median": 1.0})["median"]
            shown = _time(step["median"]), f"{_time(step['min'])} .. {_time(step['max'])}"
            first = _time(found["first_s"]), _time(found.get("first_cold_s"))
            peak = f"{found['peak_mb']:.0f}" if "peak_mb" in found else ""
            lines.append(_row(name, side, *shown, _time(found["cpu_s"]["median"]), f"{ratio:.3f}", *first, peak))
        for what, value in result.get("figures", {}).items():
            lines.append(_row(name, what, f"{value:.1f}", *[""] * 6))
        for side, reason in result.get("not_available", {}).items():
            after.append(f"{name}: {side} not measured: {reason}")
        if "note" in result:
            after.append(f"{name}: {result['note']}")
        for found in result.get("targets", ()):
            reached = "reached" if found["reached"] else "MISSED"
            after.append(f"{name}: {found['what']} {found['value']:.3f}, {found['target']}: {reached}")
        after.append(f"{name}: {_idleness(result.get('machine', {}))}")
    return "\n".join([*lines, "", *(f"- {line}" for line in after)])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _idleness(machine: Mapping[str, Any]) -> str:
    before = {True: "idle", False: "NOT idle", None: "not known to be idle"}[machine.get("idle")]
    during = f", others used {machine['others']:.0%} of its CPUs meanwhile" if "others" in machine else ""
    return f"the machine was {before} before{during}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subcommand", nargs="+", help=f"{', '.join(SUBCOMMANDS)}, or all")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one (loop, models, keras)")
    parser.add_argument("--windows", type=int, default=MIN_WINDOWS, help="how often each side is timed")
    parser.add_argument("--window_s", type=float, default=0.5, help="length of a window where it is not an epoch")
    parser.add_argument("--idle_timeout", type=float, default=120, help="seconds to wait for an idle machine")
    parser.add_argument("--quick", action="store_true", help="a smoke run: little data, two windows, nothing kept")
    parser.add_argument("--output", help="the JSON file; default: benchmarks/<machine>.json, none for --quick")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.subcommand if name not in (*SUBCOMMANDS, "all")]:
        parser.error(f"unknown subcommand {unknown[0]!r}; known: {', '.join(SUBCOMMANDS)}, all")
    if options.windows < MIN_WINDOWS:
        parser.error(f"--windows {options.windows}: take at least {MIN_WINDOWS}")
    if options.quick:
        options.windows, options.window_s = 2, 0.02
    elif options.output is None:
        options.output = ROOT / "benchmarks" / f"{machine_name()}.json"
    options.model = options.model or list(MODELS)
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
