"""What holds for every model of MODELS: one table, the same questions."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from zoo import create_model, list_models, models, rules
from zoo.errors import UserError
from zoo.models import MODELS, model_options


def inputs(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# name -> the settings to try, each small and quick; the first must be the default but for sizes.
TABLE = {
    "lenet5": [
        {"num_classes": 5},
        {"num_classes": 5, "variant": "1998", "dropout": 0.5},
    ],
    "mlp": [
        {"num_classes": 5, "widths": (16, 8)},
        {"num_classes": 5, "widths": (16,), "activation": "maxout", "pieces": 3, "dropout_input": 0.2},
        {"num_classes": 5, "widths": (16, 8), "batch_norm": "after", "dropout": 0.5, "activation": "swish"},
        {"num_classes": 1, "widths": ()},
    ],
}
INPUTS = {"lenet5": inputs(4, 12, 12, 2), "mlp": inputs(4, 3, 3)}
CASES = [pytest.param((name, options), id=f"{name}-{i}") for name in TABLE for i, options in enumerate(TABLE[name])]

# Option -> a value that is not its default, for options that every model may be asked for.
OTHER = {
    "num_classes": 3,
    "activation": "elu",
    "pool": "avg",
    "connections": "table",
    "padding": 4,
    "dropout": 0.25,
    "dropout_input": 0.25,
    "kernel_init": "he_uniform",
    "bias_init": "ones",
    "widths": (3, 4),
    "pieces": 4,
    "batch_norm": "before",
    "variant": "1998",
}


def test_every_model_is_in_the_table():
    assert TABLE.keys() == INPUTS.keys() == MODELS.keys()


class Case(NamedTuple):
    """One row of the table; every program is compiled once for all its tests."""

    name: str
    options: dict
    model: nn.Module
    variables: dict
    x: np.ndarray
    evaluate: Callable  # (variables, x) -> logits
    train: Callable  # (variables, x, seed) -> (logits, the new state)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    name, options = request.param
    model, x = create_model(name, **options), INPUTS[name]
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)
    normal = np.random.default_rng(1).standard_normal

    def draw(path, s):  # biases as well, so that nothing hides behind a zero
        values = normal(s.shape) / max(np.prod(s.shape[:-1]), 4) ** 0.5
        return np.float32(np.abs(values) if rules.path_of(path).startswith("batch_stats") else values)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    state = [part for part in variables if part != "params"]

    def train(variables, x, seed):
        return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=state)

    return Case(name, options, model, variables, x, jax.jit(model.apply), jax.jit(train))


def test_shape_and_finite(case):
    logits = case.evaluate(case.variables, case.x)
    assert logits.shape == (4, case.options["num_classes"])
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert len(np.unique(logits)) == logits.size  # nothing is constant


@pytest.mark.parametrize("case", [(name, rows[0]) for name, rows in TABLE.items()], ids=str, indirect=True)
def test_jit_changes_nothing(case):
    """The first row of each model: without jit, every operation is a program of its own."""
    plain = case.model.apply(case.variables, case.x)
    np.testing.assert_allclose(case.evaluate(case.variables, case.x), plain, rtol=1e-4, atol=1e-5)


def test_rows_do_not_see_each_other(case):
    """In evaluation, a row's logits depend neither on the other rows nor on its place among them."""
    x = case.x
    wanted = case.evaluate(case.variables, x)
    turned, other = case.evaluate(case.variables, x[::-1])[::-1], np.concatenate([x[:1], 9 * x[1:]])
    np.testing.assert_allclose(turned, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(case.evaluate(case.variables, other)[0], wanted[0], rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_gradient(case):
    """What no gradient reaches is not connected."""
    rest = {name: tree for name, tree in case.variables.items() if name != "params"}
    weight = inputs(4, case.options["num_classes"])

    @jax.jit
    @jax.grad
    def gradients(params):
        return jnp.sum(weight * case.train({"params": params, **rest}, case.x, 0)[0])

    for path, grad in rules.flatten(gradients(case.variables["params"])).items():
        assert np.isfinite(grad).all(), path
        assert np.any(np.asarray(grad) != 0), path


def test_train_and_eval_differ_only_by_dropout_and_batch_norm(case):
    drops, norms = any("dropout" in key for key in case.options), "batch_norm" in case.options
    evaluated, (trained, state) = case.evaluate(case.variables, case.x), case.train(case.variables, case.x, 0)
    same = np.allclose(evaluated, trained, rtol=1e-4, atol=1e-5)
    assert same != (drops or norms)
    assert set(state) == ({"batch_stats"} if norms else set())

    again, other = (case.train(case.variables, case.x, seed)[0] for seed in (0, 1))
    np.testing.assert_array_equal(again, trained)
    assert (other != trained).any() == drops
    if drops:  # without it, nothing random is left
        rates = {key: 0.0 for key in case.options if "dropout" in key}
        quiet = create_model(case.name, **case.options | rates)
        run = quiet.apply(case.variables, case.x, train=True, mutable=["batch_stats"])[0]
        assert np.allclose(run, evaluated, rtol=1e-4, atol=1e-5) != norms


@pytest.mark.parametrize("name", MODELS)
def test_seed_decides_the_weights(name):
    init = jax.jit(create_model(name, **TABLE[name][0]).init)
    first, again, other = (
        rules.flatten(init({"params": jax.random.key(seed)}, INPUTS[name])["params"]) for seed in (0, 0, 1)
    )
    kernels = [path for path in first if path.endswith("kernel")]
    assert len(kernels) > 1
    for path in first:
        np.testing.assert_array_equal(first[path], again[path])
    for path in kernels:
        assert (np.asarray(first[path]) != np.asarray(other[path])).all(), path


def test_no_classes_gives_the_features_before_the_head(case):
    features_of = create_model(case.name, **case.options | {"num_classes": 0})
    params = {key: tree for key, tree in case.variables["params"].items() if key != "head"}
    features = np.asarray(jax.jit(features_of.apply)({**case.variables, "params": params}, case.x))
    head = case.variables["params"]["head"]
    assert features.shape == (4, head["kernel"].shape[0])
    logits = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, case.evaluate(case.variables, case.x), rtol=1e-4, atol=1e-5)
    shapes = jax.eval_shape(features_of.init, {"params": jax.random.key(0)}, case.x)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda s: s.shape, shapes.get("params", {}))


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_accepted_and_means_something(name):
    """Each on its own, with its default and with another value; both by the rules of `zoo.options`."""
    defaults = model_options(name)
    assert defaults
    plain = create_model(name)
    for option, default in defaults.items():
        assert default is not inspect.Parameter.empty, f"{option} has no default"
        assert create_model(name, **{option: default}) == plain, option
        assert create_model(name, **{option: OTHER[option]}) != plain, option
    assert create_model(name, **defaults | {"num_classes": 3}).num_classes == 3


def test_options_of_a_table_of_variants():
    options = model_options("lenet5")
    assert options["variant"] == "modern"
    assert options["num_classes"] == 10
    assert not {"options", "name", "parent"} & set(options)


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("lenet", {}, r"unknown model 'lenet'; did you mean 'lenet5'"),
        ("MLP", {}, r"unknown model 'MLP'.*mlp"),
        ("mlp", {"num_class": 3}, r"model 'mlp' has no option 'num_class'; did you mean 'num_classes'"),
        ("lenet5", {"num_class": 3}, r"model 'lenet5' has no option 'num_class'; did you mean 'num_classes'"),
        ("lenet5", {"varian": "1998"}, r"model 'lenet5' has no option 'varian'; did you mean 'variant'"),
        ("mlp", {"parent": None}, r"model 'mlp' has no option 'parent'"),
        ("mlp", {"dropout": "half"}, r"model 'mlp': dropout is 'half'; it must be a number"),
        ("mlp", {"widths": 512}, r"model 'mlp': widths is 512; it must be a tuple"),
        ("mlp", {"widths": (5.5,)}, r"model 'mlp': widths is \(5\.5,\)"),
        ("lenet5", {"pool": 2}, r"model 'lenet5': pool is 2; it must be a word"),
        ("lenet5", {"variant": 1998}, r"model 'lenet5': variant is 1998; it must be a word"),
    ],
)
def test_mistakes(name, options, line):
    with pytest.raises(UserError, match=line) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value)


def test_list_models(monkeypatch):
    assert list_models() == sorted(MODELS)
    assert list_models("lenet*") == ["lenet5"]
    assert list_models("?lp") == ["mlp"]
    assert list_models("nothing*") == []
    monkeypatch.setattr(models, "MODELS", {"net20": None, "net110": None, "mlp": None, "NET": None})
    assert list_models("net*") == ["net110", "net20"]
