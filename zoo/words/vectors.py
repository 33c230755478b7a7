"""A vocabulary and its vectors."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zoo.errors import UserError, did_you_mean, lookup


class Vectors(NamedTuple):
    """Words, most frequent first, their vectors float32 [V, D] and, from a run, the output vectors [V, D]."""

    words: tuple[str, ...]
    table: np.ndarray
    output: np.ndarray | None = None

    def unit(self, words: Sequence[str] | None = None) -> np.ndarray:
        """The vectors of `words` (default: of all) at length 1; a vector of zeros stays."""
        table = self.table if words is None else self.table[[self.row(word) for word in words]]
        return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)

    def index(self) -> dict[str, int]:
        return _index(self.words)

    def row(self, word: str) -> int:
        """Raises UserError for a word that is not there."""
        index = self.index()
        if word not in index:
            raise UserError(f"no vector for word {word!r}{did_you_mean(word, self.words[:20_000])}"[:300])
        return index[word]


@functools.lru_cache(maxsize=8)
def _index(words: tuple[str, ...]) -> dict[str, int]:
    return {word: i for i, word in reversed(list(enumerate(words)))}


def variables(vectors: Vectors, words: Sequence[str], fresh: dict) -> dict:
    """Variables of skipgram or cbow to go on from: `fresh` with the rows of the words that `vectors` has.

    Args:
      vectors: imported vectors; their output table is taken too when it is there.
      words: the vocabulary of the corpus.
      fresh: {'params': {'input', 'output'}}, float32 [len(words), D] each.

    Raises:
      UserError: another length of vectors, or no word in common.
    """
    features = fresh["params"]["input"].shape[1]
    if vectors.table.shape[1] != features:
        raise UserError(
            f"the vectors have {vectors.table.shape[1]} numbers, the model has features={features}; they must be equal"
        )
    index = vectors.index()
    known = [i for i, word in enumerate(words) if word in index]
    if not known:
        raise UserError(f"the vectors know none of the {len(words)} words of the corpus, such as {words[0]!r}")
    rows = [index[words[i]] for i in known]
    params = {name: np.array(table) for name, table in fresh["params"].items()}
    for name, table in (("input", vectors.table), ("output", vectors.output)):
        if table is not None:
            params[name][known] = table[rows]
    return {**fresh, "params": params}


def picture(
    vectors: Vectors, path: str | pathlib.Path, *, words: Sequence[str] = (), top: int = 100, layout: str = "pca"
) -> None:
    """Writes a PNG of words as points on a plane, each with its name.

    Args:
      words: which; default: the first `top`.
      layout: a name of LAYOUTS.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install -e '.[plot]'") from None
    project = lookup("layout of a picture", layout, LAYOUTS)
    chosen = list(words) or vectors.words[:top]
    if len(chosen) < 2 or vectors.table.shape[1] < 2:
        raise UserError("a picture needs at least 2 words with vectors of at least 2 numbers")
    places = project(vectors.unit(chosen))
    figure = Figure(figsize=(10, 10), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*places.T, s=4)
    for word, place in zip(chosen, places, strict=True):
        axes.annotate(word, place, fontsize=8)
    figure.savefig(path, format="png")


def principal(rows: np.ndarray) -> np.ndarray:
    """The first two principal components, [N, 2]; the sign makes the largest entry of each direction positive."""
    rows = rows - rows.mean(0, keepdims=True)
    directions = np.linalg.svd(rows, full_matrices=False)[2][:2]
    signs = np.sign(np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1))
    return rows @ (directions * signs).T


def neighbours(rows: np.ndarray) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton 2008), [N, 2]: near stays near; starts at the principal components, as cosines
    count for words. Perplexity 30, less where there are few words."""
    from sklearn.manifold import TSNE  # takes a second

    perplexity = min(30, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=0).fit_transform(rows)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"pca": principal, "tsne": neighbours}
