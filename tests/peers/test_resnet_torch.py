"""Residual networks against torchvision: logits, and what one training step does to the running statistics."""

import copy
import importlib.util
import pathlib
import sys
import warnings
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest

from zoo.models import resnet

torch = pytest.importorskip("torch")
# These programs run once: quick to compile is what counts.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TOOLS = pathlib.Path(__file__).resolve().parents[3] / "shared" / "tools"

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("needs torchvision", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if (TOOLS / "torchvision_cpu.py").exists():  # lets its CUDA wheel be imported beside a CPU torch
        sys.path.insert(0, str(TOOLS))
        import torchvision_cpu  # noqa: F401
    from torchvision.models import resnet as peer

Basic, Bottleneck = peer.BasicBlock, peer.Bottleneck
# Ours and theirs; one block per stage has every kind of layer.
PAIRS = {
    "resnet18": (resnet.make("resnet18"), Basic, [2, 2, 2, 2], {}),
    "bottleneck": (resnet.make("resnet50", depths=(1, 2, 1)), Bottleneck, [1, 2, 1, 1], {}),
    "wide": (resnet.make("wide_resnet50_2", depths=(1, 1)), Bottleneck, [1, 1, 1, 1], {"width_per_group": 128}),
}
OURS = {"conv1": "stem", "bn1": "stem_norm", "fc": "head"}
IN_BLOCK = {"bn1": "norm1", "bn2": "norm2", "bn3": "norm3", "downsample.0": "proj", "downsample.1": "proj_norm"}
LEAVES = {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var"), "bias": ("params", "bias")}


def variables_of(net, depth):
    """torchvision's tensors as our variables; `depth` stages of it."""
    variables = {"params": {}, "batch_stats": {}}
    for key, tensor in net.state_dict().items():
        module, leaf = key.rsplit(".", 1)
        if leaf == "num_batches_tracked" or (module.startswith("layer") and int(module[5]) > depth):
            continue
        if module.startswith("layer"):
            layer, block, inner = module.split(".", 2)
            path = (f"{layer}_{block}", IN_BLOCK.get(inner, inner))
        else:
            path = (OURS[module],)
        value = tensor.detach().numpy().copy()
        collection, name = LEAVES.get(leaf, ("params", "scale" if value.ndim == 1 else "kernel"))
        if value.ndim > 1:
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        tree = variables[collection]
        for part in path:
            tree = tree.setdefault(part, {})
        tree[name] = value
    return variables


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    model, block, depths, options = PAIRS[request.param]
    torch.manual_seed(0)
    net = peer.ResNet(block, depths, **options)
    for number, layer in enumerate(("layer1", "layer2", "layer3", "layer4"), start=1):
        if number > len(model.depths):
            setattr(net, layer, torch.nn.Identity())
    net.fc = torch.nn.Linear(model.stages[-1].width, 7)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return model.clone(num_classes=7), net, variables_of(net, len(model.depths))


def leaf_by_leaf(found, wanted, tolerance):
    found, wanted = jax.tree_util.tree_leaves_with_path(found), jax.tree_util.tree_leaves_with_path(wanted)
    assert [path for path, _ in found] == [path for path, _ in wanted]
    for (path, a), (_, b) in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(), err_msg=str(path))


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (2, 45, 38, 3)])
def test_evaluation(pair, shape):
    model, net, variables = pair
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)
    assert jax.tree.map(lambda leaf: leaf.shape, ours) == jax.tree.map(np.shape, variables)
    net.eval()
    with torch.no_grad():
        wanted = net(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    found = jit(model.apply)(variables, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_a_training_step(pair, monkeypatch):
    """Logits, gradients, and running statistics. PyTorch's running variance is the unbiased one, ours the biased.

    With softplus for ReLU, whose kink would turn a rounding difference into another gradient.
    """
    model, net, variables = pair
    net = copy.deepcopy(net)
    for module in net.modules():
        if hasattr(module, "relu"):
            module.relu = torch.nn.Softplus()
    monkeypatch.setattr(nn, "relu", jax.nn.softplus)
    x = np.random.default_rng(1).standard_normal((4, 45, 38, 3)).astype(np.float32)
    weight = np.random.default_rng(2).standard_normal((4, 7)).astype(np.float32)
    values = {}  # module -> how many values per channel its statistics are over
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda m, args, out: values.update({m: out.numel() // out.shape[1]}))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    logits = net(torch.from_numpy(x).permute(0, 3, 1, 2))
    (logits * torch.from_numpy(weight)).sum().backward()
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            kept, n = 0.9 * before[f"{name}.running_var"], values[module]
            module.running_var.copy_(kept + (module.running_var - kept) * (n - 1) / n)
    statistics = variables_of(net, len(model.depths))["batch_stats"]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.grad)
    gradients = variables_of(net, len(model.depths))["params"]

    def loss(params):
        found, state = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return (found * weight).sum(), (found, state)

    grads, (found, state) = jit(jax.grad(loss, has_aux=True))(variables["params"])
    wanted = logits.detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    leaf_by_leaf(state["batch_stats"], statistics, 1e-3)
    leaf_by_leaf(grads, gradients, 1e-3)
