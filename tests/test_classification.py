"""Loss and metrics of classification against NumPy and scikit-learn, exactly counted."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight

from zoo import create_model, losses, metrics, tasks
from zoo.errors import UserError
from zoo.tasks import num_outputs
from zoo.tasks.supervised import masked_sum

ROWS, CLASSES = 50, 7
META = {"name": "test", "num_classes": CLASSES}


def passing(outputs=lambda x: x):
    """A model whose outputs are its inputs."""
    return SimpleNamespace(
        init=lambda rngs, x, train: {"params": {}},
        apply=lambda variables, x, train, **kwargs: (outputs(x), {}) if kwargs else outputs(x),
    )


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "feature": np.float32(2 * rng.standard_normal((ROWS, CLASSES))),
        "label": rng.integers(CLASSES, size=ROWS).astype(np.int32),
    }


def make(**options):
    return tasks.make({"name": "classification", **options}, passing(), META)


def evaluate(task, batch, *, train=False):
    run = jax.jit(lambda batch: task.loss({}, {}, batch, jax.random.key(0), train=train))
    loss, (_, found) = run(batch)
    return float(loss), {name: (float(total), float(count)) for name, (total, count) in found.items()}


def cross_entropy(batch):
    return -np.take_along_axis(log_softmax(np.float64(batch["feature"]), -1), batch["label"][:, None], -1)[:, 0]


@pytest.mark.parametrize("train", [True, False])
def test_loss_and_accuracy(batch, train):
    loss, found = evaluate(make(), batch, train=train)
    each = cross_entropy(batch)
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    assert loss == pytest.approx(
        sk.log_loss(batch["label"], np.exp(log_softmax(batch["feature"], -1)), labels=range(CLASSES)), rel=1e-5
    )
    assert found["loss"] == (pytest.approx(each.sum(), rel=1e-5), ROWS)
    correct = sk.accuracy_score(batch["label"], batch["feature"].argmax(-1), normalize=False)
    assert 0 < correct < ROWS
    assert found["accuracy"] == (correct, ROWS)
    assert set(found) == {"loss", "accuracy"}


def test_top_k(batch):
    _, found = evaluate(make(top_k=(1, 2, 5, CLASSES - 1)), batch)
    for k in (1, 2, 5, CLASSES - 1):
        wanted = (
            sk.top_k_accuracy_score(batch["label"], batch["feature"], k=k, normalize=False, labels=range(CLASSES))
            if k > 1
            else found["accuracy"][0]
        )
        assert found[f"top{k}_accuracy"] == (wanted, ROWS)
    counts = [found[f"top{k}_accuracy"][0] for k in (1, 2, 5, 6)]
    assert sorted(set(counts)) == counts


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_top_k_of_a_network_that_says_nothing(batch, value):
    """Equal logits (or none) are no reason to call every label right: exactly k classes are among the k largest."""
    batch["feature"] = np.full_like(batch["feature"], value)
    batch["label"] = np.arange(ROWS, dtype=np.int32) % CLASSES
    _, found = evaluate(make(top_k=(1, 3)), batch)
    for k in (1, 3):
        assert found[f"top{k}_accuracy"][0] == (batch["label"] < k).sum()
    assert found["top1_accuracy"] == found["accuracy"]


@pytest.mark.parametrize("options", [{}, {"top_k": (2,)}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize("train", [True, False])
def test_masked_rows_count_for_nothing(batch, options, train):
    mask = np.random.default_rng(1).random(ROWS) < 0.6
    task = make(**options)
    masked = dict(batch, mask=mask)
    masked["feature"] = np.where(mask[:, None], batch["feature"], np.nan)  # whatever they hold
    loss, found = evaluate(task, masked, train=train)
    wanted_loss, wanted = evaluate(task, {key: value[mask] for key, value in batch.items()}, train=train)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name] == (pytest.approx(wanted[name][0], rel=1e-5), mask.sum())


def test_a_batch_of_padding_alone(batch):
    loss, found = evaluate(make(), dict(batch, mask=np.zeros(ROWS, bool)))
    assert loss == 0
    assert set(found.values()) == {(0, 0)}


def test_sums_over_uneven_batches_are_those_of_the_whole(batch):
    task = make(top_k=(2,))
    _, whole = evaluate(task, batch)
    parts = []
    for start, stop in ((0, 20), (20, 40), (40, ROWS)):  # the last one is half padding
        rows = {key: np.resize(value[start:stop], (20, *value.shape[1:])) for key, value in batch.items()}
        parts.append(evaluate(task, rows | {"mask": np.arange(20) < stop - start})[1])
    summed = metrics.total(parts)
    for name, (total, count) in whole.items():
        assert summed[name] == (pytest.approx(total, rel=1e-5), count)


@pytest.mark.parametrize("smooth", [0.1, 0.5])
def test_label_smoothing(batch, smooth):
    """Cross-entropy with (1 - e) of the label and e spread over all classes, the label's own included."""
    target = (1 - smooth) * np.eye(CLASSES)[batch["label"]] + smooth / CLASSES
    wanted = -(target * log_softmax(np.float64(batch["feature"]), -1)).sum(-1).mean()
    task = make(label_smoothing=smooth)
    loss, found = evaluate(task, batch, train=True)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert found["loss"][0] == pytest.approx(wanted * ROWS, rel=1e-5)
    # Evaluation reports the plain cross-entropy.
    assert evaluate(task, batch)[0] == pytest.approx(cross_entropy(batch).mean(), rel=1e-5)


# --- two classes by one logit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [0.0, 0.2])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_binary_is_softmax_with_one_logit_fixed_at_zero(smooth, train, masked):
    rng = np.random.default_rng(2)
    batch = {
        "feature": np.float32(3 * rng.standard_normal((ROWS, 1))),
        "label": rng.integers(2, size=ROWS).astype(np.int32),
    }
    batch["feature"][0] = 0  # undecided
    if masked:
        batch["mask"] = rng.random(ROWS) < 0.5
    meta, options = META | {"num_classes": 2}, {"name": "classification", "label_smoothing": smooth}
    one = tasks.make(options | {"binary": True}, passing(), meta)
    two = tasks.make(options, passing(lambda z: jnp.concatenate([0 * z, z], -1)), meta)
    (loss, found), (wanted_loss, wanted) = (evaluate(task, batch, train=train) for task in (one, two))
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert found["accuracy"] == wanted["accuracy"]
    assert found["loss"] == (pytest.approx(wanted["loss"][0], rel=1e-5), wanted["loss"][1])


def test_large_logits_stay_finite():
    batch = {"feature": np.float32([[500.0], [-500.0]]), "label": np.int32([0, 1])}
    meta = META | {"num_classes": 2}
    task = tasks.make({"name": "classification", "binary": True}, passing(), meta)
    assert evaluate(task, batch)[0] == pytest.approx(500)
    batch["feature"] = np.float32([[1e4, -1e4], [1e4, -1e4]])
    assert evaluate(tasks.make({"name": "classification"}, passing(), meta), batch)[0] == pytest.approx(1e4)


# --- other losses, weights and a temperature ---------------------------------------------------------------------

OPTIONS = {"focal": {"focal_gamma": 1.5, "focal_alpha": (0.5, 1.0, 1.5, 2.0, 1.0, 1.0, 0.0)}}


@pytest.mark.parametrize("name", losses.CLASSIFICATION)
@pytest.mark.parametrize("train", [True, False])
def test_a_loss_by_name_with_its_options(batch, name, train):
    options = OPTIONS.get(name, {})
    own = {key.removeprefix("focal_"): value for key, value in options.items()}
    each = np.asarray(losses.CLASSIFICATION[name](batch["feature"], batch["label"], **own))
    loss, found = evaluate(make(loss=name, **options), batch, train=train)
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    assert found["loss"] == (pytest.approx(each.sum(), rel=1e-5), ROWS)
    assert found["accuracy"] == evaluate(make(), batch, train=train)[1]["accuracy"]
    if options:
        assert abs(evaluate(make(loss=name), batch, train=train)[0] - loss) > 1e-3


@pytest.mark.parametrize("name", ["focal", "squared_hinge", "binary_cross_entropy"])
def test_the_mixed_loss_of_other_losses(mixed, name):
    share, loss_of = mixed["label_share"], losses.CLASSIFICATION[name]
    one, other = (np.asarray(loss_of(mixed["feature"], mixed[key])) for key in ("label", "label_mixed"))
    wanted = (share * one + (1 - share) * other).mean()
    assert evaluate(make(loss=name), mixed, train=True)[0] == pytest.approx(wanted, rel=1e-5)


def test_class_weights_are_factors_on_the_training_loss(batch, mixed):
    weights = (0.0, 1.0, 2.0, 0.5, 1.0, 1.0, 3.0)
    task, each = make(class_weights=weights), np.array(weights)[batch["label"]] * cross_entropy(batch)
    loss, found = evaluate(task, batch, train=True)
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    assert found["loss"] == (pytest.approx(each.sum(), rel=1e-5), ROWS)
    assert evaluate(task, batch) == evaluate(make(), batch)  # evaluation counts every row alike
    other = np.array(weights)[mixed["label_mixed"]] * cross_entropy(mixed | {"label": mixed["label_mixed"]})
    wanted = mixed["label_share"] * each + (1 - mixed["label_share"]) * other
    assert evaluate(task, mixed, train=True)[0] == pytest.approx(wanted.mean(), rel=1e-5)


def test_balanced_class_weights_are_those_of_sklearn(batch):
    label = np.sort(np.r_[np.arange(CLASSES), np.random.default_rng(0).geometric(0.4, 200) % CLASSES])
    counts = np.bincount(label, minlength=CLASSES)
    weights = compute_class_weight("balanced", classes=np.arange(CLASSES), y=label)
    balanced = tasks.make(
        {"name": "classification", "class_weights": "balanced"}, passing(), META | {"class_counts": counts.tolist()}
    )
    assert evaluate(balanced, batch, train=True) == evaluate(make(class_weights=tuple(weights)), batch, train=True)
    assert weights.min() < 0.6 < 2 < weights.max()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_divides_the_logits(batch, temperature, train):
    scaled = batch | {"feature": batch["feature"] / np.float32(temperature)}
    task = make(temperature=temperature, metrics=("calibration_error",))
    assert evaluate(task, batch, train=train)[0] == pytest.approx(cross_entropy(scaled).mean(), rel=1e-5)
    assert evaluate(task, batch)[1]["accuracy"] == evaluate(make(), batch)[1]["accuracy"]
    logits, label = task.predict({}, {}, batch)
    np.testing.assert_allclose(logits, scaled["feature"], rtol=1e-6)
    plain = make(metrics=("calibration_error",))
    assert task.scores(np.asarray(logits), label) != plain.scores(batch["feature"], label)


# --- images made of two ------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(batch):
    rng = np.random.default_rng(3)
    return batch | {
        "label_mixed": np.roll(batch["label"], 1),
        "label_share": np.float32(np.r_[0, 1, rng.random(ROWS - 2)]),
    }


@pytest.mark.parametrize("smooth", [0.0, 0.2])
def test_the_loss_is_shared_between_two_labels(mixed, smooth):
    """Cross-entropy is linear in the target, so it is that of the mixed targets."""
    share = np.float64(mixed["label_share"])[:, None]
    target = share * np.eye(CLASSES)[mixed["label"]] + (1 - share) * np.eye(CLASSES)[mixed["label_mixed"]]
    target = (1 - smooth) * target + smooth / CLASSES
    each = -(target * log_softmax(np.float64(mixed["feature"]), -1)).sum(-1)
    task = make(label_smoothing=smooth, top_k=(2,))
    loss, found = evaluate(task, mixed, train=True)
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    assert found["loss"] == (pytest.approx(each.sum(), rel=1e-5), ROWS)
    plain = {key: mixed[key] for key in ("feature", "label")}
    unmixed_loss, unmixed = evaluate(task, plain, train=True)
    assert abs(loss - unmixed_loss) > 1e-2
    for name in ("accuracy", "top2_accuracy"):  # what counts as correct is the image's own label
        assert found[name] == unmixed[name]
    assert evaluate(task, mixed) == evaluate(task, plain)  # evaluation mixes nothing


@pytest.mark.parametrize("smooth", [0.0, 0.2])
def test_the_binary_loss_is_shared_too(smooth):
    rng = np.random.default_rng(4)
    batch = {
        "feature": np.float32(3 * rng.standard_normal((ROWS, 1))),
        "label": rng.integers(2, size=ROWS).astype(np.int32),
        "label_mixed": rng.integers(2, size=ROWS).astype(np.int32),
        "label_share": np.float32(rng.random(ROWS)),
    }
    target = batch["label_share"] * batch["label"] + (1 - batch["label_share"]) * batch["label_mixed"]
    target = np.float64(target) * (1 - smooth) + smooth / 2
    z = np.float64(batch["feature"][:, 0])
    wanted = (np.log1p(np.exp(-z)) * target + np.log1p(np.exp(z)) * (1 - target)).mean()
    options = {"name": "classification", "binary": True, "label_smoothing": smooth}
    task = tasks.make(options, passing(), META | {"num_classes": 2})
    assert evaluate(task, batch, train=True)[0] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_all_or_nothing_is_one_label_alone(mixed, share):
    mixed["label_share"] = np.full(ROWS, share, np.float32)
    label = mixed["label"] if share else mixed["label_mixed"]
    alone = {"feature": mixed["feature"], "label": label}
    assert evaluate(make(), mixed, train=True)[0] == pytest.approx(evaluate(make(), alone, train=True)[0], rel=1e-6)


# --- the model around it -----------------------------------------------------------------------------------------


def test_model_state_and_dropout_go_through_the_loss():
    model = create_model("mlp", widths=(8,), num_classes=CLASSES, norm="batch", dropout=0.5)
    task = tasks.make({"name": "classification"}, model, META)
    rng = np.random.default_rng(0)
    batch = {"image": np.float32(rng.random((20, 2, 2, 1))), "label": np.zeros(20, np.int32)}
    params, state = (
        (variables := task.init(jax.random.key(0), batch))["params"],
        {"batch_stats": variables["batch_stats"]},
    )

    @jax.jit
    def run(seed):
        return [task.loss(params, state, batch, jax.random.key(seed), train=train) for train in (True, False)]

    (loss, (trained, _)), (plain, (evaluated, _)) = run(0)
    assert jax.tree.structure(trained) == jax.tree.structure(state)
    assert (trained["batch_stats"]["norm1"]["mean"] != state["batch_stats"]["norm1"]["mean"]).any()
    jax.tree.map(np.testing.assert_array_equal, evaluated, state)  # nothing moves in evaluation
    (other, _), (same, _) = run(1)
    assert loss != other
    assert plain == same


@pytest.mark.parametrize("train", [True, False])
def test_half_precision_logits_are_judged_in_single(train):
    model = passing(lambda x: x.astype(jnp.bfloat16))
    task = tasks.make({"name": "classification"}, model, META)
    batch = {"feature": np.zeros((1000, CLASSES), np.float32), "label": np.zeros(1000, np.int32)}
    loss, found = evaluate(task, batch, train=train)
    assert loss == pytest.approx(np.log(CLASSES), rel=1e-5)
    assert found["loss"] == (pytest.approx(1000 * np.log(CLASSES), rel=1e-5), 1000)


def test_masked_sum():
    values, mask = np.float32([1, np.nan, 4, np.inf]), np.array([True, False, True, False])
    with jax.disable_jit():  # where the compiler does not turn a product with 0 into a choice
        assert [float(x) for x in masked_sum(values, mask)] == [5, 2]
        assert [float(x) for x in masked_sum(np.array([True, False, True]))] == [2, 3]


def test_num_outputs():
    assert num_outputs({"name": "classification"}, META) == CLASSES
    assert num_outputs({"name": "classification", "label_smoothing": 0.1, "binary": None}, META) == CLASSES
    assert num_outputs({"name": "classification", "binary": True}, META | {"num_classes": 2}) == 1


@pytest.mark.parametrize(
    "options, meta, line",
    [
        ({"name": "clasification"}, {}, r"unknown task 'clasification'; did you mean 'classification'"),
        ({"label_smooth": 0.1}, {}, r"config\.task: classification has no option 'label_smooth'; did you mean 'label"),
        ({"model": 0.1}, {}, r"classification has no option 'model'"),
        ({"label_smoothing": 1.0}, {}, r"label_smoothing is 1\.0; it must be in \[0, 1\)"),
        ({"label_smoothing": -0.1}, {}, r"label_smoothing is -0\.1"),
        ({"label_smoothing": "much"}, {}, r"label_smoothing is 'much'; it must be a number"),
        ({"loss": "focl"}, {}, r"unknown classification loss 'focl'; did you mean 'focal'"),
        (
            {"loss": "focal", "label_smoothing": 0.1},
            {},
            r"label_smoothing is an option of loss binary_cross_entropy and cross_entropy, and loss is focal; leave",
        ),
        ({"focal_gamma": 1.0}, {}, r"focal_gamma is an option of loss focal, and loss is cross_entropy"),
        ({"loss": "focal", "focal_gamma": -1.0}, {}, r"focal_gamma is -1\.0; it must be zero or more"),
        ({"loss": "focal", "focal_alpha": 0.25}, {}, r"with 7 classes it must be 7 weights"),
        ({"loss": "categorical_hinge", "binary": True}, {"num_classes": 2}, r"compares logits, and binary=True has"),
        ({"class_weights": "balance"}, {}, r"class_weights is 'balance'; it must be 'balanced', or numbers"),
        ({"class_weights": "balanced"}, {"class_counts": (0, 1, 1, 1, 1, 1, 1)}, r"class 0 has no training rows"),
        ({"class_weights": (1.0, 2.0)}, {}, r"class_weights is \(1\.0, 2\.0\); it must be 7 numbers"),
        ({"class_weights": (0.0,) * 7}, {}, r"and not only 0"),
        ({"temperature": 0.0}, {}, r"temperature is 0\.0; it must be above 0"),
        ({"metrics": ("roc_auk",)}, {}, r"unknown metric 'roc_auk'; did you mean 'roc_auc'"),
        ({"metrics": "roc_auc"}, {}, r"metrics is 'roc_auc'; it must be a tuple of strings, such as \('one', 'two'\)"),
        ({"coverage_threshold": 0.5}, {}, r"coverage_threshold is for the metric coverage; add it to metrics"),
        ({"metrics": ("coverage",), "coverage_threshold": 1.5}, {}, r"coverage_threshold is 1\.5; it must be in"),
        ({"top_k": (7,)}, {}, r"top_k is \(7,\); each k must be between 1 and 6"),
        ({"top_k": (0,)}, {}, r"top_k is \(0,\)"),
        ({"top_k": 5}, {}, r"top_k is 5; it must be a tuple"),
        ({"binary": True, "top_k": (1,)}, {"num_classes": 2}, r"binary=True has one logit"),
        ({"binary": True}, {}, r"binary=True needs 2 classes, data set 'test' has 7"),
        ({}, {"num_classes": None}, r"data set 'test' has no labels; use task regression"),
        ({}, {"num_classes": 1}, r"data set 'test' has only one class; it needs 2 or more"),
        ({}, {"num_classes": 1, "class_names": ("insects",)}, r"data set 'test' has only one class, 'insects'; it"),
    ],
)  # fmt: skip
def test_mistakes(options, meta, line):
    options, meta = {"name": "classification", **options}, META | meta
    with pytest.raises(UserError, match=line):
        tasks.make(options, passing(), {**meta, "outputs": num_outputs(options, meta)})
