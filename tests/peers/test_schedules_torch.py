"""Schedules beside those of torch.optim.lr_scheduler, value by value. Their epoch is our step."""

import warnings

import jax
import numpy as np
import pytest

from zoo import schedules

torch = pytest.importorskip("torch")
lr_scheduler = torch.optim.lr_scheduler

LR, STEPS = 0.3, 120

# ours: name and options; theirs: a function of their optimizer
PAIRS = {
    "step": (
        {"name": "step", "at": (25, 50, 75), "factor": 0.2},
        lambda tx: lr_scheduler.MultiStepLR(tx, [30, 60, 90], gamma=0.2),
    ),
    "exponential": (
        {"name": "exponential", "end": 0.01},
        lambda tx: lr_scheduler.ExponentialLR(tx, 0.01 ** (1 / STEPS)),
    ),
    "linear": (
        {"name": "linear", "end": 0.1, "over_steps": 50},
        lambda tx: lr_scheduler.LinearLR(tx, 1.0, 0.1, total_iters=50),
    ),
    "polynomial": (
        {"name": "polynomial", "power": 0.9},
        lambda tx: lr_scheduler.PolynomialLR(tx, STEPS, power=0.9),
    ),
    "cosine": (
        {"name": "cosine", "end": 0.1},
        lambda tx: lr_scheduler.CosineAnnealingLR(tx, STEPS, eta_min=0.1 * LR),
    ),
    "cosine_restarts": (
        {"name": "cosine_restarts", "cycle_steps": 10, "length_mult": 2.0, "end": 0.1},
        lambda tx: lr_scheduler.CosineAnnealingWarmRestarts(tx, 10, T_mult=2, eta_min=0.1 * LR),
    ),
    "triangular": (
        {"name": "cyclical", "cycle_steps": 20, "base": 0.1},
        lambda tx: lr_scheduler.CyclicLR(tx, 0.1 * LR, LR, step_size_up=10, cycle_momentum=False),
    ),
    "triangular2": (
        {"name": "cyclical", "cycle_steps": 20, "base": 0.1, "policy": "triangular2"},
        lambda tx: lr_scheduler.CyclicLR(tx, 0.1 * LR, LR, step_size_up=10, mode="triangular2", cycle_momentum=False),
    ),
    "exp_range": (
        {"name": "cyclical", "cycle_steps": 20, "base": 0.1, "policy": "exp_range", "gamma": 0.99},
        lambda tx: lr_scheduler.CyclicLR(
            tx, 0.1 * LR, LR, step_size_up=10, mode="exp_range", gamma=0.99, cycle_momentum=False
        ),
    ),
    # Theirs ends at its last step, ours after it; theirs peaks one step before `pct_start` of the steps.
    "one_cycle": (
        {"name": "one_cycle", "rise": 25.0, "start": 0.04, "end": 4e-5},
        lambda tx: lr_scheduler.OneCycleLR(
            tx, LR, STEPS + 1, pct_start=31 / 121, div_factor=25, final_div_factor=1e3, cycle_momentum=False
        ),
    ),
}


def theirs(make) -> np.ndarray:
    tx = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step was taken, and deprecations of its own
        scheduler, rates = make(tx), []
        for _ in range(STEPS):
            rates.append(tx.param_groups[0]["lr"])
            scheduler.step()
    return np.array(rates)


@pytest.mark.parametrize("pair", PAIRS)
def test_value_by_value(pair):
    options, make = PAIRS[pair]
    schedule = schedules.make(LR, STEPS, options, steps_per_epoch=10, batch_size=4)
    ours = jax.jit(jax.vmap(schedule))(np.arange(STEPS, dtype=np.int32))
    np.testing.assert_allclose(ours, theirs(make), rtol=2e-5, atol=1e-8)


def test_warmup():
    options = {"name": "constant", "warmup_steps": 25}
    schedule = schedules.make(LR, STEPS, options, steps_per_epoch=10, batch_size=4)
    # theirs cannot start at 0
    np.testing.assert_allclose(
        jax.vmap(schedule)(np.arange(1, STEPS, dtype=np.int32)),
        theirs(lambda tx: lr_scheduler.LinearLR(tx, 1e-9, 1.0, total_iters=25))[1:],
        rtol=1e-5,
    )
