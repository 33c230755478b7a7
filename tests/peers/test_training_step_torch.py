"""One training step from imported weights beside torch's autograd: loss, every gradient, the statistics afterwards.

Everything of ours is compared under PyTorch's names, by our own export. Softplus stands for ReLU, whose kink would turn
a rounding difference into another gradient.
"""

import flax.linen
import jax
import numpy as np
import optax
import pytest
from torch_networks import PEERS, WHOLE, jit, nn, randomized, to_torch, torch

import zoo
from zoo import rules
from zoo.weights import export, import_weights

CASES = PEERS | WHOLE


@pytest.mark.parametrize("name", [*PEERS, *(pytest.param(name, marks=pytest.mark.slow) for name in WHOLE)])
def test_a_step(tmp_path, monkeypatch, name):
    peer = CASES[name]
    net = randomized(peer.make())
    monkeypatch.setattr(nn.functional, "relu", lambda x, inplace=False: nn.functional.softplus(x))
    monkeypatch.setattr(flax.linen, "relu", jax.nn.softplus)
    model = zoo.create_model(peer.ours, **peer.options)
    if hasattr(model, "activation"):
        model = model.clone(activation="softplus")
    torch.save({peer.renamed(key): tensor for key, tensor in net.state_dict().items()}, tmp_path / "x.pth")
    variables = import_weights(model, tmp_path / "x.pth", input=peer.shape).variables

    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, *peer.shape)).astype(np.float32)
    label = rng.integers(0, model.num_classes, (4, *peer.shape[:2]) if peer.ours == "unet" else 4)
    counts = {}  # module -> how many values per channel its statistics are over
    for module_name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.register_forward_hook(lambda m, args, out, n=module_name: counts.update({n: out[:, 0].numel()}))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    wanted = nn.functional.cross_entropy(net.train()(to_torch(x)), torch.from_numpy(label))
    wanted.backward()

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, x, train=True, mutable="batch_stats")
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), state

    (found, stats), grads = jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    arrays = {key: np.asarray(leaf) for key, leaf in rules.flatten({"params": grads, **stats}).items()}
    exported, _ = export.tensors(model, arrays, peer.layout, peer.shape)
    after, compared = net.state_dict(), set()
    for key, parameter in net.named_parameters():
        gradient = parameter.grad.numpy()
        atol = max(1e-3 * np.abs(gradient).max(), 1e-6)  # a bias before BN has no gradient, but rounding
        np.testing.assert_allclose(exported[key], gradient, rtol=1e-3, atol=atol, err_msg=key)
        compared.add(key)
    for module_name, n in counts.items():
        mean, var = (f"{module_name}.running_{what}" for what in ("mean", "var"))
        # PyTorch's running variance takes the unbiased one of the batch, ours the biased, as Keras's.
        biased = 0.9 * before[var] + (after[var] - 0.9 * before[var]) * (n - 1) / n
        np.testing.assert_allclose(exported[mean], after[mean], rtol=1e-4, atol=1e-5, err_msg=mean)
        np.testing.assert_allclose(exported[var], biased, rtol=1e-4, err_msg=var)
        compared |= {mean, var}
    assert compared == set(exported)
