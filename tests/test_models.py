"""What holds for every model of MODELS: one table, the same questions."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model, list_models, rules
from zoo.errors import UserError
from zoo.models import MODELS, model_options


def inputs(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# name -> the settings to try, each small and quick; the first must be the default but for sizes.
TABLE = {
    "lenet5": [
        {"num_classes": 5},
        {"num_classes": 5, "variant": "1998", "dropout": 0.5},
        {"num_classes": 5, "pool": "avg", "padding": 3, "activation": "gelu"},
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


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(name, options, model, variables, x) of one row; biases are drawn too, so that none hides behind a zero."""
    name, options = request.param
    return name, options, *variables_of(name, options)


def variables_of(name, options):
    model, x = create_model(name, **options), INPUTS[name]
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)
    normal = np.random.default_rng(1).standard_normal

    def draw(path, s):
        values = normal(s.shape) / max(np.prod(s.shape[:-1]), 4) ** 0.5
        return np.float32(np.abs(values) if rules.path_of(path).startswith("batch_stats") else values)

    return model, jax.tree_util.tree_map_with_path(draw, shapes), x


def train_mode(model, variables, x, seed=0):
    state = [name for name in variables if name != "params"]
    return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=state)


def test_shape_and_finite(case):
    _, options, model, variables, x = case
    for run in (jax.jit(model.apply), model.apply):
        logits = run(variables, x)
        assert logits.shape == (4, options["num_classes"])
        assert logits.dtype == jnp.float32
        assert jnp.isfinite(logits).all()


def test_rows_do_not_see_each_other(case):
    """In evaluation, a row's logits do not depend on the rest of the batch, nor on its place in it."""
    _, _, model, variables, x = case
    run = jax.jit(model.apply)
    np.testing.assert_allclose(run(variables, x[::-1])[::-1], run(variables, x), rtol=1e-4, atol=1e-5)
    other = np.concatenate([x[:1], 9 * x[1:]])
    np.testing.assert_allclose(run(variables, other)[0], run(variables, x)[0], rtol=1e-4, atol=1e-5)


def test_jit_changes_nothing(case):
    _, _, model, variables, x = case
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), model.apply(variables, x), rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_gradient(case):
    """Both in training and in evaluation: what no gradient reaches is not connected."""
    _, _, model, variables, x = case
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    weight = inputs(*jax.eval_shape(model.apply, variables, x).shape)

    @jax.jit
    def gradients(params):
        def by(run):
            return jax.grad(lambda p: jnp.sum(weight * run({"params": p, **rest})))(params)

        return by(lambda v: model.apply(v, x)), by(lambda v: train_mode(model, v, x)[0])

    for grads in gradients(variables["params"]):
        for path, grad in rules.flatten(grads).items():
            assert jnp.isfinite(grad).all(), path
            assert jnp.any(grad != 0), path


def test_train_and_eval_differ_only_by_dropout_and_batch_norm(case):
    name, options, model, variables, x = case
    evaluated, (trained, state) = model.apply(variables, x), train_mode(model, variables, x)
    drops, norms = any("dropout" in key for key in options), "batch_norm" in options
    same = np.allclose(evaluated, trained, rtol=1e-5, atol=1e-6)
    assert same != (drops or norms)
    assert set(state) == ({"batch_stats"} if norms else set())

    again, other = train_mode(model, variables, x)[0], train_mode(model, variables, x, seed=1)[0]
    np.testing.assert_array_equal(again, trained)
    assert (other != trained).any() == drops
    if drops:  # without it, nothing random is left
        quiet = create_model(name, **{key: 0.0 if "dropout" in key else value for key, value in options.items()})
        run, _ = train_mode(quiet, variables, x)
        assert np.allclose(run, evaluated, rtol=1e-5, atol=1e-6) != norms


def test_seed_decides_the_weights(case):
    _, _, model, _, x = case
    init = jax.jit(model.init)
    a, b, c = (rules.flatten(init({"params": jax.random.key(seed)}, x)["params"]) for seed in (0, 0, 1))
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])
        if path.endswith("kernel"):
            assert (np.asarray(a[path]) != np.asarray(c[path])).all(), path
    kernels = [np.asarray(leaf).ravel() for path, leaf in a.items() if path.endswith("kernel")]
    n = min(map(len, kernels))
    for i, kernel in enumerate(kernels):  # and no two layers share a key
        assert not any((kernel[:n] == other[:n]).any() for other in kernels[:i])


def test_no_classes_gives_the_features_before_the_head(case):
    name, options, model, variables, x = case
    features_of = create_model(name, **{**options, "num_classes": 0})
    params = {key: tree for key, tree in variables["params"].items() if key != "head"}
    features = np.asarray(features_of.apply({**variables, "params": params}, x))
    head = variables["params"]["head"]
    assert features.shape == (4, head["kernel"].shape[0])
    np.testing.assert_allclose(
        features @ head["kernel"] + head["bias"][None], model.apply(variables, x), rtol=1e-4, atol=1e-5
    )
    shapes = jax.eval_shape(features_of.init, {"params": jax.random.key(0)}, x)
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


def test_list_models():
    assert list_models() == sorted(MODELS)
    assert list_models("lenet*") == ["lenet5"]
    assert list_models("?lp") == ["mlp"]
    assert list_models("nothing*") == []
