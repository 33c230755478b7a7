"""AlexNet: its counts, both variants against PyTorch's operations, response normalization and adaptive pooling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model
from zoo.errors import UserError
from zoo.models import alexnet
from zoo.models.local_response_norm import local_response_norm

TINY = {"widths": (4, 6, 8, 6, 4), "hidden": 16, "num_classes": 5}


# These programs run once: quick to compile is what counts.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).standard_normal(shape))


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def random(model, x):
    normal = np.random.default_rng(7).standard_normal
    return jax.tree.map(lambda s: np.float32(normal(s.shape) / max(np.prod(s.shape[:-1]), 9) ** 0.5), shapes(model, x))


def counts(variant):
    params = shapes(create_model("alexnet", variant=variant), images(1, 224, 224, 3))["params"]
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}


DENSE = {"dense1": 37_752_832, "dense2": 16_781_312, "head": 4_097_000}


def test_parameters_of_2014():
    found = counts("2014")
    convs = {"conv1": 23_296, "conv2": 307_392, "conv3": 663_936, "conv4": 884_992, "conv5": 590_080}
    assert found == convs | DENSE
    assert sum(found.values()) == 61_100_840


def test_parameters_of_2012():
    """The kernels are 11x11x3, 5x5x48, 3x3x256, 3x3x192 and 3x3x192, as section 3.5 says."""
    found = counts("2012")
    sizes = ((96, 11 * 11 * 3), (256, 5 * 5 * 48), (384, 3 * 3 * 256), (384, 3 * 3 * 192), (256, 3 * 3 * 192))
    assert found == {f"conv{i}": n * (size + 1) for i, (n, size) in enumerate(sizes, start=1)} | DENSE
    assert sum(found.values()) == 60_965_224


def test_sizes_of_the_maps():
    """Figure 2: 55x55, 27x27 and 13x13 for images of 224x224; 6x6x256 enter the dense layers."""
    model, x = create_model("alexnet", variant="2012", features_only=True), images(1, 224, 224, 3)
    maps = jax.eval_shape(model.apply, shapes(model, x), x)
    assert [m.shape for m in maps] == [(1, 55, 55, 96), (1, 27, 27, 256), (1, 13, 13, 256)]
    assert model.stages == ((4, 96), (8, 256), (16, 256))
    assert shapes(create_model("alexnet"), x)["params"]["dense1"]["kernel"].shape == (6 * 6 * 256, 4096)


@pytest.mark.parametrize(
    "variant, side, options",
    [
        ("2014", 224, {}),
        ("2014", 95, {"global_pool": "max"}),
        ("2012", 95, {}),
        ("2014", 63, {"groups": 2, "response_norm": "across"}),
    ],
)
def test_against_pytorch(variant, side, options):
    torch = pytest.importorskip("torch")
    from torch.nn import functional as F

    model, x = create_model("alexnet", variant=variant, **TINY, **options), images(2, side, side + 9, 3)
    variables = random(model, x)
    params = jax.tree.map(torch.from_numpy, variables["params"])

    def conv(x, number, stride, padding):
        kernel, bias = params[f"conv{number}"]["kernel"].permute(3, 2, 0, 1), params[f"conv{number}"]["bias"]
        return F.relu(F.conv2d(x, kernel, bias, stride, padding, groups=x.shape[1] // kernel.shape[1]))

    def norm(x):  # PyTorch's alpha is of the mean
        return F.local_response_norm(x, 5, 5e-4, 0.75, 2.0) if model.response_norm == "across" else x

    y = F.max_pool2d(norm(conv(torch.from_numpy(x).permute(0, 3, 1, 2), 1, 4, 2)), 3, 2)
    y = F.max_pool2d(norm(conv(y, 2, 1, 2)), 3, 2)
    y = F.max_pool2d(conv(conv(conv(y, 3, 1, 1), 4, 1, 1), 5, 1, 1), 3, 2)
    pool = F.adaptive_max_pool2d if model.global_pool == "max" else F.adaptive_avg_pool2d
    y = pool(y, 6).permute(0, 2, 3, 1).reshape(2, -1)
    for name in ("dense1", "dense2"):
        y = F.relu(y @ params[name]["kernel"] + params[name]["bias"])
    y = y @ params["head"]["kernel"] + params["head"]["bias"]
    found = jit(model.apply)(variables, x)
    np.testing.assert_allclose(found, y.numpy(), rtol=1e-3, atol=1e-4)


def test_initial_weights_of_2012():
    """Section 5: standard deviation 0.01; biases of one in conv2, conv4, conv5 and the hidden dense layers."""
    model, x = create_model("alexnet", variant="2012", num_classes=10, hidden=16), images(1, 63, 63, 3)
    params = jit(model.init)({"params": jax.random.key(0)}, x)["params"]
    for name, tree in params.items():
        ones = name in ("conv2", "conv4", "conv5", "dense1", "dense2")
        np.testing.assert_array_equal(tree["bias"], np.full(tree["bias"].shape, ones, np.float32))
        assert np.asarray(tree["kernel"]).std() == pytest.approx(0.01, rel=0.1)


def test_dropout_is_on_both_hidden_layers():
    x = images(1, 63, 63, 3)
    model = create_model("alexnet", **TINY | {"num_classes": 0, "hidden": 400})
    assert model.dropout == 0.5
    variables = random(model, x)

    @jit
    def run(v):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(v, x, train=True, rngs=rngs, capture_intermediates=True)

    features, kept = run(variables)
    for number in (1, 2):
        before = np.maximum(kept["intermediates"][f"dense{number}"]["__call__"][0], 0)
        after = np.asarray(kept["intermediates"][f"dropout{number}"]["__call__"][0])
        assert 0.35 < (after[before > 0] > 0).mean() < 0.65
        np.testing.assert_allclose(after[after > 0], 2 * before[after > 0], rtol=1e-6)
    np.testing.assert_array_equal(features, after)


def test_the_smallest_input():
    model = create_model("alexnet", **TINY)
    assert shapes(model, images(1, 63, 63, 3))
    with pytest.raises(UserError, match=r"alexnet: the images are 63x62; the network needs 63x63"):
        shapes(model, images(1, 63, 62, 3))


@pytest.mark.parametrize(
    "options, line",
    [
        ({"variant": "2013"}, r"unknown alexnet variant '2013'; did you mean '201"),
        ({"widths": (64, 192)}, r"alexnet: widths is \(64, 192\); it must be the channels of 5 convolutions"),
        ({"groups": 3}, r"alexnet: groups is 3; it must divide the widths \(64, 192, 384, 256, 256\)"),
        ({"hidden": 0}, r"alexnet: hidden is 0; it must be at least 1"),
        ({"response_norm": "local"}, r"alexnet: response_norm is 'local'; it must be 'none', 'across' or 'within'"),
        ({"kernel_init": "norm"}, r"unknown initializer 'norm'; did you mean 'normal'"),
        ({"bias_init": "he_normal"}, r"initializer 'he_normal' cannot fill a bias"),
        ({"dropout": 1.0}, r"alexnet: dropout is 1\.0"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line):
        create_model("alexnet", **options)


# --- adaptive pooling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(6, 6), (1, 13), (7, 5), (12, 3)])
def test_adaptive_pooling_against_pytorch(height, width):
    torch = pytest.importorskip("torch")
    x = images(2, height, width, 3)
    for reduce, peer in ((jnp.mean, torch.nn.AdaptiveAvgPool2d), (jnp.max, torch.nn.AdaptiveMaxPool2d)):
        wanted = peer(6)(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(alexnet.adaptive_pool(jnp.asarray(x), 6, reduce), wanted, rtol=1e-5, atol=1e-6)


# --- local response normalization ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("region", ["across", "within"])
def test_local_response_norm_by_hand(region, size):
    x, (alpha, beta, k) = images(2, 4, 6, 7), (0.3, 0.6, 1.5)
    found = np.asarray(local_response_norm(x, size, alpha, beta, k, region))
    back, forward = size // 2, (size - 1) // 2
    for i in range(4):
        for j in range(6):
            for c in range(7):
                if region == "across":
                    near = x[:, i, j, max(c - back, 0) : c + forward + 1].reshape(2, -1)
                else:
                    near = x[:, max(i - back, 0) : i + forward + 1, max(j - back, 0) : j + forward + 1, c]
                energy = np.square(near.reshape(2, -1)).sum(1)
                wanted = x[:, i, j, c] / (k + alpha * energy) ** beta
                np.testing.assert_allclose(found[:, i, j, c], wanted, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_local_response_norm_against_pytorch(size):
    torch = pytest.importorskip("torch")
    x = images(2, 5, 6, 8)
    tensor = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    wanted = torch.nn.functional.local_response_norm(tensor, size, alpha=0.2, beta=0.75, k=1.0)
    wanted.square().sum().backward()

    def ours(x):
        return local_response_norm(x, size, alpha=0.2 / size, beta=0.75, k=1.0)

    np.testing.assert_allclose(ours(x), wanted.detach().permute(0, 2, 3, 1).numpy(), rtol=1e-5)
    grad = jax.grad(lambda x: jnp.square(ours(x)).sum())(x)
    np.testing.assert_allclose(grad, tensor.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-5)


def test_local_response_norm_within_a_channel_against_pytorch():
    """PyTorch has the one across channels alone; its average pooling gives the other."""
    torch = pytest.importorskip("torch")
    x = images(2, 5, 6, 3)
    mean = torch.nn.functional.avg_pool2d(torch.from_numpy(x).square().permute(0, 3, 1, 2), 3, stride=1, padding=1)
    wanted = x / (1 + 0.9 * mean.permute(0, 2, 3, 1).numpy()) ** 0.75
    np.testing.assert_allclose(local_response_norm(x, 3, 0.1, 0.75, 1.0, "within"), wanted, rtol=1e-5)


def test_local_response_norm_in_bfloat16():
    x = jnp.asarray(images(1, 2, 2, 6), jnp.bfloat16)
    found = local_response_norm(x, alpha=0.1)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, local_response_norm(x.astype(jnp.float32), alpha=0.1), rtol=1e-2)


def test_local_response_norm_mistakes():
    with pytest.raises(UserError, match=r"region is 'channel'; it must be 'across' or 'within'"):
        local_response_norm(images(1, 2, 2, 2), region="channel")
    with pytest.raises(UserError, match=r"size is 0; it must be at least 1"):
        local_response_norm(images(1, 2, 2, 2), size=0)
