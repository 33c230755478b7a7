"""Draw metrics of one or more runs against the step, as a PNG.

python scripts/plot.py runs/digits_lenet --metrics=train/loss,test/accuracy --out=curves.png
python scripts/plot.py runs/cosine-{0,1,2} runs/constant-{0,1,2} --mean --reach=test/accuracy=0.9

With --mean, runs whose names differ in a number at the end are one line, their mean, in a band from the worst to the
best. --reach draws a level and prints when each run first got there.
"""

import pathlib
import re
import statistics

from absl import flags

from zoo import cli, metrics
from zoo.errors import UserError, did_you_mean
from zoo.run_folder import read_metrics

FLAGS = flags.FLAGS
flags.DEFINE_list("metrics", ["train/loss", "test/accuracy", "lr"], "What to draw: one panel for each.")
flags.DEFINE_bool("mean", False, "Draw the mean of runs that differ in the number at the end of their names.")
flags.DEFINE_string("reach", None, "A metric and a level, such as test/accuracy=0.9.")
cli.define_picture("out", "curves.png", "The picture to write.")

Curve = dict[int, float]  # step -> value


def read(folder: str) -> list[dict]:
    if not pathlib.Path(folder, "metrics.jsonl").is_file():
        raise UserError(f"{folder} is not a run folder: it has no metrics.jsonl")
    return read_metrics(pathlib.Path(folder))


def curve(lines: list[dict], metric: str) -> Curve:
    return {line["step"]: line[metric] for line in lines if metric in line}


def group_of(name: str, mean: bool) -> str:
    """`cosine` for the run `cosine-2`, where means are drawn."""
    return re.sub(r"[-_.]?\d+$", "", name) or name if mean else name


def goal_of(text: str) -> tuple[str, float]:
    """(metric, level) of `test/accuracy=0.9`."""
    metric, _, level = text.rpartition("=")
    try:
        if metric:
            return metric, float(level)
    except ValueError:
        pass
    raise UserError(f"--reach is {text!r}; it must be a metric and a level, such as test/accuracy=0.9")


def first_step(points: Curve, metric: str, level: float) -> int | None:
    """The first step at which the metric is at least as good as the level."""
    sign = 1 if metrics.mode_of(metric) == "max" else -1
    return next((step for step, value in sorted(points.items()) if sign * value >= sign * level), None)


def when(steps: list[int | None]) -> str:
    if None in steps:
        return f"not reached by {steps.count(None)} of {len(steps)} runs"
    shown = f"after {', '.join(f'{step:,}' for step in steps)} steps"
    return shown + (f", mean {statistics.mean(steps):,.0f}" if len(steps) > 1 else "")


def draw(panel, name: str, curves: list[Curve]) -> None:
    steps = sorted(set.intersection(*map(set, curves)))
    if not steps:
        return
    values = [[points[step] for points in curves] for step in steps]
    label = f"{name}, mean of {len(curves)}" if len(curves) > 1 else name
    (line,) = panel.plot(steps, [statistics.mean(v) for v in values], marker=".", label=label)
    if len(curves) > 1:
        panel.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=line.get_color(), alpha=0.2)


def main(overrides, folders):
    if overrides or not folders:
        raise UserError("name at least one run folder, such as runs/digits_lenet")
    runs: dict[str, list[list[dict]]] = {}
    for folder in folders:
        runs.setdefault(group_of(pathlib.Path(folder).name, FLAGS.mean), []).append(read(folder))
    known = {name for group in runs.values() for lines in group for line in lines for name in line if name != "step"}
    goal, level = goal_of(FLAGS.reach) if FLAGS.reach else (None, None)
    for metric in [*FLAGS.metrics, *([goal] if goal else [])]:
        if metric not in known:
            raise UserError(f"no run has the metric {metric!r}{did_you_mean(metric, known)}")
    if goal:
        for name, group in runs.items():
            print(f"{name}: {goal} {level:g} {when([first_step(curve(lines, goal), goal, level) for lines in group])}")
    try:
        import matplotlib
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(FLAGS.metrics), figsize=(4 * len(FLAGS.metrics), 3), squeeze=False)
    for metric, panel in zip(FLAGS.metrics, panels[0], strict=True):
        for name, group in runs.items():
            draw(panel, name, [found for lines in group if (found := curve(lines, metric))] or [{}])
        if metric == goal:
            panel.axhline(level, linestyle="--", color="0.4")
        panel.set(title=metric, xlabel="step")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(FLAGS.out, dpi=120)
    pyplot.close(figure)
    print(f"wrote {FLAGS.out}")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
