"""Word vectors as the embedding of a model over words: word2vec, GloVe, or NumPy arrays `words`, `vectors` and perhaps
`output`."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from zoo import rules as tree
from zoo.errors import UserError
from zoo.weights import importing, shapes
from zoo.weights.files import Weights
from zoo.weights.importing import Import
from zoo.weights.rules import Row
from zoo.words.vectors import Vectors, placed

# The table of a model that has a row for each word -> the option that is the length of its rows.
TABLES = {"input": "features", "embed/embedding": "embed_dim"}


def fill(model: nn.Module, source, weights: Weights, words: Sequence[str] | None, input, seed: int) -> Import:
    """The arguments are those of `zoo.load_weights`, with the file read.

    All is made anew but the table, and that of the output vectors where both sides have one.

    Raises:
      UserError: a model over anything but words, vectors of another length, or no word in common.
    """
    template, x = shapes.of(model, input)
    paths = {name.partition("/")[2]: name for name in tree.flatten(template)}
    path = next((path for path in TABLES if path in paths), None)
    if path is None:
        raise UserError(f"{source} holds word vectors; {type(model).__name__} has no table of words for them")
    vectors = Vectors(weights.metadata["words"], weights.tensors["vectors"], weights.tensors.get("output"))
    filled = {path: "vectors"} | ({"output": "output"} if path == "input" and vectors.output is not None else {})
    leaves = importing.initialized(model, x, seed, paths)
    fresh, words = [leaves[p] for p in filled], vectors.words if words is None else words
    made, known = placed(source, vectors, words, fresh, TABLES[path])
    leaves |= zip(filled, made, strict=True)
    note = f"{' and '.join(filled)}: vectors for {known} of {len(words)} words; all else is new"
    table = [
        Row(p, (filled[p],) if p in filled else (), "rows" if p in filled else "new", a.shape)
        for p, a in leaves.items()
    ]
    variables = jax.tree.unflatten(jax.tree.structure(template), [leaves[p] for p in paths])
    return Import(variables, table, [note], "word vectors", weights.metadata)
