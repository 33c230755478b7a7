"""MLPs: the linear models against scikit-learn's solutions, XOR by the book, and every option."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from zoo import create_model, optim, rules, tasks
from zoo.errors import UserError

META = {"name": "test", "num_classes": 3, "target_mean": 0.0, "target_std": 1.0}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def init(model, x):
    return jax.jit(model.init)({"params": jax.random.key(0)}, x)


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def random(model, x):
    """Variables of the right shapes, drawn by NumPy, biases too; batch normalization starts as it should."""
    normal = np.random.default_rng(7).standard_normal
    starts = {"scale": np.ones, "mean": np.zeros, "var": np.ones, "norm": np.zeros}

    def draw(path, s):
        start = next((fill for word, fill in starts.items() if word in rules.path_of(path)), normal)
        return np.float32(start(s.shape) / (max(np.prod(s.shape[:-1]), 4) ** 0.5 if start is normal else 1))

    return jax.tree_util.tree_map_with_path(draw, shapes(model, x))


# --- without hidden layers: softmax, logistic and linear regression ----------------------------------------------


def fit(task, batch, *, l2=0.0, tx=None):
    """The minimum of a task's training loss plus `l2 / 2` times the squared kernel, by full-batch steps."""
    params = task.init(jax.random.key(0), batch)["params"]
    tx = tx(params) if tx else optax.sgd(0.1, momentum=0.95, nesterov=True)

    def objective(params):
        penalty = sum(jnp.sum(leaf**2) for path, leaf in rules.flatten(params).items() if "kernel" in path)
        return task.loss(params, {}, batch, jax.random.key(0), train=True)[0] + l2 / 2 * penalty

    @jax.jit
    def solve(params):
        def step(carry, _):
            params, state = carry
            grads = jax.grad(objective)(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), optax.tree.norm(updates)

        (params, _), moved = jax.lax.scan(step, (params, tx.init(params)), length=2_000)
        return params, moved[-1]

    params, moved = solve(params)
    assert moved < 1e-4
    return jax.tree.map(np.asarray, params)["head"]


def standardized(loader):
    x, y = loader(return_X_y=True)
    return np.float32((x - x.mean(0)) / x.std(0)), y


def test_softmax_regression():
    x, y = standardized(sklearn.datasets.load_iris)
    model = create_model("mlp", widths=(), num_classes=3, kernel_init="zeros")
    task = tasks.make({"name": "classification"}, model, META)
    head = fit(task, {"feature": x, "label": np.int32(y)}, l2=0.02)

    # scikit-learn's objective is C * sum of losses + |w|^2 / 2: ours times C * rows.
    peer = LogisticRegression(C=1 / (0.02 * len(x)), tol=1e-8, max_iter=1_000).fit(x, y)
    np.testing.assert_allclose(head["kernel"].T, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(head["bias"] - head["bias"].mean(), peer.intercept_ - peer.intercept_.mean(), atol=2e-3)


def test_logistic_regression():
    x, y = standardized(sklearn.datasets.load_breast_cancer)
    model = create_model("mlp", widths=(), num_classes=1, kernel_init="zeros")
    task = tasks.make({"name": "classification", "binary": True}, model, META | {"num_classes": 2})
    head = fit(task, {"feature": x, "label": np.int32(y)}, l2=0.02)

    peer = LogisticRegression(C=1 / (0.02 * len(x)), tol=1e-8, max_iter=1_000).fit(x, y)
    np.testing.assert_allclose(head["kernel"].T, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(head["bias"], peer.intercept_, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_linear_and_ridge_regression(alpha):
    x, y = standardized(sklearn.datasets.load_diabetes)
    meta = META | {"target_mean": float(y.mean()), "target_std": float(y.std())}
    model = create_model("mlp", widths=(), num_classes=1, kernel_init="zeros")
    task = tasks.make({"name": "regression"}, model, meta)
    head = fit(task, {"feature": x, "target": np.float32(y)}, l2=2 * alpha)

    # Ridge minimises sum of squares + a |w|^2; ours is the mean of squares + alpha |w|^2.
    scaled = (y - y.mean()) / y.std()
    peer = Ridge(alpha * len(x), tol=1e-8) if alpha else LinearRegression()
    peer.fit(x, scaled)
    np.testing.assert_allclose(head["kernel"][:, 0], peer.coef_, atol=5e-3)
    np.testing.assert_allclose(head["bias"], peer.intercept_, atol=1e-3)


def test_weight_decay_is_ridge():
    """The setting a user has, `weight_decay` of sgd, and not only the formula."""
    x, y = standardized(sklearn.datasets.load_diabetes)
    y = np.float32((y - y.mean()) / y.std())
    model = create_model("mlp", widths=(), num_classes=1)
    task = tasks.make({"name": "regression"}, model, META)
    settings = {"name": "sgd", "weight_decay": 0.6, "momentum": 0.9}
    head = fit(
        task,
        {"feature": x, "target": y},
        tx=lambda params: optim.make(settings, optax.constant_schedule(0.05), params),
    )
    peer = Ridge(0.3 * len(x), tol=1e-8).fit(x, y)
    np.testing.assert_allclose(head["kernel"][:, 0], peer.coef_, atol=1e-3)


def test_no_hidden_layer_is_one_matrix():
    x = np.float32(np.random.default_rng(0).standard_normal((5, 2, 3)))
    model = create_model("mlp", widths=(), num_classes=4)
    variables = random(model, x)
    assert list(rules.flatten(variables["params"])) == ["head/bias", "head/kernel"]
    head = variables["params"]["head"]
    wanted = x.reshape(5, 6) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])[None]
    np.testing.assert_allclose(model.apply(variables, x), wanted, rtol=1e-5, atol=1e-6)


# --- XOR (Goodfellow et al. 2016, section 6.1) -------------------------------------------------------------------

XOR_IN, XOR_OUT = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]]), np.float32([0, 1, 1, 0])


def test_xor_by_the_published_weights():
    model = create_model("mlp", widths=(2,), num_classes=1)
    params = {
        "dense1": {"kernel": np.float32([[1, 1], [1, 1]]), "bias": np.float32([0, -1])},
        "head": {"kernel": np.float32([[1], [-2]]), "bias": np.float32([0])},
    }
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda s: s.shape, shapes(model, XOR_IN)["params"])
    assert model.apply({"params": params}, XOR_IN)[:, 0].tolist() == [0, 1, 1, 0]


def test_xor_is_found_by_training():
    """Two hidden units often end in a local minimum. With four, at least half of 8 seeds must find XOR."""
    model = create_model("mlp", widths=(4,), num_classes=1)
    task = tasks.make({"name": "classification", "binary": True}, model, META | {"num_classes": 2})
    batch = {"feature": XOR_IN, "label": XOR_OUT.astype(np.int32)}
    tx = optax.adam(0.05)

    @jax.jit
    @jax.vmap
    def train(seed):
        params = task.init(jax.random.key(seed), batch)["params"]

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda p: task.loss(p, {}, batch, jax.random.key(0), train=True)[0])(
                params
            )
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=400)
        loss, (_, metrics) = task.loss(params, {}, batch, None, train=False)
        return loss, metrics["accuracy"][0]

    losses, correct = train(np.arange(8))
    found = (np.asarray(correct) == 4) & (np.asarray(losses) < 0.1)
    assert found.sum() >= 4, (correct, losses)


def test_xor_is_not_linear():
    """The same training without the hidden layer cannot: the best is a coin flip."""
    model = create_model("mlp", widths=(), num_classes=1, kernel_init="zeros")
    task = tasks.make({"name": "regression"}, model, META)
    head = fit(task, {"feature": XOR_IN, "target": XOR_OUT})
    np.testing.assert_allclose(XOR_IN @ head["kernel"] + head["bias"][None], 0.5, atol=1e-4)


# --- layers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def x():
    return np.float32(np.random.default_rng(3).standard_normal((16, 5)))


@pytest.mark.parametrize("widths", [(), (7,), (7, 6), (4, 4, 4)])
def test_parameters_of_each_width(x, widths):
    params = shapes(create_model("mlp", widths=widths, num_classes=3), x)["params"]
    sizes = [5, *widths, 3]
    assert count(params) == sum(a * b + b for a, b in itertools.pairwise(sizes))
    assert sorted(params) == [*(f"dense{i}" for i in range(1, len(widths) + 1)), "head"]


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 1), (4, 2, 2, 2), (4, 2, 4)])
def test_any_input_is_flattened(shape):
    x = np.arange(32, dtype=np.float32).reshape(shape) / 32
    model = create_model("mlp", widths=(3,), num_classes=2)
    variables = random(model, np.zeros((1, 8), np.float32))
    np.testing.assert_array_equal(model.apply(variables, x), model.apply(variables, x.reshape(4, 8)))


def test_hidden_layer_by_hand(x):
    model = create_model("mlp", widths=(7,), num_classes=3, activation="tanh")
    variables = random(model, x)
    p = jax.tree.map(np.asarray, variables["params"])
    hidden = np.tanh(x @ p["dense1"]["kernel"] + p["dense1"]["bias"][None])
    wanted = hidden @ p["head"]["kernel"] + p["head"]["bias"][None]
    np.testing.assert_allclose(model.apply(variables, x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_maxout_is_the_largest_of_k_layers(x, pieces):
    model = create_model("mlp", widths=(7,), num_classes=0, activation="maxout", pieces=pieces)
    variables = random(model, x)
    p = jax.tree.map(np.asarray, variables["params"]["dense1"])
    layers = [x @ p["kernel"][:, k::pieces] + p["bias"][None, k::pieces] for k in range(pieces)]
    assert all(layer.shape == (16, 7) for layer in layers)
    np.testing.assert_allclose(model.apply(variables, x), np.max(layers, axis=0), rtol=1e-4, atol=1e-5)

    one_piece = shapes(create_model("mlp", widths=(7,), num_classes=0), x)["params"]
    assert count(variables["params"]) == pieces * count(one_piece)


def test_maxout_widens_only_its_own_layer(x):
    params = shapes(create_model("mlp", widths=(7, 4), activation="maxout", pieces=3), x)["params"]
    kernels = {name: layer["kernel"].shape for name, layer in params.items()}
    assert kernels == {"dense1": (5, 21), "dense2": (7, 12), "head": (4, 10)}


# --- batch normalization -----------------------------------------------------------------------------------------


def dense1(variables, x):
    layer = variables["params"]["dense1"]
    return x @ layer["kernel"] + layer["bias"][None]


def normalized(x):
    return (x - x.mean(0, keepdims=True)) / np.sqrt(x.var(0, keepdims=True) + 1e-5)


@pytest.mark.parametrize("where", ["before", "after"])
def test_batch_norm_order(x, where):
    model = create_model("mlp", widths=(6,), num_classes=0, norm="batch", norm_place=where)
    variables = random(model, x)
    assert {path: leaf.shape for path, leaf in rules.flatten(variables["params"]["norm1"]).items()} == {
        "bias": (6,),
        "scale": (6,),
    }
    found, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    dense = dense1(variables, x)
    by_order = {
        "before": np.maximum(normalized(dense), 0),
        "after": normalized(np.maximum(dense, 0)),
    }
    np.testing.assert_allclose(found, by_order[where], atol=1e-4)
    assert not np.allclose(by_order["before"], by_order["after"], atol=0.1)


def test_batch_norm_before_maxout_normalizes_every_piece(x):
    model = create_model("mlp", widths=(4,), num_classes=0, activation="maxout", pieces=3, norm="batch")
    variables = random(model, x)
    found, _ = model.apply(variables, x, mutable=["batch_stats"])
    pieces = normalized(dense1(variables, x)).reshape(16, 4, 3)
    np.testing.assert_allclose(found, pieces.max(-1), atol=1e-4)

    def loss(params):
        return (model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[0] ** 2).sum()

    # Without optimizations XLA computes the pieces twice, and not to the last bit the same.
    grads = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_batch_norm_trains_if_and_only_if_its_statistics_may_change(x):
    model = create_model("mlp", widths=(6,), num_classes=0, norm="batch")
    variables = random(model, x)
    dense = dense1(variables, x)
    found, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
    stats = changed["batch_stats"]["norm1"]
    np.testing.assert_allclose(stats["mean"], 0.1 * dense.mean(0), atol=1e-5)  # momentum 0.9
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * dense.var(0), rtol=1e-4)

    # Not mutable: the stored statistics (0 and 1) are used, whatever `train` says.
    stored = np.maximum(dense / np.sqrt(1 + 1e-5), 0)
    for train in (True, False):
        np.testing.assert_allclose(model.apply(variables, x, train=train), stored, atol=1e-5)
    assert not np.allclose(found, stored, atol=0.1)


def test_no_batch_norm_has_no_statistics(x):
    assert set(shapes(create_model("mlp", widths=(6,)), x)) == {"params"}


# --- dropout -----------------------------------------------------------------------------------------------------


def drop(model, x, seed=0):
    variables = init(model, x)
    return np.asarray(model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)}))


def test_dropout_of_the_input():
    x = np.ones((400, 100), np.float32)
    found = drop(create_model("mlp", widths=(), num_classes=0, dropout_input=0.2, dropout=0.9), x)
    assert set(np.unique(found)) == {np.float32(0), np.float32(1.25)}
    assert (found == 0).mean() == pytest.approx(0.2, abs=0.01)  # 5 standard deviations


def test_dropout_of_hidden_layers():
    # Every unit is 1 before dropout: what is left is counted layer by layer.
    one = {"kernel_init": 0.0, "bias_init": 1.0, "num_classes": 0}
    x = np.ones((400, 3), np.float32)
    found = drop(create_model("mlp", widths=(50, 100), dropout=0.4, **one), x)
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.6)}
    assert (found == 0).mean() == pytest.approx(0.4, abs=0.013)
    assert (drop(create_model("mlp", widths=(50, 100), dropout_input=0.9, **one), x) == 1).all()


def test_dropout_also_between_hidden_layers():
    """Hidden units each pass their one input on: a second dropout leaves 0.6 * 0.6 of them."""
    model = create_model("mlp", widths=(100, 100), num_classes=0, dropout=0.4, activation="linear")
    x = np.ones((400, 100), np.float32)
    eye = {"kernel": np.eye(100, dtype=np.float32), "bias": np.zeros(100, np.float32)}
    variables = {"params": {"dense1": eye, "dense2": eye}}
    found = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert (np.asarray(found) == 0).mean() == pytest.approx(1 - 0.6**2, abs=0.013)


def test_no_dropout_in_evaluation(x):
    model = create_model("mlp", widths=(6,), dropout=0.5, dropout_input=0.5)
    plain = create_model("mlp", widths=(6,))
    variables = random(model, x)
    np.testing.assert_array_equal(model.apply(variables, x), plain.apply(variables, x))
    assert (drop(model, x) != drop(model, x, seed=1)).any()
    assert (drop(model, x) == drop(model, x)).all()


# --- embeddings --------------------------------------------------------------------------------------------------


def test_embeddings_of_categories():
    """The last two columns are looked up in tables of their own; past the last category everything is zero."""
    model = create_model("mlp", widths=(), num_classes=0, cardinalities=(3, 2), embed_dim=4)
    x = np.float32([[0.5, -1, 0, 1], [2, 3, 2, 0], [4, 5, 3, 2]])
    variables = random(model, x)
    tables = [np.asarray(variables["params"][f"embed{i}"]["embedding"]) for i in range(2)]
    assert [table.shape for table in tables] == [(3, 4), (2, 4)]
    found = model.apply(variables, x)
    np.testing.assert_array_equal(found[:, :2], x[:, :2])
    np.testing.assert_array_equal(found[:2, 2:6], tables[0][[0, 2]])
    np.testing.assert_array_equal(found[:2, 6:], tables[1][[1, 0]])
    assert not np.any(found[2, 2:])
    grads = jax.grad(lambda v: model.apply(v, x[2:]).sum())(variables)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))  # what is unseen teaches nothing


# --- initializers and mistakes -----------------------------------------------------------------------------------


def test_initializers_reach_every_layer(x):
    model = create_model("mlp", widths=(6, 4), kernel_init=0.5, bias_init="ones")
    for path, leaf in rules.flatten(init(model, x)["params"]).items():
        assert (np.asarray(leaf) == (0.5 if path.endswith("kernel") else 1)).all(), path


def test_default_initializers():
    params = init(create_model("mlp", widths=(400,)), np.zeros((1, 300), np.float32))["params"]
    assert params["dense1"]["kernel"].std() == pytest.approx(np.sqrt(2 / 300), rel=0.02)  # he_normal
    assert not params["dense1"]["bias"].any()


@pytest.mark.parametrize(
    "options, line",
    [
        ({"norm": "instance"}, r"mlp: norm 'instance' needs feature maps; use 'layer' or 'batch'"),
        ({"norm_place": "after"}, "mlp: norm_place is 'after', but norm is 'none'"),
        ({"norm_eps": 1e-3}, "mlp: norm_eps is 0.001, but norm 'none' has no variance; leave it out"),
        ({"norm_eps": 0.0, "norm": "batch"}, r"mlp: norm_eps is 0\.0; it must be more than 0"),
        ({"norm_place": "both"}, r"mlp: norm_place is 'both'; it must be 'before' or 'after'"),
        ({"dropconnect": 1.0}, r"mlp: dropconnect is 1\.0; it must be in \[0, 1\)"),
        ({"activation": "rellu"}, r"unknown activation 'rellu'; did you mean"),
        ({"activation": "maxout", "pieces": 1}, r"mlp: pieces is 1; maxout takes the largest of at least 2"),
        ({"pieces": 3}, r"mlp: pieces is 3, an option of activation 'maxout'; activation is 'relu'"),
        ({"kernel_init": "he"}, r"unknown initializer 'he'"),
        ({"bias_init": "zero"}, r"unknown initializer 'zero'; did you mean 'zeros'"),
        ({"width": (3,)}, r"model 'mlp' has no option 'width'; did you mean 'widths'"),
        ({"dropout": 1.0}, r"mlp: dropout is 1\.0; it must be in \[0, 1\)"),
        ({"dropout_input": -0.1}, r"mlp: dropout_input is -0\.1"),
        ({"widths": (5, 0)}, r"mlp: widths is \(5, 0\)"),
        ({"num_classes": -1}, r"mlp: num_classes is -1"),
        ({"embed_dim": 4}, r"mlp: embed_dim is 4 for 0 columns of categories"),
        ({"cardinalities": (3,)}, r"mlp: embed_dim is 0 for 1 columns of categories; it must be at least 1"),
        ({"bias_init": "he_normal"}, r"initializer 'he_normal' cannot fill a bias; known: normal, ones"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line):
        create_model("mlp", **options)
