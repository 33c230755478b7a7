"""Batch normalization against linen's: values, gradients, statistics, and when it trains."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.models.batch_norm import BatchNorm


@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 6, 7)])
@pytest.mark.parametrize("train", [True, False])
def test_equals_linen(shape, train):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3 + 2 * jax.random.normal(keys[0], shape)
    weight = jax.random.normal(keys[1], shape)
    ours, linen = BatchNorm(momentum=0.8, epsilon=1e-3), nn.BatchNorm(not train, momentum=0.8, epsilon=1e-3)
    variables = ours.init(keys[2], x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, linen.init(keys[2], x))
    variables = jax.tree.map(lambda v: v + jax.random.uniform(keys[3], v.shape), variables)

    @jax.jit
    def result(variables, x):
        found = []
        for model in (ours, linen):

            def loss(params, x, model=model):
                y, state = model.apply({**variables, "params": params}, x, mutable=["batch_stats"] if train else [])
                return jnp.sum(jnp.sin(y) * weight), (y, state)

            found.append(jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x))
        return found

    a, b = result(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


def test_it_trains_if_and_only_if_the_statistics_are_mutable():
    x = jax.random.normal(jax.random.key(0), (8, 3)) + 1
    model = BatchNorm()
    variables = model.init(jax.random.key(1), x)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)  # making it is not training
    frozen = model.apply(variables, x)
    np.testing.assert_allclose(frozen, x, rtol=1e-4)
    _, updated = model.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * x.mean(0), rtol=1e-5)


def test_half_precision_keeps_its_statistics():
    x = (100 + jax.random.normal(jax.random.key(0), (4096, 2))).astype(jnp.bfloat16)
    model = BatchNorm(dtype="bfloat16", momentum=0.0)
    y, state = model.apply(model.init(jax.random.key(1), x), x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert state["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(state["batch_stats"]["mean"], x.astype(jnp.float32).mean(0), rtol=1e-5)
