"""What holds for every model of MODELS: one table, the same questions."""

import inspect
import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from zoo import create_model, rules
from zoo.errors import UserError
from zoo.models import MODELS, model_options

CLASSES = 5
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these run once: 2 to 6 times quicker


def inputs(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


TINY_RESNET = {"depths": (1, 1), "width": 4}
TINY_ALEXNET = {"widths": (4, 6, 8, 6, 4), "hidden": 16}
TINY_CONVNET = {"widths": (4, 6)}

# Name -> the settings to try, each small and quick. The names that are missing are of the same module as another one;
# what they have of their own is asked of all of MODELS.
TABLE = {
    "alexnet": [TINY_ALEXNET, {**TINY_ALEXNET, "variant": "2012", "dropout": 0.0}],
    "convnet1d": [{**TINY_CONVNET, "norm": "batch", "norm_place": "after", "pool": "stride", "block_dropout": 0.3}],
    "convnet2d": [TINY_CONVNET, {**TINY_CONVNET, "norm": "batch", "depth": 2, "dropout": 0.5}],
    "lenet5": [{}, {"variant": "1998", "dropout": 0.5}],
    "mlp": [
        {"widths": (16, 8)},
        {"widths": (16,), "activation": "maxout", "pieces": 3, "dropout_input": 0.2},
        {"widths": (16, 8), "norm": "batch", "norm_place": "after", "dropout": 0.5, "activation": "swish"},
        {"widths": (16,), "norm": "layer", "dropconnect": 0.5},
        {"widths": ()},
    ],
    "resnet18": [{**TINY_RESNET, "stem": "deep", "shortcut": "D", "dropout": 0.5}],
    "resnet50": [TINY_RESNET, {**TINY_RESNET, "norm": "group:2", "weight_standardization": True}],
    "resnetv2_50": [TINY_RESNET],
    "resnet20_cifar": [{**TINY_RESNET, "stochastic_depth": 0.5}],
    "wrn16_4": [{"depths": (1, 1), "width": 8, "stem_width": 4, "block_dropout": 0.3}],
}
INPUTS = {"alexnet": inputs(4, 70, 63, 3), "convnet1d": inputs(4, 13, 3), "lenet5": inputs(4, 12, 12, 3)}
INPUTS |= {"mlp": inputs(4, 3, 3), "convnet2d": inputs(4, 9, 13, 3)}
INPUTS |= {name: inputs(4, 13, 18, 3) for name in TABLE if name not in INPUTS}
CASES = [pytest.param((name, row), id=f"{name}-{i}") for name in TABLE for i, row in enumerate(TABLE[name])]
FIRST = [pytest.param((name, rows[0]), id=name) for name, rows in TABLE.items()]
# U-Nets give maps, and these take words: they have tests of their own.
ELSEWHERE = ("unet", "lstm", "text_cnn", "skipgram", "cbow")
OTHERS = [name for name in MODELS if name not in TABLE and not name.startswith(ELSEWHERE)]
# Options that make training random.
RATES = {"dropout", "dropout_input", "block_dropout", "dropconnect", "stochastic_depth"}
# Those with the options of `zoo.models.layers`.
SHARED = [param for param in CASES if param.values[0][0] != "mlp"]


def test_every_family_is_in_the_table():
    def family(name):
        return type(create_model(name))

    assert TABLE.keys() == INPUTS.keys()
    assert {family(name) for name in OTHERS} <= {family(name) for name in TABLE}


class Case(NamedTuple):
    """One row of the table; every program is compiled once for all its tests."""

    name: str
    options: dict
    model: nn.Module
    variables: dict
    x: np.ndarray
    dropout: bool  # whether anything is dropped in training
    state: list[str]  # collections beside the parameters

    def like(self, **options):
        return create_model(self.name, **self.options | options)


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def random_variables(model, x):
    """Drawn by NumPy: no program to compile, no bias is 0, no variance is small."""
    normal = np.random.default_rng(1).standard_normal

    def draw(path, s):
        values = normal(s.shape) / max(np.prod(s.shape[:-1]), 4) ** 0.5
        return np.float32(np.abs(values) + 0.5 if rules.path_of(path).startswith("batch_stats") else values)

    return jax.tree_util.tree_map_with_path(draw, shapes(model, x))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    name, options = request.param
    options = {"num_classes": CLASSES} | options
    model, x = create_model(name, **options), INPUTS[name]
    variables = random_variables(model, x)
    settings = model_options(name) | options
    dropout = any(settings[key] for key in RATES & settings.keys())
    return Case(name, options, model, variables, x, dropout, [part for part in variables if part != "params"])


def without_head(variables):
    return {**variables, "params": {key: tree for key, tree in variables["params"].items() if key != "head"}}


@pytest.fixture(scope="module")
def evaluate(case):
    """x -> logits, the features before the head, and what training without dropout gives, statistics fixed or not."""
    quiet = case.like(**dict.fromkeys(RATES & model_options(case.name).keys(), 0.0))

    @jit
    def run(x):
        logits = case.model.apply(case.variables, x)
        features = case.like(num_classes=0).apply(without_head(case.variables), x)
        frozen = quiet.apply(case.variables, x, train=True)
        moving, state = quiet.apply(case.variables, x, mutable=case.state)
        return logits, features, frozen, moving, state

    return run


@pytest.fixture(scope="module")
def train(case):
    """seed -> logits, new state and gradients of one training step."""
    rest = {name: tree for name, tree in case.variables.items() if name != "params"}
    weight = inputs(4, CLASSES)

    def loss(params, seed):
        rngs = {"dropout": jax.random.key(seed)}
        logits, state = case.model.apply({"params": params, **rest}, case.x, train=True, rngs=rngs, mutable=case.state)
        return jnp.sum(weight * logits), (logits, state)

    step = jit(jax.grad(loss, has_aux=True))

    def run(seed):
        grads, (logits, state) = step(case.variables["params"], seed)
        return logits, state, grads

    return run


def close(a, b):
    return np.allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_shape_and_finite(case, evaluate):
    logits = np.asarray(evaluate(case.x)[0])
    assert logits.shape == (4, CLASSES)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert len(np.unique(logits)) == logits.size  # nothing is constant


def test_rows_do_not_see_each_other(case, evaluate):
    """In evaluation, a row's logits depend neither on the other rows nor on its place among them."""
    x, wanted = case.x, evaluate(case.x)[0]
    assert close(evaluate(x[::-1])[0][::-1], wanted)
    assert close(evaluate(np.concatenate([x[:1], 9 * x[1:]]))[0][0], wanted[0])


def test_the_features_before_the_head(case, evaluate):
    logits, features = evaluate(case.x)[:2]
    head = case.variables["params"]["head"]
    assert features.shape == (4, head["kernel"].shape[0])
    assert close(features @ head["kernel"] + head["bias"][None], logits)
    wanted = shapes(case.like(num_classes=0), case.x).get("params", {})
    assert jax.tree.map(np.shape, without_head(case.variables)["params"]) == jax.tree.map(lambda s: s.shape, wanted)


def test_every_parameter_has_a_gradient(case, train):
    """What no gradient reaches is not connected."""
    for path, grad in rules.flatten(train(0)[2]).items():
        assert np.isfinite(grad).all(), path
        assert np.any(np.asarray(grad) != 0), path


def test_train_and_eval_differ_only_by_dropout_and_batch_norm(case, evaluate, train):
    evaluated, (trained, state, _) = evaluate(case.x)[0], train(0)
    norms = bool(case.state)
    assert close(trained, evaluated) == (not case.dropout and not norms)
    again, other = (train(seed)[0] for seed in (0, 1))
    np.testing.assert_array_equal(again, trained)
    assert bool((other != trained).any()) == case.dropout
    assert set(state) == set(case.state) <= {"batch_stats"}


def test_statistics_move_if_and_only_if_they_are_mutable(case, evaluate):
    """Whatever `train` says, which is for dropout."""
    logits, _, frozen, moving, state = evaluate(case.x)
    assert close(frozen, logits)
    assert close(moving, logits) == (not case.state)
    old = rules.flatten(case.variables.get("batch_stats", {}))
    for path, new in rules.flatten(state.get("batch_stats", {})).items():
        assert (np.asarray(new) != old[path]).all(), path


QUICK = ("alexnet", "convnet2d", "lenet5", "mlp", "wrn16_4")


@pytest.mark.parametrize("case", [p for p in FIRST if p.id in QUICK], indirect=True)
def test_jit_changes_nothing(case, evaluate):
    """Without jit, every operation is a program of its own."""
    assert close(case.model.apply(case.variables, case.x), evaluate(case.x)[0])


@pytest.mark.parametrize("case", FIRST, indirect=True)
def test_seed_decides_the_weights(case):
    init = jit(lambda key: case.model.init({"params": key}, case.x)["params"])
    first, again, other = (rules.flatten(init(jax.random.key(seed))) for seed in (0, 0, 1))
    kernels = [path for path in first if path.endswith("kernel")]
    assert len(kernels) > 1
    for path in first:
        np.testing.assert_array_equal(first[path], again[path])
    for path in kernels:
        assert (np.asarray(first[path]) != np.asarray(other[path])).all(), path


@pytest.mark.parametrize("name", [*TABLE, *OTHERS])
def test_names_of_the_parameters(name):
    x, key = INPUTS.get(name, np.zeros((1, 32, 32, 3), np.float32)), {"params": jax.random.key(0)}
    logits, variables = jax.eval_shape(create_model(name).init_with_output, key, x)
    assert logits.shape == (len(x), model_options(name)["num_classes"])
    for path in rules.flatten(variables["params"]):
        parts = path.split("/")
        assert parts[-1] in ("kernel", "bias", "scale"), path
        for part in parts:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", part), path
            assert not re.fullmatch(r"(conv|dense|batchnorm|dropout|block)_\d+", part), path


# --- the options of zoo.models.layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SHARED, indirect=True)
def test_features_only_gives_the_maps_of_stages(case):
    model = case.like(features_only=True)
    less = {"alexnet": 2, "lenet5": 3}.get(case.name, 1)  # these two cut edges off
    longer = np.zeros((1, *(2 * side + 3 for side in case.x.shape[1:-1]), 3), np.float32)
    for x in (case.x, longer):
        variables = shapes(model, x)
        maps = jax.eval_shape(model.apply, variables, x)
        assert isinstance(maps, list)
        assert len(maps) == len(model.stages) > 1
        for found, (stride, width) in zip(maps, model.stages, strict=True):
            assert found.shape[-1] == width
            for side, pixels in zip(x.shape[1:-1], found.shape[1:-1], strict=True):
                assert abs(side / stride - pixels) < less
    inside = rules.flatten(variables["params"]).keys()
    assert inside < rules.flatten(case.variables["params"]).keys()
    if case.name not in ("alexnet", "lenet5"):  # which have dense layers on their last map
        assert inside == rules.flatten(without_head(case.variables)["params"]).keys()
        features, last = jit(lambda v: (case.like(num_classes=0).apply(v, case.x), model.apply(v, case.x)[-1]))(
            without_head(case.variables)
        )
        pool = {"avg": np.mean, "max": np.max}[case.options.get("global_pool", "avg")]
        assert close(pool(np.asarray(last), axis=tuple(range(1, last.ndim - 1))), features)


ROUNDED = ("alexnet-0", "convnet2d-0", "lenet5-1", "resnet50-0", "wrn16_4-0")


@pytest.mark.parametrize("case", [p for p in SHARED if p.id in ROUNDED], indirect=True)
def test_bfloat16_is_close_to_float32(case, evaluate):
    model = case.like(dtype="bfloat16")
    assert {s.dtype.name for s in jax.tree.leaves(shapes(model, case.x))} == {"float32"}  # parameters and statistics
    features = jax.eval_shape(case.like(dtype="bfloat16", features_only=True).apply, case.variables, case.x)
    assert {x.dtype.name for x in features} == {"bfloat16"}
    wanted, found = evaluate(case.x)[0], jit(model.apply)(case.variables, case.x)
    assert found.dtype == jnp.float32
    error = np.abs(found - wanted).max() / np.std(wanted)
    assert 0 < error < 0.1


REMAT = ("alexnet-0", "convnet2d-1", "lenet5-1", "resnet20_cifar-0")


@pytest.mark.parametrize("case", [p for p in SHARED if p.id in REMAT], indirect=True)
def test_remat_computes_the_same_from_the_same_parameters(case):
    def loss(params, model):
        rest = {name: tree for name, tree in case.variables.items() if name != "params"}
        rngs = {"dropout": jax.random.key(0)}
        logits, state = model.apply({"params": params, **rest}, case.x, train=True, rngs=rngs, mutable=case.state)
        return jnp.sum(inputs(4, CLASSES) * logits), state

    params, remat = case.variables["params"], case.like(remat=True)
    assert jax.tree.map(np.shape, shapes(remat, case.x)) == jax.tree.map(np.shape, shapes(case.model, case.x))
    plain, again = (jit(jax.grad(loss, has_aux=True), static_argnums=1)(params, m) for m in (case.model, remat))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        assert close(b, a)


@pytest.mark.parametrize("case", [p for p in SHARED if p.id.endswith("-0")], indirect=True)
def test_in_channels_refuses_others(case):
    assert shapes(case.like(in_channels=3), case.x)
    with pytest.raises(UserError, match=r"3 (channels|entries); the model takes 1"):
        shapes(case.like(in_channels=1), case.x)
    with pytest.raises(UserError, match=r"it must be \[B, "):
        shapes(case.model, np.zeros((2, 3), np.float32))
    with pytest.raises(UserError, match=r"the (images are 0x64|sequences have 0).* needs \d+"):
        shapes(case.model, np.zeros((1, 0, 64, 3)[: case.x.ndim], np.float32))


# Option -> another value; (name, option) where that one would not fit.
OTHER = {
    "activation": "elu", "bias_init": "ones", "block_dropout": 0.25, "bn_eps": 1e-3,
    "bottleneck": True, "bottleneck_stride": "1x1", "connections": "table", "conv_bias": True,
    "depth": 2, "depths": (2, 1), "dims": 1, "dropout": 0.25,
    "dropout_input": 0.25, "dtype": "bfloat16", "features_only": True, "global_pool": "max", "groups": 2, "hidden": 8,
    "in_channels": 3, "kernel_init": "he_uniform", "kernel_size": 4, "num_classes": 3, "padding": 4, "pieces": 4,
    "pool": "avg", "pool_size": 3, "preactivation": True, "remat": True, "response_norm": "across", "shortcut": "D",
    "stage_stride": "last", "stem": "deep", "stem_width": 2, "stochastic_depth": 0.5, "variant": "1998", "widening": 3,
    "width": 6, "widths": (3, 4), "zero_init": True, "zero_padded_pool": True,
    "norm": "layer", "norm_eps": 1e-3, "norm_place": "after", "weight_standardization": True, "dropout_kind": "spatial",
    "dropconnect": 0.25, "cardinalities": (5,), "embed_dim": 3,
}  # fmt: skip
OTHER_OF = {
    ("alexnet", "variant"): "2012", ("alexnet", "widths"): (2, 4, 6, 8, 10), ("convnet1d", "dims"): 2,
    ("resnet50", "bottleneck"): False,
}  # fmt: skip
# What only has an effect beside another option.
COMPANY = {
    "pieces": {"activation": "maxout"}, "norm_place": {"norm": "batch"}, "weight_standardization": {"norm": "batch"},
    "dropout_kind": {"block_dropout": 0.25}, "norm_eps": {"norm": "batch"},
    "cardinalities": {"cardinalities": (4,), "embed_dim": 2}, "embed_dim": {"cardinalities": (4,), "embed_dim": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", [*TABLE, *OTHERS])
def test_every_option_is_accepted(name):
    """Each on its own, with its default and with another value; both by the rules of `zoo.options`."""
    defaults, plain = model_options(name), create_model(name)
    assert create_model(name, **defaults) == plain
    for option, default in defaults.items():
        assert default is not inspect.Parameter.empty, f"{option} has no default"
        assert create_model(name, **{option: default}) == plain, option
    for option in ("num_classes", "dropout"):
        assert create_model(name, **{option: OTHER[option]}) != plain


@pytest.mark.parametrize("case", [p for p in FIRST if p.id in ("alexnet", "convnet2d", "lenet5", "mlp", "resnet50")],
                         indirect=True)  # fmt: skip
def test_every_option_changes_the_program(case):
    """Initialization, training or evaluation: an option that changes none of them is ignored."""

    def programs(model):
        x = jnp.zeros((*case.x.shape[:-1], 3))
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        variables = shapes(model, x)
        step = jax.make_jaxpr(lambda v: model.apply(v, x, train=True, rngs=rngs, mutable=["batch_stats"]))(variables)
        return re.sub(r"0x\w+", "", f"{jax.make_jaxpr(lambda: model.init(rngs, x))()} {step}")

    plain = programs(case.model)
    assert plain == programs(case.like())
    for option in model_options(case.name).keys() - {"in_channels", "dims"}:  # which refuse inputs
        # The number of maxout's pieces, and what to do where the shape changes, need company.
        company = COMPANY.get(option, {})
        value = OTHER_OF.get((case.name, option), OTHER[option])
        before = programs(case.like(**company)) if company else plain
        assert programs(case.like(**{**company, option: value})) != before, option
