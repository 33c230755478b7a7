"""Corpora: words, vocabulary, subsampling, Huffman codes, pairs, and the spans that training is fed."""

import gzip
import lzma
import tempfile
import tracemalloc

import jax
import numpy as np
import pytest

from zoo.data import corpus
from zoo.errors import UserError

TEXT = [["a", "b", "a"], ["c", "b", "a", "d"]]


def test_words_of_a_text(tmp_path):
    text = "The Cat's\n\n42 time-worn PIES, don't\nÄrger\n"
    wanted = [["the", "cat's"], ["time-worn", "pies", "don't"], ["ärger"]]
    for name, opened in (("c.txt", open), ("b.txt.gz", gzip.open), ("a.txt.xz", lzma.open)):
        with opened(tmp_path / name, "wb") as file:
            file.write(text.encode())
        assert list(corpus.sentences(tmp_path / name)) == wanted
    assert list(corpus.sentences(tmp_path)) == 3 * wanted


def test_words_of_other_scripts():
    """Marks belong to their letters, and an apostrophe may be typographic."""
    for line, wanted in (
        ("Don\u2019t \u2018rock\u2019n\u2019roll\u2019, it's", ["don\u2019t", "rock\u2019n\u2019roll", "it's"]),
        ("\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", None),  # Hindi: hello, world
        ("Cafe\u0301s, nai\u0308ve-ly\u20ac7", ["cafe\u0301s", "nai\u0308ve-ly"]),
        ("\U0001e900\U0001e944", ["\U0001e922\U0001e944"]),  # Adlam
        ("\u0301 x_y 4z", ["x", "y", "z"]),
    ):
        assert corpus.words_in(line) == (wanted or line.split())


def test_a_long_line_is_read_in_pieces(tmp_path, monkeypatch):
    """Wherever the pieces end: the words, the sentences and the ids are those of whole lines, mapped or not."""
    text = "\n one Σίσυφος two-two\n\n" + " it's  ärger " * 3 + "\n7 8 9 \n   \nlast one 1 2 3 4 5 6 7 8"
    (tmp_path / "t.txt").write_text(text)
    wanted = [found for line in text.split("\n") if (found := corpus.words_in(line))]
    assert list(corpus.sentences(tmp_path / "t.txt")) == wanted
    whole = [corpus.encode(wanted, **options) for options in ({}, {"min_count": 2}, {"vocab_size": 3})]
    for piece in range(1, 40):
        monkeypatch.setattr(corpus, "PIECE", piece)
        joined = [word or "|" for found in corpus.sentences(tmp_path / "t.txt") for word in (*found, "/")]
        assert " ".join(joined).replace("| / ", "") == " ".join(word for found in wanted for word in (*found, "/"))
        for in_memory, kind in ((100, np.ndarray), (piece % 7, np.memmap)):
            monkeypatch.setattr(corpus, "IN_MEMORY", in_memory)
            monkeypatch.setattr(corpus, "CHUNK", 1 + piece % 3)
            for made, options in zip(whole, ({}, {"min_count": 2}, {"vocab_size": 3}), strict=True):
                found = corpus.encode(corpus.sentences(tmp_path / "t.txt"), **options)
                assert type(found.token) is kind
                assert (found.words, found.token.dtype) == (made.words, np.int32)
                np.testing.assert_array_equal(found.token, made.token)
                np.testing.assert_array_equal(found.counts, made.counts)


def test_a_long_line_takes_little_memory(tmp_path):
    (tmp_path / "t.txt").write_text("some words of a text " * 100_000)
    tracemalloc.start()
    made = corpus.encode(corpus.sentences(tmp_path / "t.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made.token) == 500_001
    assert made.token.nbytes < peak < 4 * made.token.nbytes  # as lists: 19 times as much


def test_encode():
    made = corpus.encode(TEXT)
    assert made.words == ("a", "b", "c", "d")
    np.testing.assert_array_equal(made.counts, [3, 2, 1, 1])
    np.testing.assert_array_equal(made.token, [0, 1, 0, -1, 2, 1, 0, 3, -1])


def test_rare_words_are_left_out():
    made = corpus.encode(TEXT, min_count=2)
    assert made.words == ("a", "b")
    np.testing.assert_array_equal(made.token, [0, 1, 0, -1, 1, 0, -1])


def test_a_vocabulary_of_a_size_has_unk():
    made = corpus.encode(TEXT, vocab_size=3)
    assert made.words == ("a", "b", corpus.UNKNOWN)
    np.testing.assert_array_equal(made.counts, [3, 2, 2])
    np.testing.assert_array_equal(made.token, [0, 1, 0, -1, 2, 1, 0, 2, -1])


def test_subsampling_and_noise():
    counts = np.array([800, 150, 50])
    found = corpus.keep_probability(counts, 0.1)
    np.testing.assert_allclose(found, [0.125**0.5 + 0.125, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(corpus.keep_probability(counts, 0), 1)
    weights = counts**0.75
    np.testing.assert_allclose(np.diff(corpus.noise_cdf(counts, 0.75), prepend=0), weights / weights.sum(), rtol=1e-5)


def test_huffman_codes_are_optimal_and_prefix_free():
    counts = np.array([40, 30, 20, 6, 4])
    points, signs = corpus.huffman(counts)
    lengths = np.abs(signs).sum(1)
    np.testing.assert_array_equal(lengths, [1, 2, 3, 4, 4])
    assert np.sum(0.5**lengths) == 1  # Kraft: a full tree
    codes = {tuple(row[row != 0]) for row in signs}
    assert not any(a != b and b[: len(a)] == a for a in codes for b in codes)
    np.testing.assert_array_equal(points[:, 0], 0)
    assert set(points[signs != 0]) == set(range(4))


# --- what training is fed ----------------------------------------------------------------------------------------


def dataset(mesh, made, *, batch_size=4, sample=0.0, seed=0):
    return corpus.make(made, "test", {"batch_size": batch_size, "sample": sample}, seed=seed, mesh=mesh)


def spans(data, steps):
    for step in steps:
        batch = jax.device_get(data.train.fetch(step))
        place = slice(corpus.MARGIN, corpus.MARGIN + batch["count"])
        assert not (batch["segment"][: corpus.MARGIN] >= 0).any()
        assert not (batch["segment"][place.stop :] >= 0).any()
        yield batch["token"][place].tolist(), batch["segment"][place].tolist()


def test_an_epoch_is_the_whole_text_in_order(mesh):
    data = dataset(mesh, corpus.encode(TEXT))
    assert data.meta["steps_per_epoch"] == 3
    wanted = [([0, 1, 0], [0, 0, 0]), ([2, 1, 0, 3], [0, 0, 0, 0]), ([], [])]
    assert list(spans(data, range(6))) == 2 * wanted


def test_sentences_are_told_apart(mesh):
    data = dataset(mesh, corpus.encode(TEXT), batch_size=9)
    assert list(spans(data, [0])) == [([0, 1, 0, 2, 1, 0, 3], [0, 0, 0, 1, 1, 1, 1])]


def test_subsampling_thins_frequent_words_by_seed_and_step(mesh):
    made = corpus.encode([["the"] * 900 + ["cat"] * 100] * 10)
    data = dataset(mesh, made, batch_size=len(made.token), sample=0.05)
    counts = []
    for step in range(2):
        ((tokens, _),) = spans(data, [step])
        counts.append(np.bincount(tokens))
        ((again, _),) = spans(data, [step])
        assert tokens == again
    keep = np.sqrt(0.05 / 0.9) + 0.05 / 0.9
    np.testing.assert_allclose(counts[0], [9000 * keep, 1000], rtol=0.05)
    assert counts[0][0] != counts[1][0]
    ((other, _),) = spans(dataset(mesh, made, batch_size=len(made.token), sample=0.05, seed=1), [0])
    assert len(other) != sum(counts[0])


def test_a_memory_mapped_text(mesh, tmp_path):
    made = corpus.encode(TEXT)
    np.save(tmp_path / "token.npy", made.token)
    mapped = made._replace(token=np.load(tmp_path / "token.npy", mmap_mode="r"))
    assert list(spans(dataset(mesh, mapped), range(3))) == list(spans(dataset(mesh, made), range(3)))


# --- the batches of the deep-learning wiki -----------------------------------------------------------------------

WORDS = ["anarchism", "originated", "as", "a", "term", "of", "abuse", "first"]


def test_skip_gram_batch():
    center, label = corpus.skip_gram_batch(np.arange(8), batch_size=8, num_skips=2, skip_window=1)
    assert [WORDS[i] for i in center] == ["originated", "originated", "as", "as", "a", "a", "term", "term"]
    for i in range(0, 8, 2):
        assert {WORDS[k] for k in label[i : i + 2]} == {WORDS[center[i] - 1], WORDS[center[i] + 1]}


def test_cbow_batch():
    context, label = corpus.cbow_batch(np.arange(8), batch_size=4, R=2)
    assert [WORDS[i] for i in context[0]] == ["anarchism", "originated", "a", "term"]
    assert [WORDS[i] for i in label] == ["as", "a", "term", "of"]


def test_labels_are_different_neighbours():
    center, label = corpus.skip_gram_batch(np.arange(50), batch_size=60, num_skips=3, skip_window=2)
    offsets = (label - center).reshape(-1, 3)
    assert set(offsets.ravel()) == {-2, -1, 1, 2}
    assert all(len(set(row)) == 3 for row in offsets)


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_no_room_for_a_long_text(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"the text: cannot keep its words in .*gone \(TMPDIR\): No such file"):
        corpus.encode(TEXT)


def test_mistakes(tmp_path, mesh):
    (tmp_path / "bad.txt").write_bytes(b"good line\nbad \xff byte\n")
    (tmp_path / "empty").mkdir()
    damaged = bytearray(gzip.compress(b"some words " * 99))
    damaged[10:18] = b"\xff" * 8
    (tmp_path / "damaged.txt.gz").write_bytes(damaged)
    token = np.arange(8)
    for call, line in (
        (lambda: list(corpus.sentences(tmp_path / "bad.txt")), r"bad\.txt is not UTF-8 text: byte 0xff at offset 14"),
        (lambda: list(corpus.sentences(tmp_path / "no.txt")), r"cannot read text .*no\.txt: No such file"),
        (lambda: list(corpus.sentences(tmp_path / "damaged.txt.gz")), r"cannot read text .*damaged\.txt\.gz: Error -3"),
        (lambda: list(corpus.sentences(tmp_path / "empty")), r"empty has no text"),
        (lambda: corpus.encode([]), r"the text is empty"),
        (lambda: corpus.encode([["a", "a", "b"]], min_count=2), r"vocabulary of 1 word\(s\) that occur at least 2"),
        (lambda: corpus.skip_gram_batch(token, 8, 3, 1), r"num_skips 3, skip_window 1"),
        (lambda: corpus.skip_gram_batch(token, 7, 2, 1), r"batch_size 7"),
        (lambda: corpus.cbow_batch(token, 8, 4), r"the text has 8 words; a window of 4 on both sides needs 9"),
        (lambda: dataset(mesh, corpus.encode(TEXT), batch_size=0), r"config\.data\.batch_size is 0"),
        (lambda: dataset(mesh, corpus.encode(TEXT), sample=1.0), r"config\.data\.sample is 1\.0"),
    ):
        with pytest.raises(UserError, match=line):
            call()
