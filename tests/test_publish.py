"""scripts/publish.py: the folder it makes, and that nothing leaves the machine unless asked to."""

import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import tiny
from absl import flags
from absl.testing import flagsaver

import zoo
from zoo.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import publish  # noqa: E402


@pytest.fixture
def script(monkeypatch):
    """Runs it in this process, without any way to the hub."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    def run(*arguments):
        given = dict(str(a).removeprefix("--").partition("=")[::2] for a in arguments if str(a).startswith("--"))
        flags.FLAGS(["test"])
        with flagsaver.flagsaver(**{name: value or True for name, value in given.items()}):
            publish.main((), [a for a in arguments if not str(a).startswith("--")])

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = tiny.get_config()
    config.update(total_steps=6)
    config.task.metrics = ("confusion_matrix",)  # which is no number
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    zoo.train(config, workdir)
    return workdir


def test_a_vocabulary_fits_into_the_card():
    assert publish.rows({"vocab": ["\n", "|", "a"]}) == "| vocab | \\n, \\|, a |\n"
    assert publish.rows({"vocab": ["a"] * 1234}).endswith("a, a, ... (1,234 in all) |\n")


def test_a_run(script, trained, tmp_path, capsys):
    out = tmp_path / "card"
    script(trained, f"--out={out}", "--licence=MIT")
    assert "nothing was uploaded" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "model.safetensors"]
    model, variables, says = zoo.load_model(out / "model.safetensors")
    average = zoo.checkpoint.load_variables(trained)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], average["params"]["head"]["kernel"])
    assert (model.widths, says["licence"], says["input_size"]) == ((32,), "MIT", [8, 8, 1])
    assert len(says["class_names"]) == 10
    report, text = json.loads((trained / "report.json").read_text()), (out / "README.md").read_text()
    front = text.split("---\n")[1]
    assert "license: mit\n" in front
    accuracy = report["metrics"]["test"]["accuracy"]
    assert f"{{type: accuracy, value: {accuracy:.6g}}}" in front
    assert f"| test | accuracy | {accuracy:.4f} |" in text
    assert "confusion_matrix" in report["metrics"]["test"]
    assert "confusion_matrix" not in text.partition("## Settings")[0]
    assert f"{report['parameters']:,} parameters" in text
    assert '"norm": "batch"' in text
    assert 'zoo.load_model("model.safetensors")' in text


def test_a_file(script, tmp_path):
    model = zoo.create_model("mlp", widths=(), num_classes=2)
    variables = {"params": {"head": {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}}}
    zoo.save_weights(tmp_path / "x.safetensors", model, variables, input_size=(3,), licence="bsd", source="here")
    script(tmp_path / "x.safetensors", f"--out={tmp_path / 'out'}")
    text = (tmp_path / "out/README.md").read_text()
    assert "zoo.create_model('mlp', num_classes=2, widths=[])" in text
    assert "| licence | bsd |" in text
    assert "## Results" not in text
    assert zoo.load_model(tmp_path / "out/model.safetensors")[2]["source"] == "here"


def test_pushing(script, trained, tmp_path, monkeypatch, capsys):
    asked = []
    names = ("HfHubHTTPError", "HFValidationError")
    errors = types.SimpleNamespace(**{name: type(name, (Exception,), {}) for name in names})
    hub = types.ModuleType("huggingface_hub")

    def upload_folder(repo_id, folder_path, commit_message):
        if repo_id == "other/name":
            raise errors.HfHubHTTPError("403 Forbidden\nand more")
        asked.append((repo_id, sorted(p.name for p in folder_path.iterdir())))
        return types.SimpleNamespace(commit_url="https://hub.example/commit")

    hub.create_repo = lambda repo, private, exist_ok: asked.append((repo, private, exist_ok))
    hub.upload_folder = upload_folder
    with pytest.raises(UserError, match=r"--push needs huggingface_hub: pip install -e '\.\[hf\]'"):
        script(trained, f"--out={tmp_path}", "--push=me/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    script(trained, f"--out={tmp_path}", "--push=me/name", "--private")
    assert asked == [("me/name", True, True), ("me/name", ["README.md", "model.safetensors"])]
    assert "pushed to https://hub.example/commit" in capsys.readouterr().out
    assert 'zoo.load_model("hf:me/name")' in (tmp_path / "README.md").read_text()
    with pytest.raises(UserError, match=r"--push=other/name: 403 Forbidden$"):
        script(trained, f"--out={tmp_path}", "--push=other/name")


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["{run}"], "give a run folder or a file of ours, and a folder"),
        (["{run}", "--out={out}", "--private"], "--private goes with --push"),
        (["{out}", "--out={out}"], "has no report.json of a finished run"),
        (["https://weights.example/w", "--out={out}"], "https://weights.example/w needs the hash of its content"),
    ],
)
def test_mistakes(script, trained, tmp_path, arguments, line):
    with pytest.raises(UserError, match=re.escape(line)):
        script(*(a.format(run=trained, out=tmp_path) for a in arguments))


def test_the_command():
    command = [sys.executable, "scripts/publish.py", "no/such/file", "--out=x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot read the weights" in done.stderr
