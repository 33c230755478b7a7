"""U-Net: what it is made of, its sizes, its up-convolutions, what a pixel sees."""

import contextlib
import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model, rules
from zoo.errors import UserError
from zoo.models import unet
from zoo.models.upsampling import UpConv, doubled

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these run once: quicker in all


def images(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).standard_normal(shape))


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def random(model, x):
    """Variables drawn by NumPy: no program to compile, no bias is 0, and variances are positive."""
    normal = np.random.default_rng(7).standard_normal

    def draw(path, s):
        values = np.float32(normal(s.shape) / max(np.prod(s.shape[:-1]), 4) ** 0.5)
        return np.abs(values) + 0.5 if rules.path_of(path).endswith("var") else values

    return jax.tree_util.tree_map_with_path(draw, shapes(model, x))


def count(model, *shape):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, np.zeros(shape, np.float32))["params"]))


def output(model, *shape):
    x = np.zeros(shape, np.float32)
    return jax.tree.map(lambda s: s.shape, jax.eval_shape(model.apply, shapes(model, x), x))


def test_the_network_of_2015():
    """Figure 1 of the paper: the sizes beside the boxes."""
    model = create_model("unet", variant="2015", num_classes=2)
    assert count(model, 1, 572, 572, 1) == 31_030_658
    x = np.zeros((1, 572, 572, 1), np.float32)
    _, kept = jax.eval_shape(lambda v: model.apply(v, x, capture_intermediates=True), shapes(model, x))
    found = {k: v["__call__"][0].shape[1::2] for k, v in kept["intermediates"].items() if "__call__" in v}
    blocks = {name: shape for name, shape in found.items() if "dropout" not in name}
    assert blocks == {
        "down0": (568, 64), "down1": (280, 128), "down2": (136, 256), "down3": (64, 512), "bottom": (28, 1024),
        "up3": (52, 512), "up2": (100, 256), "up1": (196, 128), "up0": (388, 64), "head": (388, 2),
    }  # fmt: skip
    assert output(model, 1, 572, 572, 1) == (1, 388, 388, 2)


def test_parameters_of_the_padded_networks():
    for up in ("transpose", "resize"):
        assert count(create_model("unet", num_classes=1, up=up), 1, 16, 16, 3) == 31_037_633
    for name, wanted in (("resnet18", 14_328_081), ("resnet34", 24_436_241), ("resnet50", 32_520_977)):
        assert count(create_model(f"unet_{name}", num_classes=1), 1, 32, 32, 3) == wanted


def test_paths():
    model = create_model("unet", width=4, depth=2, num_classes=2)
    paths = rules.flatten(shapes(model, images(1, 8, 8, 1))["params"])
    block = [f"{kind}{i}" for kind in ("conv", "norm") for i in (1, 2)]
    wanted = {
        f"{part}/{layer}/{leaf}"
        for part in ("down0", "down1", "bottom", "up1", "up0")
        for layer in block
        for leaf in (("kernel",) if "conv" in layer else ("scale", "bias"))
    }
    wanted |= {f"{part}/{leaf}" for part in ("up1/up", "up0/up", "head") for leaf in ("kernel", "bias")}
    assert set(paths) == wanted
    remat = create_model("unet", width=4, depth=2, num_classes=2, remat=True)
    assert set(rules.flatten(shapes(remat, images(1, 8, 8, 1))["params"])) == wanted


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_18", "resnet20_cifar", "wrn16_2"])
@pytest.mark.parametrize("options", [{}, {"norm": "group:2", "stem": "deep", "depths": [1, 2]}])
def test_the_encoder_is_the_zoo_s_resnet(name, options):
    """Its weights fit by path; where the map is finer than the encoder's finest, there is no skip connection."""
    model = create_model("unet_resnet18", encoder_name=name, encoder_options=options, width=2)
    again = json.loads(json.dumps(model.encoder_options))
    assert create_model("unet_resnet18", encoder_name=name, encoder_options=again, width=2) == model
    hash(model)
    x = np.zeros((1, 64, 64, 3), np.float32)
    found = shapes(model, x)
    encoder = shapes(create_model(name, features_only=True, **options), x)
    for part in encoder:
        assert jax.tree.map(np.shape, found[part]["encoder"]) == jax.tree.map(np.shape, encoder[part])
    if name == "resnet18" and not options:
        inputs = [found["params"][f"up{i}"]["conv1"]["kernel"].shape[2:] for i in range(5)]
        assert inputs == [(4, 2), (8 + 64, 4), (16 + 64, 8), (32 + 128, 16), (512 + 256, 32)]
    assert output(model, 1, 64, 64, 3) == (1, 64, 64, 2)


# --- up-convolutions ---------------------------------------------------------------------------------------------


def up_conv(up, x, **options):
    module = UpConv(5, up, **options)
    variables = random(module, x)
    return variables["params"], np.asarray(jit(module.apply)(variables, x), np.float32)


def test_transpose_is_flax_s_conv_transpose():
    x = images(2, 3, 4, 6)
    params, found = up_conv("transpose", x)
    peer = nn.ConvTranspose(5, (2, 2), (2, 2), padding="VALID")
    np.testing.assert_allclose(found, peer.apply({"params": params}, x), rtol=1e-5, atol=1e-6)


def test_resize_is_interpolation_and_a_2x2_convolution():
    """By loops: the map at the corners of the fine pixels, then every 2x2 window of them."""
    x = images(2, 3, 4, 6)
    params, found = up_conv("resize", x)
    b, h, w, c = x.shape
    corners = np.zeros((b, 2 * h + 1, 2 * w + 1, c))
    for i in range(2 * h + 1):
        for j in range(2 * w + 1):
            (top, bottom), (left, right) = (
                np.clip((int(np.floor(k / 2 - 0.5)), int(np.ceil(k / 2 - 0.5))), 0, n - 1) for k, n in ((i, h), (j, w))
            )
            corners[:, i, j] = (x[:, top, left] + x[:, top, right] + x[:, bottom, left] + x[:, bottom, right]) / 4
    for i in range(2 * h):
        for j in range(2 * w):
            window = corners[:, i : i + 2, j : j + 2]
            wanted = np.einsum("bklc,klco->bo", window, params["kernel"]) + params["bias"][None]
            np.testing.assert_allclose(found[:, i, j], wanted, rtol=1e-4, atol=1e-5)
    # Nothing is moved to one side: the mirror image of the input and the kernel gives the mirror image.
    turned = UpConv(5, "resize").apply({"params": params | {"kernel": params["kernel"][::-1, ::-1]}}, x[:, ::-1, ::-1])
    np.testing.assert_allclose(np.asarray(turned)[:, ::-1, ::-1], found, rtol=1e-4, atol=1e-5)


def test_an_up_convolution_starts_with_the_variance_of_its_inputs_doubled():
    x = np.repeat(np.repeat(images(1, 8, 8, 256), 4, 1), 4, 2)  # neighbours are alike, as in a trained network
    for up in ("resize", "transpose"):
        y = jit(UpConv(64, up).init_with_output)(jax.random.key(0), x)[0]
        assert 1.2 < np.var(y) < 2.8, up


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 4, 1)])
def test_doubling_is_a_bilinear_resize(shape):
    x = images(*shape)
    wanted = jax.image.resize(x, (shape[0], 2 * shape[1], 2 * shape[2], shape[3]), "bilinear")
    np.testing.assert_allclose(doubled(x), wanted, rtol=1e-5, atol=1e-6)


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (16, 13)])
def test_any_size(size):
    """The same as for the image with zeros below and to the right, cut."""
    model, x = create_model("unet", width=2, depth=3, num_classes=3), images(2, *size, 2)
    variables = random(model, x)
    found = jit(model.apply)(variables, x)
    assert found.shape == (2, *size, 3)
    framed = np.pad(x, ((0, 0), (0, 16 - size[0]), (0, 16 - size[1]), (0, 0)))
    if size != (8, 8):
        np.testing.assert_allclose(
            found, jit(model.apply)(variables, framed)[:, : size[0], : size[1]], rtol=1e-4, atol=1e-5
        )
    assert output(create_model("unet_resnet18", width=2), 1, 24 + size[0], 24 + size[1], 3) == (
        1, 24 + size[0], 24 + size[1], 2,
    )  # fmt: skip


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("up", ["transpose", "resize", "nearest"])
def test_valid_sizes(depth, up):
    """A size fits if every map that is pooled is even and something is left; the line names sizes that do."""
    model = create_model("unet", variant="2015", width=1, depth=depth, up=up)
    fits, lost, step = [], unet.shrinkage(model), 2**depth
    for side in range(lost - 1, lost + 3 * step + 1):
        with contextlib.suppress(UserError):
            assert output(model, 1, side, side, 1)[1] == side - lost > 0
            fits.append(side)
    assert len(fits) == 3
    assert np.diff(fits).tolist() == [step, step]
    for side, near in ((fits[0] - 1, f"the smallest is {fits[0]}"), (fits[1] + 1, f"{fits[1]} and {fits[2]} do")):
        with pytest.raises(UserError) as error:
            output(model, 1, fits[0], side, 1)
        wanted = f"unet: a side of {side} pixels does not fit padding 'valid' and depth {depth}; {near}"
        assert str(error.value) == wanted


@pytest.mark.parametrize(
    "name, options, size",
    [
        ("unet", {"depth": 3}, (9, 20)),
        ("unet", {"variant": "2015", "depth": 1}, (24, 30)),
        ("unet_resnet18", {}, (33, 40)),
    ],
)
def test_stages(name, options, size):
    model = create_model(name, width=3, features_only=True, **options)
    maps = output(model, 1, *size, 3)
    lost = unet.shrinkage(model) if options.get("variant") else 0
    wanted = [(1, -(-(size[0] - lost) // s.stride), -(-(size[1] - lost) // s.stride), s.width) for s in model.stages]
    assert maps == wanted
    assert [s.stride for s in model.stages] == [2**i for i in range(len(maps))]
    features = create_model(name, width=3, num_classes=0, **options)
    assert output(features, 1, *size, 3) == wanted[0]


@pytest.mark.parametrize(
    "name, options, shape, line",
    [
        ("unet", {}, (1, 15, 32, 1), r"unet: the images are 15x32; the network needs 16x16"),
        ("unet", {"depth": 2}, (1, 3, 4, 1), r"the network needs 4x4"),
        ("unet", {"in_channels": 3}, (1, 16, 16, 1), r"unet: the images have 1 channels; the model takes 3"),
        ("unet", {}, (16, 16, 1), r"unet: the input has shape \(16, 16, 1\); it must be \[B, H, W, C\]"),
        ("unet", {"variant": "2015"}, (16, 16), r"it must be \[B, H, W, C\]"),
        ("unet_resnet18", {}, (1, 31, 32, 1), r"unet_resnet: the images are 31x32; the network needs 32x32"),
        ("unet_resnet18", {"in_channels": 3}, (1, 32, 32, 1), r"unet_resnet: the images have 1 channels"),
    ],
)
def test_inputs_that_do_not_fit(name, options, shape, line):
    with pytest.raises(UserError, match=line) as error:
        shapes(create_model(name, **options), np.zeros(shape, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("unet", {"padding": "reflect"}, r"unet: padding is 'reflect'; it must be 'same' or 'valid'"),
        ("unet", {"up": "bicubic"}, r"unet: up is 'bicubic'; it must be 'resize', 'transpose' or 'nearest'"),
        ("unet", {"head_activation": "softmax2"}, r"unknown activation 'softmax2'; did you mean 'softmax'"),
        ("unet", {"depth": 0}, r"unet: depth is 0; it must be at least 1"),
        ("unet", {"width": 0}, r"unet: width is 0"),
        ("unet", {"num_classes": -1}, r"unet: num_classes is -1"),
        ("unet", {"in_channels": 0}, r"unet: in_channels is 0"),
        ("unet", {"dropout": 1.0}, r"unet: dropout is 1\.0; it must be in \[0, 1\)"),
        ("unet", {"dtype": "float16"}, r"unknown dtype of unet 'float16'"),
        ("unet", {"activation": "rely"}, r"unknown activation 'rely'; did you mean 'relu'"),
        ("unet", {"variant": "2016"}, r"unknown unet variant '2016'; did you mean '2015'"),
        ("unet_resnet34", {"width": 0}, r"unet_resnet: width is 0"),
        ("unet_resnet34", {"dropout": -0.1}, r"unet_resnet: dropout is -0\.1"),
        ("unet_resnet34", {"encoder_name": "resnet35"}, r"unknown resnet variant 'resnet35'; did you mean"),
        ("unet_resnet34", {"encoder_name": "wrn16_5"}, r"unknown resnet variant 'wrn16_5'; did you mean 'wrn16_"),
        ("unet_resnet34", {"encoder_options": {"nrom": "batch"}}, r"has no option 'nrom'; did you mean 'norm'"),
        ("unet_resnet34", {"encoder_options": {"dtype": "bfloat16"}}, r"encoder_options has no option 'dtype'"),
        ("unet_resnet34", {"encoder_options": {"width": "16"}}, r"width is '16'; it must be an integer"),
        ("unet_resnet34", {"encoder_options": "norm"}, r"encoder_options is 'norm'; it must be pairs such as"),
        ("unet_resnet34", {"encoder_options": {"stem": "3x3", "depths": (1,)}}, r"never halves the map"),
    ],
)
def test_mistakes(name, options, line):
    with pytest.raises(UserError, match=line):
        create_model(name, **options)


# --- options -----------------------------------------------------------------------------------------------------


def small(name, **options):
    return create_model(name, width=2, **options | ({"depth": 2} if name == "unet" else {}))


def training(model, variables, x):
    """params -> (gradients of the sum of squared logits, the logits and the new statistics), compiled."""

    def loss(params):
        y, state = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.square(y)), (y, state)

    return jit(jax.grad(loss, has_aux=True))


@pytest.mark.parametrize("name, size", [("unet", 16), pytest.param("unet_resnet18", 32, marks=pytest.mark.slow)])
def test_gradients_and_remat(name, size):
    """Every parameter has a gradient, and remat changes none."""
    x = images(2, size, size, 3)
    variables = random(small(name), x)
    wanted = training(small(name), variables, x)(variables["params"])
    for path, grad in rules.flatten(wanted[0]).items():
        assert np.isfinite(grad).all(), path
        assert np.any(np.asarray(grad) != 0), path
    found = training(small(name, remat=True), variables, x)(variables["params"])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(np.abs(b).max()))


@pytest.mark.parametrize("name", ["unet", "unet_resnet18"])
def test_options_in_the_traced_program(name):
    """Without compiling: remat, dropout (in training alone) and the type of the computation are in it."""
    x = images(1, 32, 32, 3)

    def program(train, **options):
        model = small(name, **options)
        return str(jax.make_jaxpr(lambda v: model.apply(v, x, train=train, **extra(train)))(shapes(model, x)))

    def extra(train):
        return {"rngs": {"dropout": jax.random.key(0)}, "mutable": ["batch_stats"]} if train else {}

    assert ("remat" in program(False), "remat" in program(False, remat=True)) == (False, True)
    drops = [
        (train, rate) for train in (True, False) for rate in (0.5, 0.0) if "random_bits" in program(train, dropout=rate)
    ]
    assert drops == [(True, 0.5)]
    maps = output_types(small(name, features_only=True, dtype="bfloat16"), x)
    assert {s.dtype for s in maps} == {jnp.dtype("bfloat16")}
    assert output_types(small(name, dtype="bfloat16"), x)[0].dtype == jnp.float32


def output_types(model, x):
    return jax.tree.leaves(jax.eval_shape(model.apply, shapes(model, x), x))


def test_bfloat16_and_activation():
    x = images(2, 16, 16, 3)
    variables = random(small("unet"), x)

    def evaluated(**options):
        return np.asarray(jit(small("unet", **options).apply)(variables, x))

    wanted, half = evaluated(), evaluated(dtype="bfloat16")
    assert 0 < np.abs(half - wanted).max() < 0.1 * np.abs(wanted).max()
    assert np.abs(evaluated(activation="elu") - wanted).max() > 1e-3


def test_dropout_is_at_the_end_of_the_contracting_path():
    model, x = small("unet", dropout=0.5), images(1, 64, 64, 1)
    variables = random(model, x)

    def run(key):
        options = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats", "intermediates"]}
        return model.apply(variables, x, capture_intermediates=True, **options)[1]["intermediates"]

    kept = {name: v["__call__"][0] for name, v in jit(run)(jax.random.key(0)).items() if "__call__" in v}
    assert {name for name in kept if "dropout" in name} == {"down_dropout", "bottom_dropout"}
    for before, after in (("down1", "down_dropout"), ("bottom", "bottom_dropout")):
        x, y = np.asarray(kept[before]), np.asarray(kept[after])
        assert 0.25 < (y[x > 0] > 0).mean() < 0.75
        np.testing.assert_allclose(y[y > 0], 2 * x[y > 0], rtol=1e-5)


def test_batch_norm_is_an_option():
    x = images(2, 8, 8, 1)
    plain = create_model("unet", width=2, depth=1, norm="none")
    assert set(shapes(plain, x)) == {"params"}
    assert "bias" in shapes(plain, x)["params"]["down0"]["conv1"]
    model = create_model("unet", width=2, depth=1)
    assert "bias" not in shapes(model, x)["params"]["down0"]["conv1"]
    variables = random(model, x)
    trained, state = jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    frozen = jit(lambda v: model.apply(v, x, train=True))(variables)  # nothing is mutable: the running statistics
    assert np.abs(trained - frozen).max() > 1e-3
    before = rules.flatten(variables["batch_stats"])
    for path, leaf in rules.flatten(state["batch_stats"]).items():
        assert np.any(np.asarray(leaf) != before[path]), path


# --- what a pixel sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant, up, depth",
    [
        ("same", "resize", 2),
        ("same", "transpose", 2),
        ("2015", "transpose", 2),
        ("2015", "resize", 1),
        ("2015", "nearest", 1),
    ],
)
def test_receptive_radius(variant, up, depth):
    """The gradient of the pixels at every place on the grid of the poolings: it ends exactly there."""
    model = unet.make(variant, up=up, depth=depth, width=4, activation="linear", norm="none")
    radius, lost, step = unet.receptive_radius(model), unet.shrinkage(model) // 2, 2**depth
    side = -(-(2 * radius + 8) // step) * step + (step - 4) % step + (8 if lost else 0)
    x = images(24, side, side, 1)
    variables = random(model, x)

    @jit
    @jax.vmap
    def gradient(place):
        def pixel(x):
            y = model.apply(variables, x)
            return jax.lax.dynamic_slice(y, (0, place, place, 0), (len(x), 1, 1, 2)).sum()

        return jnp.abs(jax.grad(pixel)(x)).max((0, 3))

    places = side // 2 // step * step - lost // step * step + np.arange(step)
    reach = 0
    for place, seen in zip(places, np.asarray(gradient(places)), strict=True):
        for axis in (0, 1):
            found = np.flatnonzero(seen.max(axis))
            reach = max(reach, place + lost - found[0], found[-1] - place - lost)
            assert found[0] > 0  # the image is large enough to tell
            assert found[-1] < side - 1
    assert reach == radius
