"""A vocabulary and its vectors."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zoo.errors import UserError, did_you_mean, lookup


class Vectors(NamedTuple):
    """Words, most frequent first, their vectors float32 [V, D] and, from a run, the output vectors [V, D].

    With the loss 'hierarchical' a row of `output` is of an inner node of the tree, and of no word.
    """

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
      UserError: as `placed`.
    """
    (table, output), _ = placed("the imported table", vectors, words, [fresh["params"][k] for k in ("input", "output")])
    return {**fresh, "params": {"input": table, "output": output}}


def placed(
    what, vectors: Vectors, words: Sequence[str], fresh: Sequence[np.ndarray], option: str = "features"
) -> tuple[list[np.ndarray], int]:
    """(the tables of a model over `words`, with the rows of those that `vectors` has; how many it has).

    Args:
      what: for the error line: where the vectors are from.
      words: the word of each row.
      fresh: float32 [len(words), D], the table and perhaps that of the output vectors: the rows of all other words.
      option: of the model, which is D.

    Raises:
      UserError: another length of vectors, another number of words, or no word in common.
    """
    rows, features = fresh[0].shape
    numbers = vectors.table.shape[1]
    if numbers != features:
        raise UserError(f"{what} has vectors of {numbers} numbers, the model has {option}={features}; make them equal")
    if len(words) != rows:
        raise UserError(f"{what}: {len(words)} words for a model of {rows}; its vocabulary must be that of the words")
    index = vectors.index()
    known = [i for i, word in enumerate(words) if word in index]
    if not known:
        raise UserError(f"{what} knows none of the {rows} words of the model, such as {words[0]!r}")
    theirs, tables = [index[words[i]] for i in known], [np.array(table) for table in fresh]
    for table, given in zip(tables, (vectors.table, vectors.output), strict=False):
        if given is not None:
            table[known] = given[theirs]
    return tables, len(known)


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
