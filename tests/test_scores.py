"""Metrics over whole splits against scikit-learn, and through a whole run."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

import zoo
from zoo import metrics, scores
from zoo.errors import UserError
from zoo.run import prepare

CLASSES = 4
META = {"name": "test", "num_classes": CLASSES, "class_names": ("a", "b c", "d", "e")}
TWO = {"name": "test", "num_classes": 2, "class_names": ("no", "yes")}


def make(*names, meta=META, threshold=0.9):
    return scores.make(names, meta, threshold=threshold)


def draw(kind, rows=400, outputs=CLASSES):
    """(logits, labels): 'plain', with many equal 'rows', or with the last class 'missing' from the labels."""
    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES - (kind == "missing"), size=rows)
    logits = np.float32(rng.standard_normal((rows, outputs)) + 1.5 * np.eye(CLASSES)[label][:, :outputs])
    if kind == "ties":
        logits = logits[rng.integers(20, size=rows)]
    return logits, label


@pytest.fixture(params=["plain", "ties", "missing"])
def case(request):
    logits, label = draw(request.param)
    return logits, label, softmax(np.float64(logits), -1)


def test_probabilities_of_one_class_against_the_rest():
    """The logistic ones, scaled to a sum of 1."""
    logits, label = draw("plain")
    names = ("calibration_error", "coverage", "coverage_error", "roc_auc")
    odds = expit(np.float64(logits))
    wanted = make(*names, threshold=0.5)(np.log(odds / odds.sum(1, keepdims=True)), label)
    found = scores.make(names, META, threshold=0.5, one_vs_rest=True)(logits, label)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert abs(found["calibration_error"] - make(*names, threshold=0.5)(logits, label)["calibration_error"]) > 0.01


def test_precision_recall_and_f1(case):
    logits, label, _ = case
    called = logits.argmax(-1)
    functions = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    names = [f"{name}_{kind}" for name in functions for kind in ("micro", "macro", "per_class")]
    found = make(*names)(logits, label)
    for name, function in functions.items():
        for average in ("micro", "macro"):
            wanted = function(label, called, average=average, zero_division=0)
            assert found[f"{name}_{average}"] == pytest.approx(wanted, rel=1e-12)
        wanted = function(label, called, average=None, labels=range(CLASSES), zero_division=0)
        np.testing.assert_allclose([found[f"{name}_{word}"] for word in ("a", "b_c", "d", "e")], wanted, rtol=1e-12)
    assert found["precision_micro"] == sk.accuracy_score(label, called)


def test_a_class_that_is_nowhere_is_nan_and_not_in_the_mean():
    label = np.array([0, 0, 1, 1, 2])
    logits = 9.0 * np.eye(CLASSES)[[0, 1, 1, 1, 2]]
    found = make("f1_per_class", "f1_macro", "roc_auc", "pr_auc")(logits, label)
    assert [found["f1_a"], found["f1_b_c"], found["f1_d"]] == pytest.approx([2 / 3, 0.8, 1])
    assert np.isnan(found["f1_e"])
    assert found["f1_macro"] == pytest.approx((2 / 3 + 0.8 + 1) / 3)
    ranks = np.round(softmax(logits, -1), 9)  # what is equal but for the order of a sum is equal
    assert found["roc_auc"] == pytest.approx(np.mean([sk.roc_auc_score(label == k, ranks[:, k]) for k in range(3)]))


def test_areas(case):
    logits, label, p = case
    found = make("roc_auc", "pr_auc")(logits, label)
    present = np.unique(label)
    if len(present) == CLASSES:
        assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(label, p, multi_class="ovr"), rel=1e-12)
    each = [sk.roc_auc_score(label == k, p[:, k]) for k in present]
    assert found["roc_auc"] == pytest.approx(np.mean(each), rel=1e-12)
    each = [sk.average_precision_score(label == k, p[:, k]) for k in present]
    assert found["pr_auc"] == pytest.approx(np.mean(each), rel=1e-12)


@pytest.mark.parametrize("kind", ["plain", "ties"])
def test_two_classes_by_one_logit_and_by_two(kind):
    logits, label = draw(kind, outputs=1)
    label = (label == 0).astype(int)
    names = [name for name in scores.SCORES if name != "confusion_matrix"]
    one = make(*names, meta=TWO)(logits, label)
    assert one["roc_auc"] == pytest.approx(sk.roc_auc_score(label, logits[:, 0]), rel=1e-12)
    assert one["pr_auc"] == pytest.approx(sk.average_precision_score(label, logits[:, 0]), rel=1e-12)
    assert one["f1_yes"] == pytest.approx(sk.f1_score(label, logits[:, 0] > 0), rel=1e-12)
    assert one["precision_no"] == pytest.approx(sk.precision_score(label, logits[:, 0] > 0, pos_label=0), rel=1e-12)
    both = make(*names, meta=TWO)(np.concatenate([0 * logits, logits], -1), label)
    assert one == both


def test_sure_rows_are_still_ranked():
    """Where all probabilities are 1 in float64, their logits still tell which is the surer."""
    logits, label = np.float32([[100.0], [90.0], [80.0], [70.0]]), np.array([1, 1, 0, 0])
    assert len(set(expit(np.float64(logits[:, 0])))) == 1
    assert make("roc_auc", meta=TWO)(logits, label)["roc_auc"] == 1


def test_one_class_alone_has_no_area():
    logits, _ = draw("plain", rows=5)
    found = make("roc_auc", "pr_auc", "f1_macro")(logits, np.zeros(5, int))
    assert np.isnan([found["roc_auc"], found["pr_auc"]]).all()
    assert np.isfinite(found["f1_macro"])


def test_confusion_matrix(case):
    logits, label, _ = case
    found = make("confusion_matrix")(logits, label)["confusion_matrix"]
    assert found == sk.confusion_matrix(label, logits.argmax(-1), labels=range(CLASSES)).tolist()
    assert json.loads(json.dumps(found)) == found


def test_calibration_error(case):
    """From scikit-learn's curve of the same bins, weighted by their rows."""
    logits, label, p = case
    confidence, correct = p.max(-1), logits.argmax(-1) == label
    accuracies, confidences = calibration_curve(correct, confidence, n_bins=15)
    counts = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    wanted = (counts[counts > 0] * np.abs(accuracies - confidences)).sum() / len(label)
    found = make("calibration_error")(logits, label)["calibration_error"]
    assert found == pytest.approx(wanted, rel=1e-9)
    assert found > 0.01
    sure = make("calibration_error")(100 * logits, label)["calibration_error"]
    assert sure == pytest.approx(1 - correct.mean(), abs=0.02)  # says 100 %


@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_coverage(case, threshold):
    logits, label, p = case
    found = make("coverage", "coverage_error", threshold=threshold)(logits, label)
    kept = p.max(-1) >= threshold
    assert found["coverage"] == pytest.approx(kept.mean())
    if kept.any():
        assert found["coverage_accuracy"] == sk.accuracy_score(label[kept], logits[kept].argmax(-1))
    else:
        assert np.isnan(found["coverage_accuracy"])
    assert found["coverage_error"] == pytest.approx(sk.coverage_error(np.eye(CLASSES)[label], logits), rel=1e-12)


def test_logits_that_are_no_numbers():
    logits, label = draw("plain")
    logits[3, 2] = np.nan
    found = make(*scores.SCORES)(logits, label)
    assert np.isnan(list(metrics.numbers(found).values())).all()
    assert set(found) == set(make(*scores.SCORES)(*draw("plain")))


def test_unknown():
    with pytest.raises(UserError, match=r"unknown metric 'roc_auk'; did you mean 'roc_auc'"):
        make("roc_auk")


@pytest.mark.parametrize("name", scores.SCORES)
def test_which_way_is_better(name):
    """Every one improves, by its own mode, from chance to the truth."""
    logits, label = draw("plain")
    values = [make(name)(z, label) for z in (logits - 1.5 * np.eye(CLASSES)[label], 50 * np.eye(CLASSES)[label])]
    for key, bad in metrics.numbers(values[0]).items():
        good = values[1][key]
        if not np.isnan(bad):
            assert (good > bad) == (metrics.mode_of(f"test/{key}") == "max"), key


# --- a whole run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config():
    config = zoo.config.default()
    config.model = {"name": "mlp", "widths": (16,)}
    config.data.update(name="digits", eval_batch_size=80, validation=0.1, test=0.2)  # last batches are padded
    config.task = {
        "name": "classification",
        "class_weights": "balanced",
        "metrics": ("roc_auc", "recall_per_class", "confusion_matrix", "coverage"),
        "coverage_threshold": 0.5,
    }
    config.optim.update(name="adam", lr=1e-2)
    config.averaging = {"name": "ema", "decay": 0.9}
    config.update(total_steps=60, eval_every_steps=20)
    config.checkpoint.monitor = "validation/roc_auc"
    return config


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores") / "run"
    zoo.train(config, folder)
    return folder


def test_the_report_of_a_run(config, folder):
    report = json.loads((folder / "report.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = report["metrics"]
    assert set(found) == {"validation", "validation_raw", "test", "test_raw"}
    for split, rows in (("validation", 180), ("test", 359)):
        for values in (found[split], found[f"{split}_raw"]):
            matrix = np.array(values["confusion_matrix"])
            assert matrix.sum() == rows  # every row once, no padding
            assert values["accuracy"] == pytest.approx(np.trace(matrix) / rows, rel=1e-12)
            recalls = [values[f"recall_{k}"] for k in range(10)]
            np.testing.assert_allclose(recalls, matrix.diagonal() / matrix.sum(1), rtol=1e-12)
    assert found["test"]["roc_auc"] != found["test_raw"]["roc_auc"]  # averaged and raw weights
    assert 0.9 < found["test"]["roc_auc"] < 1
    evaluations = [line for line in lines if "validation/roc_auc" in line]
    assert len(evaluations) == 3
    assert not any("confusion_matrix" in key for line in lines for key in line)
    assert report["best"]["value"] == max(line["validation/roc_auc"] for line in evaluations)
    assert report["best"]["monitor"] == "validation/roc_auc"


def test_a_run_against_sklearn_row_by_row(config, folder):
    """The reported values are those of the saved weights on the rows of the split."""
    run = prepare(config)
    model, variables = zoo.create_model("mlp", widths=(16,)), zoo.load_weights(run.model, str(folder))
    logits, label = [], []
    for batch in run.dataset.eval("test"):
        mask = np.asarray(batch["mask"])
        x = run.dataset.preprocess(batch)["image"]
        logits.append(np.asarray(model.apply(variables, x))[mask])
        label.append(np.asarray(batch["label"])[mask])
    logits, label = np.concatenate(logits), np.concatenate(label)
    _, found = zoo.evaluate(config, folder)
    p = softmax(np.float64(logits), -1)
    assert found["test"]["roc_auc"] == pytest.approx(sk.roc_auc_score(label, p, multi_class="ovr"), rel=1e-9)
    assert found["test"]["confusion_matrix"] == sk.confusion_matrix(label, logits.argmax(-1)).tolist()
    assert found["test"]["coverage"] == pytest.approx((p.max(-1) >= 0.5).mean())
    assert f"confusion_matrix [[{found['test']['confusion_matrix'][0][0]}, " in metrics.text(found["test"])


def test_what_is_not_asked_for_costs_nothing(config):
    plain = config.copy_and_resolve_references()
    plain.task = {"name": "classification"}
    plain.checkpoint.monitor = ""
    run = prepare(plain)
    state, _ = run.shapes
    batch = next(iter(run.dataset.eval("test")))
    _, rows = run.eval_step.eval_shape({"params": state.params}, batch)
    assert rows is None
    plain.checkpoint.monitor = "unknown"
    names = ("validation/accuracy", "validation/loss", "validation_raw/accuracy", "validation_raw/loss")
    with pytest.raises(UserError, match=f"; known: {', '.join(names)}$"):
        prepare(plain)
