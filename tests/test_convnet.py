"""Plain convolutional networks: what they compute, written out, and what each option changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model
from zoo.errors import UserError


def inputs(*shape):
    return np.float32(np.random.default_rng(0).standard_normal(shape))


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def random(model, x):
    normal = np.random.default_rng(7).standard_normal

    def draw(path, s):
        values = normal(s.shape) / max(np.prod(s.shape[:-1]), 9) ** 0.5
        return np.float32(np.abs(values) + 0.5 if path[-1].key == "var" else values)

    return jax.tree_util.tree_map_with_path(draw, shapes(model, x))


def test_parameters():
    def count(name, channels, **options):
        x = np.zeros((1, *(64,) * int(name[-2]), channels), np.float32)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes(create_model(name, **options), x)["params"]))

    assert count("convnet2d", 3) == (27 + 1) * 32 + (288 + 1) * 64 + (576 + 1) * 128 + 129 * 10 == 94_538
    assert count("convnet1d", 3) == (9 + 1) * 32 + (96 + 1) * 64 + (192 + 1) * 128 + 129 * 10 == 32_522
    # Normalization before the activation takes the bias's place: a scale and a bias for it.
    assert count("convnet2d", 3, norm="batch") == 94_538 + 32 + 64 + 128
    assert count("convnet2d", 3, norm="batch", norm_place="after") == 94_538 + 2 * (32 + 64 + 128)
    assert count("convnet2d", 3, widths=(8,), depth=2, kernel_size=5) == 76 * 8 + 201 * 8 + 90


def windows(x, size, stride, reduce):
    """Reduced windows of one axis of NumPy arrays, as many as fit."""
    for axis in range(1, x.ndim - 1):
        starts = range(0, x.shape[axis] - size + 1, stride)
        x = np.stack([reduce(np.take(x, range(s, s + size), axis), axis=axis) for s in starts], axis)
    return x


def convolved(x, params, pads, stride=1):
    """By NumPy's windows."""
    kernel, axes = params["kernel"], tuple(range(1, x.ndim - 1))
    x = np.pad(x, [(0, 0), *[pads] * len(axes), (0, 0)])
    view = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[: len(axes)], axes)  # [B, ..., C, k, ...]
    view = view[(slice(None), *[slice(None, None, stride)] * len(axes))]
    y = np.einsum("bhwcij,ijco->bhwo", view, kernel) if len(axes) == 2 else np.einsum("btci,ico->bto", view, kernel)
    return y + params["bias"] if "bias" in params else y


def normalized(x, variables, stage, name):
    params, stats = variables["params"][stage][name], variables["batch_stats"][stage][name]
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


@pytest.mark.parametrize("name, shape", [("convnet1d", (3, 17, 4)), ("convnet2d", (3, 13, 11, 2))])
@pytest.mark.parametrize(
    "options, pads",
    [
        ({}, (1, 1)),
        ({"kernel_size": 4, "pool": "avg", "pool_size": 3, "activation": "tanh"}, (1, 2)),
        ({"kernel_size": 5, "depth": 2, "pool": "stride", "norm": "batch"}, (2, 2)),
        ({"kernel_size": 1, "norm": "batch", "norm_place": "after", "global_pool": "max", "activation": "elu"}, (0, 0)),
    ],
)
def test_written_out(name, shape, options, pads):
    x, options = inputs(*shape), {"widths": (5, 6), "num_classes": 3} | options
    model = create_model(name, **options)
    variables = random(model, x)
    act = {"tanh": np.tanh, "elu": lambda y: np.where(y > 0, y, np.expm1(y))}.get(
        model.activation, lambda y: np.maximum(y, 0)
    )
    y = x
    for stage in ("layer1", "layer2"):
        for i in range(1, model.depth + 1):
            strides = model.pool == "stride" and i == 1
            y = convolved(y, variables["params"][stage][f"conv{i}"], pads, model.pool_size if strides else 1)
            before = model.norm_place == "before"
            y = normalized(y, variables, stage, f"norm{i}") if model.norm == "batch" and before else y
            y = act(y)
            y = normalized(y, variables, stage, f"norm{i}") if model.norm == "batch" and not before else y
        if model.pool != "stride":
            y = windows(y, model.pool_size, model.pool_size, {"max": np.max, "avg": np.mean}[model.pool])
    y = {"max": np.max, "avg": np.mean}[model.global_pool](y, axis=tuple(range(1, y.ndim - 1)))
    wanted = y @ variables["params"]["head"]["kernel"] + variables["params"]["head"]["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), wanted, rtol=1e-4, atol=1e-5)


def test_block_dropout_is_after_every_stage():
    x = inputs(1, 32, 32, 2)
    model = create_model("convnet2d", widths=(8, 8), block_dropout=0.25, features_only=True)
    variables = random(model, x)

    def run(v):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(v, x, train=True, rngs=rngs, capture_intermediates=True)

    maps, kept = jax.jit(run)(variables)
    for i, found in enumerate(maps, start=1):
        before = np.asarray(kept["intermediates"][f"layer{i}"]["__call__"][0])
        found, alive = np.asarray(found), before > 0
        assert 0.6 < (found[alive] > 0).mean() < 0.9
        np.testing.assert_allclose(found[found > 0], before[found > 0] / 0.75, rtol=1e-5)


def test_sequences_and_images_of_one_column():
    """convnet1d is convnet2d along one axis: with the middle column of its kernels on images one pixel wide."""
    x = inputs(2, 16, 3)
    options = {"widths": (4, 5), "num_classes": 3, "pool": "stride"}
    model, wide = create_model("convnet1d", **options), create_model("convnet2d", **options)
    variables = random(wide, x[:, :, None])
    narrow = jax.tree.map(lambda leaf: leaf[:, 1] if leaf.ndim == 4 else leaf, variables)
    wanted = wide.apply(variables, x[:, :, None])
    np.testing.assert_allclose(model.apply(narrow, x), wanted, rtol=1e-4, atol=1e-5)


def test_kernel_init():
    x = jnp.ones((1, 8, 8, 3))
    model = create_model("convnet2d", widths=(4,), kernel_init=0.25)
    params = jax.jit(model.init)({"params": jax.random.key(0)}, x)["params"]
    np.testing.assert_array_equal(params["layer1"]["conv1"]["kernel"], np.full((3, 3, 3, 4), 0.25, np.float32))


def test_it_is_an_ordinary_module():
    assert isinstance(create_model("convnet1d"), nn.Module)
    assert create_model("convnet1d", dims=2) == create_model("convnet2d")


@pytest.mark.parametrize("pool, pool_size, smallest", [("max", 2, 4), ("avg", 3, 9), ("stride", 3, 1)])
def test_the_smallest_input(pool, pool_size, smallest):
    for name, shape in (("convnet1d", ()), ("convnet2d", (20,))):
        model = create_model(name, widths=(4, 4), pool=pool, pool_size=pool_size)
        assert shapes(model, inputs(1, smallest, *shape, 3))
        with pytest.raises(UserError, match=rf"{name}: the .*; the network needs {smallest}"):
            shapes(model, inputs(1, smallest - 1, *shape, 3))


@pytest.mark.parametrize(
    "options, line",
    [
        ({"dims": 3}, r"convnet: dims is 3; it must be 1 \(sequences\) or 2 \(images\)"),
        ({"widths": ()}, r"convnet1d: widths is \(\); every stage needs at least 1 channel"),
        ({"widths": (3, 0)}, r"convnet1d: widths is \(3, 0\)"),
        ({"depth": 0}, r"convnet1d: depth is 0; it must be at least 1"),
        ({"kernel_size": 0}, r"convnet1d: kernel_size is 0; it must be at least 1"),
        ({"pool_size": 0}, r"convnet1d: pool_size is 0; it must be at least 1"),
        ({"pool": "mean"}, r"convnet1d: pool is 'mean'; it must be 'max', 'avg' or 'stride'"),
        ({"norm": "bach"}, r"unknown norm of convnet1d 'bach'; did you mean 'batch'"),
        ({"norm": "batch:4"}, r"convnet1d: norm is 'batch:4'; only group takes a number of groups, as in 'group:8'"),
        ({"norm": "group:0"}, r"convnet1d: norm is 'group:0'"),
        ({"norm_place": "between"}, r"convnet1d: norm_place is 'between'; it must be 'before' or 'after'"),
        ({"weight_standardization": True}, r"convnet1d: weight_standardization needs a norm with a scale"),
        ({"norm_place": "after"}, "convnet1d: norm_place is 'after', but norm is 'none'"),
        ({"dropout_kind": "spatial"}, "convnet1d: dropout_kind is 'spatial', but block_dropout is 0"),
        ({"dropout_kind": "spacial"}, r"unknown dropout_kind of convnet1d 'spacial'; did you mean 'spatial'"),
        ({"activation": "rely"}, r"unknown activation 'rely'; did you mean 'relu'"),
        ({"kernel_init": "he"}, r"unknown initializer 'he'"),
        ({"block_dropout": 1.0}, r"convnet1d: block_dropout is 1\.0; it must be in \[0, 1\)"),
        ({"in_channels": 0}, r"convnet1d: in_channels is 0; it must be at least 1"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line):
        create_model("convnet1d", **options)
