"""Runs on tables: training, and evaluation with the statistics of the training rows, whatever the file has become."""

import json

import jax
import numpy as np
import pytest

import zoo
from zoo import predict, semantics
from zoo.data import preprocess
from zoo.errors import UserError
from zoo.run import prepare


def rows(count, seed, scale=1.0):
    """y is decided by a number and by a category; 1 in 10 of them is missing."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, count))
    town = rng.choice(["Bern", "Oslo", "Rome"], count)
    y = x + 2.0 * (town == "Oslo") > 0.5
    cells = zip(
        np.where(rng.random(count) < 0.1, "", (scale * x).round(3).astype(str)), noise.round(3), town, y, strict=True
    )
    return "".join(f"{a},{b},{t},{'yes' if label else 'no'},{5 * float(a or 0)}\n" for a, b, t, label in cells)


def write(folder, *, seed=0, scale=1.0):
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 240), ("test", 120)):
        (folder / f"{split}.csv").write_text("x,noise,town,y,z\n" + rows(count, seed + count, scale))
    return folder


def recipe(folder, target="y", **changed):
    config = zoo.config.default()
    config.model = {"name": "mlp", "widths": (8,), "embed_dim": 4}
    config.data.update(name=f"csv:{folder}?target={target}&drop={'z' if target == 'y' else 'y'}", batch_size=40)
    config.data.update(impute="mean", categories="embed")
    config.optim.lr = 0.05
    config.total_steps = 60
    return zoo.config.override(config, changed.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    return folder, zoo.train(recipe(write(folder / "data")), folder / "run")


def test_a_table_with_embeddings_is_learned(trained):
    _, report = trained
    assert report["metrics"]["test"]["accuracy"] > 0.85
    assert report["parameters"] == 3 * 4 + (2 + 4) * 8 + 8 + 8 * 2 + 2


def test_evaluation_repeats_the_statistics_of_the_run(trained):
    """The file changed: rows of another scale would look the same if they were standardized by their own."""
    folder, report = trained
    config = recipe(folder / "data")
    before = preprocess.load(folder / "run")
    first = zoo.evaluate(config, folder / "run")
    assert first[1]["test"] == report["metrics"]["test"]
    test = (folder / "data/test.csv").read_bytes()
    write(folder / "data", seed=5, scale=1000.0)
    (folder / "data/test.csv").write_bytes(test)
    _, found = zoo.evaluate(config, folder / "run")
    assert found["test"] == report["metrics"]["test"]  # the training rows changed, and the test rows did not
    assert (
        found["test"]
        != zoo.evaluate(recipe(folder / "data", **{"data.normalize": "minmax"}), folder / "run")[1]["test"]
    )
    again = zoo.train(recipe(folder / "data", total_steps=70), folder / "run")  # resumed: the same statistics
    assert again["step"] == 70
    after = preprocess.load(folder / "run")
    assert set(after) == set(before)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert json.loads(str(after["settings"]))["impute"] == "mean"


def test_prediction_of_rows(trained):
    """Columns in any order; what is missing is filled in, and an unknown category is zeros, as in training."""
    folder, _ = trained
    (folder / "new.csv").write_text("town,more,noise,x\nOslo,a,0.5,3\nBern,b,-2,?\nParis,c,1,-1\n,d,1,-1\n")
    predictor = predict.load(folder / "run")
    called, inputs = predict.read(predictor, [str(folder / "new.csv")])
    assert called == [f"{folder / 'new.csv'}:{line}" for line in (2, 3, 4, 5)]
    kept = preprocess.load(folder / "run")
    shift, scale = (kept[f"normalize/0/standardize/{key}"] for key in ("shift", "scale"))
    numbers = (np.array([[3, 0.5], [kept["fill"][0], -2], [-1, 1], [-1, 1]]) - shift) / scale
    rows = np.float32(np.concatenate([numbers, [[1], [0], [3], [3]]], axis=1))  # Bern, Oslo, Rome
    model, variables, said = zoo.load_model(folder / "run")
    np.testing.assert_allclose(
        predict.outputs(predictor, inputs), jax.nn.softmax(model.apply(variables, rows)), rtol=1e-4
    )
    assert (said["feature_names"], said["csv_options"]) == (["x", "noise", "town"], None)
    (folder / "new.csv").write_text("town,x\nOslo,1\n")
    with pytest.raises(UserError, match=r"new\.csv has no column 'noise'"):
        predict.read(predictor, [str(folder / "new.csv")])


@pytest.mark.parametrize(
    "options, new, wanted",
    [
        ("target=y&missing=-999", "t,x\nOslo,5\nRome,-999\nRome,?\n", None),  # '?' is no longer one
        ("target=y&missing=-999,?", "t,x\nOslo,5\nRome,-999\nRome,?\n", [[5, 0], [np.nan, 1], [np.nan, 1]]),
        ("target=3&header=no&missing=-999", "Oslo,5\nRome,-999\n", [[5, 0], [np.nan, 1]]),  # no target
        ("target=3&header=no", "Oslo,5,yes\nParis,6,\n", [[5, 0], [6, 2]]),
        ("target=y&delimiter=%7C&missing=-", "t|x\nOslo, 1|-\n", [[np.nan, 2]]),
    ],
)
def test_prediction_reads_a_table_as_training_did(tmp_path, options, new, wanted):
    rows = "".join(f"{('Oslo', 'Rome')[k % 2]},{k},{('no', 'yes')[k % 3 % 2]}\n" for k in range(60))
    content = ("" if "header" in options else "t,x,y\n") + rows
    (tmp_path / "old.csv").write_text(content.replace(",", "|") if "%7C" in options else content)
    config = recipe(tmp_path, **{"data.name": f"csv:{tmp_path / 'old.csv'}?{options}"})
    run = prepare(config)
    said = semantics.of(run.config, run.model, run.dataset)
    assert said["csv_options"] == options.partition("&")[2]
    (tmp_path / "new.csv").write_text(new)
    if wanted is None:
        with pytest.raises(UserError, match=r"new\.csv, line 4: column 'x' is '\?'; it must be a finite number"):
            predict.table(tmp_path / "new.csv", said, run.dataset.statistics)
        return
    found = predict.table(tmp_path / "new.csv", said, run.dataset.statistics | {"fill": np.zeros(1)})
    np.testing.assert_array_equal(list(found.values()), wanted)


@pytest.mark.parametrize(
    "target, changed, line",
    [
        ("z", {}, r"task classification: data set 'csv:.*' has no labels; use task regression"),
        (
            "y",
            {"task.name": "regression"},
            r"task regression: data set 'csv:.*' has no targets; use task classification",
        ),
        ("y", {"model.embed_dim": 0}, r"mlp: embed_dim is 0 for 1 columns of categories; it must be at least 1"),
        (
            "y",
            {"data.categories": "one_hot"},
            r"mlp: embed_dim is 4 for 0 columns of categories; it must be .*, and 0 without",
        ),
        ("y", {"model.name": "lenet5"}, r"categories is 'embed', but model 'lenet5' has no embeddings; mlp has"),
        ("y", {"data.impute": ""}, r"train: column 'x' has \d+ missing values; set config\.data\.impute"),
    ],
)
def test_mistakes(tmp_path, target, changed, line):
    with pytest.raises(UserError, match=line):
        zoo.train(recipe(write(tmp_path / "data"), target, **changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_text_is_not_normalized(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be\n" * 300)
    for key, value in (("normalize", "minmax"), ("impute", "mean"), ("categories", "embed")):
        config = zoo.config.default()
        config.total_steps, config.data.name = 1, f"text:{tmp_path / 'a.txt'}"
        config.data[key] = value
        with pytest.raises(UserError, match=rf"config\.data\.{key} is '{value}', but data set .* is text; leave it at"):
            zoo.train(config, tmp_path / "run")
