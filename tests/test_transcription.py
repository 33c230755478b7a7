"""Sequences without alignment: what is read, how wrong it is, and a network that learns to read."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import zoo
from zoo import losses, run, tasks
from zoo.data import morse
from zoo.errors import UserError
from zoo.tasks import transcription
from zoo.tasks.transcription import best_path, edit_distance

META = {"name": "test", "num_classes": 3, "shapes": {"transcript": (4,)}}
BLANK = 3


def one_hot(path):
    return np.float32(5 * np.eye(BLANK + 1)[np.array(path)])


@pytest.mark.parametrize(
    "path, text",
    [
        ([3, 0, 0, 3, 1], [0, 1]),
        ([0, 0, 0], [0]),  # repetitions are one
        ([0, 3, 0], [0, 0]),  # unless a blank is between
        ([3, 3], []),
        ([2, 1, 1, 2], [2, 1, 2]),
    ],
)
def test_best_path(path, text):
    (read,) = np.asarray(best_path(one_hot([path]), BLANK))
    assert read[read >= 0].tolist() == text
    assert len(read) == len(path)


def levenshtein(a, b):
    """The recursion of the definition, cell by cell."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (x != y))
    return table[-1, -1]


def test_edit_distance():
    rng = np.random.default_rng(0)
    read = rng.integers(-1, 3, (200, 7))
    read[:3] = -1  # nothing is read
    transcript = np.where(np.arange(5)[None] < rng.integers(0, 6, 200)[:, None], rng.integers(0, 3, (200, 5)), -1)
    wanted = [levenshtein(a[a >= 0], b[b >= 0]) for a, b in zip(read, transcript, strict=True)]
    np.testing.assert_array_equal(jax.jit(edit_distance)(read, transcript), wanted)
    assert {0, 1, 5} <= set(wanted)


class Passing:
    """A model whose logits are its inputs."""

    def apply(self, variables, x, train, **kwargs):
        return (x, {}) if kwargs else x


def test_metrics_are_over_the_split():
    """One row right, one with 1 of 3 symbols wrong, and a row of padding that counts nowhere."""
    task = tasks.make({"name": "transcription"}, Passing(), META)
    logits = one_hot([[0, 3, 1, 2], [0, 1, 3, 1], [2, 2, 2, 2]])
    transcript = np.array([[0, 1, 2, -1], [0, 1, 0, -1], [0, -1, -1, -1]])
    batch = {"feature": logits, "transcript": transcript, "mask": np.array([True, True, False])}
    _, (_, found) = jax.jit(lambda b: task.loss({}, {}, b, None, train=False))(batch)
    assert [float(x) for x in found["error_rate"]] == [1, 6]
    assert [float(x) for x in found["accuracy"]] == [1, 2]
    wanted = np.asarray(losses.ctc(logits, transcript, blank=BLANK))
    assert float(found["loss"][0]) == pytest.approx(wanted[:2].sum(), rel=1e-5)
    loss, _ = task.loss({}, {}, {key: batch[key][:2] for key in ("feature", "transcript")}, None, train=True)
    assert float(loss) == pytest.approx(wanted[:2].mean(), rel=1e-5)


def test_padding_of_tokens_says_nothing():
    """Whatever the logits of steps without a token are."""
    logits, token = one_hot([[0, 3, 1, 2, 2]]), np.array([[7, 7, 7, -1, -1]])
    model = SimpleNamespace(apply=lambda variables, x, train: logits)
    task = tasks.make({"name": "transcription"}, model, META)
    batch = {"token": token, "transcript": np.array([[0, 1, -1, -1]])}
    loss, (_, found) = task.loss({}, {}, batch, None, train=False)
    assert float(found["error_rate"][0]) == 0
    assert float(loss) == pytest.approx(float(losses.ctc(logits[:, :3], batch["transcript"], blank=BLANK)[0]), rel=1e-5)


def config():
    settings = zoo.config.default()
    settings.model = {"name": "lstm_classifier", "width": 32, "pool": "none"}
    settings.task = {"name": "transcription"}
    settings.data.update(batch_size=64, validation=0, test=0.2)
    settings.optim.update(name="adam", lr=2e-2, clip_global_norm=1.0)
    settings.total_steps = 120
    return settings


def pulses(rows=640, seed=0):
    """Letters A and B as levels 1 and -1 of one or two steps, apart by a zero or more, up to 3 in 12 steps."""
    rng = np.random.default_rng(seed)
    feature, transcript = np.zeros((rows, 12, 1), np.float32), np.full((rows, 3), -1, np.int32)
    for x, letters in zip(feature, transcript, strict=True):
        count, at = rng.integers(1, 4), 0
        letters[:count] = rng.integers(0, 2, count)
        for letter in letters[:count]:
            start = at + rng.integers(0, 2)
            end = start + rng.integers(1, 3)
            x[start:end], at = 1 - 2 * letter, end + 1
    return zoo.Source({"feature": feature, "transcript": transcript}, class_names=("A", "B"))


def test_a_network_learns_to_read(tmp_path):
    report = zoo.train(config(), tmp_path / "run", source=pulses())
    assert report["metrics"]["test"]["error_rate"] < 0.02
    assert report["metrics"]["test"]["accuracy"] > 0.95


@pytest.mark.parametrize(
    "change, line",
    [
        (
            {"model": {"name": "mlp"}},
            r"task transcription: the model gives \[\d+, 3\]; it must be \[B, T, C\]",
        ),
        ({"task": {"name": "classification"}}, "has no labels; use task transcription"),
        ({"task": {"name": "segmentation"}}, "has no label maps; use task transcription"),
        ({"task": {"name": "regression"}}, "has no targets; use task transcription"),
    ],
)
def test_what_does_not_fit(change, line):
    settings = zoo.config.default()
    settings.update({"model": config().model, "task": config().task, "total_steps": 1} | change)
    with pytest.raises(UserError, match=line):
        run.prepare(settings, pulses())


def test_logits_of_every_step_are_no_classification():
    settings = config()
    settings.task = {"name": "classification"}
    feature = pulses().train["feature"]
    labelled = zoo.Source({"feature": feature, "label": np.arange(len(feature)) % 2}, class_names=("A", "B"))
    with pytest.raises(UserError, match=r"task classification: the model gives \[\d+, 12, 2\]; it must be \[B, C\]"):
        run.prepare(settings, labelled)
    settings.task = {"name": "regression"}
    with pytest.raises(UserError, match=r"task regression: the model gives \[\d+, 12, 1\]; it must be \[B, C\]"):
        run.prepare(settings, zoo.Source({"feature": feature, "target": feature.sum((1, 2))}))


def test_other_data_has_no_transcripts():
    settings = config()
    settings.data.name = "digits"
    with pytest.raises(UserError, match="data set 'digits' has no transcripts; use task classification"):
        run.prepare(settings)
    source = pulses()
    with pytest.raises(UserError, match="does not say the class_names of its symbols"):
        run.prepare(config(), source._replace(class_names=None))
    source.train["transcript"] = source.train["transcript"][:, 0]
    with pytest.raises(UserError, match=r"'transcript' is int32\[640\]; it must be integers \[N, L\]"):
        run.prepare(config(), source)


@pytest.mark.parametrize("row, line", [([0, 2, -1], r"row 5 is \[0, 2, -1\]"), ([0, -1, 1], "-1 only behind the last")])
def test_transcripts_that_make_no_sense(row, line):
    source = pulses()
    source.train["transcript"][5] = row
    with pytest.raises(UserError, match=line):
        run.prepare(config(), source)


def test_morse_words():
    """Read back by hand: marks by their lengths, letters by the gaps between them."""
    source = morse.words(rows={"train": 300, "test": 10}, noise=0.0)
    assert source.train["feature"].shape == (300, 64, 4)
    letters = {morse.CODES[letter]: letter for letter in morse.LETTERS}
    counts = []
    for frames, transcript in zip(source.train["feature"], source.train["transcript"], strict=True):
        on = np.concatenate([[0], (frames.ravel() > 0).astype(int), [0]])
        starts, ends = np.flatnonzero(np.diff(on)).reshape(-1, 2).T
        gaps = [*(starts[1:] - ends[:-1]), 9]
        text = "".join(
            ("." if end - start < 4 else "-") + (" " if gap >= 6 else "")
            for start, end, gap in zip(starts, ends, gaps, strict=True)
        )
        word = [letters[code] for code in text.split()]
        assert word == [morse.LETTERS[i] for i in transcript if i >= 0]
        counts.append(len(word))
    assert set(counts) == {1, 2, 3, 4, 5}
    again, noisy = (morse.words(rows={"train": 300, "test": 10}, noise=noise) for noise in (0.0, 4.0))
    np.testing.assert_array_equal(again.train["feature"], source.train["feature"])
    assert (noisy.train["feature"] > 0).mean() > (source.train["feature"] > 0).mean() + 0.2


def test_the_set_by_name():
    source = zoo.data.load("morse_words")
    assert [len(split["transcript"]) for split in source[:3]] == [20_000, 2000, 2000]
    assert transcription.num_outputs({"name": "", "num_classes": 26, "shapes": {"transcript": (5,)}}) == 27
