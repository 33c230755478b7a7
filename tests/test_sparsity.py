"""Connections: how many, of whom, from which seed; where there is none, a weight is zero from start to file."""

import json
import pathlib

import jax
import numpy as np
import pytest

import zoo
from zoo import checkpoint, initial, rules, sparsity, step, tasks
from zoo.data import augment
from zoo.errors import Interrupted, UserError
from zoo.run import init_variables, prepare
from zoo.summary import layers

ROOT = pathlib.Path(__file__).parent.parent
MLP = {
    "dense1": {"bias": np.zeros(12), "kernel": np.zeros((20, 12))},
    "conv": {"kernel": np.zeros((3, 3, 2, 6))},
    "head": {"bias": np.zeros(4), "kernel": np.zeros((12, 4))},
}


def masks(*densities, kind="structured", seed=0):
    return sparsity.make(densities, kind, MLP, seed)


# --- masks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs, units, density", [
    (20, 12, 0.25), (20, 12, 0.5), (784, 512, 3 / 16), (784, 512, 0.2), (512, 10, 0.2), (5, 50, 0.2), (7, 3, 1.0),
])  # fmt: skip
def test_structured_degrees(inputs, units, density):
    found = sparsity.structured(np.random.default_rng(0), inputs, units, density)
    degree = round(density * inputs)
    assert set(found.sum(0)) == {degree}
    out_degrees, even = set(found.sum(1)), degree * units / inputs
    assert out_degrees == {int(even)} if even == int(even) else out_degrees == {int(even), int(even) + 1}


@pytest.mark.parametrize("inputs, units, density", [(20, 12, 0.25), (100, 3, 0.005), (784, 512, 0.2)])
def test_random_count(inputs, units, density):
    found = sparsity.random(np.random.default_rng(0), inputs, units, density)
    assert found.shape == (inputs, units)
    assert found.sum() == round(density * inputs * units)


@pytest.mark.parametrize("kind", sparsity.KINDS)
def test_connections_are_spread_over_the_whole_kernel(kind):
    """No unit, input or pair is favoured: over many seeds each connection exists as often as the density says."""
    draw = sparsity.KINDS[kind]
    mean = np.mean([draw(np.random.default_rng(seed), 8, 6, 0.5) for seed in range(400)], axis=0)
    assert abs(mean - 0.5).max() < 4.5 * 0.5 / 400**0.5  # deviations of a coin


def test_masks_follow_from_seed_and_path():
    first, again, other = masks((".*kernel", 0.5)), masks((".*kernel", 0.5)), masks((".*kernel", 0.5), seed=1)
    assert set(first) == {"conv/kernel", "dense1/kernel", "head/kernel"}
    for path in first:
        np.testing.assert_array_equal(first[path], again[path])
        assert (first[path] != other[path]).any()
        assert first[path].shape == rules.flatten(MLP)[path].shape
    # Another rule for another layer changes nothing here; layers of the same shape differ.
    np.testing.assert_array_equal(
        masks(("dense1/kernel", 0.5), ("conv/.*", 0.25))["dense1/kernel"], first["dense1/kernel"]
    )
    twins = {"a": {"kernel": np.zeros((9, 9))}, "b": {"kernel": np.zeros((9, 9))}}
    a, b = sparsity.make([(".*", 0.3)], "random", twins, 0).values()
    assert (a != b).any()


def test_first_rule_wins_and_dense_needs_no_mask():
    found = masks(("head/kernel", 1), (".*kernel", 0.25))
    assert set(found) == {"conv/kernel", "dense1/kernel"}
    assert {path: mask.sum() for path, mask in found.items()} == {"conv/kernel": 4 * 6, "dense1/kernel": 5 * 12}
    assert sparsity.parameters_kept(found, MLP) == 12 + 60 + 24 + 4 + 48
    assert masks(kind="random") == {}


@pytest.mark.parametrize("kind, rule, line", [
    ("random", (".*kernel", 0), r"density of conv/kernel is 0; .*at least one connection per unit"),
    ("random", (".*kernel", 1.5), r"density of conv/kernel is 1.5; it must be more than 0 and at most 1"),
    ("random", (".*kernel", -0.1), "is -0.1"),
    ("random", (".*kernel", float("nan")), "is nan"),
    ("random", (".*kernel", True), "is True"),
    ("random", (".*kernel", None), "is None"),
    ("random", (".*kernel", "half"), "is 'half'"),
    ("random", (".*", 0.5), r"conv/kernel|dense1/bias is a vector"),
    ("random", ("dens1/kernel", 0.5), r"rule 'dens1/kernel' matches no parameter; .*dense1/kernel"),
    ("random", (".*kernel",), "a rule is a pair"),
    ("random", ("head/kernel", 0.001), r"0.001 leaves no connection .*12 inputs or 4 units of head/kernel"),
    ("structured", ("head/kernel", 0.1), r"0.1 leaves no connection .*one per unit is a density of 0.25"),
    ("structured", ("head/kernel", 0.01), "0.01 leaves no connection"),
    ("structurd", (".*kernel", 0.5), "unknown regularize.sparsity_kind 'structurd'; did you mean 'structured'"),
])  # fmt: skip
def test_mistakes(kind, rule, line):
    with pytest.raises(UserError, match=line) as error:
        masks(rule, kind=kind)
    assert "\n" not in str(error.value)


def test_a_kind_without_densities():
    with pytest.raises(UserError, match=r"sparsity_kind is 'structured', but regularize.sparsity is empty"):
        masks(kind="structured")


# --- runs ------------------------------------------------------------------------------------------------------


def tiny(*overrides):
    return zoo.config.load(ROOT / "tests/tiny.py", overrides)


def sparse(*overrides):
    """The tiny recipe with moments, decay, averages, dropout, norms, and half of the first layer's connections."""
    config = tiny(*overrides)
    config.regularize.update(sparsity=(("dense1/kernel", 0.5), (".*kernel", 0.25)), sparsity_kind="structured")
    config.checkpoint.every_steps = 20
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sparse")
    return workdir, zoo.train(sparse(), workdir)


def last_state(workdir, config):
    run = prepare(config)
    with checkpoint.Checkpoints(workdir / "checkpoints", keep=9, best=0) as checkpoints:
        _, (state, _), _ = checkpoints.restore(run.shapes)
    return run, state


def test_no_connection_is_zero_after_training(trained):
    """In the weights, in their averages, in the optimizer's moments, and in what a user reads from the folder."""
    workdir, _ = trained
    run, state = last_state(workdir, sparse())
    read = checkpoint.load_variables(workdir)
    for path, mask in run.masks.items():
        for tree in (state.params, state.average["params"], read["params"]):
            w = np.asarray(rules.flatten(tree)[path])
            assert (w[~mask] == 0).all()
            assert (w[mask] != 0).all()
    moments = [
        (np.asarray(leaf), run.masks[path])
        for name, leaf in rules.flatten(state.opt_state).items()
        for path in run.masks
        if name.endswith(path)
    ]
    assert len(moments) == 4  # mean and variance of two kernels
    for moment, mask in moments:
        assert (moment[~mask] == 0).all()
        assert (moment[mask] != 0).any()


def test_the_report_says_what_is_kept(trained):
    _, report = trained
    assert report["parameters"] == 64 * 32 + 32 + 2 * 32 + 32 * 10 + 10
    assert report["parameters_kept"] == 32 * 32 + 32 + 2 * 32 + 8 * 10 + 10


def test_bit_exact_after_a_signal(trained, signalled, tmp_path):
    with signalled(12), pytest.raises(Interrupted):
        zoo.train(sparse(), tmp_path)
    report = zoo.train(sparse(), tmp_path)
    assert report["metrics"] == trained[1]["metrics"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == (trained[0] / "metrics.jsonl").read_bytes()
    _, ours = last_state(tmp_path, sparse())
    _, wanted = last_state(trained[0], sparse())
    jax.tree.map(np.testing.assert_array_equal, ours, wanted)


def test_fresh_weights_have_the_variance_of_the_fan_in_that_is_kept():
    """As the dense network's, where there is a connection, and larger by the root of the inverse density."""
    run, dense = prepare(sparse()), prepare(tiny())
    fresh, before = (
        jax.device_get(jax.jit(lambda r=r: r.init(init_variables(r.task, r.dataset)(np.uint32(0))).params)())
        for r in (run, dense)
    )
    found, wanted = rules.flatten(fresh), rules.flatten(before)
    for path, w in wanted.items():
        mask = run.masks.get(path, np.ones(w.shape, bool))
        np.testing.assert_allclose(found[path], np.where(mask, w / mask.mean() ** 0.5, 0), rtol=1e-6)
    variance = found["dense1/kernel"].var() * 64  # He: 2 / fan-in over the kernel with its zeros
    assert 1.6 < variance < 2.4


def test_weights_from_another_run_lose_what_has_no_connection(trained):
    """And keep the rest as it is: only fresh weights are rescaled."""
    run = prepare(sparse(("seed", 1), ("init_from", str(trained[0]))))
    state, _ = initial.state(run, initial.weights(run))
    before, after = (rules.flatten(p) for p in (checkpoint.load_variables(trained[0])["params"], state.params))
    for path, w in before.items():
        mask = run.masks.get(path, True)
        np.testing.assert_array_equal(after[path], np.where(mask, w, 0))
        assert not np.all(mask) or "kernel" not in path
    assert (after["dense1/kernel"] != before["dense1/kernel"]).any()


def test_clipping_and_norms_see_the_sparse_network(trained):
    """A gradient where there is no connection would count in the logged norm and in clipping."""
    run, state = last_state(trained[0], sparse())
    batch = run.dataset.preprocess(run.dataset.train.batch(run.dataset.train.fetch(0), 0))

    def loss(params):
        return run.task.loss(params, state.model_state, batch, jax.random.key(0), train=True)[0]

    grads = rules.flatten(jax.jit(jax.grad(loss))(state.params))
    for path, mask in run.masks.items():
        assert (np.asarray(grads[path])[~mask] == 0).all()
        assert (np.asarray(grads[path])[mask] != 0).any()


def test_a_projection_alone_holds_against_any_update():
    """An optimizer that moves what has no gradient (noise, or one that mixes entries) does not bring it to life."""
    found = masks((".*kernel", 0.5))
    moved = sparsity.apply(found, jax.tree.map(lambda w: w + 1.0, MLP))
    for path, mask in found.items():
        np.testing.assert_array_equal(rules.flatten(moved)[path], mask)
    np.testing.assert_array_equal(moved["head"]["bias"], 1)


def test_off_is_the_same_program():
    """Without rules, the compiled step is that of the plain task, to the letter."""
    config = tiny()
    run = prepare(config)
    assert run.masks == {}
    task = tasks.make(config.task, run.model, run.dataset.meta)
    plain = step.make_train_step(
        task, run.tx, run.schedule, run.dataset, augment.make(config.data.augment),
        averaging=run.averaging, log_every=run.log_every, total_steps=run.total_steps,
    )  # fmt: skip
    arguments = (*run.shapes, jax.eval_shape(lambda: run.dataset.train.fetch(0)), jax.ShapeDtypeStruct((), np.uint32))
    found = run.train_step.lower(*arguments).as_text()
    sharding = jax.tree.leaves(run.shapes)[0].sharding
    assert found == jax.jit(plain, donate_argnums=0, out_shardings=sharding).lower(*arguments).as_text()


# --- tables ----------------------------------------------------------------------------------------------------


def test_the_layer_table_counts_what_is_kept():
    model = zoo.create_model("mlp", widths=(12,), num_classes=4)
    x = np.zeros((3, 20), np.float32)
    found = {layer.path: layer[3:] for layer in layers(model, x, masks(("head/kernel", 0.25), ("dense1/kernel", 0.5)))}
    assert found["dense1"] == (120 + 12, 2 * 120)
    assert found["head"] == (12 + 4, 2 * 12)
    assert found[""] == (132 + 16, 2 * 132)
    text = zoo.summary(model, x, masks(("dense1/kernel", 0.5)))
    whole = next(line for line in text.splitlines() if line.startswith("(all)"))
    assert whole.split()[-4:] == ["304", "576", "184", "336"]
    assert "kept" not in zoo.summary(model, x)


def test_the_layer_table_of_a_recurrent_product():
    model = zoo.create_model("lstm_lm", num_classes=6, width=8, depth=1)
    x = jax.ShapeDtypeStruct((2, 5), np.int32)
    params = jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)["params"]
    found = sparsity.make([("recurrent/layer1/recurrent/kernel", 0.5)], "structured", params, 0)
    before, after = ({row.path: row for row in layers(model, x, m)} for m in ({}, found))
    assert before["recurrent/layer1"].flops - after["recurrent/layer1"].flops == 5 * 2 * 8 * 32 // 2
    assert before["recurrent/layer1"].parameters - after["recurrent/layer1"].parameters == 8 * 32 // 2


def test_the_dry_run_shows_it():
    assert "FLOPs kept" in zoo.dry_run(sparse())
    assert json.loads(zoo.config.to_json(sparse()))["regularize"]["sparsity_kind"] == "structured"
