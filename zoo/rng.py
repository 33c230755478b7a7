"""Random keys: everything random follows from `(seed, step)`, so nothing random is ever stored.

Each use has its own stream, so that one more random number in the augmentation does not change the order of the
batches or the dropout masks.
"""

import jax

STREAMS = ("init", "augment", "model", "noise")


def key(seed, stream: str, step=0):
    """The PRNG key of one stream at one step; `seed` and `step` may be traced."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STREAMS.index(stream)), step)
