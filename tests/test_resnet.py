"""Residual networks: their counts, what each option changes, and a block against plain operations."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model, rules
from zoo.errors import UserError
from zoo.models import residual, resnet

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnetv2_18": 11_687_720,
    "resnetv2_34": 21_795_880,
    "resnetv2_50": 25_549_352,
    "resnetv2_101": 44_541_480,
    "resnetv2_152": 60_185_128,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnet20_cifar": 269_722,
    "resnet32_cifar": 464_154,
    "resnet44_cifar": 658_586,
    "resnet56_cifar": 853_018,
    "resnet110_cifar": 1_727_962,
}


# These programs run once: quick to compile is what counts.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).standard_normal(shape))


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def random(module, x):
    """Variables of the right shapes, drawn by NumPy; scales and variances around 1."""
    normal = np.random.default_rng(7).standard_normal

    def draw(path, s):
        values = normal(s.shape) / np.prod(s.shape[:-1]) ** 0.5
        return np.float32(1 + 0.1 * values if path[-1].key in ("scale", "var") else values)

    return jax.tree_util.tree_map_with_path(draw, shapes(module, x))


def count(model, side=32):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, images(1, side, side, 3))["params"]))


def tiny(**options):
    return resnet.ResNet(**{"depths": (1, 1), "width": 4, "num_classes": 5} | options)


def calls(model, x, **options):
    """Every layer that is called, in order: (path, module, shape of its output). Computes nothing."""
    found = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            found.append(("/".join(context.module.path), context.module, jax.tree.leaves(out)[0].shape))
        return out

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, x, **options))
    return found


def test_parameters():
    assert PARAMETERS.keys() == resnet.VARIANTS.keys()
    assert {name: count(create_model(name)) for name in PARAMETERS} == PARAMETERS


def test_bookkeeping_of_the_options():
    """Each by what it adds to ResNet-50."""
    plain = PARAMETERS["resnet50"]
    assert count(create_model("resnet50", shortcut="D", bottleneck_stride="1x1", zero_init=True)) == plain
    # Three 3x3 for one 7x7, and two normalizations more.
    deep = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32)
    assert count(create_model("resnet50", stem="deep")) == plain - 49 * 3 * 64 + deep
    # The four projections and their normalization.
    projections = [(64, 256), (256, 512), (512, 1024), (1024, 2048)]
    assert count(create_model("resnet50", shortcut="A")) == plain - sum(a * b + 2 * b for a, b in projections)
    # He et al. 2015, 4.2: option B adds two 1x1 to the nets for CIFAR.
    added = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count(create_model("resnet20_cifar", shortcut="B")) == PARAMETERS["resnet20_cifar"] + added
    assert count(create_model("resnet18", stem="3x3")) == PARAMETERS["resnet18"] - (49 - 9) * 3 * 64
    # He et al. 2016, table 3: ResNet-164 has 1.7 million.
    assert count(create_model("resnet20_cifar", depths=(18, 18, 18), bottleneck=True, preactivation=True)) // 10**5 in (
        16,
        17,
    )


@pytest.mark.parametrize("name, blocks", [("resnet18", (2, 3, 4)), ("resnet50", (1, 2, 3, 4)), ("resnet20_cifar", ())])
def test_projections_stand_where_the_shape_changes(name, blocks):
    params = shapes(create_model(name), images(1, 32, 32, 3))["params"]
    assert [key for key in params if "proj" in params[key]] == [f"layer{i}_0" for i in blocks]
    assert "proj_norm" in params["layer2_0"] or not blocks


def test_names():
    def names(**options):
        return sorted(shapes(tiny(**options), images(1, 32, 32, 3))["params"])

    assert names() == ["head", "layer1_0", "layer2_0", "stem", "stem_norm"]
    assert names(preactivation=True) == ["head", "layer1_0", "layer2_0", "norm", "stem"]
    deep = ["stem1", "stem2", "stem3", "stem_norm1", "stem_norm2", "stem_norm3"]
    assert names(stem="deep") == ["head", "layer1_0", "layer2_0", *deep]
    assert names(stem="deep", preactivation=True) == ["head", "layer1_0", "layer2_0", "norm", *deep[:-1]]
    block = shapes(tiny(bottleneck=True), images(1, 32, 32, 3))["params"]["layer2_0"]
    assert sorted(block) == ["conv1", "conv2", "conv3", "norm1", "norm2", "norm3", "proj", "proj_norm"]


@pytest.mark.parametrize("stem, strides", [("7x7", (2, 4, 8)), ("deep", (2, 4, 8)), ("3x3", (1, 1, 2))])
def test_stages(stem, strides):
    model = tiny(stem=stem, bottleneck=True, stem_width=6, features_only=True)
    assert model.stages == tuple(zip(strides, (6, 16, 32), strict=True))
    x = images(1, 37, 18, 3)
    maps = jax.eval_shape(model.apply, shapes(model, x), x)
    assert [m.shape for m in maps] == [(1, -(-37 // s), -(-18 // s), w) for s, w in model.stages]


def test_where_a_bottleneck_strides():
    for stride, sides in (("3x3", (8, 4, 4)), ("1x1", (4, 4, 4))):
        model = tiny(bottleneck=True, bottleneck_stride=stride, stem="3x3")
        found = {path: shape for path, _, shape in calls(model, images(1, 8, 8, 3))}
        assert tuple(found[f"layer2_0/conv{i}"][1] for i in (1, 2, 3)) == sides


def test_stages_that_end_with_their_stride():
    """Every stage but the last halves its map in its last block, whose shortcut has then nothing to project."""
    model = tiny(depths=(2, 3, 1), stage_stride="last", bottleneck=True, stem_width=6, features_only=True)
    x = images(1, 37, 70, 3)
    variables = shapes(model, x)
    assert [stage.stride for stage in model.stages] == [2, 8, 16, 16]
    maps = jax.eval_shape(model.apply, variables, x)
    assert [m.shape[1:3] for m in maps] == [(-(-37 // s), -(-70 // s)) for s, _ in model.stages]
    found = {path.partition("/")[0] for path, _, _ in calls(model, x) if path.endswith("/proj")}
    assert found == {"layer1_0", "layer2_0", "layer3_0"}


@pytest.mark.parametrize(
    "preactivation, biased",
    [
        (False, {"stem", "layer1_0/conv1", "layer1_0/conv2", "layer1_0/conv3", "layer1_0/proj"}),
        (True, {"stem", "layer1_0/conv3", "layer1_0/proj"}),
    ],
)
def test_convolutions_with_biases(preactivation, biased):
    """With preactivation those alone that no BN of their block follows."""
    model = tiny(depths=(1,), bottleneck=True, conv_bias=True, preactivation=preactivation)
    paths = rules.flatten(shapes(model, images(1, 32, 32, 3))["params"])
    found = {p.removesuffix("/bias") for p in paths if p.endswith("bias") and "norm" not in p}
    assert found - {"head"} == biased


def test_order_in_a_block():
    def order(**options):
        found = calls(tiny(depths=(2,), block_dropout=0.3, stochastic_depth=0.2, **options), images(1, 8, 8, 3))
        return [path.removeprefix("layer1_1/") for path, *_ in found if path.startswith("layer1_1/")]

    assert order() == ["conv1", "norm1", "dropout", "conv2", "norm2", "stochastic_depth"]
    assert order(preactivation=True) == ["norm1", "conv1", "norm2", "dropout", "conv2", "stochastic_depth"]
    bottleneck = ["conv1", "norm1", "conv2", "norm2", "dropout", "conv3", "norm3", "stochastic_depth"]
    assert order(bottleneck=True) == bottleneck


def block(**options):
    plain = {"convs": ((6, 3, 2), (6, 3, 1)), "shortcut": "B", "preactivation": False, "zero_init": False}
    plain |= {"conv_bias": False, "bn_eps": 1e-5, "norm": "batch", "weight_standardization": False}
    plain |= {"stochastic_depth": 0.0, "dropout": 0.0, "dropout_kind": "unit"}
    return residual.Block(**plain | {"dtype": "float32", "train": False} | options)


def normalized(x, variables, name):
    params, stats = variables["params"][name], variables["batch_stats"][name]
    factor = params["scale"] / np.sqrt(stats["var"] + 1e-5)
    return x * factor[None, None, None] + (params["bias"] - stats["mean"] * factor)[None, None, None]


def convolved(x, variables, name, stride=1):
    kernel = variables["params"][name]["kernel"]
    pads, dims = ((kernel.shape[0] // 2,) * 2,) * 2, ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=dims)


@pytest.mark.parametrize("width", [4, 6])
def test_a_block_with_preactivation(width):
    """With the same shape the input itself is added, else the projection of the activated input."""
    stride = 1 if width == 6 else 2
    module, x = block(convs=((6, 3, stride), (6, 3, 1)), preactivation=True), images(2, 7, 8, width)
    v = random(module, x)
    active = np.maximum(normalized(x, v, "norm1"), 0)
    y = convolved(active, v, "conv1", stride)
    y = convolved(np.maximum(normalized(y, v, "norm2"), 0), v, "conv2")
    wanted = y + (convolved(active, v, "proj", 2) if width == 4 else x)
    np.testing.assert_allclose(module.apply(v, x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shortcut", ["A", "B", "D"])
@pytest.mark.parametrize("preactivation", [False, True])
def test_shortcuts(shortcut, preactivation):
    """What is left of a block that starts as its shortcut."""
    module = block(shortcut=shortcut, zero_init=True, preactivation=preactivation)
    x = images(2, 7, 8, 3)
    v = random(module, x)
    if preactivation:
        v["params"]["conv2"]["kernel"][:] = 0
    else:
        v["params"]["norm2"]["scale"][:] = 0
        v["params"]["norm2"]["bias"][:] = 0
    active = np.maximum(normalized(x, v, "norm1"), 0) if preactivation and shortcut != "A" else x
    if shortcut == "A":  # 3 new channels: 1 before, 2 after
        wanted = np.zeros((2, 4, 4, 6), np.float32)
        wanted[..., 1:4] = x[:, ::2, ::2]
    elif shortcut == "B":
        wanted = convolved(active, v, "proj", 2)
    else:
        means = [[active[:, i : i + 2, j : j + 2].mean((1, 2)) for j in range(0, 8, 2)] for i in range(0, 7, 2)]
        wanted = convolved(np.array(means, np.float32).transpose(2, 0, 1, 3), v, "proj")
    if not preactivation:
        wanted = np.maximum(wanted if shortcut == "A" else normalized(wanted, v, "proj_norm"), 0)
    np.testing.assert_allclose(module.apply(v, x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height, width", [(6, 8), (5, 8), (4, 7), (1, 1)])
def test_halved(height, width):
    x = images(2, height, width, 3)
    found = np.asarray(residual.halved(x))
    assert found.shape == (2, -(-height // 2), -(-width // 2), 3)
    for i in range(found.shape[1]):
        for j in range(found.shape[2]):
            wanted = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
            np.testing.assert_allclose(found[:, i, j], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preactivation", [False, True])
def test_zero_init_starts_as_the_shortcut_and_learns(preactivation):
    x = images(2, 6, 6, 6)
    module = block(convs=((6, 3, 1), (6, 3, 1)), zero_init=True, preactivation=preactivation)
    key = {"params": jax.random.key(0)}
    found, variables = jit(module.init_with_output)(key, x)
    np.testing.assert_array_equal(found, x if preactivation else np.maximum(x, 0))
    grads = jit(jax.grad(lambda p: module.apply({**variables, "params": p}, x).sum()))(variables["params"])
    last = rules.flatten(grads)["conv2/kernel" if preactivation else "norm2/scale"]
    assert (np.asarray(last) != 0).all()
    plain = module.clone(zero_init=False)
    assert (np.abs(jit(plain.init_with_output)(key, x)[0] - found) > 1e-3).any()


def test_stochastic_depth_rises_linearly():
    model = tiny(depths=(2, 3), stochastic_depth=0.5)
    rates = {path: m.rate for path, m, _ in calls(model, images(1, 8, 8, 3), train=True) if "stochastic" in path}
    blocks = ["layer1_0", "layer1_1", "layer2_0", "layer2_1", "layer2_2"]
    assert rates == {f"{name}/stochastic_depth": pytest.approx(0.1 * i) for i, name in enumerate(blocks, start=1)}


def test_stochastic_depth_drops_the_residual_of_whole_examples():
    x = images(400, 2, 2, 6)
    module = block(convs=((6, 3, 1), (6, 3, 1)), preactivation=True, stochastic_depth=0.25)
    variables = random(module, x)
    residual = np.asarray(module.apply(variables, x)) - x
    training = module.clone(train=True)
    found = np.asarray(jit(training.apply)(variables, x, rngs={"dropout": jax.random.key(0)})) - x
    dropped = (found == 0).all((1, 2, 3))
    assert 0.15 < dropped.mean() < 0.35
    np.testing.assert_allclose(found[~dropped], residual[~dropped] / 0.75, rtol=1e-3, atol=1e-4)


def test_initial_weights():
    """Normal with variance 2 / fan-out (He et al. 2015, arXiv:1502.01852, section 2.2), for strided ones as well."""
    module, x = block(convs=((64, 3, 2), (64, 3, 1))), images(1, 8, 8, 32)
    params = jit(module.init)({"params": jax.random.key(0)}, x)["params"]
    for name, fan_out in (("conv1", 9 * 64), ("conv2", 9 * 64), ("proj", 64)):
        kernel = np.asarray(params[name]["kernel"])
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.05)
        assert np.abs(kernel).max() > 2.5 * kernel.std()  # not truncated at 2


def test_resnet18_for_small_images():
    """No stride before the second stage: 32x32 images keep 4x4 maps at the end."""
    model = create_model("resnet18", stem="3x3", features_only=True)
    x = jnp.zeros((1, 32, 32, 3))
    assert [m.shape[1] for m in jax.eval_shape(model.apply, shapes(model, x), x)] == [32, 32, 16, 8, 4]


@pytest.mark.parametrize(
    "options, line",
    [
        ({"depths": ()}, r"resnet: depths is \(\); every stage needs at least 1 block"),
        ({"depths": (2, 0)}, r"resnet: depths is \(2, 0\); every stage needs at least 1 block"),
        ({"width": 0}, r"resnet: width is 0; it must be at least 1"),
        ({"widening": 0}, r"resnet: widening is 0; it must be at least 1"),
        ({"stem_width": 0}, r"resnet: stem_width is 0; it must be at least 1"),
        ({"stem": "5x5"}, r"resnet: stem is '5x5'; it must be '7x7', 'deep' or '3x3'"),
        ({"shortcut": "C"}, r"resnet: shortcut is 'C'; it must be 'A', 'B' or 'D'"),
        ({"bottleneck_stride": "2x2"}, r"resnet: bottleneck_stride is '2x2'; it must be '3x3' or '1x1'"),
        ({"bottleneck_stride": "1x1"}, r"resnet: bottleneck_stride is '1x1', but the blocks are not bottlenecks"),
        ({"stage_stride": "middle"}, r"resnet: stage_stride is 'middle'; it must be 'first' or 'last'"),
        ({"bn_eps": 0.0}, r"resnet: bn_eps is 0\.0; it must be more than 0"),
        ({"bn_eps": 1e-3, "norm": "none"}, r"resnet: bn_eps is 0\.001, but norm 'none' has no variance"),
        ({"dropout_kind": "spatial"}, "resnet: dropout_kind is 'spatial', but block_dropout is 0"),
        ({"zero_padded_pool": True, "stem": "3x3"}, r"zero_padded_pool is set, but stem '3x3' has no pooling"),
        ({"shortcut": "A", "stem_width": 128}, r"shortcut 'A' cannot take the stem's 128 channels to 64; use 'B'"),
        ({"stochastic_depth": 1.0}, r"resnet: stochastic_depth is 1\.0; it must be in \[0, 1\)"),
        ({"block_dropout": -0.5}, r"resnet: block_dropout is -0\.5; it must be in \[0, 1\)"),
        ({"num_classes": -1}, r"resnet: num_classes is -1"),
        ({"global_pool": "mean"}, r"unknown global_pool of resnet 'mean'"),
        ({"dtype": "float16"}, r"unknown dtype of resnet 'float16'; did you mean 'bfloat16' or 'float32'"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line) as error:
        create_model("resnet18", **options)
    assert "\n" not in str(error.value)


def test_unknown_variant():
    with pytest.raises(UserError, match=r"unknown resnet variant 'resnet51'; did you mean 'resnet50'"):
        resnet.make("resnet51")
