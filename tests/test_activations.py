"""Activations against their formulas in NumPy."""

import jax
import numpy as np
import pytest
from scipy.special import erf

from zoo import activations
from zoo.errors import UserError

# Where a formula has constants, they are those of its paper.
FORMULAS = {
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "lecun_tanh": lambda x: 1.7159 * np.tanh(2 * x / 3),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
TOLERANCE = {"gelu": 5e-4}  # the tanh approximation of the paper, JAX's default


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_formula(name):
    x = np.linspace(-6, 6, 121).reshape(11, 11)
    found = np.asarray(activations.get(name)(np.float32(x)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, FORMULAS[name](x), rtol=1e-5, atol=TOLERANCE.get(name, 2e-6))


def test_lecun_tanh_of_one_is_one():
    """What the constants are for (LeCun et al. 1998, section 4.4)."""
    assert float(activations.get("lecun_tanh")(1.0)) == pytest.approx(1, abs=1e-4)
    assert float(activations.get("lecun_tanh")(-1.0)) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_gradient_is_finite_everywhere(name):
    x = np.float32([-1e4, -50, -1, 0, 1, 50, 1e4])
    assert np.isfinite(jax.vmap(jax.grad(activations.get(name)))(x)).all()


def test_unknown():
    with pytest.raises(UserError, match=r"unknown activation 'rellu'; did you mean 'relu'"):
        activations.get("rellu")
