"""Word vectors as the embedding of a model over words: word2vec, GloVe, or NumPy arrays `words` and `vectors`."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np

from zoo import rules as tree
from zoo.errors import UserError
from zoo.weights import importing, shapes
from zoo.weights.files import Weights
from zoo.weights.importing import Import
from zoo.weights.rules import Row

# The table of a model that has a row for each word -> the option that is the length of its rows.
TABLES = {"input": "features", "embed/embedding": "embed_dim"}


def fill(model: nn.Module, source, weights: Weights, words: Sequence[str] | None, input, seed: int) -> Import:
    """The arguments are those of `zoo.load_weights`, with the file read. All but the one table is made anew.

    Raises:
      UserError: a model over anything but words, vectors of another length, or no word in common.
    """
    template, x = shapes.of(model, input)
    paths = {name.partition("/")[2]: name for name in tree.flatten(template)}
    path = next((path for path in TABLES if path in paths), None)
    if path is None:
        raise UserError(f"{source} holds word vectors; {type(model).__name__} has no table of words for them")
    known, vectors = weights.metadata["words"], weights.tensors["vectors"]
    leaves = importing.initialized(model, x, seed, paths)
    rows, width = leaves[path].shape
    if vectors.shape[1] != width:
        raise UserError(
            f"{source} has vectors of {vectors.shape[1]} numbers, the model has {TABLES[path]}={width}; make them equal"
        )
    words = known if words is None else words
    if len(words) != rows:
        raise UserError(f"{source}: {len(words)} words for a model of {rows}; its vocabulary must be that of the words")
    index = {word: i for i, word in reversed(list(enumerate(known)))}
    found = [i for i, word in enumerate(words) if word in index]
    if not found:
        raise UserError(f"{source} knows none of the {rows} words of the model, such as {words[0]!r}")
    leaves[path] = np.array(leaves[path])
    leaves[path][found] = vectors[[index[words[i]] for i in found]]
    note = f"{path}: vectors for {len(found)} of {rows} words; all else is new"
    table = [
        Row(p, ("vectors",) if p == path else (), "rows" if p == path else "new", a.shape) for p, a in leaves.items()
    ]
    variables = jax.tree.unflatten(jax.tree.structure(template), [leaves[p] for p in paths])
    return Import(variables, table, [note], "word vectors", weights.metadata)
