"""Layer-wise rates against the order of the layers, and parameters that join in later."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from zoo import fine_tuning, optim, rules
from zoo.errors import UserError

LR = 0.1


@pytest.fixture(scope="module")
def params():
    normal = np.random.default_rng(0).standard_normal
    return {name: {"kernel": np.float32(normal((3, 3)))} for name in ("dense1", "dense2", "head")}


def make(params, name="adam", lr=LR, **options):
    return optim.make({"name": name, **options}, optax.constant_schedule(lr), params, total_steps=10)


def trained(tx, params, steps, first=0):
    """The parameters after each step; the gradients are the same from step to step but for a factor."""
    state, history = tx.init(params), []
    for step in range(first, steps):
        grads = jax.tree.map(lambda p, step=step: (1 + step) * p, params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


# --- layer-wise rates ------------------------------------------------------------------------------------------

TOKENS = np.zeros((1, 5), np.int32)


def shapes(name, x, **options):
    model = zoo.create_model(name, **options)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), x))["params"]


def images(size, channels):
    return jnp.zeros((1, size, size, channels))


@pytest.mark.parametrize(
    "tree, order",
    [
        (lambda: shapes("mlp", jnp.zeros((1, 4)), norm="batch"), ["dense1 norm1", "dense2 norm2", "head"]),
        (lambda: shapes("lenet5", images(28, 1)), ["conv1", "conv2", "dense1", "dense2", "head"]),
        (lambda: shapes("convnet2d", images(32, 3)), ["layer1", "layer2", "layer3", "head"]),
        (
            lambda: shapes("resnet18", images(32, 3)),
            ["stem stem_norm", *(f"layer{i}_{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "head"],
        ),
        (
            lambda: shapes("resnetv2_18", images(32, 3)),
            ["stem", *(f"layer{i}_{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "norm", "head"],
        ),
        (
            lambda: shapes("unet", images(32, 3), num_classes=2),
            ["down0", "down1", "down2", "down3", "bottom", "up3", "up2", "up1", "up0", "head"],
        ),
        (
            lambda: shapes("unet_resnet18", images(32, 3), num_classes=2),
            [
                "encoder/stem encoder/stem_norm",
                *(f"encoder/layer{i}_{j}" for i in (1, 2, 3, 4) for j in (0, 1)),
                *(f"up{i}" for i in (4, 3, 2, 1, 0)),
                "head",
            ],
        ),
        (
            lambda: shapes("lstm_classifier", TOKENS, vocab_size=9, num_classes=2, depth=2),
            ["embed", "recurrent/layer1 recurrent/layer1_reverse", "recurrent/layer2 recurrent/layer2_reverse",
             "key query score", "head"],
        ),
        (lambda: shapes("lstm_lm", TOKENS, num_classes=9), ["embed", "recurrent/layer1", "recurrent/layer2", "head"]),
    ],
    ids=["mlp", "lenet", "convnet", "resnet", "resnetv2", "unet", "unet_resnet", "lstm_classifier", "lstm_lm"],
)  # fmt: skip
def test_the_order_of_the_stages(tree, order):
    factors = rules.flatten(fine_tuning.depth_factors(0.5, tree()))
    wanted = {name: 0.5**below for below, names in enumerate(reversed(order)) for name in names.split()}
    found = {}
    for path, factor in factors.items():
        (stage,) = (name for name in wanted if path.startswith(f"{name}/"))
        found.setdefault(stage, set()).add(factor)
    assert found == {name: {factor} for name, factor in wanted.items()}


def test_ten_blocks_count_as_numbers():
    tree = shapes("resnet110_cifar", images(32, 3))
    factors = rules.flatten(fine_tuning.depth_factors(0.9, tree))
    assert factors["layer1_9/conv1/kernel"] < factors["layer1_10/conv1/kernel"] < factors["layer2_2/conv1/kernel"]


def test_layer_decay_scales_the_step_and_multiplies_with_lr_mults(params):
    grads = jax.tree.map(np.ones_like, params)
    tx = make(params, "sgd", layer_decay=0.5, lr_mults=(("dense2/.*", 3.0),))
    updates, _ = tx.update(grads, tx.init(params), params)
    found = {path: float(-u[0, 0] / LR) for path, u in rules.flatten(updates).items()}
    assert found == pytest.approx({"dense1/kernel": 0.25, "dense2/kernel": 1.5, "head/kernel": 1.0})


@pytest.mark.parametrize(
    "tree, line",
    [
        (lambda: shapes("text_cnn", TOKENS, vocab_size=9, num_classes=2),
         r"optim\.layer_decay: 'conv3/bias' is numbered \[3, 4, 5\], from which no order follows; use lr_mults"),
        (lambda: {"decoder": {"conv1": np.zeros(1)}, "head": np.zeros(1)},
         r"optim\.layer_decay: the place of 'decoder/conv1' in the model is unknown; use lr_mults"),
        (lambda: {"dense1": np.zeros(1), "dense3": np.zeros(1)}, r"numbered \[1, 3\]"),
    ],
    ids=["side by side", "unknown", "gap"],
)  # fmt: skip
def test_models_without_an_order_are_refused(tree, line):
    with pytest.raises(UserError, match=line):
        fine_tuning.depth_factors(0.5, tree())


# --- joining in later ------------------------------------------------------------------------------------------


def test_parameters_wait_and_then_learn_as_if_they_were_new(params):
    tx = make(params, "adamw", weight_decay=0.1, unfreeze=((50, "dense2/.*"), (80, "dense1/.*")))
    history = trained(tx, params, 10)
    for step in range(10):
        for name, start in (("dense1", 8), ("dense2", 5)):
            assert np.array_equal(history[step][name]["kernel"], params[name]["kernel"]) == (step < start)
    for name, start in (("head", 0), ("dense2", 5), ("dense1", 8)):  # with moments of their own
        alone = trained(make({name: params[name]}, "adamw", weight_decay=0.1), {name: params[name]}, 10, first=start)
        np.testing.assert_allclose(history[-1][name]["kernel"], alone[-1][name]["kernel"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_can_wait(params, name):
    tx = make(params, name, weight_decay=0.1, unfreeze=((10, "dense1/.*"),), freeze=("dense2/.*",))
    before, after = trained(tx, params, 2)
    assert np.array_equal(before["dense1"]["kernel"], params["dense1"]["kernel"])
    assert not np.array_equal(after["dense1"]["kernel"], params["dense1"]["kernel"])
    assert not np.array_equal(before["head"]["kernel"], params["head"]["kernel"])
    assert np.array_equal(after["dense2"]["kernel"], params["dense2"]["kernel"])


def test_what_waits_does_not_count_in_the_global_norm(params):
    grads = jax.tree.map(lambda p: np.full_like(p, 0.1), params)
    grads["dense1"]["kernel"] *= np.nan
    tx = make(params, "sgd", lr=1.0, clip_global_norm=1.0, unfreeze=((50, "dense1/.*"),))
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.1, rtol=1e-6)
    assert not np.any(updates["dense1"]["kernel"])


def test_waiting_counts_steps_of_the_loop(params):
    """Not updates, where several batches make one."""
    tx = make(params, "sgd", accumulate=2, unfreeze=((60, "dense1/.*"),))
    history = trained(tx, params, 10)
    waits = [np.array_equal(h["dense1"]["kernel"], params["dense1"]["kernel"]) for h in history]
    assert waits == [True] * 7 + [False] * 3  # step 6 is the first of the update at step 7


def test_first_steps(params):
    labels = fine_tuning.frozen_labels(("dense2/.*",), params)
    starts = fine_tuning.first_steps(((25, "dense.*"),), labels, 200)
    assert rules.flatten(starts) == {"dense1/kernel": 50, "dense2/kernel": math.inf, "head/kernel": 0}


@pytest.mark.parametrize(
    "options, line",
    [
        ({"layer_decay": 1.5}, r"config\.optim\.layer_decay is 1\.5; it must be at most 1"),
        ({"layer_decay": 0}, r"config\.optim\.layer_decay is 0; it must be a positive number"),
        ({"unfreeze": ((50, "dens1/.*"),)}, r"optim\.unfreeze: rule 'dens1/\.\*' matches no parameter"),
        ({"unfreeze": ((50, ".*"),)}, r"optim\.unfreeze: every parameter waits"),
        ({"unfreeze": ((0, "dense1/.*"),)}, r"optim\.unfreeze: \(0, 'dense1/\.\*'\) begins with the run; leave it out"),
        ({"unfreeze": (("dense1/.*", 50),)}, r"config\.optim\.unfreeze: 'dense1/\.\*' in .* must be a percentage"),
        ({"unfreeze": ((100, "dense1/.*"),)}, r"must be a percentage of the run below 100"),
        ({"unfreeze": ("dense1/.*",)}, r"config\.optim\.unfreeze: 'dense1/\.\*' is not a pair"),
        ({"unfreeze": ((50, "dense1/.*"),), "freeze": ("dense1/.*",)},
         r"optim\.unfreeze: rule 'dense1/\.\*' has no parameter that is not frozen or an earlier rule's"),
        ({"unfreeze": ((20, "dense.*"), (50, "dense1/.*"))}, r"rule 'dense1/\.\*' has no parameter"),
    ],
)  # fmt: skip
def test_mistakes(params, options, line):
    with pytest.raises(UserError, match=line):
        make(params, **options)
