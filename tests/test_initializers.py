"""Initializers by the statistics that their papers ask for."""

import jax
import numpy as np
import pytest

from zoo import initializers
from zoo.errors import UserError

FAN_IN, FAN_OUT = 300, 200

# name -> standard deviation, and the largest value in standard deviations: 0.87962566 is what two of them, cut off,
# leave of a normal's deviation
STATISTICS = {
    "glorot_normal": (np.sqrt(2 / (FAN_IN + FAN_OUT)), 2 / 0.87962566),
    "glorot_uniform": (np.sqrt(2 / (FAN_IN + FAN_OUT)), np.sqrt(3)),
    "he_normal": (np.sqrt(2 / FAN_IN), 2 / 0.87962566),
    "he_uniform": (np.sqrt(2 / FAN_IN), np.sqrt(3)),
    "lecun_normal": (np.sqrt(1 / FAN_IN), 2 / 0.87962566),
    "lecun_uniform": (np.sqrt(1 / FAN_IN), np.sqrt(3)),
    "normal": (0.01, 6),
    "truncated_normal": (0.01 * 0.87962566, 2 / 0.87962566),  # 0.01 is that of the whole normal
}


def draw(name, shape=(FAN_IN, FAN_OUT), seed=0):
    return np.asarray(initializers.get(name)(jax.random.key(seed), shape))


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics(name):
    values, (std, largest) = draw(name), STATISTICS[name]
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.02 * std
    assert values.std() == pytest.approx(std, rel=0.02)
    assert np.abs(values).max() <= largest * std * 1.001


def test_normal_has_tails_and_truncated_normal_has_none():
    assert np.abs(draw("normal")).max() > 0.03
    assert np.abs(draw("truncated_normal")).max() <= 0.02 * (1 + 1e-6)


def test_uniform_fills_its_range():
    values = draw("he_uniform")
    edge = np.sqrt(6 / FAN_IN)
    counts, _ = np.histogram(values, bins=10, range=(-edge, edge))
    assert counts.sum() == values.size
    assert counts.min() > 0.9 * values.size / 10


def test_orthogonal():
    values = draw("orthogonal", (20, 30))
    np.testing.assert_allclose(values @ values.T, np.eye(20), atol=1e-5)


def test_constants():
    assert (draw("ones", (3, 4)) == 1).all()
    assert (draw("zeros", (3, 4)) == 0).all()
    assert (draw(0.25, (3, 4)) == 0.25).all()
    assert (draw(-2, (3,)) == -2).all()
    # What keeps rectifiers alive at the start (Goodfellow et al. 2016, section 8.4).
    assert (np.asarray(initializers.get_bias(0.1)(jax.random.key(0), (7,))) == np.float32(0.1)).all()


@pytest.mark.parametrize("name", [*STATISTICS, "orthogonal"])
def test_seed_decides(name):
    assert (draw(name) == draw(name)).all()
    assert (draw(name) != draw(name, seed=1)).any()


def test_every_name_is_tested():
    assert set(initializers.INITIALIZERS) == {*STATISTICS, "orthogonal", "ones", "zeros"}


@pytest.mark.parametrize("name, near", [("he_norml", "he_normal"), ("glorot", "glorot_normal")])
def test_unknown(name, near):
    with pytest.raises(UserError, match=rf"unknown initializer '{name}'; did you mean .*'{near}'"):
        initializers.get(name)


@pytest.mark.parametrize("name", [*initializers.INITIALIZERS, 0.5])
def test_biases(name):
    """What can fill a vector does; what cannot says so before it is tried."""
    if name in initializers.FOR_BIASES or name == 0.5:
        assert initializers.get_bias(name)(jax.random.key(0), (7,)).shape == (7,)
    else:
        with pytest.raises(UserError, match=rf"initializer '{name}' cannot fill a bias"):
            initializers.get_bias(name)
        with pytest.raises(ValueError, match="2"):
            initializers.get(name)(jax.random.key(0), (7,))
