"""What weights trained on something else are worth: fine-tuned, as a linear probe, and from scratch.

    python scripts/finetune.py fashion_mnist_few lenet5.npz
    python scripts/finetune.py hymenoptera_resnet32 resnet32-d509ac18.th
    python scripts/finetune.py isbi_drive test_best_weights.h5
    python scripts/finetune.py                      # only the table, and docs/finetune.png

All take the recipe's steps. What is in benchmarks/finetune.json is not measured again, so that the same
command continues where it was stopped.
"""

import json
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import zoo
from zoo import cli, report
from zoo.errors import UserError, lookup
from zoo.run_folder import write_atomically

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE, PICTURE = ROOT / "benchmarks" / "finetune.json", ROOT / "docs" / "finetune.png"


WAYS = ("from scratch", "probe", "fine-tuned")


class Experiment(NamedTuple):
    split: str  # whose metric counts
    labels: Sequence[int] = (0,)  # per class; 0: all
    metric: str = "accuracy"
    ways: Sequence[str] = WAYS


EXPERIMENTS = {
    "fashion_mnist_few": Experiment("test", (10, 100, 300)),
    "hymenoptera_resnet32": Experiment("validation"),
    "isbi_drive": Experiment("test", metric="dice_membrane", ways=("from scratch", "fine-tuned")),
}
PROBE_LR = 1e-2  # a head on its own takes larger steps than a network
SEEDS = range(3)  # of the new head, the order of the batches, and which labels are known


def settings(name: str, way: str, labels: int, seed: int, init_from: str):
    """The config of one run."""
    config = zoo.config.load(ROOT / "configs" / f"{name}.py")
    config.update(seed=seed, init_from=None if way == "from scratch" else init_from, probe=way == "probe")
    config.data.update(per_class=labels, split_seed=seed)
    if way == "probe":
        config.data.augment = {}
        config.optim.lr = PROBE_LR
    return config


def measure(name: str, init_from: str, known: list[dict]) -> list[dict]:
    """`known` and the runs that were missing there, each written down as soon as it is done."""
    experiment = EXPERIMENTS[name]
    done = {(row["experiment"], row["way"], row["labels"], row["seed"]) for row in known}
    for seed in SEEDS:
        for labels in experiment.labels:
            for way in experiment.ways:
                if (name, way, labels, seed) in done:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    found = zoo.train(settings(name, way, labels, seed, init_from), folder)
                result = {"value": found["metrics"][experiment.split][experiment.metric], "seconds": found["seconds"]}
                row = {"experiment": name, "way": way, "labels": labels, "seed": seed, **result}
                known.append(row | {"device": report.device(), "versions": report.versions()})
                write_atomically(FILE, json.dumps(known, indent=1) + "\n")
    return known


def summary(rows: list[dict]) -> dict[tuple[str, int, str], tuple[float, float, int]]:
    """(experiment, labels, way) -> mean and standard deviation of the metric in percent, and the number of seeds."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault((row["experiment"], row["labels"], row["way"]), []).append(100 * row["value"])
    return {
        key: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))
        for key, values in groups.items()
    }


def table(rows: list[dict]) -> str:
    """The Markdown table of the README."""
    found = summary(rows)
    lines = [
        "| recipe | metric | labels per class | " + " | ".join(WAYS) + " | seeds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, experiment in EXPERIMENTS.items():
        for labels in experiment.labels:
            cells = {way: found.get((name, labels, way)) for way in experiment.ways}
            if all(cells.values()):
                shown = {way: f"{mean:.1f} ± {sd:.1f} %" for way, (mean, sd, _) in cells.items()}
                values = " | ".join(shown.get(way, "") for way in WAYS)
                seeds = min(number for _, _, number in cells.values())
                lines.append(f"| `{name}` | {experiment.metric} | {labels or 'all'} | {values} | {seeds} |")
    return "\n".join(lines)


def draw(rows: list[dict]) -> None:
    """Accuracy against labels, one line for each way."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = summary(rows)
    figure, panel = pyplot.subplots(figsize=(5, 3.2))
    name = "fashion_mnist_few"
    for way in WAYS:
        points = [(n, *found[name, n, way][:2]) for n in EXPERIMENTS[name].labels if (name, n, way) in found]
        if points:
            labels, means, deviations = zip(*points, strict=True)
            panel.errorbar(labels, means, deviations, marker="o", capsize=3, label=way)
    panel.set(xscale="log", xlabel="labels per class", ylabel="test accuracy, %", title="LeNet-5 on Fashion-MNIST")
    panel.set_xticks(EXPERIMENTS[name].labels, list(map(str, EXPERIMENTS[name].labels)))
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend()
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)
    pyplot.close(figure)


def main(overrides, arguments):
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    if overrides or len(arguments) not in (0, 2):
        raise UserError(f"give an experiment ({', '.join(EXPERIMENTS)}) and the weights to start from, or nothing")
    if arguments:
        name, init_from = arguments
        lookup("experiment", name, EXPERIMENTS)
        rows = measure(name, init_from, rows)
    print(table(rows))
    draw(rows)


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
