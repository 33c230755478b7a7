"""Projections: what they reach by hand, that they reach it once, and what they leave alone."""

import jax
import numpy as np
import pytest

from zoo.constraints import CONSTRAINTS
from zoo.errors import UserError

DENSE = np.float32([[3, 0.3, 0, -1], [4, -0.4, 0, 2]])  # columns of norm 5, 0.5, 0 and sqrt(5)


def test_non_negative():
    found = CONSTRAINTS["non_negative"]()(DENSE)
    np.testing.assert_array_equal(found, np.float32([[3, 0.3, 0, 0], [4, 0, 0, 2]]))


def test_max_norm_of_each_column():
    wanted = np.float32([[1.2, 0.3, 0, -2 / 5**0.5], [1.6, -0.4, 0, 4 / 5**0.5]])
    np.testing.assert_allclose(CONSTRAINTS["max_norm"](2.0)(DENSE), wanted, rtol=1e-6)


def test_unit_norm_of_each_column():
    wanted = np.float32([[0.6, 0.6, 0, -1 / 5**0.5], [0.8, -0.8, 0, 2 / 5**0.5]])
    np.testing.assert_allclose(CONSTRAINTS["unit_norm"]()(DENSE), wanted, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (7, 5), (5,)])
def test_a_unit_is_the_last_axis(shape):
    w = np.float32(3 * np.random.default_rng(0).standard_normal(shape))
    norms = np.sqrt((w.reshape(-1, 5) ** 2).sum(0))
    assert (norms > 1.3).any()
    assert (norms < 1.3).any() or len(shape) > 1
    np.testing.assert_allclose(CONSTRAINTS["max_norm"](1.3)(w), w * np.minimum(1, 1.3 / norms), rtol=1e-5)
    np.testing.assert_allclose(CONSTRAINTS["unit_norm"]()(w), w / norms, rtol=1e-5)


@pytest.mark.parametrize(
    "kind, values", [("non_negative", ()), ("max_norm", (0.1,)), ("max_norm", (1.9365,)), ("unit_norm", ())]
)
def test_once_is_enough(kind, values):
    """Where nothing moved, nothing moves: accumulation projects after steps that change nothing."""
    w = np.float32(np.random.default_rng(1).standard_normal((40, 30)))
    project = jax.jit(CONSTRAINTS[kind](*values))
    once = project(w)
    again = once
    for _ in range(50):
        again = project(again)
    np.testing.assert_allclose(again, once, rtol=3e-7, atol=0)


def test_what_is_inside_the_bound_is_left_alone_to_the_bit():
    w = np.float32(np.random.default_rng(2).standard_normal((40, 30)))
    np.testing.assert_array_equal(jax.jit(CONSTRAINTS["max_norm"](11.3))(w), w)


def test_every_kind_is_tested():
    assert set(CONSTRAINTS) == {"max_norm", "non_negative", "unit_norm"}


def test_a_limit_of_nothing():
    with pytest.raises(UserError, match="limit of max_norm is 0"):
        CONSTRAINTS["max_norm"](0.0)
