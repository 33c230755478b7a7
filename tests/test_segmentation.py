"""Loss and metrics of segmentation against a confusion matrix, exactly counted, and a U-Net that learns."""

import math
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import zoo
from zoo import create_model, metrics, segmentation_losses, tasks
from zoo.errors import UserError
from zoo.tasks import segmentation

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # these run once: quicker in all
B, H, W, CLASSES = 7, 6, 5, 4
NAMES = ("sky", "sea & sand", "land", "unseen")
META = {"name": "test", "num_classes": CLASSES, "class_names": NAMES, "shapes": {"label": (H, W), "image": (H, W, 3)}}
WORDS = ("sky", "sea_sand", "land", "unseen")


def passing(outputs=lambda x: x):
    """A model whose outputs are its inputs."""
    return SimpleNamespace(
        init=lambda rngs, x, train: {"params": {}},
        apply=lambda variables, x, train, **kwargs: (outputs(x), {}) if kwargs else outputs(x),
    )


def make(meta=META, outputs=lambda x: x, **options):
    return tasks.make({"name": "segmentation", **options}, passing(outputs), meta)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES - 1, size=(B, H, W)).astype(np.uint8)
    logits = np.float32(rng.standard_normal((B, H, W, CLASSES)) + 1.5 * np.eye(CLASSES)[label])
    return {"image": logits, "label": np.where(rng.random((B, H, W)) < 0.2, 255, label).astype(np.uint8)}


def evaluate(task, batch, *, train=False):
    run = jit(lambda batch: task.loss({}, {}, batch, jax.random.key(0), train=train))
    loss, (_, found) = run(batch)
    return float(loss), jax.device_get(found)


def split(task, batches):
    """As the loop does it."""
    return task.finalize(metrics.divide(metrics.total([evaluate(task, batch)[1] for batch in batches])))


def confusion(label, predicted, classes):
    table = np.zeros((classes, classes))
    for truth, guess in zip(label.ravel(), predicted.ravel(), strict=True):
        if truth != 255:
            table[truth, guess] += 1
    return table


def padded(batch, size):
    """Batches of one shape; what fills up the last is NaN and labelled nonsense."""
    for start in range(0, B, size):
        rows = np.arange(start, start + size)
        mask = rows < B
        part = {key: value[np.where(mask, rows, 0)] for key, value in batch.items()}
        part["image"] = np.where(mask[:, None, None, None], part["image"], np.float32(np.nan))
        yield part | {"mask": mask}


def test_metrics_are_those_of_the_confusion_matrix(batch):
    table = confusion(batch["label"], batch["image"].argmax(-1), CLASSES)
    assert table[3].sum() == 0 < table[:, 3].sum()  # predicted, but not there
    hit, union = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
    found = split(make(), padded(batch, 3))
    assert found["pixel_accuracy"] == pytest.approx(hit.sum() / table.sum(), abs=1e-9)
    for k, name in enumerate(WORDS[:3]):
        assert found[f"iou_{name}"] == pytest.approx(hit[k] / union[k], abs=1e-9)
        assert found[f"dice_{name}"] == pytest.approx(2 * hit[k] / (union[k] + hit[k]), abs=1e-9)
    assert found["mean_iou"] == pytest.approx(np.mean(hit[:3] / union[:3]), abs=1e-9)
    assert found["mean_dice"] == pytest.approx(np.mean(2 * hit[:3] / (union + hit)[:3]), abs=1e-9)
    assert math.isnan(found["iou_unseen"])
    assert math.isnan(found["dice_unseen"])
    kinds = [f"{kind}_{name}" for kind in ("iou", "dice") for name in WORDS]
    assert set(found) == {"loss", "pixel_accuracy", "mean_iou", "mean_dice", *kinds}
    for name in found:
        assert metrics.mode_of(f"validation/{name}") == ("min" if name == "loss" else "max"), name


def test_binary(batch):
    meta = META | {"num_classes": 2, "class_names": None}
    label = np.where(batch["label"] == 255, 255, batch["label"] % 2)
    logit = batch["image"][..., :1] + 2 * (label == 1)[..., None]
    found = split(make(meta, binary=True), padded({"image": logit, "label": label}, 4))
    table = confusion(label, (logit[..., 0] > 0).astype(int), 2)
    iou = np.diag(table) / (table.sum(0) + table.sum(1) - np.diag(table))
    assert [found["iou_class0"], found["iou_class1"]] == pytest.approx(iou.tolist(), abs=1e-9)
    both = np.concatenate([0 * logit, logit], -1)
    two = split(make(meta), padded({"image": both, "label": label}, 4))
    assert two == pytest.approx(found, rel=1e-5)


LOSSES = [
    "cross_entropy", "focal", "dice", "jaccard", "tversky", {"cross_entropy": 1.0, "dice": 0.5},
    {"focal": 2, "tversky": 1, "jaccard": 0.25},
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_loss_of_a_split_does_not_depend_on_the_batches(batch, loss):
    valid, factors = batch["label"] != 255, {loss: 1} if isinstance(loss, str) else loss
    logits, label = batch["image"], batch["label"]
    exact = {name: {"smooth": 0.0} if name in ("dice", "jaccard", "tversky") else {} for name in factors}
    wanted = sum(
        f * getattr(segmentation_losses, name)(logits, label, valid, **exact[name]) for name, f in factors.items()
    )
    for size in (2, B):
        assert split(make(loss=loss), padded(batch, size))["loss"] == pytest.approx(float(wanted), rel=1e-5)
    trained = sum(factor * getattr(segmentation_losses, name)(logits, label, valid) for name, factor in factors.items())
    assert evaluate(make(loss=ConfigDict({"x": loss}).x), batch, train=True)[0] == pytest.approx(
        float(trained), rel=1e-5
    )


@pytest.mark.parametrize(
    "option, value, loss",
    [
        ("label_smoothing", 0.1, "cross_entropy"),
        ("focal_gamma", 1.0, "focal"),
        ("focal_alpha", (1.0, 2.0, 3.0, 4.0), "focal"),
        ("tversky_alpha", 0.6, "tversky"),
        ("tversky_beta", 0.2, "tversky"),
        ("smooth", 20.0, "dice"),
        ("smooth", 20.0, "jaccard"),
    ],
)
def test_options_of_losses(batch, option, value, loss):
    """Each is passed on, in training (smoothing of either kind there alone), and refused where nothing reads it."""
    own = option.removeprefix(f"{loss}_")
    valid = batch["label"] != 255
    wanted = getattr(segmentation_losses, loss)(batch["image"], batch["label"], valid, **{own: value})
    task = make(loss=loss, **{option: value})
    assert evaluate(task, batch, train=True)[0] == pytest.approx(float(wanted), rel=1e-5)
    same = split(task, [batch])["loss"] == pytest.approx(split(make(loss=loss), [batch])["loss"], rel=1e-6)
    assert same == (option in ("label_smoothing", "smooth"))
    other = "dice" if loss in ("cross_entropy", "focal") else "cross_entropy"
    with pytest.raises(
        UserError, match=rf"{option} is an option of loss .*{loss}.*, and loss is {other}; leave it out"
    ):
        make(loss=other, **{option: value})


def test_weight_multiplies_the_losses_per_pixel(batch):
    weight = np.random.default_rng(1).random((B, H, W), np.float32) * 3
    valid = batch["label"] != 255
    for name in ("cross_entropy", "focal"):
        wanted = getattr(segmentation_losses, name)(batch["image"], batch["label"], weight * valid)
        for train in (True, False):
            loss, found = evaluate(make(loss=name), batch | {"weight": weight}, train=train)
            assert loss == pytest.approx(float(wanted), rel=1e-5)
    plain = evaluate(make(), batch)[1]
    assert {k: v for k, v in found.items() if "loss" not in k} == {k: v for k, v in plain.items() if "loss" not in k}
    both = make(loss={"focal": 1, "dice": 1})
    dice = [evaluate(both, b)[0] - evaluate(make(loss="focal"), b)[0] for b in (batch, batch | {"weight": weight})]
    assert dice[0] == pytest.approx(dice[1], rel=1e-4)
    for train in (True, False):
        with pytest.raises(UserError, match="loss is dice, without a weight per pixel; add cross_entropy or"):
            evaluate(make(loss="dice"), batch | {"weight": weight}, train=train)


def test_counts_are_exact_in_evaluation(batch):
    """As integers on their way to the host: a float32 cannot count to 2**24 + 1."""
    assert segmentation._count(jnp.ones(2**24 + 1, bool)) == 2**24 + 1
    for train, kind in ((False, np.int32), (True, np.float32)):
        found = evaluate(make(), batch, train=train)[1]
        assert all(x.dtype == kind for name, pair in found.items() if "loss" not in name for x in pair)


def test_ignored_pixels_and_padding_rows_count_nowhere(batch):
    """Not in the gradient either."""
    task = make(loss={"cross_entropy": 1, "dice": 1}, ignore_index=0)

    def gradient(x, label, mask):
        return task.loss({}, {}, {"image": x, "label": label, "mask": mask}, jax.random.key(0), train=True)[0]

    label, mask = np.where(batch["label"] == 255, 3, batch["label"]), np.arange(B) % 2 == 0
    grads = np.asarray(jit(jax.grad(gradient))(batch["image"], label, mask))
    counted = (label != 0) & mask[:, None, None]
    np.testing.assert_array_equal(np.abs(grads).max(-1) > 0, counted)
    _, found = evaluate(task, {"image": batch["image"], "label": label, "mask": mask})
    assert found["pixel_accuracy"][1] == counted.sum()
    values = split(make(), [{"image": batch["image"], "label": np.full_like(label, 255)}])
    assert math.isnan(values["mean_iou"])
    assert evaluate(make(), {"image": batch["image"], "label": np.full_like(label, 255)}, train=True)[0] == 0


def test_the_label_is_cut_to_its_centre(batch):
    weight = np.random.default_rng(1).random((B, H, W), np.float32)
    small = {
        "label": batch["label"][:, 1:-1, 2:-2],
        "weight": weight[:, 1:-1, 2:-2],
        "image": batch["image"][:, 1:-1, 2:-2],
    }
    valid = make(outputs=lambda x: x[:, 1:-1, 2:-2])
    found, wanted = evaluate(valid, batch | {"weight": weight}), evaluate(make(), small)
    assert found[0] == wanted[0]
    assert found[1] == wanted[1]


@pytest.mark.parametrize(
    "outputs, line",
    [
        (lambda x: x[:, 1:], r"the model's output is 5x5, the label 6x5; it must be as large, or smaller"),
        (lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), r"the model's output is 8x7, the label 6x5"),
        (lambda x: x[:, 0, 0], r"the model's output has shape \(7, 4\) and the label \(7, 6, 5\); they must be \[B, H"),
    ],
)
def test_outputs_that_do_not_fit(batch, outputs, line):
    with pytest.raises(UserError, match=line) as error:
        evaluate(make(outputs=outputs), batch)
    assert "\n" not in str(error.value)


def test_a_binary_loss_of_what_is_no_logit_is_refused():
    model = create_model("unet", num_classes=1, width=2, depth=1, head_activation="sigmoid")
    line = r"binary=True is the logistic loss of logits, and the model has head_activation='sigmoid' behind them"
    with pytest.raises(UserError, match=line):
        tasks.make(
            {"name": "segmentation", "binary": True}, model, META | {"num_classes": 2, "class_names": ("a", "b")}
        )


def test_class_names_that_look_alike():
    task = make(META | {"class_names": ("a b", "a-b", "c", "d")})
    found = split(task, [{"image": np.zeros((1, 2, 2, 4), np.float32), "label": np.zeros((1, 2, 2), np.uint8)}])
    assert {"iou_a_b_0", "iou_a_b_1", "iou_c_2"} <= set(found)


@pytest.mark.parametrize(
    "meta, options, line",
    [
        ({}, {"loss": "dicee"}, r"unknown segmentation loss 'dicee'; did you mean 'dice'"),
        ({}, {"loss": {"dice": 1, "focall": 1}}, r"unknown segmentation loss 'focall'"),
        ({}, {"loss": {"dice": 0}}, r"the weight of loss 'dice' is 0; it must be above 0"),
        ({}, {"loss": {"dice": "1"}}, r"the weight of loss 'dice' is '1'"),
        ({}, {"loss": {"dice": math.inf}}, r"the weight of loss 'dice' is inf"),
        ({}, {"loss": {}}, r"loss is \{\}; it must be a name, or names with weights such as"),
        ({}, {"loss": 3}, r"loss is 3; it must be a name"),
        ({}, {"label_smoothing": 1.0}, r"label_smoothing is 1\.0; it must be in \[0, 1\)"),
        ({}, {"loss": "dice", "smooth": -1.0}, r"smooth is -1\.0; it must be zero or more"),
        ({}, {"loss": "focal", "focal_gamma": -1.0}, r"focal_gamma is -1\.0"),
        ({}, {"loss": "focal", "focal_alpha": 0.25}, r"alpha is 0\.25; with 4 classes it must be 4 weights"),
        ({}, {"loss": "focal", "focal_alpha": (1.0, 1.0, 1.0, -1.0)}, r"alpha is .*cannot be negative"),
        ({}, {"loss": "tversky", "tversky_alpha": 0.0, "tversky_beta": 0.0}, r"tversky_alpha and tversky_beta are 0"),
        ({}, {"ignore_index": "255"}, r"ignore_index is '255'; it must be an integer"),
        ({}, {"top_k": (2,)}, r"config.task: segmentation has no option 'top_k'"),
        ({}, {"binary": True}, r"binary=True needs 2 classes, data set 'test' has 4"),
        ({"num_classes": None}, {}, r"data set 'test' has no label maps"),
        ({"shapes": {"label": ()}}, {}, r"data set 'test' has no label maps"),
    ],
)
def test_mistakes(meta, options, line):
    with pytest.raises(UserError, match=line) as error:
        make(META | meta, **options)
    assert "\n" not in str(error.value)


def test_number_of_outputs():
    assert tasks.num_outputs({"name": "segmentation"}, META) == CLASSES
    assert tasks.num_outputs({"name": "segmentation", "binary": True}, META | {"num_classes": 2}) == 1


# --- learning ----------------------------------------------------------------------------------------------------


def discs(rows, seed):
    """Bright discs and dark squares on noise: uint8 images [N, 32, 32, 1], labels with an ignored frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    image, label = 128 + 12 * rng.standard_normal((rows, 32, 32)), np.zeros((rows, 32, 32), np.uint8)
    for n in range(rows):
        for kind, sign in ((1, 1), (2, -1), (1, 1)):
            (i, j), r = rng.integers(6, 26, 2), rng.integers(3, 7)
            far = np.hypot(y - i, x - j) if kind == 1 else np.maximum(abs(y - i), abs(x - j))
            label[n][far <= r] = kind
            image[n][far <= r] = 128 + sign * 60 + 12 * rng.standard_normal((far <= r).sum())
    label[:, 0] = 255
    return {"image": np.clip(image, 0, 255).astype(np.uint8)[..., None], "label": label}


def test_a_valid_unet_learns_through_a_bare_loop():
    """Through the task alone, with an output that is smaller than the label map."""
    rows = discs(8, 0)
    batch = {"image": np.float32(rows["image"]) / 64 - 2, "label": rows["label"]}
    meta = META | {"num_classes": 3, "class_names": ("background", "disc", "square")}
    model = create_model("unet", variant="2015", width=6, depth=1, num_classes=3, norm="batch")
    task = tasks.make({"name": "segmentation", "loss": {"cross_entropy": 1.0, "dice": 1.0}}, model, meta)
    variables = jit(task.init)(jax.random.key(0), batch)
    tx = optax.adam(0.02)

    @jax.jit
    def step(variables, opt_state):
        params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
        grads, (state, found) = jax.grad(task.loss, has_aux=True)(params, state, batch, jax.random.key(0), train=True)
        updates, opt_state = tx.update(grads, opt_state)
        return {"params": optax.apply_updates(params, updates), **state}, opt_state, found

    opt_state, values = tx.init(variables["params"]), []
    for _ in range(30):
        variables, opt_state, found = step(variables, opt_state)
        values.append(task.finalize(metrics.divide(metrics.total([jax.device_get(found)]))))
    assert values[-1]["loss"] < values[0]["loss"] / 2
    assert values[-1]["mean_iou"] > max(0.6, values[0]["mean_iou"] + 0.3)


def test_a_unet_learns_through_the_loop(tmp_path):
    config = zoo.config.default()
    config.model = {"name": "unet", "width": 8, "depth": 1}
    config.task = {"name": "segmentation", "loss": {"cross_entropy": 1.0, "dice": 0.5}}
    config.data.update(name="discs", batch_size=16, eval_batch_size=8)
    config.optim.update(name="adamw", lr=0.02)
    config.total_steps = 120
    config.eval_every_steps = 60
    config.checkpoint.monitor = "test/mean_iou"
    source = zoo.Source(discs(32, 0), test=discs(12, 1), class_names=("background", "disc", "square"))
    report = zoo.train(config, tmp_path, source=source)
    found = report["metrics"]["test"]
    assert found["mean_iou"] > 0.7
    assert found["mean_iou"] == pytest.approx(np.mean([found[f"iou_{n}"] for n in source.class_names]))
    assert report["model"]["name"] == "unet" if isinstance(report["model"], dict) else report["model"] == "unet"


@pytest.mark.parametrize("binary", [True, False])
def test_views_are_averaged_in_evaluation_alone(binary):
    """Against the 8 symmetries by NumPy, for a model that is not symmetric."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Conv(1 if binary else 2, (3, 3), padding=((1, 1), (1, 1)), name="head")(x)

    meta = {"name": "test", "num_classes": 2, "class_names": ("a", "b"), "shapes": {"label": (6, 6)}}
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(2, 6, 6, 1)).astype(np.float32), "label": rng.integers(0, 2, (2, 6, 6))}
    one, eight = (segmentation.make(Model(), meta, binary=binary, views=views) for views in (1, 8))
    variables = one.init(jax.random.key(0), batch)
    probabilities = []
    for turns in range(4):
        for mirror in (False, True):
            image = np.rot90(batch["image"], turns, (1, 2))
            image = image[:, ::-1] if mirror else image
            logits = np.asarray(Model().apply(variables, image))
            logits = np.concatenate([0 * logits, logits], -1) if binary else logits
            p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            p = p[:, ::-1] if mirror else p
            probabilities.append(np.rot90(p, -turns, (1, 2)))
    p = np.mean(probabilities, 0)
    expected = -np.log(np.take_along_axis(p, batch["label"][..., None], -1)).mean()
    loss, (_, metrics) = jax.jit(lambda v: eight.loss(v["params"], {}, batch, None, train=False))(variables)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics["pixel_accuracy"][0] == (p.argmax(-1) == batch["label"]).sum()
    key = jax.random.key(1)
    training = [task.loss(variables["params"], {}, batch, key, train=True)[0] for task in (one, eight)]
    assert training[0] == training[1]


def test_views_need_square_images():
    meta = {"name": "test", "num_classes": 2, "class_names": ("a", "b"), "shapes": {"label": (6, 8)}}
    task = segmentation.make(zoo.create_model("unet", width=2, depth=1), meta, views=8)
    batch = {"image": np.zeros((1, 6, 8, 1), np.float32), "label": np.zeros((1, 6, 8), np.int32)}
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    with pytest.raises(UserError, match="views is 8, but the images are 6x8, not square"):
        jax.eval_shape(lambda v: task.loss(v["params"], v, batch, None, train=False), variables)
    with pytest.raises(UserError, match="views is 4; it must be 1, or 8"):
        segmentation.make(None, meta, views=4)
