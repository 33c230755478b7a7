"""scripts/list.py: every name has a line that says what it is."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import list as names  # noqa: E402


def run(*arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/list.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("kind", names.KINDS)
def test_every_name_says_what_it_is(kind):
    for name, thing in names.KINDS[kind].table.items():
        line = names.describe(thing)
        assert len(line.split()) > 1, f"{kind}: {name} has no docstring"
        assert len(line) < 130
        assert line.count("(") == line.count(")"), f"{kind}: the first line of {name} does not end: {line}"


def test_every_model_has_a_line_of_its_own():
    table = names.KINDS["models"].table
    lines = {name: names.describe(thing) for name, thing in table.items()}
    assert len(set(lines.values())) == len(lines)
    assert lines["resnet50"].endswith("to logits [B, num_classes]; depths=(3, 4, 6, 3), bottleneck=True")
    assert lines["mlp"].endswith("to [B, num_classes].")


def test_one_kind():
    done = run("--kind=schedules")
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading == "schedules (config.schedule.name)"
    assert [line.split()[0] for line in lines] == [*names.KINDS["schedules"].table]
    assert "Half a cosine from `lr` to `lr * end`" in next(line for line in lines if " cosine " in line)


def test_all_kinds_and_the_table():
    kinds = {"a": names.Kind("x.a", {"one": str, "two": lambda: 0}), "b": names.Kind("x.b", {"three": int})}
    headings = [line for line in names.listing(kinds).splitlines() if not line.startswith(" ")]
    assert headings == ["a (config.x.a)", "", "b (config.x.b)"]
    assert names.markdown(kinds).splitlines()[2:] == ["| a | `x.a` | `one`, `two` |", "| b | `x.b` | `three` |"]


def test_mistakes():
    done = run("--kind=schedule")
    assert (done.returncode, done.stderr) == (2, "error: unknown kind 'schedule'; did you mean 'schedules'?\n")
    done = run("--config.seed=1")
    assert (done.returncode, done.stderr) == (2, "error: scripts/list.py has no --config settings\n")
