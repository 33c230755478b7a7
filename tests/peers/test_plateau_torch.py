"""The scale at plateaus beside torch.optim.lr_scheduler.ReduceLROnPlateau, on random walks."""

import numpy as np
import pytest

from zoo import plateau

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("seed", range(30))
def test_against_torch(seed):
    rng = np.random.default_rng(seed)
    values = np.round(np.cumsum(rng.normal(-0.05, 0.3, size=100)), 2)  # rounded: ties happen
    settings = {
        "monitor": "validation/loss",
        "factor": rng.uniform(0.2, 0.9),
        "patience": int(rng.integers(1, 6)),
        "min_delta": rng.choice([0.0, 0.1]),
        "cooldown": int(rng.integers(0, 4)),
        "min_scale": rng.choice([0.0, 0.05]),
        "mode": rng.choice(["min", "max"]),
    }
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=settings["mode"],
        factor=settings["factor"],
        patience=settings["patience"] - 1,  # torch reduces after one more than its patience; Keras and we at it
        threshold=settings["min_delta"],
        threshold_mode="abs",
        cooldown=settings["cooldown"],
        min_lr=settings["min_scale"],
        eps=0.0,
    )
    theirs = []
    for value in values:
        scheduler.step(value)
        theirs.append(optimizer.param_groups[0]["lr"])
    ours = [plateau.scale(values[: n + 1], settings) for n in range(len(values))]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert ours[-1] < 1
