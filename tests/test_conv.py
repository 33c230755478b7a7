"""The convolution and the pooling of the zoo against JAX's own: values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from zoo.models.conv import MAX_INPUT_CHANNELS, NHWC, Conv, avg_pool, conv, max_pool

CASES = [  # height, width, channels in and out, kernel, strides, padding
    (28, 28, 1, 6, (5, 5), (1, 1), ((2, 2), (2, 2))),
    (14, 14, 6, 16, (5, 5), (1, 1), "VALID"),
    (8, 10, 3, 4, (3, 3), (1, 1), "SAME"),
    (9, 12, 3, 4, (3, 3), (2, 2), ((1, 1), (1, 1))),
    (12, 9, 2, 5, (3, 1), (1, 2), "SAME"),
    (8, 13, 3, 4, (3, 3), (1, 1), "SAME"),  # a prime width has no tile
    (8, 8, 7, 4, (3, 3), (1, 1), "SAME"),  # too many channels for the product
    (6, 6, 4, 4, (1, 1), (2, 2), "VALID"),
]


@pytest.mark.parametrize("height, width, c_in, c_out, kernel, strides, padding", CASES)
def test_conv_equals_lax(height, width, c_in, c_out, kernel, strides, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (4, height, width, c_in))
    k = jax.random.normal(keys[1], (*kernel, c_in, c_out))

    def general(x, k):
        return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=NHWC)

    def ours(x, k):
        return conv(x, k, strides, padding, dimension_numbers=NHWC)

    weight = jax.random.normal(keys[2], jax.eval_shape(general, x, k).shape)
    results = [
        jax.jit(lambda x, k, f=f: (f(x, k), jax.grad(lambda x, k: jnp.sum(f(x, k) * weight), (0, 1))(x, k)))(x, k)
        for f in (general, ours)
    ]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(a).max()))


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
