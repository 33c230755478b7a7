"""Word vectors after training: files, queries, evaluation, pictures, the command line."""

import gzip
import io
import subprocess
import sys

import numpy as np
import pytest
import weight_files as make
from PIL import Image

from zoo import words
from zoo.errors import UserError
from zoo.weights import files
from zoo.words import Vectors
from zoo.words.vectors import neighbours, principal

VECTORS = Vectors(
    ("king", "queen", "man", "woman", "Äpfel"),
    np.array([[1, 1, 0.1], [1, -1, 0.1], [0, 1, 0.1], [0, -1, 0.1], [-1, 0, 3]], np.float32),
)


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.bin", "v.bin.gz", "v.txt", "v.txt.gz", "glove.txt", "glove.txt.gz"])
def test_round_trip(tmp_path, name):
    random = Vectors(VECTORS.words, np.float32(np.random.default_rng(0).standard_normal((5, 3))))
    words.save(tmp_path / name, random)
    found = words.load(tmp_path / name)
    assert found.words == random.words
    np.testing.assert_array_equal(found.table, random.table)
    short = words.load(tmp_path / name, limit=2)
    assert short.words == random.words[:2]
    np.testing.assert_array_equal(short.table, random.table[:2])
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_bytes_of_the_formats(tmp_path):
    two = Vectors(("a", "b"), np.array([[1, 2], [0.5, -3]], np.float32))
    words.save(tmp_path / "v.txt", two)
    assert (tmp_path / "v.txt").read_text() == "2 2\na 1.0 2.0\nb 0.5 -3.0\n"
    words.save(tmp_path / "v", two, format="glove")
    assert (tmp_path / "v").read_text() == "a 1.0 2.0\nb 0.5 -3.0\n"
    words.save(tmp_path / "v", two, format="bin")
    wanted = b"2 2\na " + np.array([1, 2], "<f4").tobytes() + b"\nb " + np.array([0.5, -3], "<f4").tobytes() + b"\n"
    assert (tmp_path / "v").read_bytes() == wanted
    assert words.load(tmp_path / "v", format="bin").words == ("a", "b")
    (tmp_path / "v.bin").write_bytes(wanted.replace(b"\nb", b"b"))  # as some write it: no line ends
    np.testing.assert_array_equal(words.load(tmp_path / "v.bin").table, two.table)


def test_a_word_of_glove_with_a_space(tmp_path):
    (tmp_path / "g.txt").write_text("a 1 2\n. . 3 4\n")
    assert words.load(tmp_path / "g.txt").words == ("a", ". .")


@pytest.mark.parametrize(
    "name, content, line",
    [
        ("v.txt", b"2 2\na 1 2\nb 1 x\n", r"v\.txt:3: a line must be a word and 2 numbers"),
        ("v.txt", b"2 2\na 1 2\nb\n", r"v\.txt:3: a line must be a word and 2 numbers"),
        ("v.txt", b"a 1 2\nb 1\n", r"v\.txt:2: a line must be a word and 2 numbers"),
        ("v.txt", b"3 2\na 1 2\nb 1 2\n", r"v\.txt: the first line announces 3 words, the file has 2"),
        ("v.txt", b"a 1 2\nb\xff 1 2\n", r"v\.txt:2: b'b\\xff' is not UTF-8 text"),
        ("v.txt", b"a 1 2\nb nan 2\n", r"the vector of 'b' \(word 2\) is not finite"),
        ("v.txt", b"", r"v\.txt has no vectors"),
        ("v.bin", b"a 1 2\n", r"v\.bin:1: no word2vec file"),
        ("v.bin", b"2 2\na " + bytes(8) + b"\nb " + bytes(5), r"v\.bin: ends or is damaged at word 2 of 2"),
        ("v.txt", b"2 2\na 1 2\n 3 4\n", r"v\.txt: word 2 is empty"),
        ("v.w2v", b"2 2\na 1 x\nb 1 2\n", r"v\.w2v:2: a line must be a word and 2 numbers"),
        ("v.txt.gz", b"plain", r"cannot read vectors .*v\.txt\.gz"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=line):
        words.load(tmp_path / name)


@pytest.mark.parametrize("name", ["v.w2v", "v.vec.gz", "v", "v.2024.model"])
@pytest.mark.parametrize("format", ["bin", "text"])
def test_binary_and_text_are_told_by_the_content(tmp_path, name, format):
    words.save(tmp_path / name, VECTORS, format=format)
    found = words.load(tmp_path / name)
    assert found.words == VECTORS.words
    np.testing.assert_array_equal(found.table, VECTORS.table)


def test_words_with_spaces_in_an_npz(tmp_path):
    spaced = Vectors((". .", "new york"), np.eye(2, dtype=np.float32))
    words.save(tmp_path / "v.npz", spaced)
    assert words.load(tmp_path / "v.npz").words == spaced.words
    assert words.load(tmp_path / "v.npz", limit=1).words == (". .",)


@pytest.mark.parametrize("first", [b"", b"2 2\n"])
def test_numbers_without_digits_on_one_side_and_a_byte_order_mark(tmp_path, first):
    (tmp_path / "v").write_bytes(b"\xef\xbb\xbf" + first + b"a .5 1.\nb -.5 1.e2\n")
    found = words.load(tmp_path / "v")
    assert found.words == ("a", "b")
    np.testing.assert_array_equal(found.table, [[0.5, 1], [-0.5, 100]])
    np.testing.assert_array_equal(files.read(tmp_path / "v").tensors["vectors"], found.table)


def test_of_a_word_that_stands_twice_the_first_is_kept(tmp_path, capsys):
    (tmp_path / "v.txt").write_text("4 1\na 1\nb 2\na 3\na 4\n")
    found = words.load(tmp_path / "v.txt")
    assert (found.words, found.table.tolist()) == (("a", "b"), [[1], [2]])
    assert capsys.readouterr().out == f"{tmp_path / 'v.txt'}: 2 words again, such as 'a'; the first is kept\n"


def damaged_npz(kind) -> bytes:
    names = {"words.npy": io.BytesIO(), "vectors.npy": io.BytesIO()}
    np.save(names["words.npy"], np.array(["a", "b"]))
    shape = (2, 3) if kind == "encrypted" else (10**9, 10**6)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(names["vectors.npy"], header)
    content = bytearray(make.zipped({name: file.getvalue() for name, file in names.items()}))
    if kind == "encrypted":
        content[6] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    "kind, line",
    [
        ("encrypted", "'words.npy' is encrypted"),
        ("huge", r"vectors.npy: 0 bytes cannot be float32\[1000000000, 1000000\]"),
    ],
)
def test_an_npz_that_cannot_be_read(tmp_path, kind, line):
    (tmp_path / "x").write_bytes(damaged_npz(kind))
    for read in (words.load, files.read):
        with pytest.raises(UserError, match=line) as error:
            read(tmp_path / "x")
        assert str(error.value).count(str(tmp_path)) == 1


def test_mistakes_with_files(tmp_path):
    spaced = Vectors(("new york",), np.ones((1, 2), np.float32))
    for call, line in (
        (lambda: words.load(tmp_path / "no.txt"), r"cannot read vectors .*no\.txt: No such file"),
        (lambda: words.load(tmp_path / "no.txt", format="w2v"), r"unknown format of vectors 'w2v'"),
        (lambda: words.load(tmp_path / "no.txt", limit=0), r"limit is 0"),
        (lambda: words.save(tmp_path / "v.txt", spaced), r"word 'new york' cannot be written"),
        (lambda: words.save(tmp_path / "no" / "v.txt", VECTORS), r"cannot write vectors"),
        (lambda: words.from_run(tmp_path), r"is not a run folder with a model\.json"),
    ):
        with pytest.raises(UserError, match=line):
            call()


def test_projector(tmp_path):
    words.projector(tmp_path / "p", VECTORS)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "p/vectors.tsv", np.float32, delimiter="\t"), VECTORS.table)
    assert (tmp_path / "p/metadata.tsv").read_text(encoding="utf-8").split("\n") == [*VECTORS.words, ""]


def test_picture(tmp_path, monkeypatch):
    words.picture(VECTORS, tmp_path / "v.png", words=["king", "queen", "man"])
    assert np.asarray(Image.open(tmp_path / "v.png").convert("L")).min() < 100  # something is drawn
    with pytest.raises(UserError, match="needs at least 2 words"):
        words.picture(VECTORS, tmp_path / "v.png", words=["king"])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"drawing needs matplotlib: pip install -e '\.\[plot\]'"):
        words.picture(VECTORS, tmp_path / "v.png")


def test_neighbours_stay_together(tmp_path):
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(10, 3)))[0].T  # of three groups of words
    rows = np.repeat(directions, 8, 0) * rng.uniform(1, 9, (24, 1)) + rng.normal(0, 0.02, (24, 10))
    places = neighbours(rows)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.diag(np.full(24, np.inf))
    assert (distance.argmin(1) // 8 == np.arange(24) // 8).all()
    np.testing.assert_array_equal(places, neighbours(rows))
    assert neighbours(rows[:2]).shape == (2, 2)
    made = []
    for layout in ("pca", "tsne"):
        words.picture(VECTORS, tmp_path / "v.png", layout=layout)
        made.append((tmp_path / "v.png").read_bytes())
    assert made[0] != made[1]
    with pytest.raises(UserError, match=r"unknown layout of a picture 'tsn'.*did you mean 'tsne'"):
        words.picture(VECTORS, tmp_path / "v.png", layout="tsn")


def test_principal_components():
    x = np.random.default_rng(0).standard_normal((50, 3)) * [[1, 9, 3]] + 5
    found = principal(x)
    for k, column in ((0, 1), (1, 2)):
        assert abs(np.corrcoef(found[:, k], x[:, column])[0, 1]) > 0.95
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)


# --- queries and evaluation --------------------------------------------------------------------------------------


def test_queries():
    ((word, value),) = words.most_similar(VECTORS, ["king", "woman"], ["man"], topn=1)
    unit = VECTORS.unit()
    wanted = unit[0] + unit[3] - unit[2]
    assert word == "queen"
    assert value == pytest.approx(wanted @ unit[1] / np.linalg.norm(wanted), abs=1e-6)
    found = words.most_similar(VECTORS, ["king"])
    assert len(found) == 4
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)
    assert found[0] == ("man", pytest.approx(words.similarity(VECTORS, "man", "king")))
    assert words.similarity(VECTORS, "king", "king") == pytest.approx(1)
    assert words.doesnt_match(VECTORS, ["king", "man", "Äpfel"]) == "Äpfel"


def test_only_the_words_in_question_are_normalized(monkeypatch):
    norm, rows = np.linalg.norm, []
    monkeypatch.setattr(np.linalg, "norm", lambda x, **options: rows.append(len(x)) or norm(x, **options))
    words.similarity(VECTORS, "man", "king")
    words.doesnt_match(VECTORS, ["king", "man", "woman"])
    assert rows == [2, 3]


def test_questions_that_make_no_sense():
    for call, line in (
        (lambda: words.most_similar(VECTORS, ["kingg"]), r"no vector for word 'kingg'; did you mean 'king'"),
        (lambda: words.most_similar(VECTORS, "king"), r"are lists of words"),
        (lambda: words.most_similar(VECTORS), r"at least one word"),
        (lambda: words.most_similar(VECTORS, ["king"], topn=0), r"topn is 0"),
        (lambda: words.doesnt_match(VECTORS, ["king"]), r"at least two words"),
    ):
        with pytest.raises(UserError, match=line):
            call()


def test_pairs(tmp_path):
    (tmp_path / "p").write_text("# word word score\nking\tMan\t9\nking woman 1.5\nqueen,woman,5\nking horse 3\n\n")
    found = words.pairs(VECTORS, tmp_path / "p")
    # By cosine: king-man and queen-woman tie at first, king-woman is last.
    assert found["spearman"] == pytest.approx(3**0.5 / 2)
    values = [words.similarity(VECTORS, *pair) for pair in (("king", "man"), ("king", "woman"), ("queen", "woman"))]
    assert found["pearson"] == pytest.approx(np.corrcoef(values, [9, 1.5, 5])[0, 1])
    assert (found["count"], found["unknown"]) == (3, 1)
    content = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(b"\xef\xbb\xbf" + content.partition(b"\n")[2])
    assert words.pairs(VECTORS, tmp_path / "p") == found


def test_analogies(tmp_path):
    text = ": royal\nman king WOMAN queen\nman woman king queen\n: wrong\nman king woman äpfel\nman king horse cow\n"
    (tmp_path / "a").write_text(text)
    found = words.analogies(VECTORS, tmp_path / "a")
    assert found["royal"] == {"correct": 2, "count": 2, "unknown": 0, "accuracy": 1.0}
    assert found["wrong"] == {"correct": 0, "count": 1, "unknown": 1, "accuracy": 0.0}
    assert found["total"] == {"correct": 2, "count": 3, "unknown": 1, "accuracy": 2 / 3}
    assert words.analogies(VECTORS, tmp_path / "a", restrict=3)["total"]["count"] == 0


@pytest.mark.parametrize(
    "read, content, line",
    [
        (words.pairs, b"king man 9\nking man\n", r"f:2: 'king man' is not a pair; a line is: word word score"),
        (words.pairs, b"king man nine\n", r"f:1: 'king man nine' is not a pair"),
        (words.pairs, b"king man 9\nking horse 2\n", r"only 1 pair\(s\)"),
        (words.pairs, b"king man 9\nking man 2\n", r"all 2 pairs have the same"),
        (words.pairs, b"king man 9\n\xff\n", r"f:2: not UTF-8 text at byte 0"),
        (words.analogies, b": s\nking man queen\n", r"f:2: 'king man queen' is not a question"),
        (words.analogies, b": s\n", r"has no questions"),
    ],
)  # fmt: skip
def test_malformed_lines(tmp_path, read, content, line):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError, match=line):
        read(VECTORS, tmp_path / "f")


def test_going_on_from_imported_vectors():
    fresh = {"params": {"input": np.zeros((3, 3), np.float32), "output": np.zeros((3, 3), np.float32)}}
    corpus_words = ("horse", "woman", "king")
    params = words.variables(VECTORS, corpus_words, fresh)["params"]
    np.testing.assert_array_equal(params["input"], np.stack([np.zeros(3), VECTORS.table[3], VECTORS.table[0]]))
    assert not params["output"].any()
    both = words.variables(VECTORS._replace(output=VECTORS.table + 1), corpus_words, fresh)["params"]
    np.testing.assert_array_equal(both["output"][1:], VECTORS.table[[3, 0]] + 1)
    assert not fresh["params"]["input"].any()
    for vectors, line in (
        (
            VECTORS._replace(table=np.ones((5, 2))),
            "the imported table has vectors of 2 numbers, the model has features=3",
        ),
        (VECTORS._replace(words=("x",) * 5), "knows none of the 3 words"),
    ):
        with pytest.raises(UserError, match=line):
            words.variables(vectors, corpus_words, fresh)


def test_command_line(tmp_path):
    words.save(tmp_path / "v.txt", VECTORS)
    (tmp_path / "p").write_text("king man 9\nking woman 1\nqueen woman 5\n")
    (tmp_path / "a").write_text(": royal\nman king woman queen\n")
    base = [sys.executable, "scripts/words.py", f"--vectors={tmp_path}/v.txt"]
    more = ["--positive=king,woman", "--negative=man", "--topn=1", "--similarity=king,man", "--odd=king,man,Äpfel",
            f"--pairs={tmp_path}/p", f"--analogies={tmp_path}/a", f"--save={tmp_path}/out.bin.gz"]  # fmt: skip
    done = subprocess.run([*base, *more], capture_output=True, text=True, check=True)
    for wanted in ("5 words, 3 features", " queen\n", "similarity 0.7", "match: Äpfel", "spearman 0.866", "1 of 1"):
        assert wanted in done.stdout
    with gzip.open(tmp_path / "out.bin.gz") as file:
        assert file.readline() == b"5 3\n"
    failed = subprocess.run([*base, "--similarity=king"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.strip() == "error: --similarity=king: it must be two words, as in cat,dog"
