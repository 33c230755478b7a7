"""Every command of the README is run here, as it stands there; its tables are those of the evidence."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
sys.path.insert(0, str(ROOT / "scripts"))
import readme  # noqa: E402
import results  # noqa: E402

from zoo.errors import UserError  # noqa: E402


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


COMMANDS = [line.partition(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
INSTALLS = [command for command in COMMANDS if command.startswith("pip install")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder that looks like the checkout but takes its own runs."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("train.py", "configs", "scripts", "zoo", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(command, cwd):
    command = re.sub(r"^python\b", shlex.quote(sys.executable), command)
    # One device, as a reader of the README has.
    env = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.run(command, shell=True, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


def test_the_two_commands():
    assert INSTALLS == [
        "pip install -e . && python train.py --config configs/digits_lenet.py",
        "pip install -e '.[test]' && pytest",
    ]
    gate = (ROOT / ".ci/run").read_text()
    assert "pip install --quiet -e '.[test]'" in gate  # the second one is the gate itself
    assert gate.rstrip().endswith("pytest")


def test_the_main_job(clone):
    done = run(INSTALLS[0].partition("&& ")[2], clone)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads((clone / "runs/digits_lenet/report.json").read_text())
    assert report["metrics"]["test"]["accuracy"] >= 0.98
    assert done.stdout.splitlines()[-1].startswith("digits_lenet: test accuracy 0.9")


def test_the_commands_on_training(clone):
    training = [command for command in COMMANDS if command.startswith("python train.py")]
    assert len(training) == 4
    outputs = []
    for command in training:
        done = run(command, clone)
        assert done.returncode == 0, (command, done.stderr)
        outputs.append(done.stdout)
    assert json.loads((clone / "runs/a/config.json").read_text())["optim"]["lr"] == 0.002
    assert "resuming from step" in outputs[1]
    assert "already finished" in outputs[1]
    assert outputs[2].startswith("a step ")
    assert "learning rate" in outputs[3]


def test_inline_commands(clone):
    for command in (
        "python -m zoo.doctor",
        "python scripts/results.py --table",
        "python scripts/list.py",
        "python scripts/lr_find.py --config=configs/digits_lenet.py",
    ):
        assert f"{command}" in README
        done = run(command, clone)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    letters = "python train.py --config configs/morse_words.py"
    assert f"`{letters}`" in README
    done = run(f"{letters} --config.total_steps=2", clone)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    plot = "python scripts/plot.py runs/a --metrics=train/loss --out=a.png"
    assert "python scripts/plot.py runs/" in README
    done = run(plot, clone)
    assert done.returncode == 0, done.stderr
    assert (clone / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_words_example(clone, monkeypatch):
    monkeypatch.chdir(clone)
    train = "python train.py --config configs/skipgram_grammar.py"
    ask = "python scripts/words.py --run=runs/skipgram_grammar --positive=paris,italy --negative=france"
    answers = []
    for command in (train, ask):
        assert f"`{command}`" in README
        answers.append(run(command, clone))
        assert answers[-1].returncode == 0, answers[-1].stderr
    assert answers[1].stdout.splitlines()[1].split()[1] == "rome"
    (example,) = (block for block in blocks("python") if "zoo.words" in block)
    names = {}
    exec(example, names)
    assert names["best"] == "rome"
    assert names["zoo"].words.load("vectors.bin").words == names["vectors"].words


def test_writing_on(clone, shared_data):
    small = "--config.model.width=8 --config.total_steps=2 --config.eval_every_steps=2"
    done = run(f"python train.py --config configs/shakespeare_lstm.py {small}", clone)
    assert done.returncode == 0, done.stderr
    command = 'python scripts/generate.py runs/shakespeare_lstm --prompt="ROMEO:"'
    assert f"`{command}`" in README
    done = run(command, clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ROMEO:")
    assert len(done.stdout) > 400


def test_measuring_a_recipe():
    assert "python scripts/results.py <name> --seeds=3" in README
    settings = [("total_steps", "20")]
    row = results.measure("iris_mlp", settings, seeds=2, wanted=None, move_split=True, cold=False)
    accuracy = row["metrics"]["accuracy"]
    assert len(accuracy["values"]) == 2
    assert accuracy["mean"] == pytest.approx(sum(accuracy["values"]) / 2)
    assert -0.05 < row["others"] < 1
    for others in (0.2, 0.05):
        assert ("(shared)" in results.table({"iris_mlp": {**row, "others": others}})) == (others > 0.1)
    with pytest.raises(UserError, match=r"no test metric .acuracy'.*did you mean 'accuracy'"):
        results.measure("iris_mlp", settings, seeds=1, wanted=["acuracy"], move_split=False, cold=False)
    assert "| `iris_mlp`, `--config.total_steps=20` | iris |" in results.table({"iris_mlp": row})


def test_the_library_example(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    (example,) = (block for block in blocks("python") if "zoo.train" in block)
    names = {}
    exec(example, names)
    assert names["logits"].shape == (500, 2)
    assert names["report"]["metrics"]["test"]["accuracy"] > 0.8
    assert (names["probabilities"].argmax(1) == names["y"][:5]).mean() >= 0.6
    assert "dense1" in capsys.readouterr().out


def test_the_weights_example(clone, monkeypatch, shared_data):
    (clone / "resnet32-d509ac18.th").symlink_to(shared_data.parent / "weights/resnet_cifar10/resnet32-d509ac18.th")
    monkeypatch.chdir(clone)
    (example,) = (block for block in blocks("python") if "load_weights" in block)
    names = {}
    exec(example, names)
    assert sum(x.size for x in jax.tree.leaves(names["variables"]["params"])) == 464_154


def test_the_tables_are_generated_from_the_evidence():
    assert readme.rendered(README, readme.tables()) == README, "run: python scripts/readme.py"
    assert readme.details() == readme.DETAILS.read_text(), "run: python scripts/readme.py"
    measured = json.loads(results.FILE.read_text())
    assert set(measured) <= set(results.RECIPES)
    for row in measured.values():
        for found in row["metrics"].values():
            assert len(found["values"]) >= 3


def test_writing_the_tables(tmp_path):
    """As they stand, in a copy."""
    assert "`python scripts/readme.py`" in README
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    for name in ("zoo", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "README.md").write_text(README.replace("| `iris_mlp` |", "| `old` |"))
    (tmp_path / "benchmarks/README.md").write_text("old")
    done = run("python scripts/readme.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "README.md").read_text() == README
    assert (tmp_path / "benchmarks/README.md").read_text() == readme.DETAILS.read_text()


def test_a_table_in_its_place():
    before, after = "above\n<!-- speed: by hand -->\n", "<!-- end of speed -->\nbelow\n"
    for old in ("old\n", ""):
        assert readme.rendered(f"{before}{old}{after}", {"speed": r"n\1w"}) == f"{before}n\\1w\n{after}"
    with pytest.raises(UserError, match="has no <!-- speed --> and <!-- end of speed -->"):
        readme.rendered(after + before, {"speed": "new"})


def test_links_in_the_readme_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link.replace("\\", "")).exists(), link
