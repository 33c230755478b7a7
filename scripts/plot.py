"""Draw metrics of one or more runs against the step, as a PNG.

python scripts/plot.py runs/digits_lenet --metrics=train/loss,test/accuracy --out=curves.png
"""

import json
import pathlib

from absl import flags

from zoo import cli
from zoo.errors import UserError, did_you_mean

FLAGS = flags.FLAGS
flags.DEFINE_list("metrics", ["train/loss", "test/accuracy", "lr"], "What to draw: one panel for each.")
flags.DEFINE_string("out", "curves.png", "The picture to write.")


def read(folder: str) -> list[dict]:
    path = pathlib.Path(folder, "metrics.jsonl")
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(overrides, folders):
    if not folders:
        raise UserError("name at least one run folder, such as runs/digits_lenet")
    runs = {pathlib.Path(folder).name: read(folder) for folder in folders}
    known = {name for lines in runs.values() for line in lines for name in line if name != "step"}
    for metric in FLAGS.metrics:
        if metric not in known:
            raise UserError(f"no run has the metric {metric!r}{did_you_mean(metric, known)}")
    try:
        import matplotlib
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(FLAGS.metrics), figsize=(4 * len(FLAGS.metrics), 3), squeeze=False)
    for metric, panel in zip(FLAGS.metrics, panels[0], strict=True):
        for name, lines in runs.items():
            points = [(line["step"], line[metric]) for line in lines if metric in line]
            if points:
                panel.plot(*zip(*points, strict=True), marker=".", label=name)
        panel.set(title=metric, xlabel="step")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(FLAGS.out, dpi=120)
    pyplot.close(figure)
    print(f"wrote {FLAGS.out}")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
