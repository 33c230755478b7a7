"""Text from a language model, one token after the other."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from zoo.errors import UserError


def check(temperature: float, top_k: int, top_p: float) -> None:
    for key, value, right, what in (
        ("temperature", temperature, temperature >= 0, "0 (the likeliest token) or more"),
        ("top_k", top_k, top_k >= 0, "0 (all) or more"),
        ("top_p", top_p, 0 < top_p <= 1, "in (0, 1]"),
    ):
        if not right:
            raise UserError(f"{key} is {value}; it must be {what}")


def restricted(logits, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0):
    """Logits [V] to sample from: divided by `temperature`, and -inf for excluded tokens.

    Args:
      temperature: 0 leaves only the likeliest token (the first of equals).
      top_k: only the k likeliest (and what is as likely as the last of them); 0: all.
      top_p: of these, the fewest that have together at least this probability (Holtzman et al. 2020, arXiv:1904.09751).
    """
    if temperature == 0:
        return jnp.where(jnp.arange(len(logits)) == jnp.argmax(logits), 0.0, -jnp.inf)
    logits = jnp.asarray(logits) / temperature
    if 0 < top_k < len(logits):
        logits = jnp.where(logits < jax.lax.top_k(logits, top_k)[0][-1], -jnp.inf, logits)
    if top_p < 1:
        order = jnp.argsort(-logits)
        likely = jax.nn.softmax(logits[order])
        before = jnp.cumsum(likely) - likely
        logits = logits.at[order].set(jnp.where(before < top_p, logits[order], -jnp.inf))
    return logits


def generate(
    model, params, prompt, *, seed: int = 0, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Iterator[int]:
    """Token after token, without end; equal arguments give equal tokens.

    Args:
      model: a language model with a carry, as `lstm_lm`.
      prompt: token ids [T], at least one; read before the first token is drawn.
    """
    check(temperature, top_k, top_p)

    @jax.jit
    def read(params, carry, token):
        logits, carry = model.apply({"params": params}, token[None], carry, return_carry=True)
        return logits[0, -1], carry

    @jax.jit
    def draw(logits, step):
        key = jax.random.fold_in(jax.random.key(seed), step)
        return jax.random.categorical(key, restricted(logits, temperature=temperature, top_k=top_k, top_p=top_p))

    logits, carry = read(params, model.initial_carry(1), np.asarray(prompt, np.int32))
    step = 0
    while True:
        token = draw(logits, np.int32(step))
        yield int(token)
        logits, carry = read(params, carry, token[None])
        step += 1
