"""Questions about words. Similarity is the cosine; the names and rules are those gensim users know."""

from collections.abc import Sequence

import numpy as np

from zoo.errors import UserError
from zoo.words.vectors import Vectors


def similarity(vectors: Vectors, one: str, other: str) -> float:
    """The cosine of two words, -1 to 1."""
    a, b = vectors.unit([one, other])
    return float(a @ b)


def most_similar(
    vectors: Vectors, positive: Sequence[str] = (), negative: Sequence[str] = (), *, topn: int = 10
) -> list[tuple[str, float]]:
    """The words nearest to the sum of the unit vectors of `positive` less those of `negative`, which are left out."""
    if isinstance(positive, str) or isinstance(negative, str):
        raise UserError("most_similar: positive and negative are lists of words, such as ['king', 'woman']")
    if not positive and not negative:
        raise UserError("most_similar needs at least one word")
    if topn < 1:
        raise UserError(f"most_similar: topn is {topn}; it must be at least 1")
    unit = vectors.unit()
    rows = [vectors.row(word) for word in (*positive, *negative)]
    signs = np.array([1] * len(positive) + [-1] * len(negative), np.float32)
    wanted = signs @ unit[rows]
    similar = unit @ (wanted / max(np.linalg.norm(wanted), 1e-12))
    similar[rows] = -np.inf
    best = np.argsort(-similar, kind="stable")[: min(topn, len(similar) - len(set(rows)))]
    return [(vectors.words[i], float(similar[i])) for i in best]


def doesnt_match(vectors: Vectors, words: Sequence[str]) -> str:
    """The word that is farthest from the mean of the unit vectors of all."""
    if isinstance(words, str) or len(words) < 2:
        raise UserError("doesnt_match needs a list of at least two words")
    unit = vectors.unit(words)
    return words[int(np.argmin(unit @ unit.mean(0)))]
