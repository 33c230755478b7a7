"""Word vectors after training: read, written, compared and evaluated.

vectors = zoo.words.load("vectors.bin")
zoo.words.most_similar(vectors, positive=["king", "woman"], negative=["man"])
"""

from zoo.words.evaluation import analogies, pairs
from zoo.words.files import from_run, load, projector, save
from zoo.words.queries import doesnt_match, most_similar, similarity
from zoo.words.vectors import Vectors, picture, variables

__all__ = [
    "Vectors",
    "analogies",
    "doesnt_match",
    "from_run",
    "load",
    "most_similar",
    "pairs",
    "picture",
    "projector",
    "save",
    "similarity",
    "variables",
]
