"""Word vectors through the one loop: train, resume, evaluate, read the run; settings that would have no effect."""

import json
import shutil

import numpy as np
import pytest

import zoo
from zoo import words
from zoo.checkpoint import load_variables
from zoo.data import corpus
from zoo.errors import UserError
from zoo.run import prepare

SETTINGS = {
    "model.name": "skipgram",
    "model.features": 8,
    "task.name": "word2vec",
    "task.block": 32,
    "task.shared": 8,
    "data.name": "grammar",
    "data.batch_size": 4096,
    "data.sample": 0.01,
    "optim.name": "sgd",
    "optim.lr": 0.05,
    "schedule.name": "linear",
    "total_steps": 6,
    "eval_every_steps": 3,
    "log_every_steps": 2,
    "checkpoint.every_steps": 3,
}


def config(**overrides):
    settings = SETTINGS | {key.replace("__", "."): value for key, value in overrides.items()}
    return zoo.config.override(zoo.config.default(), settings.items())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "run"
    return folder, zoo.train(config(), folder)


def test_a_run(run):
    folder, report = run
    assert report["step"] == 6
    assert 0 <= report["metrics"]["analogies"]["accuracy"] <= 1
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert sorted(losses) == [2, 4, 6]
    assert losses[6] < losses[2] < 6 * np.log(2)  # of 1 + 5 pairs that it knows nothing about
    assert sum("analogies/accuracy" in line for line in lines) == 2


def test_a_run_that_was_stopped_goes_on_to_the_same_vectors(run, tmp_path):
    zoo.train(config(), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    assert zoo.train(config(), tmp_path)["step"] == 6
    found, wanted = (load_variables(folder)["params"] for folder in (tmp_path, run[0]))
    for table in ("input", "output"):
        np.testing.assert_array_equal(found[table], wanted[table])


def test_vectors_of_a_run(run):
    vectors = words.from_run(run[0])
    assert vectors.table.shape == vectors.output.shape == (len(vectors.words), 8)
    np.testing.assert_array_equal(vectors.table, load_variables(run[0])["params"]["input"])


def test_training_goes_on_from_imported_vectors(run, tmp_path):
    vectors = words.from_run(run[0])
    fresh = {"params": {"input": np.zeros_like(vectors.table), "output": np.zeros_like(vectors.table)}}
    start = words.variables(vectors, vectors.words, fresh)
    zoo.train(config(total_steps=1, optim__lr=1e-9), tmp_path, variables=start)
    found = load_variables(tmp_path)["params"]
    np.testing.assert_allclose(found["input"], vectors.table, atol=1e-6)
    np.testing.assert_allclose(found["output"], vectors.output, atol=1e-6)


def test_a_text_of_ones_own(tmp_path):
    (tmp_path / "a.txt").write_text("one two three\ntwo three four\n" * 5)
    (tmp_path / "b.txt").write_text("one five\n")
    name = f"words:{tmp_path}/a.txt,{tmp_path}/b.txt"
    prepared = prepare(config(data__name=name, data__batch_size=8, total_steps=None, total_epochs=2, data__sample=0.0))
    assert prepared.dataset.meta["vocab"] == ("two", "three", "one", "four", "five")
    assert prepared.dataset.meta["num_classes"] == prepared.model.num_classes == 5
    assert prepared.total_steps == 2 * -(-(10 * 4 + 3) // 8)
    assert prepared.splits == ()
    limited = prepare(config(data__name=name, data__batch_size=8, data__vocab_size=3))
    assert limited.dataset.meta["vocab"] == ("two", "three", corpus.UNKNOWN)


def test_a_text_that_is_another_one_now(run, tmp_path):
    """The words of the vectors are those of the training; a run does not go on with others in their places."""
    (tmp_path / "a.txt").write_text("abc abd ab\n" * 9)
    here = {"data__name": f"words:{tmp_path}/a.txt", "data__batch_size": 8, "data__sample": 0.0, "total_steps": 2}
    zoo.train(config(**here), tmp_path / "run")
    (tmp_path / "a.txt").write_text("zyx zyw zy\n" * 9)
    for settings, folder in (
        ({"total_steps": 4}, tmp_path / "run"),
        ({"init_from": str(tmp_path / "run")}, tmp_path / "other"),
    ):
        with pytest.raises(UserError, match=r"run has a vocabulary of 3 tokens, .* token 0 is 'abc' .* 'zyx' here"):
            zoo.train(config(**here | settings), folder)
    found = words.from_run(tmp_path / "run")
    assert found.words == ("abc", "abd", "ab")
    model, variables, said = zoo.load_model(tmp_path / "run")
    assert said["tokens"] == "words"
    zoo.save_weights(tmp_path / "w.safetensors", model, variables, vocab=said["vocab"])
    again = words.from_run(tmp_path / "w.safetensors")
    assert again.words == found.words
    np.testing.assert_array_equal(again.output, found.output)
    with pytest.raises(UserError, match=r"w\.safetensors has a vocabulary of 3 tokens"):
        zoo.train(config(**here, init_from=str(tmp_path / "w.safetensors")), tmp_path / "other")
    said = json.loads((tmp_path / "run/model.json").read_text())
    (tmp_path / "run/model.json").write_text(json.dumps(said | {"vocab": None}))  # as older versions did
    with pytest.raises(UserError, match="says 0 words for its 3 vectors; train it again"):
        words.from_run(tmp_path / "run")
    assert zoo.train(config(**here | {"total_steps": 4}), tmp_path / "run")["step"] == 4


DIGITS = {"data__name": "digits", "data__batch_size": 64}


@pytest.mark.parametrize(
    "overrides, line",
    [
        ({"optim__name": "adam"}, r"config\.optim\.name='adam': task word2vec does plain SGD"),
        ({"optim__weight_decay": 0.1}, r"config\.optim\.weight_decay"),
        ({"optim__momentum": 0.9}, r"config\.optim\.momentum"),
        ({"optim__lr": 0.0}, r"config\.optim\.lr is 0\.0"),
        ({"averaging__name": "ema"}, r"config\.averaging"),
        ({"regularize__weight_noise": 0.1}, r"config\.regularize\.weight_noise"),
        ({"freeze_stats": (".*",)}, r"config\.freeze_stats: task word2vec does plain SGD"),
        ({"probe": True}, r"config\.probe: task word2vec does plain SGD"),
        ({"data__augment.shift": 1}, r"config\.data\.augment\.shift"),
        ({"data__name": "words:"}, r"data set 'words:' has no path"),
        ({"data__name": "words:/no/such/file.txt"}, r"cannot read text /no/such/file\.txt"),
        ({"data__tokens": "characters"}, r"config\.data\.tokens is 'characters'"),
        ({"data__test": 0.3}, r"config\.data\.test is 0\.3, but a corpus .* no use for it; leave it at 0\.2"),
        ({"data__min_count": -1}, r"config\.data\.min_count is -1"),
        ({"data__vocab_size": 1}, r"config\.data\.vocab_size is 1"),
        ({**DIGITS, "data__sample": 1e-3}, r"task word2vec: data set 'digits' is not a corpus"),
        (DIGITS, r"config\.data\.sample is 0\.01, but data set 'digits' is not a corpus"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(overrides, line):
    with pytest.raises(UserError, match=line):
        prepare(config(**overrides))


def test_dry_run_names_the_tables():
    text = zoo.dry_run(config())
    assert "SkipGram" in text
    assert f"{2 * 8 * prepare(config()).dataset.meta['num_classes']:,}" in text
