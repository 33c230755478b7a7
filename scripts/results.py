"""Train recipes over several seeds and keep what came out, as evidence for the README's results table.

    python scripts/results.py digits_lenet --seeds=3
    python scripts/results.py iris_mlp wine_mlp --seeds=10 --move_split     # another held-out part for every seed
    python scripts/results.py isbi_unet --metric=dice_membrane --metric=pixel_accuracy
    python scripts/results.py --table                                       # the table, from benchmarks/results.json

Each run is the whole command `python train.py --config configs/<recipe>.py --config.seed=<s>` in a process and a work
directory of its own; its seconds are those of the whole command. `--cold` gives each one an empty compilation cache.
Where other work took more than a tenth of the CPUs meanwhile, the table calls the machine "shared".
"""

import datetime
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import finetune
from absl import flags
from benchmark_harness import IDLE, machine_cpu_s

from zoo import cli
from zoo.errors import UserError, did_you_mean
from zoo.run_folder import write_atomically

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE = ROOT / "benchmarks" / "results.json"
# Fine-tuning has a table of its own; `benchmark.py words` measures what has no test split.
ELSEWHERE = {*finetune.EXPERIMENTS, "skipgram", "cbow"}
RECIPES = [path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ELSEWHERE]
SPLITS = ("test", "analogies")

METRICS = ("accuracy", "r2", "mean_iou", "loss")
PERCENT = ("accuracy", "error_rate")  # shown in percent

FLAGS = flags.FLAGS
flags.DEFINE_integer("seeds", 3, "How many seeds, from 0.", lower_bound=1)
flags.DEFINE_bool("move_split", False, "Cut another test split for every seed, where the set has none of its own.")
flags.DEFINE_multi_string("metric", None, "Test metrics to report; default: the first of METRICS that there is.")
flags.DEFINE_bool("cold", False, "Start every run without compiled programs.")
flags.DEFINE_bool("table", False, "Only print the table of what was measured before.")


def measure(recipe: str, overrides, *, seeds: int, wanted, move_split: bool, cold: bool) -> dict:
    """Trains one recipe with seeds 0..seeds-1: every value, mean, standard deviation, and the median seconds."""
    values, seconds, report = {}, [], None
    before, own_before = machine_cpu_s(), _own_cpu_s()
    for seed in range(seeds):
        settings = [f"--config.seed={seed}", *(f"--config.{key}={value}" for key, value in overrides)]
        if move_split:
            settings.append(f"--config.data.split_seed={seed}")
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, **({"ZOO_CACHE_DIR": f"{folder}/cache"} if cold else {})}
            command = [sys.executable, "train.py", f"--config=configs/{recipe}.py", f"--workdir={folder}/{recipe}"]
            started = time.perf_counter()
            done = subprocess.run([*command, *settings], cwd=ROOT, env=environment, capture_output=True, text=True)
            seconds.append(time.perf_counter() - started)
            if done.returncode:
                raise UserError(f"{recipe}, seed {seed}: {done.stderr.strip()}")
            report = json.loads(pathlib.Path(folder, recipe, "report.json").read_text())
        found = next(report["metrics"][split] for split in SPLITS if split in report["metrics"])
        names = wanted or [next(name for name in METRICS if name in found)]
        for name in names:
            if name not in found:
                raise UserError(f"{recipe}: no test metric {name!r}{did_you_mean(name, found)}")
            values.setdefault(name, []).append(found[name])
        shown = ", ".join(f"{name} {found[name]:.4f}" for name in names)
        print(f"{recipe} seed {seed}: {shown} in {seconds[-1]:.1f} s", flush=True)
    after, others = machine_cpu_s(), None
    if before and after:
        others = (after[0] - before[0] - (_own_cpu_s() - own_before)) / (after[1] - before[1])
    return {
        "data": report["config"]["data"]["name"],
        "parameters": report["parameters"],
        "metrics": {
            name: {"values": v, "mean": statistics.mean(v), "sd": statistics.stdev(v) if seeds > 1 else None}
            for name, v in values.items()
        },
        "seconds": statistics.median(seconds),
        "moved_split": move_split,
        "cold": cold,
        "others": others,  # share of all CPUs that other processes used meanwhile; None: not known
        "settings": dict(overrides),
        "device": report["device"],
        "versions": report["versions"],
        "commit": report["commit"],
        "date": datetime.date.today().isoformat(),
    }


def _own_cpu_s() -> float:
    """CPU seconds of this process and of the runs that it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def table(results: dict[str, dict]) -> str:
    """The Markdown table of the README."""
    lines = [
        "| recipe | data | parameters | test result | seeds | whole command | machine, date |",
        "|---|---|--:|---|--:|--:|---|",
    ]
    for recipe in sorted({*RECIPES, *results}):
        if recipe not in results:
            lines.append(f"| `{recipe}` | | | not measured | | | |")
            continue
        r = results[recipe]
        shown = ", ".join(_shown(name, found) for name, found in r["metrics"].items())
        settings = "".join(f", `--config.{key}={value}`" for key, value in r["settings"].items())
        seeds = len(next(iter(r["metrics"].values()))["values"])
        split = ", each on its own split" if r["moved_split"] else ""
        shared = " (shared)" if (r.get("others") or 0) > IDLE else ""
        lines.append(
            f"| `{recipe}`{settings} | {r['data']} | {r['parameters']:,} | {shown} "
            f"| {seeds}{split} | {r['seconds']:.0f} s | {r['device']['cpus']} CPU cores{shared}, {r['date']} |"
        )
    return "\n".join(lines)


def _shown(name: str, found: dict) -> str:
    percent = any(word in name for word in PERCENT)
    mean, sd = (f"{100 * v:.2f}" if percent else f"{v:.3f}" for v in (found["mean"], found["sd"] or 0))
    return f"{name} {mean} ± {sd}{' %' if percent else ''}"


def main(overrides, recipes):
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    for recipe in recipes:
        if recipe not in RECIPES:
            raise UserError(f"unknown recipe {recipe!r}{did_you_mean(recipe, RECIPES)}")
    for recipe in [] if FLAGS.table else recipes:
        results[recipe] = measure(
            recipe, overrides, seeds=FLAGS.seeds, wanted=FLAGS.metric, move_split=FLAGS.move_split, cold=FLAGS.cold
        )
        FILE.parent.mkdir(exist_ok=True)
        write_atomically(FILE, json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
