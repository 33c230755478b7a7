"""Schedules beside those of Keras, value by value."""

import jax
import numpy as np
import pytest

from zoo import schedules

keras = pytest.importorskip("keras")
theirs = keras.optimizers.schedules

LR, STEPS = 0.3, 120

PAIRS = {
    "fractional": ({"name": "fractional", "decay": 6.0}, theirs.InverseTimeDecay(LR, STEPS, 6.0)),
    "fractional by its decay per step": (
        {"name": "fractional", "decay": 0.1 * STEPS},
        theirs.InverseTimeDecay(LR, 1, 0.1),
    ),
    "exponential": ({"name": "exponential", "end": 0.02}, theirs.ExponentialDecay(LR, STEPS, 0.02)),
    "polynomial": (
        {"name": "polynomial", "power": 2.0, "end": 0.1, "over_steps": 80},
        theirs.PolynomialDecay(LR, 80, 0.1 * LR, power=2.0),
    ),
    "linear": ({"name": "linear", "end": 0.1}, theirs.PolynomialDecay(LR, STEPS, 0.1 * LR)),
    "cosine": ({"name": "cosine", "end": 0.1}, theirs.CosineDecay(LR, STEPS, alpha=0.1)),
    "cosine after a warmup": (
        {"name": "cosine", "warmup_steps": 20},
        theirs.CosineDecay(0.0, STEPS - 20, warmup_target=LR, warmup_steps=20),
    ),
    "cosine_restarts": (
        {"name": "cosine_restarts", "cycle_steps": 10, "length_mult": 2.0, "peak_mult": 0.7},
        theirs.CosineDecayRestarts(LR, 10, t_mul=2.0, m_mul=0.7),
    ),
    # theirs drops after the boundary, ours at it
    "step": (
        {"name": "step", "at": (25, 50), "factor": 0.1},
        theirs.PiecewiseConstantDecay([29, 59], [LR, 0.1 * LR, 0.01 * LR]),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_value_by_value(pair):
    options, schedule = PAIRS[pair]
    ours = schedules.make(LR, STEPS, options, steps_per_epoch=10, batch_size=4)
    steps = np.arange(STEPS, dtype=np.int32)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(ours))(steps), [float(schedule(int(step))) for step in steps], rtol=5e-5, atol=1e-7
    )
