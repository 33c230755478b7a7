"""Word vectors beside gensim: files in both directions, queries, and the evaluations of gensim on the same vectors."""

import numpy as np
import pytest

from zoo import words
from zoo.words import Vectors

keyedvectors = pytest.importorskip("gensim.models.keyedvectors")


@pytest.fixture(scope="module")
def ours():
    rng = np.random.default_rng(0)
    return Vectors(tuple(f"w{i}" for i in range(60)), np.float32(rng.standard_normal((60, 8))))


@pytest.fixture(scope="module")
def theirs(ours):
    found = keyedvectors.KeyedVectors(8)
    found.add_vectors(list(ours.words), ours.table)
    return found


@pytest.mark.filterwarnings("ignore")  # gensim leaves files open
@pytest.mark.parametrize(
    "name, binary, header",
    [("v.bin", True, True), ("v.w2v", True, True), ("v.txt", False, True), ("glove.txt", False, False)],
)
def test_files(tmp_path, ours, theirs, name, binary, header):
    words.save(tmp_path / name, ours, format="bin" if binary else "auto")
    options = {"binary": binary, "no_header": not header}
    read = keyedvectors.KeyedVectors.load_word2vec_format(str(tmp_path / name), **options)
    assert tuple(read.index_to_key) == ours.words
    np.testing.assert_array_equal(read.vectors, ours.table)
    theirs.save_word2vec_format(str(tmp_path / name), binary=binary, write_header=header)
    back = words.load(tmp_path / name)
    assert back.words == ours.words
    np.testing.assert_allclose(back.table, ours.table, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_word_that_stands_twice(tmp_path):
    (tmp_path / "v.txt").write_text("3 2\na 1 2\nb 3 4\na 5 6\n")
    theirs = keyedvectors.KeyedVectors.load_word2vec_format(str(tmp_path / "v.txt"))
    found = words.load(tmp_path / "v.txt")
    assert found.words == tuple(theirs.key_to_index)
    np.testing.assert_array_equal(found.table, [theirs[word] for word in found.words])


def test_queries(ours, theirs):
    found = words.most_similar(ours, ["w1", "w2"], ["w3"])
    wanted = theirs.most_similar(["w1", "w2"], ["w3"])
    assert [w for w, _ in found] == [w for w, _ in wanted]
    np.testing.assert_allclose([v for _, v in found], [v for _, v in wanted], atol=1e-5)
    assert words.doesnt_match(ours, ["w1", "w2", "w9", "w11"]) == theirs.doesnt_match(["w1", "w2", "w9", "w11"])


def test_evaluations(tmp_path, ours, theirs):
    rng = np.random.default_rng(1)
    rows = [
        (f"w{a}", f"w{b}", f"{s:.2f}") for a, b, s in zip(*rng.integers(0, 70, (2, 40)), rng.random(40), strict=True)
    ]
    (tmp_path / "p").write_text("".join("\t".join(row) + "\n" for row in rows))
    found = words.pairs(ours, tmp_path / "p")
    pearson, spearman, unknown = theirs.evaluate_word_pairs(str(tmp_path / "p"))
    assert found["spearman"] == pytest.approx(spearman[0], abs=1e-5)
    assert found["pearson"] == pytest.approx(pearson[0], abs=1e-5)
    assert found["unknown"] / 40 * 100 == pytest.approx(unknown)
    # Questions whose answers are right for about half of them.
    lines = [": s"]
    for a, b, c in rng.permuted(np.tile(np.arange(60), (40, 1)), axis=1)[:, :3]:
        answer = words.most_similar(ours, [f"w{b}", f"w{c}"], [f"w{a}"], topn=1)[0][0]
        lines.append(f"w{a} w{b} w{c} {answer if a % 2 else 'w0'}")
    (tmp_path / "a").write_text("\n".join(lines) + "\n")
    score, _ = theirs.evaluate_word_analogies(str(tmp_path / "a"))
    accuracy = words.analogies(ours, tmp_path / "a")["total"]["accuracy"]
    assert 0.2 < accuracy < 0.8
    assert accuracy == pytest.approx(score)
