"""Recurrent layers against torch.nn.LSTM, GRU and RNN: states, last carries and gradients."""

from functools import partial

import jax
import numpy as np
import pytest

from zoo.models.recurrent import Recurrent

torch = pytest.importorskip("torch")
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PEERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
B, T, D, H, DEPTH = 3, 6, 4, 5, 2
LENGTHS = [6, 2, 4]


def params_of(net, read):
    params = {}
    for i in range(DEPTH):
        for ours, theirs in (("", ""), ("_reverse", "_reverse")):
            parts = {}
            for part, key in (("input", "ih"), ("recurrent", "hh")):
                kernel, bias = (read(getattr(net, f"{kind}_{key}_l{i}{theirs}")) for kind in ("weight", "bias"))
                parts[part] = {"kernel": kernel.T, "bias": bias}
            params[f"layer{i + 1}{ours}"] = parts
    return params


@pytest.mark.parametrize("cell", PEERS)
def test_two_layers_in_both_directions_with_sequences_of_different_lengths(cell):
    torch.manual_seed(0)
    net = PEERS[cell](D, H, DEPTH, batch_first=True, bidirectional=True)
    x = np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((B, T, 2 * H)).astype(np.float32)
    inputs = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, LENGTHS, batch_first=True, enforce_sorted=False)
    states, last = net(packed)
    states, _ = torch.nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
    last = {"h": last[0], "c": last[1]} if cell == "lstm" else {"h": last}
    ((states * torch.tensor(weight)).sum() + sum((part**2).sum() for part in last.values())).backward()

    model = Recurrent(width=H, depth=DEPTH, cell=cell, bidirectional=True, biases=2)
    keep = np.arange(T)[None] < np.array(LENGTHS)[:, None]

    def loss(params, x):
        carry, h = model.apply({"params": params}, x, keep_BT=keep)
        return (h * weight).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(carry)), (carry, h)

    params = params_of(net, lambda p: p.detach().numpy())
    (grads, x_grad), (carry, h) = jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(h, states.detach().numpy())
    names = [f"layer{i + 1}{way}" for i in range(DEPTH) for way in ("", "_reverse")]
    for key, part in last.items():
        close(np.stack([carry[name][key] for name in names]), part.detach().numpy())
    jax.tree.map(close, grads, params_of(net, lambda p: p.grad.numpy()))
    close(x_grad, inputs.grad.numpy())
