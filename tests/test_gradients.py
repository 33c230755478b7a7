"""What happens around the update rule against its definition: clipping, noise, accumulation, SAM, lookahead."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from zoo import optim, rng, rules
from zoo.checkpoint import Checkpoints
from zoo.config import default
from zoo.errors import UserError
from zoo.run import prepare

LR = 0.1


@pytest.fixture(scope="module")
def params():
    normal = np.random.default_rng(0).standard_normal
    return {
        "dense1": {"bias": np.float32(normal(3)), "kernel": np.float32(normal((4, 3)))},
        "head": {"bias": np.float32(normal(2)), "kernel": np.float32(normal((3, 2)))},
    }


@pytest.fixture(scope="module")
def rows():
    return np.float32(np.random.default_rng(1).standard_normal((24, 4)))


def loss(params, rows):
    """The mean over rows of a small network's squared output."""
    hidden = jnp.tanh(rows @ params["dense1"]["kernel"] + params["dense1"]["bias"][None])
    return jnp.mean((hidden @ params["head"]["kernel"] + params["head"]["bias"][None] - 1) ** 2)


grad = jax.jit(jax.grad(loss))


def make(params, lr=LR, total_steps=None, **options):
    schedule = lr if callable(lr) else optax.constant_schedule(lr)
    return optim.make({"name": "sgd", **options}, schedule, params, total_steps=total_steps)


def trained(tx, params, batches, **extra):
    """The parameters after each batch."""
    state, history = tx.init(params), []
    for batch in batches:
        more = {name: value(batch) for name, value in extra.items()}
        updates, state = tx.update(grad(params, batch), state, params, **more)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def assert_close(found, wanted, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, wanted)


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- adaptive clipping -----------------------------------------------------------------------------------------


def test_clip_adaptive_is_per_unit_and_spares_the_head():
    normal = np.random.default_rng(2).standard_normal
    shapes = {"conv": (3, 3, 2, 4), "signal": (5, 2, 4), "dense": (6, 4), "bias": (4,), "zero": (3, 4)}
    params = {name: {"kernel": np.float32(normal(shape))} for name, shape in shapes.items()}
    params["zero"]["kernel"] *= 0
    params["head"] = {"kernel": np.float32(normal((4, 2)))}
    grads = jax.tree.map(lambda p: np.float32(normal(p.shape)), params)
    grads["dense"]["kernel"][:, 0] *= 1e-4  # small: to be left alone
    tx = make(params, lr=1.0, clip_adaptive=0.1)
    updates, _ = tx.update(grads, tx.init(params), params)
    for name, shape in shapes.items():
        g, w = (tree[name]["kernel"].reshape(-1, 4 if len(shape) > 1 else 1) for tree in (grads, params))
        most = 0.1 * np.maximum(np.linalg.norm(w, axis=0), 1e-3)
        wanted = g * np.minimum(1, most / np.linalg.norm(g, axis=0))
        np.testing.assert_allclose(-updates[name]["kernel"], wanted.reshape(shape), rtol=1e-5)
    np.testing.assert_array_equal(-updates["head"]["kernel"], grads["head"]["kernel"])
    np.testing.assert_array_equal(-updates["dense"]["kernel"][:, 0], grads["dense"]["kernel"][:, 0])


# --- noise -----------------------------------------------------------------------------------------------------


def noise_updates(steps, **options):
    zeros = {"kernel": np.zeros((300, 300), np.float32)}
    tx = make(zeros, lr=1.0, noise=(0.04, 0.5), **options)
    state, found = tx.init(zeros), []
    for step in range(steps):
        updates, state = tx.update(zeros, state, zeros, noise_key=lambda step=step: rng.key(3, "noise", step))
        found.append(np.asarray(updates["kernel"]))
    return found


def test_noise_has_the_falling_variance_and_comes_after_clipping():
    found = noise_updates(4, clip_value=1e-6)
    for step, noise in enumerate(found):
        assert noise.std() == pytest.approx((0.04 / (1 + step) ** 0.5) ** 0.5, rel=0.01)
        assert abs(noise.mean()) < 0.002
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(found[1], noise_updates(2)[1])  # (seed, step) decide


# --- accumulation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "schedule_free_sgd"])
def test_accumulation_is_the_larger_batch(params, rows, name):
    rates = jnp.float32([0.1, 0.2, 0.3, 0.15, 0.1, 0.05])
    options = {"name": name, "weight_decay": 0.1, "clip_global_norm": 0.5, "wd_mults": ((".*kernel", 1.0),)}
    small = trained(make(params, lambda step: rates[step], accumulate=3, **options), params, rows.reshape(6, 4, 4))
    large = trained(make(params, lambda step: rates[step * 3 + 2], **options), params, rows.reshape(2, 12, 4))
    for update in range(2):  # the rate is that of the last batch
        assert_close(small[3 * update + 2], large[update])
    assert same(small[0], params)
    assert same(small[3], small[2])


@pytest.mark.parametrize(
    "accumulate, updates",
    [
        (1, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, [2, 5]),
        (((50, 2),), [0, 1, 2, 3, 5, 7]),
        (((0, 3), (50, 2)), [2, 5, 7]),  # what is under way at 50 % is finished first
        (((0, 3), (10, 2), (50, 1)), [2, 4, 5, 6, 7]),
        (((0, 5), (12.5, 3), (50, 2)), [4, 6]),
    ],
)
def test_growth_of_the_batch(params, rows, accumulate, updates):
    tx = make(params, total_steps=8, accumulate=accumulate)
    history = [params, *trained(tx, params, rows.reshape(8, 3, 4))]
    assert [step for step in range(8) if not same(history[step], history[step + 1])] == updates


# --- SAM -------------------------------------------------------------------------------------------------------


def test_sam_descends_by_the_gradient_further_up(params, rows):
    tx = make(params, sam_rho=0.5)
    (found,) = trained(tx, params, [rows], grad_fn=lambda batch: lambda p: grad(p, batch))
    g = grad(params, rows)
    up = jax.tree.map(lambda p, g: p + 0.5 * g / optax.tree.norm(grad(params, rows)), params, g)
    wanted = jax.tree.map(lambda p, g: p - LR * g, params, grad(up, rows))
    assert_close(found, wanted)
    assert not np.allclose(found["head"]["kernel"], params["head"]["kernel"] - LR * g["head"]["kernel"], atol=1e-4)


def test_sam_does_not_perturb_what_is_frozen_or_waits(params, rows):
    seen = []

    def grad_fn(batch):
        return lambda p: seen.append(p) or grad(p, batch)

    tx = make(params, sam_rho=0.5, freeze=("head/bias",), unfreeze=((50, "dense1/.*"),), total_steps=4)
    trained(tx, params, [rows] * 3, grad_fn=grad_fn)
    assert same(seen[0]["dense1"], params["dense1"])
    assert not same(seen[0]["head"]["kernel"], params["head"]["kernel"])
    assert optax.tree.norm(optax.tree.sub(seen[0], params)) == pytest.approx(0.5, rel=1e-5)
    assert not same(seen[2]["dense1"], params["dense1"])
    assert all(same(p["head"]["bias"], params["head"]["bias"]) for p in seen)


def test_sam_at_a_flat_point(params):
    zeros = jax.tree.map(np.zeros_like, params)
    tx = make(params, sam_rho=0.5)
    updates, _ = tx.update(zeros, tx.init(params), params, grad_fn=lambda p: zeros)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))


# --- lookahead -------------------------------------------------------------------------------------------------


def test_lookahead_follows_by_a_share_every_k_updates(params, rows):
    batches = rows.reshape(8, 3, 4)
    found = trained(make(params, lookahead=(3, 0.25)), params, batches)
    fast = slow = params
    for step, batch in enumerate(batches):
        fast = jax.tree.map(lambda p, g: p - LR * g, fast, grad(fast, batch))
        if step % 3 == 2:
            slow = fast = jax.tree.map(lambda s, f: s + 0.25 * (f - s), slow, fast)
        assert_close(found[step], fast)


def test_lookahead_counts_updates_not_batches(params, rows):
    small = trained(make(params, lookahead=(2, 0.5), accumulate=2), params, rows.reshape(8, 3, 4))
    large = trained(make(params, lookahead=(2, 0.5)), params, rows.reshape(4, 6, 4))
    for update in range(4):
        assert_close(small[2 * update + 1], large[update])


# --- in a run --------------------------------------------------------------------------------------------------

EVERYTHING = {
    "name": "momentum",
    "lr": 0.05,
    "weight_decay": 0.01,
    "layer_decay": 0.5,
    "unfreeze": ((30, "dense1/.*"),),
    "freeze": ("dense1/bias",),
    "clip_adaptive": 0.5,
    "clip_global_norm": 1.0,
    "noise": (1e-4, 0.55),
    "accumulate": ((0, 1), (40, 2)),
    "sam_rho": 0.05,
    "lookahead": (3, 0.5),
}


def tiny(norm="batch", **optim_options):
    config = default()
    config.model = {"name": "mlp", "widths": (8,), "norm": norm}
    config.data.update(name="iris", batch_size=16, validation=0.2, test=0.1)
    config.optim.update(**optim_options)
    config.total_steps = 20
    config.eval_every_steps = config.checkpoint.every_steps = 10
    config.log_every_steps = 5
    config.checkpoint.keep = 9
    return config


def final_state(workdir, config):
    """Every array of the last checkpoint, by path."""
    with Checkpoints(workdir / "checkpoints", keep=9, best=0) as checkpoints:
        _, tree, _ = checkpoints.restore(prepare(config).shapes)
    return rules.flatten(jax.tree.map(np.asarray, tree))


def went_back(workdir, copy):
    """The run as it was when it was killed after its first checkpoint."""
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints/20")
    (copy / "report.json").unlink()
    return copy


@pytest.mark.parametrize(
    "options", [EVERYTHING, {"name": "schedule_free_adamw", "lr": 0.01, "accumulate": 3}], ids=["everything", "average"]
)
def test_a_run_killed_and_resumed_is_the_same(tmp_path, options):
    config = tiny("none" if options is EVERYTHING else "batch", **options)
    zoo.train(config, tmp_path / "whole")
    resumed = went_back(tmp_path / "whole", tmp_path / "resumed")
    zoo.train(config, resumed)
    wanted, found = (final_state(folder, config) for folder in (tmp_path / "whole", resumed))
    assert wanted.keys() == found.keys()
    for path, array in wanted.items():
        assert array.tobytes() == found[path].tobytes(), path
    config.loop.steps_per_call = 5
    several = went_back(tmp_path / "whole", tmp_path / "several")
    zoo.train(config, several)
    for path, array in final_state(several, config).items():
        np.testing.assert_allclose(array, wanted[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_schedule_free_run_evaluates_and_hands_on_its_average(tmp_path):
    config = tiny(name="schedule_free_sgd", lr=0.5)
    report = zoo.train(config, tmp_path / "run")
    assert {"test", "test_raw"} <= set(report["metrics"])
    assert report["metrics"]["test"]["loss"] != report["metrics"]["test_raw"]["loss"]
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["validation/loss"] != line["validation_raw/loss"]
    assert report["best"]["monitor"] == "validation/loss"
    model = zoo.create_model("mlp", widths=(8,), norm="batch", num_classes=3)
    variables = zoo.load_weights(model, str(tmp_path / "run"), input=np.zeros((1, 4), np.float32))
    arrays = final_state(tmp_path / "run", config)
    find = lambda stem: next(a for path, a in arrays.items() if path.endswith(stem))  # noqa: E731
    y, z = find("params/head/kernel"), find("z/head/kernel")
    np.testing.assert_allclose(variables["params"]["head"]["kernel"], (y - 0.1 * z) / 0.9, rtol=1e-4, atol=1e-5)
    # With the batch statistics of the average itself, not of the weights that are trained.
    assert not np.allclose(variables["batch_stats"]["norm1"]["mean"], find("model_state/batch_stats/norm1/mean"))


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, line",
    [
        ({"clip_adaptive": 0}, r"config\.optim\.clip_adaptive is 0; it must be a positive number"),
        ({"noise": 0.1}, r"config\.optim\.noise is 0\.1; it must be \(eta, gamma\), for example"),
        ({"noise": (0, 0.55)}, r"config\.optim\.noise is \(0, 0\.55\); eta must be positive"),
        ({"noise": (0.1, -1)}, r"gamma zero or more"),
        ({"accumulate": 0}, r"config\.optim\.accumulate is 0; an update needs a whole number of batches"),
        ({"accumulate": 1.5}, r"config\.optim\.accumulate is 1\.5; it must be a number of batches, or"),
        ({"accumulate": True}, r"config\.optim\.accumulate is True; an update needs a whole number"),
        ({"accumulate": (4, 2)}, r"config\.optim\.accumulate: 4 is not a pair"),
        ({"accumulate": ((50, 4), (20, 8))}, r"the percentages must grow"),
        ({"accumulate": ((0, 4), (100, 8))}, r"must be a percentage of the run below 100"),
        ({"accumulate": ((0, 4), (50, 8)), "total_steps": None}, r"percentages of the run, whose length is not known"),
        ({"sam_rho": -0.1}, r"config\.optim\.sam_rho is -0\.1; it must be a positive number"),
        ({"lookahead": 5}, r"config\.optim\.lookahead is 5; it must be \(updates, share\)"),
        ({"lookahead": (1, 0.5)}, r"at least 2 updates"),
        ({"lookahead": (5, 1.0)}, r"a share between 0 and 1"),
        ({"lookahead": (5, 0.5), "name": "schedule_free_sgd"}, r"schedule_free_sgd averages already"),
    ],
)
def test_mistakes(params, options, line):
    with pytest.raises(UserError, match=line):
        make(params, **{"total_steps": 10, **options})


def test_two_averages_are_refused():
    config = tiny(name="schedule_free_sgd")
    config.averaging.name = "ema"
    with pytest.raises(UserError, match=r"config\.averaging is ema, but schedule_free_sgd averages already"):
        prepare(config)
