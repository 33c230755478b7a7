"""What each dropout drops, how much of it, and that evaluation drops nothing."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model, rules
from zoo.models import dropout
from zoo.models.dropout import DROPOUTS

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these run once
SHAPE, RATE = (100, 6, 5, 40), 0.3


class Layer(nn.Module):
    fn: object

    @nn.compact
    def __call__(self, x, *, train):
        return self.fn(x, RATE, train=train, name="dropout")


FUNCTIONS = {**DROPOUTS, "stochastic_depth": dropout.stochastic_depth}
SAME = {"unit": (), "spatial": (1, 2), "stochastic_depth": (1, 2, 3)}  # axes along which all fall together


def dropped(kind, x, seed=0, *, train=True):
    return np.asarray(Layer(FUNCTIONS[kind]).apply({}, x, train=train, rngs={"dropout": jax.random.key(seed)}))


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_falls_together_and_how_often(kind):
    ones = np.ones(SHAPE, np.float32)
    found = np.stack([dropped(kind, ones, seed) for seed in range(40 if kind == "stochastic_depth" else 4)])
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / (1 - RATE))}
    axes = tuple(axis + 1 for axis in SAME[kind])
    assert (np.ptp(found, axes) == 0).all() if axes else True
    independent = found[tuple(slice(1) if axis in axes else slice(None) for axis in range(5))]
    # The share, and with it the expectation 1, within 5 standard deviations.
    assert (independent == 0).mean() == pytest.approx(RATE, abs=5 * (RATE * (1 - RATE) / independent.size) ** 0.5)
    for axis in set(range(5)) - set(axes):
        assert np.ptp(independent, axis).any()  # along all others each on its own


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_evaluation_is_the_identity_and_gradients_flow_where_nothing_fell(kind):
    x = np.float32(np.random.default_rng(0).standard_normal((4, 6, 5, 8)))
    np.testing.assert_array_equal(dropped(kind, x, train=False), x)
    layer, rngs = Layer(FUNCTIONS[kind]), {"dropout": jax.random.key(1)}
    gradient = jax.grad(lambda x: layer.apply({}, x, train=True, rngs=rngs).sum())(x)
    np.testing.assert_allclose(gradient * x, dropped(kind, x, seed=1), rtol=1e-6)


@pytest.mark.parametrize("name, shape", [("convnet1d", (64, 12, 3)), ("convnet2d", (64, 8, 8, 3))])
def test_spatial_dropout_in_a_convnet(name, shape):
    x = np.float32(np.random.default_rng(0).standard_normal(shape))
    options = {"widths": (30,), "activation": "sigmoid", "features_only": True}  # positive everywhere
    model = create_model(name, block_dropout=RATE, dropout_kind="spatial", **options)
    variables = model.init({"params": jax.random.key(0)}, x)
    (found,) = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    (kept,) = model.apply(variables, x)
    zero = (np.asarray(found) == 0).reshape(64, -1, 30)
    assert (zero.all(1) == zero.any(1)).all()
    assert zero.any(1).mean() == pytest.approx(RATE, abs=0.05)
    np.testing.assert_allclose(found[found != 0], kept[found != 0] / (1 - RATE), rtol=1e-5)


@pytest.mark.parametrize("kind", DROPOUTS)
@pytest.mark.parametrize(
    "name, options, paths",
    [
        ("lenet5", {}, ["pool1_dropout", "pool2_dropout"]),
        ("resnet18", {"depths": (1,), "width": 40, "stem": "3x3", "num_classes": 3}, ["layer1_0/dropout"]),
        ("wrn16_2", {"depths": (1,), "width": 40, "stem_width": 4}, ["layer1_0/dropout"]),
    ],
)
def test_block_dropout_in_models(name, options, paths, kind):
    """Its places drop what they should in training, and nothing in evaluation."""
    x = np.float32(np.random.default_rng(0).standard_normal((16, 20, 20, 3)))
    model = create_model(name, block_dropout=RATE, dropout_kind=kind, **options)
    shapes, rng = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x), np.random.default_rng(1)
    variables = jax.tree.map(lambda s: np.float32(0.5 + rng.random(s.shape)), shapes)

    @jit
    def outputs(variables):
        kept = [create_model(name, **options).apply(variables, x), model.apply(variables, x)]
        rngs = {"dropout": jax.random.key(1)}
        _, state = model.apply(variables, x, train=True, rngs=rngs, capture_intermediates=True)
        return kept, state["intermediates"]

    (plain, evaluated), seen = outputs(variables)
    np.testing.assert_array_equal(evaluated, plain)
    for path in paths:
        found = rules.flatten(seen)[f"{path}/__call__/0"]
        zero = (np.asarray(found) == 0).reshape(16, -1, found.shape[-1])
        share = zero.all(1).mean()
        assert share == pytest.approx(RATE, abs=0.13) if kind == "spatial" else share < 0.2


def test_dropconnect_drops_weights():
    """Kernels of ones on an input of ones: every unit is the number of its weights that stayed, for all examples."""
    model = create_model("mlp", widths=(400,), num_classes=0, dropconnect=RATE, kernel_init="ones", activation="linear")
    x = np.ones((3, 500), np.float32)
    variables = model.init({"params": jax.random.key(0)}, x)
    found = np.asarray(model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)}))
    kept = found * (1 - RATE)
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-2)
    assert (found == found[:1]).all()  # one mask for the batch
    assert kept.mean() == pytest.approx(500 * (1 - RATE), abs=5 * (500 * RATE * (1 - RATE) / 400) ** 0.5)
    assert kept.std() == pytest.approx((500 * RATE * (1 - RATE)) ** 0.5, rel=0.2)
    np.testing.assert_allclose(model.apply(variables, x), 500)


def test_dropconnect_leaves_the_head_and_stops_the_gradient_of_dropped_weights():
    model = create_model("mlp", widths=(20,), num_classes=5, dropconnect=0.5, activation="linear")
    x = np.float32(np.random.default_rng(0).standard_normal((8, 30)))
    params = model.init({"params": jax.random.key(0)}, x)["params"]
    assert set(params) == {"dense1", "head"}

    def loss(params):
        return jnp.sum(model.apply({"params": params}, x, train=True, rngs={"dropout": jax.random.key(1)}) ** 2)

    gradient = jax.grad(loss)(params)
    assert (np.asarray(gradient["dense1"]["kernel"]) == 0).mean() == pytest.approx(0.5, abs=0.1)
    assert (np.asarray(gradient["head"]["kernel"]) != 0).all()
    assert (np.asarray(gradient["dense1"]["bias"]) != 0).all()
