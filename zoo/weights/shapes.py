"""The shapes of a model's variables, which an import has to fill, without computing them.

Tracing a network takes up to half a second, several times as long as reading its weights; so what came of it is kept in
the cache folder, for models of the zoo, as long as their sources stay as they are.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator

import flax
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from zoo import compilation, models
from zoo.errors import UserError
from zoo.models.lenet import LeNet5
from zoo.models.lstm import LSTMClassifier, LSTMLanguageModel
from zoo.models.mlp import MLP
from zoo.models.text_cnn import TextCNN
from zoo.models.word2vec import CBOW, SkipGram

SIDES = (32, 64, 572)  # of the image from which the shapes come: the first that the model takes


def of(model: nn.Module, input=None):
    """(variables, batch), both of ShapeDtypeStruct; `input` as in `zoo.load_weights`."""
    refused = None
    for x in examples(model, input):
        try:
            return _traced(model, x), x
        except UserError as error:
            refused = error
    hint = "" if input is not None else "; give input=(height, width, channels), or what the model takes"
    raise UserError(f"the shapes of the model: {refused}{hint}") from None


def examples(model: nn.Module, input=None) -> Iterator[jax.ShapeDtypeStruct]:
    """What the model may take: `input`, or what is usual."""
    words = isinstance(model, LSTMLanguageModel | TextCNN) or getattr(model, "vocab_size", None) is not None
    vectors, dtype = isinstance(model, SkipGram | CBOW), jnp.float32
    if words or vectors:
        dtype = jnp.int32
    if hasattr(input, "dtype"):
        shapes, dtype = [input.shape[1:]], input.dtype
    elif input is not None:
        shapes = [tuple(input)]
    elif vectors:
        shapes = [()]
    elif words:
        shapes = [(8,)]
    elif isinstance(model, MLP):
        shapes = [(max(len(model.cardinalities), 1),)]  # the width of the input is the file's
    elif isinstance(model, LSTMClassifier):
        raise UserError("lstm_classifier over vectors: give input=(length, features)")
    else:
        channels = getattr(model, "in_channels", None) or (1 if isinstance(model, LeNet5) else 3)
        sides = (32 - 2 * model.padding,) if isinstance(model, LeNet5) else SIDES
        shapes = [(side, side, channels) for side in sides]
    for shape in shapes:
        yield jax.ShapeDtypeStruct((1, *shape), dtype)


def _traced(model: nn.Module, x: jax.ShapeDtypeStruct):
    def trace():
        return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)

    file = _cached(model, x)
    if file is None:
        return trace()
    try:
        known = json.loads(file.read_text())
        found = {tuple(path): jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(kind)) for path, shape, kind in known}
        return flax.traverse_util.unflatten_dict(found)
    except (OSError, ValueError, TypeError):  # not there yet, or damaged
        shapes = trace()
    leaves = flax.traverse_util.flatten_dict(shapes).items()
    with contextlib.suppress(OSError):  # then the next import traces again
        file.write_text(json.dumps([(path, leaf.shape, leaf.dtype.name) for path, leaf in leaves]))
    return shapes


def _cached(model: nn.Module, x: jax.ShapeDtypeStruct) -> pathlib.Path | None:
    """Where the shapes are kept; None for a model whose code we cannot vouch for, or without a safe folder."""
    if not type(model).__module__.startswith("zoo.models."):
        return None
    sources = [(p.name, p.stat().st_mtime_ns) for p in sorted(pathlib.Path(models.__file__).parent.glob("*.py"))]
    what = (sources, repr(model), x.shape, x.dtype.name, jax.__version__, flax.__version__)
    try:
        folder = compilation.cache_dir() / "shapes"
        folder.mkdir(mode=0o700, exist_ok=True)
    except (UserError, OSError):
        return None
    return folder / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.json"
