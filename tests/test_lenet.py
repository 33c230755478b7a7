"""LeNet-5: its counts, the connections of table I, the pooling of 1998, and pooling against flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from zoo import create_model, rules
from zoo.errors import UserError
from zoo.models import lenet
from zoo.models.conv import avg_pool, max_pool


def images(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).random(shape))


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def random(model, x):
    """Variables of the right shapes and scales, drawn by NumPy: no program to compile, and no bias is 0."""
    normal = np.random.default_rng(7).standard_normal
    return jax.tree.map(lambda s: np.float32(normal(s.shape) / max(np.prod(s.shape[:-1]), 9) ** 0.5), shapes(model, x))


def layers(model, variables, x, **options):
    """Layer -> its output."""
    _, kept = jax.jit(lambda v: model.apply(v, x, capture_intermediates=True, **options))(variables)
    kept["intermediates"].pop("__call__")
    return {name: np.asarray(outputs["__call__"][0]) for name, outputs in kept["intermediates"].items()}


def counts(**options):
    """Part of the network -> number of parameters, for 28x28 images of one channel."""
    model = create_model("lenet5", **options)
    params = shapes(model, images(1, 28, 28, 1))["params"]
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}


DENSE = {"dense1": 48_120, "dense2": 10_164, "head": 850}


def test_the_common_form_has_61706_parameters():
    found = counts()
    assert found == {"conv1": 156, "conv2": 2_416, **DENSE}
    assert sum(found.values()) == 61_706
    assert counts(pool="avg", activation="tanh") == found


def test_full_connections_with_trainable_pooling_have_61750():
    found = counts(pool="trainable")
    assert found == {"conv1": 156, "pool1": 12, "conv2": 2_416, "pool2": 32, **DENSE}
    assert sum(found.values()) == 61_750


def test_the_network_of_1998_has_60850():
    found = counts(variant="1998")
    assert found == {"conv1": 156, "pool1": 12, "conv2": 1_516, "pool2": 32, **DENSE}
    assert sum(found.values()) == 60_850
    # The paper counts 60,000: its output layer is not trained.
    assert sum(found.values()) - found["head"] == 60_000


def test_variants_are_settings():
    assert create_model("lenet5") == lenet.LeNet5()
    by_hand = create_model("lenet5", activation="lecun_tanh", pool="trainable", connections="table")
    assert create_model("lenet5", variant="1998") == by_hand
    assert create_model("lenet5", variant="1998", pool="max").pool == "max"


def test_table_1():
    """Row sums and column sums as printed in the paper: 6 of 3, 6 + 3 of 4, 1 of 6; every input feeds 10 maps."""
    assert [len(row) for row in lenet.TABLE_1] == [3] * 6 + [4] * 9 + [6]
    assert [sum(i in row for row in lenet.TABLE_1) for i in range(6)] == [10] * 6
    assert len(set(lenet.TABLE_1)) == 16
    assert all(list(row) == sorted(set(row)) for row in lenet.TABLE_1)


@pytest.fixture(scope="module")
def table_conv():
    module, x = lenet.TableConv(nn.initializers.normal(1.0)), images(2, 9, 9, 6)
    return jax.jit(module.apply), random(module, x), x


@pytest.mark.parametrize("source", range(6))
def test_a_map_depends_on_the_maps_of_its_row_alone(table_conv, source):
    apply, variables, x = table_conv
    other = x.copy()
    other[..., source] += 1
    changed = np.abs(apply(variables, x) - apply(variables, other)).max((0, 1, 2)) > 1e-3
    assert [k for k in range(16) if changed[k]] == [k for k, row in enumerate(lenet.TABLE_1) if source in row]


def test_table_convolution_by_hand(table_conv):
    """The j-th kernel of row k is for the j-th map of the row."""
    apply, variables, x = table_conv
    kernels, bias = variables["params"]["kernel"], variables["params"]["bias"]
    found = np.asarray(apply(variables, x))
    assert found.shape == (2, 5, 5, 16)
    number = 0
    for k, row in enumerate(lenet.TABLE_1):
        wanted = np.full((2, 5, 5), bias[k])
        for source in row:
            for i in range(5):
                for j in range(5):
                    wanted += kernels[i, j, number] * x[:, i : i + 5, j : j + 5, source]
            number += 1
        np.testing.assert_allclose(found[..., k], wanted, rtol=1e-3, atol=1e-3)
    assert number == kernels.shape[-1] == 60


def test_table_convolution_starts_like_the_full_one():
    """lecun_uniform of 6 maps: the fan-in is 150, not that of 60 separate 5x5 kernels."""
    module = lenet.TableConv(nn.initializers.lecun_uniform())
    kernels = module.init(jax.random.key(0), images(1, 5, 5, 6))["params"]["kernel"]
    assert kernels.shape == (5, 5, 60)
    assert kernels.std() == pytest.approx(np.sqrt(1 / 150), rel=0.05)
    assert len(np.unique(kernels)) > 1_400  # no kernel twice


def test_table_needs_six_maps():
    module = lenet.TableConv(nn.initializers.ones)
    with pytest.raises(UserError, match=r"table I connects 6 maps, the input of conv2 has 5"):
        module.init(jax.random.key(0), images(1, 8, 8, 5))


def test_the_pooling_of_1998():
    """S2 and S4: the four inputs are averaged, times a trainable scale, plus a bias, and squashed."""
    model = create_model("lenet5", variant="1998", num_classes=0)
    x = images(2, 16, 16, 1)
    variables = random(model, x)
    params = variables["params"]
    seen = layers(model, variables, x)

    def squash(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    for conv, pool, follower in (("conv1", "pool1", "conv2"), ("conv2", "pool2", "dense1")):
        maps = squash(seen[conv])
        mean = (maps[:, ::2, ::2] + maps[:, 1::2, ::2] + maps[:, ::2, 1::2] + maps[:, 1::2, 1::2]) / 4
        scale, bias = (params[pool][key][None, None, None] for key in ("scale", "bias"))
        np.testing.assert_allclose(seen[pool], mean * scale + bias, rtol=1e-4, atol=1e-4)
        # What the next layer sees is squashed again.
        inputs = squash(mean * scale + bias)
        if follower == "dense1":
            wanted = inputs.reshape(2, -1) @ params["dense1"]["kernel"] + params["dense1"]["bias"][None]
        else:
            wanted = np.asarray(lenet.TableConv(nn.initializers.ones).apply({"params": params["conv2"]}, inputs))
        np.testing.assert_allclose(seen[follower], wanted, rtol=1e-3, atol=1e-3)


def test_the_pooling_of_1998_starts_as_the_plain_average():
    x = images(1, 2, 2, 3)
    found, variables = lenet.ScaleBias().init_with_output(jax.random.key(0), x)
    assert rules.flatten(variables["params"]).keys() == {"bias", "scale"}
    np.testing.assert_array_equal(found, x)


def plain_lenet(params, x):
    """The modern network in flax's own functions."""
    for name, padding in (("conv1", 2), ("conv2", 0)):
        pads = ((padding, padding), (padding, padding))
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, params[name]["kernel"], (1, 1), pads, dimension_numbers=dims)
        x = nn.max_pool(nn.relu(x + params[name]["bias"][None, None, None]), (2, 2), (2, 2))
    x = x.reshape(x.shape[0], -1)
    for name in ("dense1", "dense2"):
        x = nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None])
    return x @ params["head"]["kernel"] + params["head"]["bias"][None]


@pytest.mark.parametrize("shape", [(3, 28, 28, 1), (2, 20, 20, 1), (2, 15, 13, 3)])
def test_modern_network_with_plain_operations(shape):
    model, x = create_model("lenet5", num_classes=7), images(*shape)
    params = random(model, x)["params"]
    found = jax.jit(lambda p: model.apply({"params": p}, x))(params)
    np.testing.assert_allclose(found, jax.jit(plain_lenet)(params, x), rtol=1e-4, atol=1e-5)


def test_padding_makes_32x32_of_28x28():
    x = images(2, 28, 28, 1)
    framed = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    variables = random(create_model("lenet5"), x)
    for options in ({}, {"pool": "avg", "activation": "tanh"}):
        inner = create_model("lenet5", **options).apply(variables, x)
        outer = create_model("lenet5", padding=0, **options).apply(variables, framed)
        np.testing.assert_allclose(inner, outer, rtol=1e-5, atol=1e-6)


# --- pooling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 6, 6, 3), (2, 7, 5, 1), (1, 9, 8, 2)])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("ours, peer", [(max_pool, nn.max_pool), (avg_pool, nn.avg_pool)])
def test_pooling_and_its_gradient(ours, peer, size, shape):
    x, window = images(*shape), (size, size)
    weight = images(shape[0], shape[1] // size, shape[2] // size, shape[3], seed=1)

    @jax.jit
    def both(x):
        return [
            jax.value_and_grad(lambda x, pool=pool: jnp.sum(weight * pool(x, window, window)))(x)
            + (pool(x, window, window),)
            for pool in (ours, peer)
        ]

    found, wanted = both(x)
    assert found[2].shape == weight.shape
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_gradient_of_ties_is_not_counted_twice():
    """Equal entries (blank paper): what goes back is as much as what came, as in flax to the first of them."""
    x = np.zeros((1, 4, 4, 1), np.float32)
    grads = [jax.grad(lambda x, pool=pool: pool(x, (2, 2), (2, 2)).sum())(x) for pool in (max_pool, nn.max_pool)]
    np.testing.assert_array_equal(*grads)
    assert grads[0].sum() == 4


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding, side", [(2, 12), (0, 16)])
def test_the_smallest_input(padding, side):
    model = create_model("lenet5", padding=padding)
    assert shapes(model, images(1, side, side, 1))["params"]["dense1"]["kernel"].shape == (16, 120)
    for shape in ((1, side - 1, side, 1), (1, side, side - 1, 1)):
        line = f"lenet5: the images are {shape[1]}x{shape[2]}; the network needs {side}x{side}"
        with pytest.raises(UserError, match=line):
            shapes(model, images(*shape))


@pytest.mark.parametrize("shape", [(2, 64), (28, 28, 1)])
def test_inputs_that_are_no_images(shape):
    with pytest.raises(UserError, match=r"it must be \[B, H, W, C\]"):
        shapes(create_model("lenet5"), images(*shape))


@pytest.mark.parametrize(
    "options, line",
    [
        ({"pool": "mean"}, r"lenet5: pool is 'mean'; it must be 'max', 'avg' or 'trainable'"),
        ({"connections": "sparse"}, r"lenet5: connections is 'sparse'; it must be 'full' or 'table'"),
        ({"variant": "modem"}, r"unknown lenet5 variant 'modem'; did you mean 'modern'"),
        ({"activation": "thanh"}, r"unknown activation 'thanh'; did you mean 'tanh'"),
        ({"kernel_init": "lecun"}, r"unknown initializer 'lecun'"),
        ({"dropout": 1.5}, r"lenet5: dropout is 1\.5; it must be in \[0, 1\)"),
        ({"num_classes": -10}, r"lenet5: num_classes is -10"),
        ({"padding": -1}, r"lenet5: padding is -1"),
        ({"pools": "max"}, r"model 'lenet5' has no option 'pools'; did you mean 'pool'"),
    ],
)  # fmt: skip
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line):
        create_model("lenet5", **options)


def test_dropout_is_on_both_hidden_layers():
    x = images(1, 12, 12, 1)
    model = create_model("lenet5", dropout=0.5, num_classes=0)
    variables = random(model, x)
    assert variables["params"].keys() == random(create_model("lenet5", num_classes=0), x)["params"].keys()
    seen = layers(model, variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    for number in (1, 2):
        before, after = np.maximum(seen[f"dense{number}"], 0), seen[f"dropout{number}"]
        assert 0.25 < (after[before > 0] > 0).mean() < 0.75
        np.testing.assert_allclose(after[after > 0], 2 * before[after > 0], rtol=1e-6)
