"""The layer table: shapes, parameters and operations, counted by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model, rules, summary
from zoo.models import MODELS, model_options
from zoo.summary import bytes_of, layers


def table(model, *shape):
    return {layer.path: layer for layer in layers(model, jax.ShapeDtypeStruct(shape, np.float32))}


def test_lenet_by_hand():
    found = table(create_model("lenet5"), 7, 28, 28, 1)
    by_hand = {  # path: output, parameters, operations per example (two per multiply-add)
        "conv1": ((7, 28, 28, 6), 156, 2 * 28 * 28 * 6 * 25),
        "conv2": ((7, 10, 10, 16), 2_416, 2 * 10 * 10 * 16 * 25 * 6),
        "dense1": ((7, 120), 48_120, 2 * 400 * 120),
        "dense2": ((7, 84), 10_164, 2 * 120 * 84),
        "head": ((7, 10), 850, 2 * 84 * 10),
    }
    for path, (shape, parameters, flops) in by_hand.items():
        assert found[path][2:] == (shape, parameters, flops), path
    assert found[""].kind == "LeNet5"
    assert found[""][2:] == ((7, 10), 61_706, sum(row[2] for row in by_hand.values()))


def test_operations_do_not_depend_on_the_batch():
    model = create_model("mlp", widths=(20, 30), num_classes=2)
    for batch in (1, 64):
        assert table(model, batch, 10)[""].flops == 2 * (10 * 20 + 20 * 30 + 30 * 2)


class Block(nn.Module):
    """A layer in a layer, a strided grouped convolution, and a loop."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = nn.Conv(8, (3, 3), strides=(2, 2), feature_group_count=4, use_bias=False, name="grouped")(x)
        x = Inner(name="inner")(x.mean((1, 2)))
        matrix = self.param("matrix", nn.initializers.ones, (6, 6))
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ matrix), None), x, length=5)[0]


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, name="dense")(nn.Dense(4, name="den")(x))


def test_nested_layers_and_loops():
    found = table(Block(), 3, 10, 10, 4)
    grouped = 2 * 5 * 5 * 8 * 3 * 3 * 1  # each output channel sees one of the four inputs
    inner = 2 * (8 * 4 + 4 * 6)
    assert found["grouped"][2:] == ((3, 5, 5, 8), 3 * 3 * 8, grouped)
    assert found["inner"][2:] == ((3, 6), 8 * 4 + 4 + 4 * 6 + 6, inner)
    assert found["inner/den"].parameters == 36  # and not those of `inner/dense` too
    assert found["inner/dense"].parameters == 30
    assert found["inner/den"].flops + found["inner/dense"].flops == inner
    assert found[""].parameters == 72 + 66 + 36
    assert found[""].flops == grouped + inner + 5 * 2 * 6 * 6  # the loop runs five times


def test_layers_come_in_the_order_of_their_calls():
    model = create_model("mlp", widths=(5, 4), norm="batch", norm_place="after")
    paths = [layer.path for layer in layers(model, np.ones((1, 3)))]
    wanted = ["", "dropout_input", "dense1", "norm1", "dropout1", "dense2", "norm2", "dropout2", "head"]
    assert paths == wanted


def test_text():
    lines = summary(create_model("lenet5"), np.zeros((32, 28, 28, 1), np.float32)).splitlines()
    assert lines[0].split() == ["path", "layer", "output", "parameters", "FLOPs", "/", "example"]
    whole = next(line for line in lines if line.startswith("(all)"))
    assert whole.split() == ["(all)", "LeNet5", "[32,", "10]", "61,706", "833,040"]
    assert any(line.split()[:2] == ["conv1", "Conv"] and "[32, 28, 28, 6]" in line for line in lines)
    assert all(len(line) <= 110 and line == line.rstrip() for line in lines)


INPUTS = {
    "convnet1d": ((2, 16, 3), np.float32),
    "lstm_classifier": ((2, 5, 3), np.float32),
    **dict.fromkeys(("lstm_lm", "text_cnn", "cbow"), ((2, 5), np.int32)),
    "skipgram": ((2,), np.int32),
}
OWN = {"cbow", "skipgram", "lstm_classifier"}  # which multiply matrices outside of all layers


@pytest.mark.parametrize("name", MODELS)
def test_operations_of_every_model_belong_to_its_layers(name):
    """Those in methods other than `__call__` too."""
    model = create_model(name, **{"depths": (1, 1)} if "depths" in model_options(name) else {})
    x = jax.ShapeDtypeStruct(*INPUTS.get(name, ((2, 64, 64, 3), np.float32)))
    whole, *found = layers(model, x)
    top = sum(layer.flops for layer in found if "/" not in layer.path)
    assert top < whole.flops if name in OWN else top == whole.flops
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    paths = [path.removesuffix("/recurrent/kernel").removesuffix("/kernel") for path in rules.flatten(params)]
    flops = {layer.path: layer.flops for layer in found}
    assert all(flops[path] for path in paths if path in flops)


def test_masks_count_in_layers_of_other_methods():
    model, x = create_model("resnet20_cifar", depths=(1,)), jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
    mask = np.zeros((3, 3, 3, 16))
    mask[1] = 1
    dense, kept = ({layer.path: layer for layer in layers(model, x, masks)} for masks in (None, {"stem/kernel": mask}))
    assert kept["stem"].flops * 3 == dense["stem"].flops > 0


def test_nothing_is_computed(monkeypatch):
    """A model too large for any memory has a table as well."""
    found = table(create_model("mlp", widths=(10**6, 10**6)), 1, 10**6)
    assert found[""].parameters == 2 * 10**12 + 12 * 10**6 + 10


@pytest.mark.parametrize(
    "tree, size",
    [
        ({"a": np.zeros((3, 4), np.float32), "b": (np.zeros(5, np.uint8),)}, 53),
        (jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), 12),
        ({}, 0),
        (np.float64(1), 8),
    ],
)
def test_bytes_of(tree, size):
    assert bytes_of(tree) == size
