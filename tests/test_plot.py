"""scripts/plot.py: means of runs that differ in a number, and when a metric was first as good as a level."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def runs(tmp_path):
    accuracies = {"fast-0": (0.5, 0.9, 0.8), "fast-1": (0.6, 0.7, 0.95), "slow-0": (0.1, 0.2, 0.3)}
    for name, values in accuracies.items():
        (tmp_path / name).mkdir()
        lines = [{"step": 10 * (i + 1), "test/accuracy": v, "test/loss": 1 - v} for i, v in enumerate(values)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(tmp_path / name) for name in accuracies]


def plot(*arguments):
    command = [sys.executable, "scripts/plot.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_means_and_a_level(runs, tmp_path):
    out = tmp_path / "a.png"
    done = plot(*runs, "--mean", "--metrics=test/accuracy,test/loss", "--reach=test/accuracy=0.9", f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "fast: test/accuracy 0.9 after 20, 30 steps, mean 25",
        "slow: test/accuracy 0.9 not reached by 1 of 1 runs",
        f"wrote {out}",
    ]
    with Image.open(out) as picture:
        assert picture.size == (960, 360)  # two panels


def test_a_level_of_a_metric_that_falls(runs, tmp_path):
    with open(f"{runs[2]}/metrics.jsonl", "a") as file:
        file.write('{"step": 40, "test/lo')  # a kill in the middle of a line
    done = plot(*runs, "--metrics=test/loss", "--reach=test/loss=0.4", f"--out={tmp_path / 'a.png'}")
    assert done.stdout.splitlines()[:3] == [
        "fast-0: test/loss 0.4 after 20 steps",
        "fast-1: test/loss 0.4 after 10 steps",
        "slow-0: test/loss 0.4 not reached by 1 of 1 runs",
    ]


def test_the_name_of_the_picture(runs, tmp_path):
    done = plot(runs[0], "--metrics=test/loss", f"--out={tmp_path / 'curves.pdf'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: flag --out=.*curves.pdf: its name must end with .png\n", done.stderr)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--reach=0.9"], "--reach is '0.9'; it must be a metric and a level, such as test/accuracy=0.9"),
        (["--reach=test/accuracy=much"], "--reach is 'test/accuracy=much'; it must be"),
        (["--reach=test/acuracy=0.9"], "no run has the metric 'test/acuracy'; did you mean 'test/accuracy'"),
        (["--metrics=test/acc"], "no run has the metric 'test/acc'"),
    ],
)
def test_mistakes(runs, tmp_path, arguments, message):
    done = plot(*runs, f"--out={tmp_path / 'a.png'}", "--metrics=test/accuracy", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "a.png").exists()
