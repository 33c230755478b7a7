"""One training step from imported weights beside torch's autograd: loss, every gradient, the statistics afterwards.

Everything of ours is compared under PyTorch's names, by our own export. Softplus stands for ReLU, whose kink would turn
a rounding difference into another gradient.
"""

import flax.linen
import jax
import numpy as np
import optax
import pytest
from test_torch_weights import Milesial, jit, package, randomized

import zoo
from zoo import rules
from zoo.weights import export, import_weights

torch = pytest.importorskip("torch")
nn = torch.nn


class OptionA(nn.Module):
    """A block of the usual ResNets for CIFAR: its shortcut is every second pixel, and zeros for the new channels."""

    def __init__(self, before, after):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, after // before, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)

    def forward(self, x):
        y = self.bn2(self.conv2(nn.functional.softplus(self.bn1(self.conv1(x)))))
        new = y.shape[1] - x.shape[1]
        if new:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new // 2, new // 2))
        return nn.functional.softplus(x + y)


class Cifar(nn.Module):
    """ResNet-20 and its like, section 4.2 of the paper, with the names that published weights have."""

    def __init__(self, depth=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for i, width in ((1, 16), (2, 32), (3, 64)):
            before = [16 if i == 1 else width // 2] + [width] * (depth - 1)
            setattr(self, f"layer{i}", nn.Sequential(*(OptionA(n, width) for n in before)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = nn.functional.softplus(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def resnet18():
    return package("torchvision").resnet18(num_classes=7)


# our model, theirs, layout, shape of an image, classes
CASES = {
    "resnet18": ("resnet18", {"num_classes": 7}, resnet18, "torchvision", (33, 38, 3), 7),
    "resnet20_cifar": ("resnet20_cifar", {}, Cifar, "cifar", (16, 16, 3), 10),
    "unet": (
        "unet", {"depth": 2, "width": 4, "num_classes": 5, "up": "transpose", "activation": "softplus"}, Milesial,
        "milesial", (16, 16, 3), 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_step(tmp_path, monkeypatch, name):
    ours, options, make, layout, shape, classes = CASES[name]
    net = randomized(make())
    for module in net.modules():
        for child, old in module.named_children():
            if isinstance(old, nn.ReLU):
                setattr(module, child, nn.Softplus())
    monkeypatch.setattr(flax.linen, "relu", jax.nn.softplus)
    model = zoo.create_model(ours, **options)
    torch.save(net.state_dict(), tmp_path / "x.pth")
    variables = import_weights(model, tmp_path / "x.pth", input=shape).variables

    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, *shape)).astype(np.float32)
    label = rng.integers(0, classes, (4, *shape[:2]) if name == "unet" else 4)
    counts = {}  # module -> how many values per channel its statistics are over
    for module_name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, args, out, n=module_name: counts.update({n: out[:, 0].numel()}))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    wanted = nn.functional.cross_entropy(
        net.train()(torch.from_numpy(x.transpose(0, 3, 1, 2))), torch.from_numpy(label)
    )
    wanted.backward()

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), state["batch_stats"]

    (found, stats), grads = jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    arrays = {key: np.asarray(leaf) for key, leaf in rules.flatten({"params": grads, "batch_stats": stats}).items()}
    exported = export.tensors(model, arrays, layout, None)
    after, compared = net.state_dict(), set()
    for key, parameter in net.named_parameters():
        gradient = parameter.grad.numpy()
        np.testing.assert_allclose(exported[key], gradient, rtol=1e-3, atol=1e-3 * np.abs(gradient).max(), err_msg=key)
        compared.add(key)
    for module_name, n in counts.items():
        mean, var = (f"{module_name}.running_{what}" for what in ("mean", "var"))
        # PyTorch's running variance takes the unbiased one of the batch, ours the biased, as Keras's.
        biased = 0.9 * before[var] + (after[var] - 0.9 * before[var]) * (n - 1) / n
        np.testing.assert_allclose(exported[mean], after[mean], rtol=1e-4, atol=1e-5, err_msg=mean)
        np.testing.assert_allclose(exported[var], biased, rtol=1e-4, err_msg=var)
        compared |= {mean, var}
    assert compared == set(exported)
