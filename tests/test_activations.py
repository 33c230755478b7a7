"""Activations against their formulas in NumPy."""

import jax
import numpy as np
import pytest
from scipy import special
from scipy.special import erf

from zoo import activations
from zoo.errors import UserError

# Where a formula has constants, they are those of its paper.
FORMULAS = {
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "lecun_tanh": lambda x: 1.7159 * np.tanh(2 * x / 3),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softmax": lambda x: special.softmax(x, axis=-1),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "step": lambda x: np.where(x > 0, 1, 0),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_formula(name):
    x = np.linspace(-6, 6, 121).reshape(11, 11)
    found = np.asarray(activations.get(name)(np.float32(x)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, FORMULAS[name](x), rtol=1e-5, atol=2e-6)


def test_lecun_tanh_of_one_is_one():
    """What the constants are for (LeCun et al. 1998, section 4.4)."""
    assert float(activations.get("lecun_tanh")(1.0)) == pytest.approx(1, abs=1e-4)
    assert float(activations.get("lecun_tanh")(-1.0)) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_gradient_is_finite_everywhere(name):
    x = np.float32([-1e4, -50, -1, 0, 1, 50, 1e4])
    assert np.isfinite(jax.jacobian(activations.get(name))(x)).all()


def test_step_passes_gradients_straight_through():
    """As if it were the identity (Bengio et al. 2013), which is the only reason why it can be trained."""
    x, weight = np.float32([-2, -0.0, 0.0, 1e-30, 3]), np.float32([1, 2, 3, 4, 5])
    step = activations.get("step")
    assert step(x).tolist() == [0, 0, 0, 1, 1]
    assert jax.grad(lambda x: weight @ step(x))(x).tolist() == weight.tolist()
    assert jax.jit(step)(x.astype(jax.numpy.bfloat16)).dtype == jax.numpy.bfloat16


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softmax_with_a_temperature(temperature):
    x = np.float32(3 * np.random.default_rng(0).standard_normal((5, 7)))
    found = activations.softmax(x, temperature)
    np.testing.assert_allclose(found, special.softmax(np.float64(x) / temperature, -1), rtol=1e-5)
    assert (np.asarray(found).argmax(-1) == x.argmax(-1)).all()
    assert (activations.softmax(x, 100.0).max(-1) < activations.softmax(x).max(-1)).all()


def test_unknown():
    with pytest.raises(UserError, match=r"unknown activation 'rellu'; did you mean 'relu'"):
        activations.get("rellu")
