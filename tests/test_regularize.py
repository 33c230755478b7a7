"""Penalties against scikit-learn's solutions, their place in loss and log, constraints in a run, and refusals."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso, Ridge

import zoo
from zoo import checkpoint, create_model, fine_tuning, regularize, rules, tasks
from zoo.errors import UserError
from zoo.run import prepare
from zoo.types import Task

ROOT = pathlib.Path(__file__).parent.parent
META = {"name": "test", "num_classes": 3}
OFF = {"penalties": (), "activity": (), "constraints": (), "sparsity": (), "sparsity_kind": "random"}
normal = np.random.default_rng(0).standard_normal


def made(task, params, *, freeze=(), **options):
    return regularize.make({**OFF, **options}, task, params, fine_tuning.frozen_labels(freeze, params), seed=0)


# --- penalties -------------------------------------------------------------------------------------------------

W = np.float32([[3, -1, 0], [4, 1, 0]])
CONV = np.float32(normal((3, 3, 2, 4)))


@pytest.mark.parametrize("kind, values, w, wanted", [
    ("l1", (0.5,), W, 0.5 * 9),
    ("l2", (0.5,), W, 0.25 * 27),
    ("elastic_net", (0.5, 0.2), W, 0.1 * 9 + 0.2 * 27),
    ("elastic_net", (0.5,), W, 0.25 * 9 + 0.125 * 27),
    ("group_lasso", (0.5,), W, 0.5 * (5 + 2**0.5)),
    ("group_lasso", (0.5, "input"), W, 0.5 * (10**0.5 + 17**0.5)),
    ("group_lasso", (2.0,), CONV, 2 * np.sqrt((CONV**2).sum((0, 1, 2))).sum()),
    ("group_lasso", (2.0, "input"), CONV, 2 * np.sqrt((CONV**2).sum((0, 1, 3))).sum()),
    ("l1", (2.0,), CONV, 2 * abs(CONV).sum()),
    ("l2", (2.0,), CONV, (CONV**2).sum()),
])  # fmt: skip
def test_value_by_hand(kind, values, w, wanted):
    np.testing.assert_allclose(regularize.PENALTIES[kind](*values)(w), wanted, rtol=1e-5)


@pytest.mark.parametrize("groups", ["output", "input"])
def test_a_group_of_zeros_has_no_gradient(groups):
    grad = jax.grad(regularize.group_lasso(1.0, groups))(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(grad, 0)


ROWS, X, Y = 442, *(a[:442] for a in sklearn.datasets.load_diabetes(return_X_y=True))
X = (X - X.mean(0)) / X.std(0)
Y = np.stack([(Y - Y.mean()) / Y.std(), X[:, 2] - 0.5 * X[:, 8] ** 2 + 0.5], axis=1)
BATCH = {"feature": np.float32(X), "target": np.float32(Y)}

# (rule, its scikit-learn estimator); all minimise |XW - Y|^2 / (2 rows) + the penalty, Ridge 2 rows times that
ESTIMATORS = {
    "l1": (("l1", "w", 0.1), Lasso(0.1, fit_intercept=False, tol=1e-8)),
    "l2": (("l2", "w", 0.3), Ridge(0.3 * ROWS, fit_intercept=False, tol=1e-8)),
    "elastic_net": (("elastic_net", "w", 0.2, 0.7), ElasticNet(0.2, l1_ratio=0.7, fit_intercept=False, tol=1e-8)),
    "group_lasso": (("group_lasso", "w", 0.2, "input"), MultiTaskLasso(0.2, fit_intercept=False, tol=1e-8)),
}


def linear(params, model_state, batch, key, *, train):
    value = jnp.sum((batch["feature"] @ params["w"] - batch["target"]) ** 2) / (2 * ROWS)
    return value, (model_state, {"loss": (value, jnp.float32(1))})


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_minimum_is_that_of_scikit_learn(kind):
    rule, peer = ESTIMATORS[kind]
    params = {"w": jnp.zeros((10, 2))}
    task = made(Task(None, linear), params, penalties=(rule,)).task
    tx = optax.adam(optax.cosine_decay_schedule(0.02, 4_000))  # small steps at the end: l1 has an edge at zero

    def objective(params):
        return task.loss(params, {}, BATCH, None, train=True)[0]

    @jax.jit
    def solve(params):
        def one(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(objective)(params), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(one, (params, tx.init(params)), length=4_000)
        return params, objective(params), objective({"w": wanted})

    wanted = np.float32(peer.fit(X, Y).coef_.T)
    found, reached, least = solve(params)
    np.testing.assert_allclose(found["w"], wanted, atol=2e-3)
    np.testing.assert_allclose(reached, least, rtol=1e-4)
    if kind in ("l1", "elastic_net"):
        assert (wanted == 0).any()
    if kind == "group_lasso":
        assert (wanted == 0).all(1).any()


def test_every_kind_has_an_estimator():
    assert set(ESTIMATORS) == set(regularize.PENALTIES)


def test_penalties_of_different_kinds_add_up_and_of_one_kind_the_first_counts():
    params = {"a": {"bias": W[0], "kernel": W}, "b": {"kernel": 2 * W}}
    task = made(
        Task(None, lambda params, model_state, batch, key, *, train: (jnp.float32(0), ({}, {}))), params,
        penalties=(("l1", "b/kernel", 1.0), ("l1", ".*kernel", 0.1), ("l2", "a/kernel", 1.0)),
    ).task  # fmt: skip
    value, (_, metrics) = task.loss(params, {}, {}, None, train=True)
    assert value == pytest.approx(18 + 0.9 + 13.5)
    assert metrics["penalty"] == (value, 1)


def test_off_is_the_same_task():
    task, params = Task(None, linear), {"w": np.zeros((10, 2))}
    found = made(task, params)
    assert found.task is task
    assert found.project(params) is params
    assert found.masks == {}


def test_the_metric_is_of_training_alone_and_loss_stays_what_it_was():
    params = {"w": np.float32(normal((10, 2)))}
    batch, task = BATCH, Task(None, linear)
    found = made(task, params, penalties=(("l2", "w", 0.3),)).task
    value, (_, metrics) = found.loss(params, {}, batch, None, train=True)
    plain, (_, before) = task.loss(params, {}, batch, None, train=True)
    penalty = 0.15 * (params["w"] ** 2).sum()
    np.testing.assert_allclose(value, plain + penalty, rtol=1e-6)
    np.testing.assert_allclose(metrics["penalty"], (penalty, 1), rtol=1e-6)
    assert metrics["loss"] == before["loss"]
    value, (_, metrics) = found.loss(params, {}, batch, None, train=False)
    assert (value, set(metrics)) == (plain, {"loss"})


@pytest.mark.parametrize(
    "name, model, answer",
    [
        ("regression", {"name": "mlp", "widths": (), "num_classes": 1}, {"target": np.ones(4, np.float32)}),
        (
            "segmentation",
            {"name": "unet", "depth": 1, "width": 4, "norm": "none", "num_classes": 3},
            {"label": np.ones((4, 12, 12), np.uint8)},
        ),
    ],
)
def test_the_metric_is_there_where_a_task_makes_metrics_of_sums(name, model, answer):
    meta = META | {"target_mean": 0.0, "target_std": 1.0, "shapes": {key: x.shape[1:] for key, x in answer.items()}}
    task, batch = tasks.make({"name": name}, create_model(**model), meta), {"image": IMAGE["image"], **answer}
    params = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    found = made(task, params, penalties=(("l2", ".*kernel", 0.3),)).task
    shapes = jax.eval_shape(lambda p: found.loss(p, {}, batch, jax.random.key(0), train=True)[1][1], params)
    values = dict.fromkeys(shapes, 1.0)
    assert found.finalize(values | {"penalty": 7.0})["penalty"] == 7
    assert not any(key.startswith("_") for key in found.finalize(values))
    del values["penalty"]
    assert "penalty" not in found.finalize(values)


# --- penalties on outputs --------------------------------------------------------------------------------------

FEATURE = {"feature": np.float32(normal((6, 5))), "label": np.arange(6, dtype=np.int32) % 3}
IMAGE = {"image": np.float32(normal((4, 12, 12, 1))), "label": np.arange(4, dtype=np.int32) % 3}
TOKEN = {"token": np.arange(22, dtype=np.int32).reshape(2, 11) % 7, "start": np.ones(2, bool)}


def active(model, batch, *activity, meta=META, name="classification"):
    task = tasks.make({"name": name}, model, meta)
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    state = {key: value for key, value in variables.items() if key != "params"}
    found = made(task, variables["params"], activity=activity).task

    def loss(params, task=found):
        return task.loss(params, state, batch, jax.random.key(1), train=True)

    return variables, loss, lambda params: loss(params, task)


def test_activity_of_an_mlp_by_hand():
    model = create_model("mlp", widths=(8,), num_classes=3, dropout=0.0)
    variables, loss, plain = active(model, FEATURE, ("l1", "dropout1", 0.5), ("l2", "dense1", 0.1), ("l1", "head", 2.0))
    params = jax.device_get(variables["params"])
    inner = FEATURE["feature"] @ params["dense1"]["kernel"] + params["dense1"]["bias"][None]
    hidden = np.maximum(inner, 0)
    outer = hidden @ params["head"]["kernel"] + params["head"]["bias"][None]
    wanted = (0.5 * abs(hidden).sum() + 0.05 * (inner**2).sum() + 2 * abs(outer).sum()) / 6
    (value, (_, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    (before, (_, without)), plain_grads = jax.jit(jax.value_and_grad(plain, has_aux=True))(params)
    np.testing.assert_allclose(metrics["penalty"], (wanted, 1), rtol=1e-5)
    np.testing.assert_allclose(value, before + wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], without["loss"], rtol=1e-6)
    # The mean over the batch of the logits' signs comes into the gradient of the head's bias.
    difference = grads["head"]["bias"] - plain_grads["head"]["bias"]
    np.testing.assert_allclose(difference, 2 * np.sign(outer).mean(0), rtol=1e-5, atol=1e-6)


def test_activity_of_lenet5_with_its_intermediates():
    model = create_model("lenet5", num_classes=3)
    variables, loss, _ = active(model, IMAGE, ("l1", "conv.", 1e-3))
    capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
    _, state = jax.jit(lambda variables: model.apply(variables, IMAGE["image"], **capture))(variables)
    outputs = [state["intermediates"][name]["__call__"][0] for name in ("conv1", "conv2")]
    wanted = sum(1e-3 * np.abs(np.asarray(x)).sum() for x in outputs) / 4
    np.testing.assert_allclose(jax.jit(loss)(variables["params"])[1][1]["penalty"][0], wanted, rtol=1e-4)


def test_activity_of_a_language_model_keeps_its_carry():
    """Time runs first inside of the stack, and yet it is the rows of the batch that the penalty is a mean over."""
    model = create_model("lstm_lm", num_classes=7, width=6, depth=1)
    meta = {"name": "test", "length": 10, "unit": "word", "vocab": tuple("abcdefg"), "batch_size": 2}
    variables, loss, plain = active(
        model, TOKEN, ("l2", "recurrent/dropout_out", 2.0), meta=meta, name="language_model"
    )  # fmt: skip
    params, features = variables["params"], model.clone(num_classes=0, embed_size=7)
    body = {name: params[name] for name in ("embed", "recurrent")}
    hidden = jax.jit(features.apply)({"params": body}, TOKEN["token"][:, :-1])
    (_, (state, metrics)), (_, (before, _)) = jax.jit(lambda p: (loss(p), plain(p)))(params)
    np.testing.assert_allclose(metrics["penalty"][0], np.sum(np.square(hidden)) / 2, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, state, before)


def test_a_module_that_is_not_there():
    model = create_model("mlp", widths=(8,), num_classes=3)
    _, loss, _ = active(model, FEATURE, ("l1", "dropuot1", 0.5))
    with pytest.raises(UserError, match=r"regularize.activity: rule 'dropuot1' matches no module; .*'dropout1'"):
        jax.eval_shape(loss, model.init(jax.random.key(0), FEATURE["feature"])["params"])


@pytest.mark.parametrize("path", ["layer1", "layer1/conv1"])
def test_a_module_inside_of_a_block_that_is_computed_twice(path):
    model = create_model("convnet2d", widths=(2, 2), num_classes=3, remat=True)
    _, loss, _ = active(model, IMAGE, ("l1", path, 0.5))
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGE["image"])["params"]
    with pytest.raises(UserError, match=r"regularize.activity: the output of layer1.* computed twice; .*model.remat"):
        jax.eval_shape(jax.grad(lambda p: loss(p)[0]), params)


# --- a whole run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("regularized")
    config = zoo.config.load(ROOT / "tests/tiny.py", [("total_steps", 20), ("checkpoint.every_steps", 20)])
    config.model.norm = "none"
    config.regularize.penalties = (("l2", ".*kernel", 1e-2),)
    config.regularize.activity = (("l1", "dropout1", 1e-3),)
    config.regularize.constraints = (("max_norm", "dense1/kernel", 0.8), ("non_negative", "head/kernel"))
    return zoo.train(config, workdir), workdir, config


def test_constraints_hold_in_weights_and_averages(trained):
    _, workdir, config = trained
    run = prepare(config)
    with checkpoint.Checkpoints(workdir / "checkpoints", keep=9, best=0) as checkpoints:
        _, (state, _), _ = checkpoints.restore(run.shapes)
    for params in (state.params, state.average["params"]):
        norms = np.linalg.norm(params["dense1"]["kernel"], axis=0)
        assert norms.max() < 0.8 * (1 + 1e-6)
        head = np.asarray(params["head"]["kernel"])
        assert head.min() >= 0
        assert head.max() > 0.1
    assert np.linalg.norm(state.params["dense1"]["kernel"], axis=0).max() > 0.8 * (1 - 1e-5)  # and bind
    assert (np.asarray(state.params["head"]["kernel"]) == 0).any()
    assert np.asarray(state.params["head"]["bias"]).min() < 0


def test_the_penalty_is_in_the_log_and_not_in_the_evaluation(trained):
    report, workdir, _ = trained
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = [line["train/penalty"] for line in lines if "train/loss" in line]
    assert len(logged) == 3
    assert min(logged) > 0
    assert set(report["metrics"]["test"]) == {"loss", "accuracy"}
    assert report["parameters_kept"] == report["parameters"] == 64 * 32 + 32 + 32 * 10 + 10


def test_a_probe_has_its_head_regularized(tmp_path):
    config = zoo.config.load(ROOT / "tests/tiny.py", [("total_steps", 2), ("log_every_steps", 1), ("probe", True)])
    config.model = {"name": "mlp", "widths": (8,)}
    config.data.augment = {}
    config.schedule = {"name": "constant"}
    config.regularize.penalties = (("l2", ".*kernel", 1e-2),)
    config.regularize.constraints = (("max_norm", ".*kernel", 0.5),)
    sizes = {"dense1": (64, 8), "head": (8, 10)}
    layers = {k: {"kernel": np.float32(normal(s)), "bias": np.zeros(s[1], np.float32)} for k, s in sizes.items()}
    zoo.train(config, tmp_path, variables={"params": layers})
    params = checkpoint.load_variables(tmp_path)["params"]
    logged = [json.loads(line).get("train/penalty") for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.linalg.norm(params["head"]["kernel"], axis=0).max() < 0.5 * (1 + 1e-6)
    np.testing.assert_array_equal(params["dense1"]["kernel"], layers["dense1"]["kernel"])
    # Of the first step: the head alone, 10 units of norm 0.5.
    assert logged[0] == pytest.approx(0.005 * 10 * 0.25, rel=1e-4)


def test_frozen_parameters_are_left_alone():
    params = {"dense1": {"kernel": 5 * W}, "head": {"kernel": 5 * W}}
    found = made(
        Task(None, lambda params, *args, **kwargs: (jnp.float32(0), ({}, {}))), params, freeze=("dense1/.*",),
        constraints=(("non_negative", ".*kernel"),), penalties=(("l1", ".*kernel", 1.0),),
    )  # fmt: skip
    projected = found.project(params)
    np.testing.assert_array_equal(projected["dense1"]["kernel"], params["dense1"]["kernel"])
    np.testing.assert_array_equal(projected["head"]["kernel"], np.maximum(params["head"]["kernel"], 0))
    assert found.task.loss(params, {}, {}, None, train=True)[0] == 45
    for key, rule in {"constraints": ("unit_norm", "dense1/.*"), "penalties": ("l1", "dense1/.*", 1.0)}.items():
        with pytest.raises(UserError, match=f"regularize.{key}: optim.freeze freezes every parameter"):
            made(Task(None, linear), params, freeze=("dense1/.*",), **{key: (rule,)})


def test_an_optimizer_that_evaluates_another_point():
    config = zoo.config.load(ROOT / "tests/tiny.py", [("optim.name", "schedule_free_sgd"), ("averaging.name", "none")])
    config.regularize.constraints = (("unit_norm", ".*kernel"),)
    with pytest.raises(UserError, match=r"constraints: schedule_free_sgd evaluates an average of its own"):
        prepare(config)


@pytest.mark.parametrize("averaging", [{"name": "ema"}, {"name": "polyak", "start_percent": 10}])
def test_an_average_of_weights_has_no_unit_norm(averaging):
    config = zoo.config.load(ROOT / "tests/tiny.py")
    config.averaging = averaging
    config.regularize.constraints = (("max_norm", ".*bias", 1.0), ("unit_norm", ".*kernel"))
    with pytest.raises(UserError, match=r"config\.averaging is .*, which does not keep unit_norm; use max_norm"):
        prepare(config)


def test_constraints_come_in_the_order_in_which_all_hold_at_the_end():
    params = {"w": W}
    found = made(Task(None, linear), params, constraints=(("unit_norm", "w"), ("non_negative", "w"))).project(params)
    np.testing.assert_allclose(found["w"], np.float32([[0.6, 0, 0], [0.8, 1, 0]]), rtol=1e-6)


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, rule, line", [
    ("penalties", ("grouplasso", "w", 1.0), "unknown kind of regularize.penalties 'grouplasso'; did you mean 'group"),
    ("penalties", ("l1", "v", 1.0), r"regularize.penalties: rule 'v' matches no parameter; the nearest paths are"),
    ("penalties", ("l1", "w", -1.0), "strength of l1 is -1.0; it must be zero or more"),
    ("penalties", ("l1", "w", float("nan")), "strength of l1 is nan"),
    ("penalties", ("l1", "w", "much"), "strength is 'much'; it must be a number"),
    ("penalties", ("l1", "w"), r"l1 takes \(kind, regex, strength\), not \('l1', 'w'\)"),
    ("penalties", ("l1", "w", 1.0, 2.0), r"l1 takes \(kind, regex, strength\)"),
    ("penalties", ("elastic_net", "w", 1.0, 1.5), "ratio is 1.5; it must be in"),
    ("penalties", ("group_lasso", "w", 1.0, "rows"), "groups is 'rows'; it must be 'output' or 'input'"),
    ("penalties", ("group_lasso", "b", 1.0, "input"), "a vector has no inputs"),
    ("penalties", ("l1", "(", 1.0), "is not a regular expression"),
    ("penalties", "l1", "a rule is .kind, regex, value., not 'l1'"),
    ("penalties", ("w", 1.0), "a rule is .kind, regex, value."),
    ("activity", ("group_lasso", "w", 1.0), "unknown kind of regularize.activity 'group_lasso'"),
    ("activity", ("l2", "w", -0.1), "strength of l2 is -0.1"),
    ("constraints", ("maxnorm", "w", 3), "unknown kind of regularize.constraints 'maxnorm'; did you mean 'max_norm'"),
    ("constraints", ("max_norm", "w"), r"max_norm takes \(kind, regex, limit\)"),
    ("constraints", ("max_norm", "w", 0), "limit of max_norm is 0"),
    ("constraints", ("max_norm", "w", -2), "limit of max_norm is -2"),
    ("constraints", ("non_negative", "w", 1), r"non_negative takes \(kind, regex\)"),
    ("constraints", ("unit_norm", "w.+"), "matches no parameter"),
])  # fmt: skip
def test_mistakes(key, rule, line):
    with pytest.raises(UserError, match=line) as error:
        made(Task(None, linear), {"w": np.zeros((10, 2)), "b": np.zeros(2)}, **{key: (rule,)})
    assert "\n" not in str(error.value)


def test_a_rule_on_the_command_line():
    text = "(('max_norm', 'dense1/kernel', 2),)"
    config = zoo.config.load(ROOT / "tests/tiny.py", [("regularize.constraints", text)])
    assert config.regularize.constraints == (("max_norm", "dense1/kernel", 2),)
    with pytest.raises(UserError, match=r"regularize.penaltys; did you mean 'regularize.penalties'"):
        zoo.config.load(ROOT / "tests/tiny.py", [("regularize.penaltys", text)])


def test_a_mistyped_module_is_refused_before_anything_is_trained():
    config = zoo.config.load(ROOT / "tests/tiny.py", [("regularize.activity", "(('l1', 'dens1', 0.1),)")])
    with pytest.raises(UserError, match=r"rule 'dens1' matches no module; .*dense1"):
        prepare(config)


@pytest.mark.parametrize("key, rule", [("penalties", ("l1", ".*", 1.0)), ("sparsity", (".*", 0.5))])
def test_word_vectors_have_a_step_of_their_own(key, rule):
    config = zoo.config.load(ROOT / "configs/skipgram_grammar.py")
    config.regularize[key] = (rule,)
    with pytest.raises(UserError, match=rf"config.regularize.{key}: task word2vec does plain SGD"):
        prepare(config)


def test_rules_of_the_configs_paths():
    """The regex of the convention matches kernels and no biases or norms."""
    model = create_model("mlp", widths=(4,), norm="batch", norm_place="after")
    params = jax.eval_shape(model.init, {"params": jax.random.key(0)}, np.zeros((1, 3), np.float32))["params"]
    found = regularize._by_path(regularize._parse([("l1", ".*kernel", 1.0)], regularize.PENALTIES, "x"), params, "x")
    assert set(found) == {path for path in rules.flatten(params) if path.endswith("kernel")}
