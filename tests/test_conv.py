"""The convolution and the pooling of the zoo against JAX's own: values and gradients."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zoo.models.conv import LAYOUTS, MAX_INPUT_CHANNELS, NHWC, Conv, avg_pool, conv, max_pool

CASES = [  # height, width, channels in and out, kernel, strides, padding
    (28, 28, 1, 6, (5, 5), (1, 1), ((2, 2), (2, 2))),
    (14, 14, 6, 16, (5, 5), (1, 1), "VALID"),
    (8, 10, 3, 4, (3, 3), (1, 1), "SAME"),
    (9, 12, 3, 4, (3, 3), (2, 2), ((1, 1), (1, 1))),
    (12, 9, 2, 5, (3, 1), (1, 2), "SAME"),
    (8, 13, 3, 4, (3, 3), (1, 1), "SAME"),  # a prime width has no tile
    (8, 8, 7, 4, (3, 3), (1, 1), "SAME"),  # too many channels for the product
    (6, 6, 4, 4, (1, 1), (2, 2), "VALID"),
    # Wider ones, whose gradients are our own:
    (8, 8, 8, 16, (3, 3), (2, 2), ((1, 1), (1, 1))),
    (9, 7, 8, 5, (3, 3), (2, 2), ((1, 1), (1, 1))),
    (9, 9, 7, 4, (3, 3), (3, 3), ((0, 1), (2, 0))),  # a stride as large as the kernel
    (10, 9, 8, 4, (5, 5), (3, 2), ((0, 0), (2, 2))),
    (15, 15, 8, 4, (7, 7), (2, 2), ((3, 3), (3, 3))),
    (7, 7, 8, 4, (3, 3), (4, 4), "VALID"),  # rows that no output sees
    (9, 9, 8, 4, (1, 1), (2, 2), "VALID"),  # a matrix product
    (9, 9, 8, 4, (1, 1), (2, 2), ((0, 0), (0, 0))),
    (16, 200, 16, 16, (3, 3), (1, 1), "SAME"),  # cut into strips
    (6, 6, 8, 4, (2, 2), (1, 1), ((2, 0), (0, 3))),  # more padding than the kernel reaches
    (None, 12, 3, 4, (3,), (1,), "SAME"),  # sequences
    (None, 13, 8, 6, (5,), (2,), ((2, 1),)),
    (None, 9, 8, 4, (1,), (2,), "VALID"),
]


@pytest.mark.parametrize("height, width, c_in, c_out, kernel, strides, padding", CASES)
def test_conv_equals_lax(height, width, c_in, c_out, kernel, strides, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (16, *(side for side in (height, width) if side), c_in))
    k = jax.random.normal(keys[1], (*kernel, c_in, c_out))
    compare(x, k, keys[2], strides, padding, dimension_numbers=LAYOUTS[x.ndim])


@pytest.mark.parametrize("shape, kernel, groups", [((8, 9, 9, 16), (3, 3, 8, 6), 2), ((8, 13, 12), (5, 3, 8), 4)])
def test_groups_equal_lax(shape, kernel, groups):
    keys = jax.random.split(jax.random.key(0), 3)
    x, k, layout = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel), LAYOUTS[len(shape)]
    strides = (2,) * (len(shape) - 2)
    compare(x, k, keys[2], strides, "SAME", dimension_numbers=layout, feature_group_count=groups)


def compare(x, k, key, *arguments, **options):
    """Values and gradients."""
    functions = [lambda x, k, f=f: f(x, k, *arguments, **options) for f in (lax.conv_general_dilated, conv)]
    weight = jax.random.normal(key, jax.eval_shape(functions[0], x, k).shape)

    def loss(x, k, f):
        out = f(x, k)
        return jnp.sum(out * weight), out

    results = [jax.jit(jax.grad(functools.partial(loss, f=f), (0, 1), has_aux=True))(x, k) for f in functions]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(a).max()))


@pytest.mark.parametrize("channels", [3, 8])
def test_gradients_under_other_transformations(channels):
    """vmap over models, and Hessian-vector products."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (8, 6, 6, channels))
    k, v = jax.random.normal(keys[1], (2, 3, 3, channels, 4))
    found = []
    for convolve in (conv, lax.conv_general_dilated):

        def loss(k, convolve=convolve):
            return jnp.sum(jnp.sin(convolve(x, k, (2, 2), ((1, 1), (1, 1)), dimension_numbers=NHWC)))

        found.append((jax.vmap(jax.grad(loss))(jnp.stack([k, v])), jax.jvp(jax.grad(loss), (k,), (v,))[1]))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1,), (2,)])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_compiled_convolution_is_nhwc_of_stride_1_but_the_forward_one(strides, groups):
    """The other forms are what is slow inside a loop on the CPU (jax issue 12868)."""
    axes = len(strides)
    x, k = jnp.zeros((16, *(16,) * axes, 16)), jnp.zeros((*(3,) * axes, 16 // groups, 16))
    options = {"dimension_numbers": LAYOUTS[2 + axes], "feature_group_count": groups}

    def loss(k, x):
        return jnp.sum(jnp.square(conv(x, k, strides, ((1, 1),) * axes, **options)))

    text = jax.jit(jax.grad(loss, (0, 1))).lower(k, x).compile().as_text()
    forms = re.findall(r" convolution\(.*?window=\{(.*?)\}, dim_labels=(\w+->\w+)(.*)", text)
    assert len(forms) >= 1 + axes  # the gradient of a sequence's kernel is a matrix product
    for window, labels, rest in forms:
        assert labels == "b01f_01io->b01f"
        assert "lhs_dilate" not in window
        assert "feature_group_count" not in rest


def test_sharded_batches_have_the_same_gradients():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    assert mesh.size == 4
    keys = jax.random.split(jax.random.key(0), 2)
    x, k = jax.random.normal(keys[0], (32, 8, 8, 8)), jax.random.normal(keys[1], (3, 3, 8, 8))
    gradient = jax.jit(jax.grad(lambda k, x: jnp.sum(jnp.sin(conv(x, k, (1, 1), "SAME", dimension_numbers=NHWC)))))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    one = gradient(k, jax.device_put(x, jax.devices()[0]))
    many = gradient(jax.device_put(k, NamedSharding(mesh, PartitionSpec())), sharded)
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-4)


def compiled(channels, dtype=jnp.float32, **options):
    x, k = jnp.zeros((2, 8, 8, channels), dtype), jnp.zeros((3, 3, channels, 4), dtype)
    text = jax.jit(lambda x, k: conv(x, k, (1, 1), "SAME", dimension_numbers=NHWC, **options)).lower(x, k)
    return text.compile().as_text()


def test_few_channels_become_a_matrix_product_on_the_cpu():
    assert "convolution" not in compiled(MAX_INPUT_CHANNELS)
    assert "convolution" in compiled(MAX_INPUT_CHANNELS + 1)
    assert "convolution" in compiled(2, jnp.bfloat16)
    assert "convolution" in compiled(2, rhs_dilation=(2, 2))


def test_conv_module_has_the_parameters_of_linen():
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    ours, general = Conv(8, (3, 3)), nn.Conv(8, (3, 3))
    variables = ours.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, general.init(jax.random.key(1), x))
    np.testing.assert_allclose(ours.apply(variables, x), general.apply(variables, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape, window", [((2, 8, 6, 3), (2, 2)), ((2, 9, 7, 3), (2, 2)), ((1, 9, 9, 2), (3, 3))])
@pytest.mark.parametrize("values", ["different", "tied"])
def test_pools_equal_linen(shape, window, values):
    x = jax.random.normal(jax.random.key(0), shape)
    if values == "tied":
        x = jnp.maximum(jnp.round(x), 0)
    for ours, general in ((max_pool, nn.max_pool), (avg_pool, nn.avg_pool)):
        out = general(x, window, window)
        weight = jax.random.normal(jax.random.key(1), out.shape)
        np.testing.assert_allclose(ours(x, window, window), out, rtol=1e-6)
        gradients = [jax.grad(lambda x, f=f, w=weight: jnp.sum(f(x, window, window) * w))(x) for f in (ours, general)]
        np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_overlapping_windows_are_linen_s():
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 3))
    np.testing.assert_array_equal(max_pool(x, (3, 3), (2, 2)), nn.max_pool(x, (3, 3), (2, 2)))
    np.testing.assert_array_equal(max_pool(x, (2, 2), (2, 2), "SAME"), nn.max_pool(x, (2, 2), (2, 2), "SAME"))
