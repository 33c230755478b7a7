"""The adding problem (Hochreiter & Schmidhuber 1997, section 5.4): a long memory as a regression, generated.

Each step has a number, uniform in 0..1, and a mark; the answer is the sum of the two numbers that are marked, one in
each half of the sequence. Always predicting 1 has a mean squared error of 1/6.
"""

import numpy as np

from zoo.options import check_ranges
from zoo.types import Source

STEPS = 50
ROWS = {"train": 20_000, "validation": 2000, "test": 2000}


def adding(data_dir=None) -> Source:
    """Features float32 [N, 50, 2] (number, mark), targets float32 [N]; always the same ones."""
    return generate()


def generate(*, steps: int = STEPS, rows=None, seed: int = 1997) -> Source:
    """The same with another number of steps, or of rows by split."""
    check_ranges("adding", steps=(steps, 2, 10_000), seed=(seed, 0, 2**63 - 1))
    rng, arrays = np.random.default_rng(seed), {}
    for split, count in (rows or ROWS).items():
        feature = np.zeros((count, steps, 2), np.float32)
        feature[..., 0] = rng.random((count, steps), np.float32)
        row = np.arange(count)
        marked = rng.integers(0, steps // 2, count), rng.integers(steps // 2, steps, count)
        for place in marked:
            feature[row, place, 1] = 1
        arrays[split] = {"feature": feature, "target": sum(feature[row, place, 0] for place in marked)}
    return Source(**arrays, feature_names=("number", "mark"))
