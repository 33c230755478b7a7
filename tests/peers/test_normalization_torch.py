"""Normalization layers and weight standardization against PyTorch's: values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.models.normalization import normalized, standardized

torch = pytest.importorskip("torch")
N, H, W, C = 3, 5, 4, 8
PEERS = {
    "batch": lambda: torch.nn.BatchNorm2d(C),
    "layer": lambda: torch.nn.GroupNorm(1, C),  # over channels and places, a scale per channel
    "group:4": lambda: torch.nn.GroupNorm(4, C),
    "instance": lambda: torch.nn.InstanceNorm2d(C, affine=True),
    "response": lambda: torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2),  # the mean for the sum
}


class Layer(nn.Module):
    norm: str

    @nn.compact
    def __call__(self, x):
        return normalized(x, self.norm, name="norm1")


@pytest.mark.parametrize("norm", PEERS)
def test_values_and_gradients(norm):
    rng = np.random.default_rng(0)
    x, weight = np.float32(rng.standard_normal((2, N, H, W, C)) * 2 + 1)
    scale, bias = np.float32(rng.standard_normal((2, C)))
    peer = PEERS[norm]()
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()
    if norm != "response":
        with torch.no_grad():
            peer.weight.copy_(torch.from_numpy(scale))
            peer.bias.copy_(torch.from_numpy(bias))
    y = peer(theirs)
    (y * torch.from_numpy(weight.transpose(0, 3, 1, 2))).sum().backward()

    layer = Layer(norm)
    variables = layer.init(jax.random.key(0), x)
    params = {"norm1": {"scale": scale, "bias": bias}} if norm != "response" else {}

    def loss(params, x):
        found, _ = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(found * weight), found

    (_, found), (grads, gradient) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(found, y.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-4)
    if params:
        np.testing.assert_allclose(grads["norm1"]["scale"], peer.weight.grad, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(grads["norm1"]["bias"], peer.bias.grad, rtol=1e-3, atol=1e-3)


def test_weight_standardization():
    """`torch.var_mean` over all but the output channels, as the authors' code has it."""
    kernel = np.float32(np.random.default_rng(0).standard_normal((3, 3, 6, 7)) + 0.5)
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    var, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
    wanted = (weight - mean) / torch.sqrt(var + 1e-5)
    np.testing.assert_allclose(standardized(kernel), wanted.numpy().transpose(2, 3, 1, 0), atol=1e-5)
