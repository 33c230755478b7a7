"""Normalization layers against NumPy, in the models that take them, and weight standardization."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model
from zoo.errors import UserError
from zoo.models import normalization
from zoo.models.normalization import NORMS, normalized, standardized

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these run once
MAPS, UNITS, SIGNAL = (4, 5, 3, 8), (6, 8), (4, 7, 8)


def inputs(shape):
    return np.float32(2 + 3 * np.random.default_rng(0).standard_normal(shape))


class Layer(nn.Module):
    norm: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        return normalized(x, self.norm, dtype=self.dtype, name="norm1")


def over(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def over_groups(x, groups):
    cut = x.reshape(*x.shape[:-1], groups, -1)
    return over(cut, (*range(1, x.ndim - 1), x.ndim)).reshape(x.shape)


WANTED = {
    "none": lambda x: x,
    "batch": lambda x: over(x, tuple(range(x.ndim - 1))),
    "layer": lambda x: over(x, tuple(range(1, x.ndim))),
    "group:4": lambda x: over_groups(x, 4),
    "group:1": lambda x: over(x, tuple(range(1, x.ndim))),
    "instance": lambda x: over(x, tuple(range(1, x.ndim - 1))),
    "response": lambda x: (
        x / np.stack([2 + 1e-4 * (x[..., max(c - 2, 0) : c + 3] ** 2).sum(-1) for c in range(x.shape[-1])], -1) ** 0.75
    ),
}


def test_every_norm_is_tested():
    assert {name.partition(":")[0] for name in WANTED} == set(NORMS)


@pytest.mark.parametrize("norm", WANTED)
@pytest.mark.parametrize("shape", [MAPS, UNITS, SIGNAL], ids=str)
def test_what_is_normalized(norm, shape):
    x = inputs(shape)
    layer = Layer(norm)
    if norm == "instance" and shape == UNITS:
        return
    variables = layer.init(jax.random.key(0), x)
    mutable = ["batch_stats"] if "batch_stats" in variables else []
    found, _ = layer.apply(variables, x, mutable=mutable)
    np.testing.assert_allclose(found, WANTED[norm](x), rtol=1e-4, atol=1e-4)
    if norm in normalization.PLAIN:
        assert not variables
        return
    assert jax.tree.map(jnp.shape, variables["params"]) == {"norm1": {"scale": (8,), "bias": (8,)}}
    scale, bias = np.float32(np.arange(8)), np.float32(np.arange(8)[::-1])
    found, _ = layer.apply(variables | {"params": {"norm1": {"scale": scale, "bias": bias}}}, x, mutable=mutable)
    np.testing.assert_allclose(found, WANTED[norm](x) * scale + bias, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("norm", ["layer", "group:4", "instance"])
def test_half_precision_is_only_that_of_the_result(norm):
    x = jnp.asarray(inputs(MAPS) + 200, jnp.bfloat16)
    layer = Layer(norm, "bfloat16")
    found = layer.apply(layer.init(jax.random.key(0), x), x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), WANTED[norm](np.asarray(x, np.float32)), atol=0.02)


def test_groups_must_divide_the_channels():
    with pytest.raises(UserError, match=r"norm 'group:32': 8 channels cannot be cut into 32 groups of one size"):
        Layer("group").init(jax.random.key(0), inputs(MAPS))


def test_standardized_kernels():
    kernel = inputs((3, 3, 4, 5))
    found = standardized(kernel)
    np.testing.assert_allclose(found, over(kernel, (0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(standardized(5 * kernel + 7), found, atol=1e-4)
    assert standardized(jnp.asarray(kernel, jnp.bfloat16)).dtype == jnp.bfloat16


# --- in models ---------------------------------------------------------------------------------------------------

MODELS = {
    "mlp": ({"widths": (8,)}, (4, 6)),
    "convnet1d": ({"widths": (8,)}, (4, 6, 3)),
    "convnet2d": ({"widths": (8,)}, (4, 6, 6, 3)),
    "resnet18": ({"depths": (1, 1), "width": 8, "stem": "3x3", "num_classes": 3}, (4, 8, 8, 3)),
    "resnetv2_18": ({"depths": (1, 1), "width": 8, "stem": "3x3", "num_classes": 3}, (4, 8, 8, 3)),
    "unet": ({"depth": 1, "width": 8}, (4, 8, 8, 3)),
}


def drawn(model, x):
    """Variables of the right shapes, by NumPy: quicker than compiling `init`."""
    shapes, rng = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x), np.random.default_rng(1)
    return jax.tree.map(
        lambda s: np.float32(rng.standard_normal(s.shape) / max(np.prod(s.shape[:-1]), 4) ** 0.5), shapes
    )


@pytest.mark.parametrize(
    "name, norm",
    [
        ("mlp", "group:4"),
        ("convnet1d", "instance"),
        ("convnet2d", "response"),
        ("resnet18", "group:4"),
        ("resnetv2_18", "layer"),
        ("unet", "instance"),
    ],
)
def test_an_example_is_alone_without_batch_norm(name, norm):
    """It does not see the others, nothing is remembered, and training is evaluation."""
    options, shape = MODELS[name]
    model, x = create_model(name, norm=norm, **options), inputs(shape)
    variables = drawn(model, x)
    assert set(variables) == {"params"}
    full, alone = jit(lambda v: (model.apply(v, x, train=True), model.apply(v, x[:1])))(variables)
    np.testing.assert_allclose(full[:1], alone, rtol=1e-4, atol=1e-5)


def count(model, x):
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name):
    """A norm has a scale and an offset where batch normalization has; without one, a convolution has a bias."""
    options, shape = MODELS[name]
    x = np.zeros(shape, np.float32)
    sizes = {norm: count(create_model(name, norm=norm, **options), x) for norm in ("batch", "layer", "group:8", "none")}
    assert sizes["batch"] == sizes["layer"] == sizes["group:8"]
    assert count(create_model(name, norm="response", **options), x) == sizes["none"]
    assert sizes["none"] < sizes["batch"]


@pytest.mark.parametrize("name", ["convnet1d", "resnet18"])
def test_weight_standardization_in_models(name):
    """Every convolution is blind to the mean and the scale of its kernels; the head is not."""
    options, shape = MODELS[name]
    model = create_model(name, norm="group:4", weight_standardization=True, **options)
    x = inputs(shape)
    variables = drawn(model, x)

    def moved(path, leaf):
        keys = [key.key for key in path]
        return 3 * leaf + 0.1 if keys[-1] == "kernel" and keys[-2] != "head" else leaf

    @jit
    def outputs(variables, others):
        plain = create_model(name, norm="group:4", **options)
        return model.apply(variables, x), model.apply(others, x), plain.apply(variables, x)

    wanted, found, plain = outputs(variables, jax.tree_util.tree_map_with_path(moved, variables))
    np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-3)
    assert not np.allclose(plain, wanted, rtol=0.1)


def test_zero_init_needs_a_scale():
    with pytest.raises(
        UserError, match=r"resnet: zero_init zeroes the scale of the last norm, and norm 'none' has no scale"
    ):
        create_model("resnet18", norm="none", zero_init=True)
