"""Texts and labelled sentences: tokens, vocabularies, files, and mistakes in them."""

import gzip
import json
import lzma
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from zoo import data
from zoo.data import adding, morse, sentences, text
from zoo.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


def options(**changed):
    return {**text.OPTIONS, **changed}


def decoded(source, split="train"):
    tokens = getattr(source, split)["token"]
    return [source.vocab[token] for token in tokens]


def write(folder, **files):
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_characters(tmp_path):
    path = write(tmp_path, a__txt="abba\rab\r\nc\u00e9") / "a.txt"
    source = text.load(path, options())
    assert source.vocab == ("a", "b", "\n", "c", "é")  # by falling count, equal ones by name
    assert "".join(decoded(source)) == "abba\nab\ncé"
    assert source.train["token"].dtype == np.int32


def test_words(tmp_path):
    path = write(tmp_path, a__txt=" the cat \nthe dog\n\nthe cat") / "a.txt"
    source = text.load(path, options(tokens="words"))
    assert decoded(source) == ["the", "cat", "<eos>", "the", "dog", "<eos>", "<eos>", "the", "cat", "<eos>"]
    assert source.vocab == ("<eos>", "the", "cat", "dog")
    rare = text.load(path, options(tokens="words", min_count=2))
    assert set(rare.vocab) == {"<eos>", "the", "cat", "<unk>"}
    assert decoded(rare)[4] == "<unk>"
    small = text.load(path, options(tokens="words", vocab_size=3))
    assert set(small.vocab) == {"<eos>", "the", "<unk>"}
    assert decoded(small).count("<unk>") == 3


@pytest.mark.parametrize("compress, ending", [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_a_folder_of_splits(tmp_path, compress, ending):
    for name, content in (("x.train", "ab ba"), ("x.valid", "b"), ("x.test", "zb")):
        (tmp_path / f"{name}.txt{ending}").write_bytes(compress(content.encode()))
    source = text.load(tmp_path, options())
    assert "<unk>" in source.vocab  # for the z
    assert "".join(decoded(source)) == "ab ba"
    assert decoded(source, "test") == ["<unk>", "b"]
    assert decoded(source, "validation") == ["b"]


def test_a_folder_of_texts_is_one_text(tmp_path):
    source = text.load(write(tmp_path, b__txt="two", a__txt="one ", c__md="no"), options())
    assert "".join(decoded(source)) == "one two"
    assert source.test is source.validation is None


def test_the_texts_by_name(shared_data):
    ptb = data.load("ptb")
    assert [len(split["token"]) for split in ptb[:3]] == [929_589, 73_760, 82_430]
    assert len(ptb.vocab) == 10_000
    assert len(data.load("ptb", text_options=options(tokens="characters", vocab_size=20)).vocab) == 20
    plays = data.load("tinyshakespeare")
    assert len(plays.vocab) == 65
    assert (len(plays.train["token"]), len(plays.test["token"])) == (1_003_854, 111_540)
    whole = (shared_data / "text/tinyshakespeare.txt").read_text()
    assert "".join(decoded(plays) + decoded(plays, "test")) == whole


def test_sst2(shared_data):
    source = data.load("sst2", text_options=options(length=60, min_count=2))
    sizes = [(len(split["label"]), split["label"].sum()) for split in source[:3]]
    assert sizes == [(6920, 3610), (872, 444), (1821, 909)]
    first = (shared_data / "text/sst2/train.tsv").read_text().splitlines()[0].rpartition("\t")[0].split()
    row = source.train["token"][0]
    assert (row >= 0).sum() == len(first)
    assert (row[: len(first)] >= 0).all()
    for token, word in zip(row, first, strict=False):
        assert source.vocab[token] in (word, "<unk>")


def test_labelled_sentences(tmp_path):
    write(tmp_path, train__csv='label,text\nbad,"no, never"\ngood,yes please do\n', dev__csv="bad,never yes\n\n")
    with pytest.raises(UserError, match=r"dev\.csv: label 'never yes' is not in .*train\.csv: bad, good"):
        sentences.load(tmp_path, options())
    write(tmp_path, dev__csv="never maybe,bad\n")
    source = sentences.load(tmp_path, options(length=3))
    assert source.class_names == ("bad", "good")
    words = [[source.vocab[i] if i >= 0 else None for i in row] for row in source.train["token"]]
    assert words == [["no,", "never", None], ["yes", "please", "do"]]
    assert [source.vocab[i] for i in source.validation["token"][0, :2]] == ["never", "<unk>"]
    assert source.train["label"].tolist() == [0, 1]
    cut = sentences.load(tmp_path, options(length=2))
    assert cut.train["token"].shape == (2, 2)
    letters = sentences.load(tmp_path, options(length=5, tokens="characters"))
    assert "".join(letters.vocab[i] for i in letters.train["token"][1]) == "yes p"
    write(tmp_path, dev__csv="never,bad\nI like it, really,good\n")
    with pytest.raises(
        UserError, match=r"dev\.csv, line 2: 3 cells, but the first line has 2; a sentence with a comma"
    ):
        sentences.load(tmp_path, options())
    tsv = write(tmp_path, one__tsv='say "hi\t1\nso "so"\t0\n') / "one.tsv"
    assert "<unk>" in sentences.load(tsv, options()).vocab
    assert '"hi' in sentences.load(tsv, options()).vocab


BAD = [
    ({"a__txt": ""}, {}, "the train text is empty"),
    ({"a__txt": "\n\n"}, {"tokens": "words"}, "the train text is empty"),
    ({"a__txt": b"abc\xff\xfe"}, {}, r"a\.txt is not UTF-8: byte 0xff at offset 3"),
    ({"a__txt": b"\xef\xbb\xbfab\xff"}, {}, "byte 0xff at offset 5"),
    ({"a__txt": "aaaa"}, {}, "one character, 'a'; it needs 2"),
    ({"a__txt": "a a\na"}, {"tokens": "words"}, "one word, 'a'; it needs 2"),
    ({"a__txt": "a b c"}, {"tokens": "letters"}, "tokens is 'letters'; it must be"),
    ({"a__txt": "a b c"}, {"min_count": 0}, "min_count is 0; it must be at least 1"),
    ({"a__txt": "a b c"}, {"min_count": 9}, "min_count is 9; no token of the text comes that often"),
    ({"a__txt": "a b c"}, {"vocab_size": -1}, "vocab_size is -1"),
    ({"a__txt": "a b c"}, {"vocab_size": 2, "tokens": "words"}, "vocab_size is 2; it must be at least 3"),
    ({"a__txt": "a b c"}, {"length": 0}, "length is 0; it must be at least 1"),
    ({"a__md": "a b"}, {}, r"the folder has no \.txt files"),
    ({"train__txt": "ab", "a__train__txt": "ab"}, {}, "both called the train split"),
    ({"train__txt": "ab", "test__txt": ""}, {}, "the test text is empty"),
    ({"a__txt__xz": b"no"}, {}, r"a\.txt\.xz cannot be read"),
    ({"a__txt__gz": gzip.compress(b"a")[:10] + b"\xff" * 8}, {}, r"a\.txt\.gz cannot be read: Error -3"),
]  # fmt: skip


@pytest.mark.parametrize("files, changed, line", BAD)
def test_bad_texts(tmp_path, files, changed, line):
    with pytest.raises(UserError, match=line) as error:
        text.load(write(tmp_path, **files), options(**changed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, line",
    [
        ("good movie\t1\nbad movie\n", r"train\.tsv, line 2: it must have a sentence and a label"),
        ("good movie\t1\n\t0\n", "line 2: it must have"),
        ("good movie\t1\nbad\t1\n", "all labels are '1'; there must be 2"),
        ("good\t1\ngood\t0\n", "one word, 'good'; they need 2"),
        ("", "the file is empty"),
        ("good movie\t1\nbad\tmovie\t0\n", r"train\.tsv, line 2: 3 cells, but the first line has 2$"),
        (b"good\t1\nb\xe4d\t0\n", "not UTF-8: byte 0xe4 at offset 8"),
    ],
)
def test_bad_sentences(tmp_path, content, line):
    with pytest.raises(UserError, match=line) as error:
        sentences.load(write(tmp_path, train__tsv=content), options())
    assert "\n" not in str(error.value)


def test_names_of_texts(tmp_path):
    write(tmp_path, a__txt="ab")
    assert data.load("text:a.txt", str(tmp_path)).vocab == data.load(f"text:{tmp_path}/a.txt").vocab
    for name, line in (
        ("text:", "has no path; it must be text:<path>"),
        (f"text:{tmp_path}/b.txt", "no such file or folder"),
        (f"sentences:{tmp_path}/b", "no such file or folder"),
        (f"sentences:{tmp_path}/a.txt", "are .tsv or .csv files"),
        (f"sentences:{tmp_path}", "the folder has no train.tsv"),
        ("texts:x", "unknown kind of data set 'texts'; did you mean 'text'"),
        ("pbt", "unknown data set 'pbt'; did you mean 'ptb'"),
    ):
        with pytest.raises(UserError) as error:
            data.load(name)
        assert line in str(error.value)
    with pytest.raises(UserError, match="min_count is 3, but data set 'digits' is not text"):
        data.load("digits", text_options=options(min_count=3))
    with pytest.raises(UserError, match="ptb does not exist; put it there, or set ZOO_DATA_DIR"):
        data.load("ptb", str(tmp_path))


# --- generated sequences -----------------------------------------------------------------------------------------


def runs(frame):
    """(start, end) of each stretch of values above zero."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (frame > 0).astype(int), [0]])))
    return edges.reshape(-1, 2)


def test_the_code_book(shared_data):
    assert json.loads((shared_data / "morse/codebook.json").read_text()) == morse.CODES


def test_morse_of_the_baseline():
    """Lengths of marks and gaps, their values and shares, as in the paper."""
    source = morse.generate(rows={"train": 30, "test": 10})
    assert source.train["feature"].shape == (30 * 64, 64, 1)
    assert (np.bincount(source.test["label"]) == 10).all()
    dots, dashes, gaps = [], [], []
    for frame, label in zip(source.train["feature"][..., 0], source.train["label"], strict=True):
        found = runs(frame)
        code = list(morse.CODES.values())[label]
        assert len(found) == len(code)
        assert found[0, 0] == 0
        for (start, end), mark in zip(found, code, strict=True):
            (dots if mark == "." else dashes).append(end - start)
        gaps += (found[1:, 0] - found[:-1, 1]).tolist()
    assert {*dots} == {*gaps} == {1, 2, 3}
    assert {*dashes} == set(range(4, 10))
    assert np.bincount(dots)[1:].min() > 0.8 * len(dots) / 3
    values = source.train["feature"][source.train["feature"] > 0]
    assert abs(values.mean() * 16 - 12) < 0.05
    assert abs(values.std() * 16 - 1.34) < 0.1
    np.testing.assert_allclose(values, np.round(values, 3), atol=1e-6)
    assert values.max() <= 1
    assert not np.array_equal(source.train["label"], np.sort(source.train["label"]))
    again = morse.generate(rows={"train": 30, "test": 10})
    np.testing.assert_array_equal(source.train["feature"], again.train["feature"])


def test_how_morse_gets_difficult():
    rows = {"train": 20}
    frames = {name: morse.generate(rows=rows, **o).train for name, o in (
        ("plain", {}), ("dash", {"shortest_dash": 3}), ("shift", {"shift": True}), ("noise", {"noise": 4.0}),
        ("dilation", {"dilation": 2}), ("seed", {"seed": 1}))}  # fmt: skip

    def starts(name):
        return [runs(frame)[0, 0] for frame in frames[name]["feature"][..., 0]]

    assert max(starts("plain")) == 0
    assert len({*starts("shift")}) > 30
    for frame, label in zip(frames["shift"]["feature"][..., 0], frames["shift"]["label"], strict=True):
        assert len(runs(frame)) == len(list(morse.CODES.values())[label])  # nothing is cut off
    single = frames["dash"]["feature"][frames["dash"]["label"] == list(morse.CODES).index("T"), :, 0]
    assert min(end for frame in single for _, end in runs(frame)) == 3
    assert (frames["noise"]["feature"] > 0).mean() > (frames["plain"]["feature"] > 0).mean() + 0.2
    ends = {name: [runs(f)[0, 1] for f in frames[name]["feature"][..., 0]] for name in ("plain", "dilation")}
    assert min(ends["dilation"]) == 2 * min(ends["plain"])
    assert all(end % 2 == 0 for end in ends["dilation"])
    assert not np.array_equal(frames["seed"]["feature"], frames["plain"]["feature"])


def test_the_sets_by_name():
    source = data.load("morse_difficult")
    assert [len(split["label"]) for split in source[:3]] == [320_000, 64_000, 64_000]
    assert source.train["feature"].dtype == np.float32


def test_difficulty_in_the_name(monkeypatch):
    monkeypatch.setattr(morse, "ROWS", {"train": 3})
    monkeypatch.setattr(adding, "ROWS", {"train": 3})
    found = data.load("morse?shortest_dash=3&noise=4&shift=yes").train
    np.testing.assert_array_equal(found["feature"], data.load("morse_difficult").train["feature"])
    slow = data.load("morse?dilation=5&shift=yes").train
    assert slow["feature"].shape == (3 * 64, 5 * 64, 1)
    for frame, label in zip(slow["feature"][..., 0], slow["label"], strict=True):
        assert len(runs(frame)) == len(list(morse.CODES.values())[label])  # nothing is cut off
        assert (np.diff(runs(frame)) % 5 == 0).all()
    assert data.load("adding?steps=9&seed=3").train["feature"].shape == (3, 9, 2)
    for name, line in (
        ("morse?nosie=4", "data set 'morse' has no option 'nosie'; did you mean 'noise'?"),
        ("morse?rows=4", "data set 'morse' has no option 'rows'"),
        ("morse?noise", "'noise' must be <option>=<value>, and an option may be given only once"),
        ("morse?noise=1&noise=2", "'noise=2' must be <option>=<value>"),
        ("morse?noise=much", "noise is 'much'; it must be a number"),
        ("morse?noise=nan", "morse: noise is nan; it must be in 0..1000"),
        ("morse?shift=True", "shift is 'True'; it must be yes or no"),
        ("morse?dilation=1.5", "dilation is '1.5'; it must be an integer"),
        ("morse?dilation=0", "morse: dilation is 0; it must be in 1..100"),
        ("morse_words?noise=-1", "morse_words: noise is -1.0; it must be in 0..1000"),
        ("adding?steps=1", "adding: steps is 1; it must be in 2..10000"),
        ("digits?noise=4", "unknown data set with options 'digits'; known: adding, morse, morse_words"),
    ):
        with pytest.raises(UserError) as error:
            data.load(name)
        assert line in str(error.value)


def test_the_adding_problem():
    source = adding.generate(steps=9, rows={"train": 500, "test": 10})
    feature, target = source.train["feature"], source.train["target"]
    marks = feature[..., 1]
    assert (marks[:, :4].sum(1) == 1).all()
    assert (marks[:, 4:].sum(1) == 1).all()
    np.testing.assert_allclose((feature[..., 0] * marks).sum(1), target, rtol=1e-6)
    assert abs(np.mean((target - 1) ** 2) - 1 / 6) < 0.02
    assert data.load("adding").train["feature"].shape == (20_000, 50, 2)


def test_an_lstm_remembers_what_to_add(tmp_path):
    """Far better than always predicting 1, though the numbers lie anywhere in ten steps and the last state answers."""
    (tmp_path / "recipe.py").write_text(
        "from zoo.config import default\n\ndef get_config():\n    config = default()\n"
        "    config.model = {'name': 'lstm_classifier', 'width': 16, 'bidirectional': False, 'pool': 'last'}\n"
        "    config.task = {'name': 'regression'}\n"
        "    config.data.update(name='adding?steps=10', batch_size=100, normalize='none')\n"
        "    config.optim.update(name='adam', lr=0.01)\n"
        "    config.update(total_steps=400, eval_every_steps=400, checkpoint={'every_steps': 400})\n"
        "    return config\n"
    )
    command = [sys.executable, "train.py", "--config", tmp_path / "recipe.py", "--workdir", tmp_path / "run"]
    environment = {**os.environ, "XLA_FLAGS": ""}  # one device: hundreds of steps on four fake ones may starve
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["metrics"]["test"]["mse"] < 1 / 60  # of 1/6; measured 0.003 to 0.005
