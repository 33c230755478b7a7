"""scripts/finetune.py: what it compares, and that the README shows what was measured."""

import json
import pathlib
import sys

import pytest

import zoo
from zoo.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import finetune  # noqa: E402


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The configs that would have been trained; the accuracy is 0.5 + seed / 10."""
    configs = []

    def train(config, workdir):
        configs.append(config)
        found = dict.fromkeys(("accuracy", "dice_membrane"), 0.5 + config.seed / 10)
        return {"metrics": {"test": found, "validation": found}, "seconds": {"train": 1.0}}

    monkeypatch.setattr(zoo, "train", train)
    monkeypatch.setattr(finetune, "FILE", tmp_path / "finetune.json")
    monkeypatch.setattr(finetune, "PICTURE", tmp_path / "finetune.png")
    return configs


def test_every_way_has_the_same_steps_and_labels(trained):
    for name, experiment in finetune.EXPERIMENTS.items():
        trained.clear()
        rows = finetune.measure(name, "weights", [])
        ways = len(experiment.ways)
        assert len(rows) == len(trained) == 3 * ways * len(experiment.labels)
        for scratch, *probes, tuned in zip(*(trained[i::ways] for i in range(ways)), strict=True):
            assert (scratch.init_from, tuned.init_from) == (None, "weights")
            assert scratch.optim == tuned.optim
            assert scratch.data.augment == tuned.data.augment
            for other in (*probes, tuned):
                assert other.probe == (other in probes)
                for key in ("total_steps", "total_epochs", "seed", "schedule"):
                    assert scratch[key] == other[key]
                for key in ("per_class", "split_seed", "batch_size"):
                    assert scratch.data[key] == other.data[key]
            for probe in probes:
                assert probe.init_from == "weights"
                assert not probe.data.augment


def test_it_goes_on_where_it_was_stopped(trained):
    rows = finetune.measure("hymenoptera_resnet32", "weights", [])
    kept = json.loads(finetune.FILE.read_text())
    assert kept == json.loads(json.dumps(rows))
    trained.clear()
    finetune.measure("hymenoptera_resnet32", "weights", kept[:-2])
    assert [(config.probe, config.init_from, config.seed) for config in trained] == [
        (True, "weights", 2), (False, "weights", 2),
    ]  # fmt: skip
    assert finetune.table(rows).splitlines()[2:] == [
        "| `hymenoptera_resnet32` | accuracy | all | 60.0 ± 10.0 % | 60.0 ± 10.0 % | 60.0 ± 10.0 % | 3 |"
    ]
    rows = finetune.measure("isbi_drive", "weights", [])
    line = "| `isbi_drive` | dice_membrane | all | 60.0 ± 10.0 % |  | 60.0 ± 10.0 % | 3 |"
    assert finetune.table(rows).splitlines()[2:] == [line]


def test_the_picture_of_the_evidence(trained):
    finetune.draw(json.loads((ROOT / "benchmarks/finetune.json").read_text()))
    assert finetune.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_mistakes():
    with pytest.raises(UserError, match="give an experiment"):
        finetune.main([], ["fashion_mnist_few"])
    with pytest.raises(UserError, match="unknown experiment 'fashion'; known"):
        finetune.main([], ["fashion", "weights"])
