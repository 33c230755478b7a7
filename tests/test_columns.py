"""Missing values and categories against scikit-learn; and nothing is learned from rows that are held out."""

import jax
import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from zoo import config, data
from zoo.data import columns, preprocess
from zoo.errors import UserError
from zoo.types import Source

ROWS = 203
NAMES = {"feature_names": ("age", "height", "weight"), "category_names": ("town", "sex")}


@pytest.fixture
def table():
    """3 numbers, some missing, on different scales; 2 categories, some missing; a class."""
    rng = np.random.default_rng(0)
    feature = np.float32(rng.gamma(2, size=(ROWS, 3)).round(1) * [1, 100, 1e-2])
    feature[rng.random(feature.shape) < 0.1] = np.nan
    category = np.stack([rng.choice(["Rome", "Oslo", "Bern", ""], ROWS), rng.choice(["f", "m"], ROWS)], 1)
    label = (np.arange(ROWS) % 2).astype(np.int32)
    return Source({"feature": feature, "category": category, "label": label}, class_names=("no", "yes"), **NAMES)


def options(**changed):
    return config.default().data.to_dict() | {"name": "mine", "batch_size": 8, "test": 0, "impute": "mean"} | changed


def make(source, mesh, statistics=None, **changed):
    return data.make(options(**changed), seed=0, mesh=mesh, source=source, statistics=statistics)


def everything(dataset, split="train"):
    """The preprocessed rows of a split."""
    made = [jax.device_get({**dataset.preprocess(batch), "mask": batch["mask"]}) for batch in dataset.eval(split)]
    return {key: np.concatenate([batch[key][batch["mask"]] for batch in made]) for key in made[0]}


# --- as in scikit-learn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impute, strategy", [("mean", "mean"), ("median", "median"), ("mode", "most_frequent")])
@pytest.mark.parametrize("scaler", [None, StandardScaler, MinMaxScaler])
def test_imputation(table, impute, strategy, scaler):
    train = {"feature": table.train["feature"][:150]}
    normalize = {None: "none", StandardScaler: "standardize", MinMaxScaler: "minmax"}[scaler]
    statistics = preprocess.fit(train, options(impute=impute, normalize=normalize), table)
    found = preprocess.make(statistics)({"feature": table.train["feature"]})["feature"]
    peer = make_pipeline(SimpleImputer(strategy=strategy), *([scaler()] if scaler else [])).fit(
        np.float64(train["feature"])
    )
    np.testing.assert_allclose(found, peer.transform(np.float64(table.train["feature"])), rtol=1e-4, atol=1e-5)


def test_one_hot(table, mesh):
    dataset = make(table, mesh)
    found = everything(dataset)["feature"]
    category = table.train["category"]
    np.testing.assert_array_equal(found[:, 3:], OneHotEncoder(sparse_output=False).fit_transform(category))
    names = ("age", "height", "weight", "town=missing", "town=Bern", "town=Oslo", "town=Rome", "sex=f", "sex=m")
    assert dataset.meta["feature_names"] == names
    assert dataset.meta["shapes"] == {"feature": (3,), "category": (2,), "label": ()}
    assert dataset.meta["dtypes"]["category"] == "int32"
    assert dataset.meta["cardinalities"] is None


def test_the_mode_of_a_category(table, mesh):
    dataset = make(table, mesh, impute="mode")
    category = table.train["category"].astype(object)
    peer = make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=""), OneHotEncoder(sparse_output=False))
    np.testing.assert_array_equal(everything(dataset)["feature"][:, 3:], peer.fit_transform(category))


def test_what_was_not_there_in_training_is_zeros(table, mesh):
    known = np.char.replace(table.train["category"], "Rome", "Bern")
    source = table._replace(train=table.train | {"category": known}, test=table.train)
    found, category = everything(make(source, mesh), "test")["feature"][:, 3:], table.train["category"]
    peer = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(known)
    np.testing.assert_array_equal(found, peer.transform(category))
    assert not found[category[:, 0] == "Rome", :3].any()


def test_embeddings_get_numbers(table, mesh):
    dataset = make(table, mesh, categories="embed")
    found = everything(dataset)["feature"]
    assert dataset.meta["cardinalities"] == (4, 2)
    assert dataset.meta["feature_names"] == ("age", "height", "weight", "town", "sex")
    levels = [np.array(["", "Bern", "Oslo", "Rome"]), np.array(["f", "m"])]
    for i, values in enumerate(levels):
        np.testing.assert_array_equal(values[found[:, 3 + i].astype(int)], table.train["category"][:, i])
    unseen = columns.encode({"category": np.array([["Paris", "m"]])}, dataset.statistics)
    assert unseen["category"].tolist() == [[4, 1]]


@pytest.mark.parametrize("kept", ["feature", "category"])
def test_only_numbers_or_only_categories(table, mesh, kept):
    train = {key: value for key, value in table.train.items() if key in (kept, "label")}
    names = {f"{key}_names": NAMES[f"{key}_names"] if key == kept else None for key in ("feature", "category")}
    found = everything(make(Source(train, class_names=("no", "yes"), **names), mesh))
    whole = everything(make(table, mesh))["feature"]
    np.testing.assert_array_equal(found["feature"], whole[:, :3] if kept == "feature" else whole[:, 3:])


def test_rows_that_miss_a_value_are_dropped_from_every_split(table, mesh):
    dataset = make(table, mesh, impute="drop", test=0.3)
    feature, category = table.train["feature"], table.train["category"]
    whole = ~np.isnan(feature).any(1) & (category != "").all(1)
    assert sum(dataset.meta["splits"].values()) == whole.sum() < ROWS
    assert dataset.meta["steps_per_epoch"] == dataset.meta["splits"]["train"] // 8
    rows = np.concatenate([np.asarray(b["feature"])[b["mask"]] for s in ("train", "test") for b in dataset.eval(s)])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, feature[whole]))


# --- the training split alone ------------------------------------------------------------------------------------


def learned(dataset):
    """Every statistic, what is told of them, and training batches, as bytes."""
    arrays = {
        key: (np.asarray(value).dtype.str, np.asarray(value).tobytes()) for key, value in dataset.statistics.items()
    }
    told = {key: value for key, value in dataset.meta.items() if key not in ("bytes", "splits", "eval_batch_size")}
    step = jax.jit(lambda fetched, step: (batch := dataset.train.batch(fetched, step), dataset.preprocess(batch)))
    batches = [step(dataset.train.fetch(i), np.int32(i)) for i in (0, 7, 30)]
    return arrays, told, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(batches)]


def test_rows_per_class_are_of_those_that_miss_nothing(table, mesh):
    dataset = make(table, mesh, impute="drop", per_class=20)
    assert dataset.meta["class_counts"] == (20, 20)
    whole = everything(make(table, mesh, impute="drop"))["label"]
    with pytest.raises(UserError, match=rf"per_class is 90, but class 'no' has {sum(whole == 0)} training rows"):
        make(table, mesh, impute="drop", per_class=90)


@pytest.mark.parametrize("impute", ["mean", "median", "mode", "drop"])
@pytest.mark.parametrize(
    "answer, normalize, categories",
    [("label", ("minmax", "zca", "lda"), "one_hot"), ("target", ("standardize", "pca:0.9"), "embed")],
)
def test_held_out_rows_change_nothing(table, mesh, impute, answer, normalize, categories):
    """Whatever stands in the validation and test rows: the same statistics and training batches, bit for bit."""
    rng = np.random.default_rng(1)
    train = dict(table.train)
    if answer == "target":
        train["target"] = np.float32(rng.normal(5, 2, ROWS))
        del train["label"]
    source = table._replace(
        train=train | {"row": np.arange(ROWS)}, class_names=table.class_names if answer == "label" else None
    )
    settings = {"impute": impute, "normalize": normalize, "categories": categories, "validation": 0.2, "test": 0.2}
    held_out = np.sort(
        np.concatenate([
            np.asarray(batch["row"])[batch["mask"]]
            for split in ("validation", "test")
            for batch in make(source, mesh, **settings | {"impute": "mean"}).eval(split)
        ])
    )  # fmt: skip
    assert len(held_out) == 82
    del source.train["row"]

    def changed(rows):
        other = {key: value.copy() for key, value in source.train.items()}
        other["feature"][rows] = 1e6 * rng.standard_normal((len(rows), 3))
        other["feature"][rows[::5]] = np.nan
        other["category"][rows] = np.array([["Rom", "x"], ["", "m"]])[np.arange(len(rows)) % 2]
        if answer == "target":  # classes decide the cut itself
            other["target"][rows] *= 100
        return learned(make(source._replace(train=other), mesh, **settings))

    before = learned(make(source, mesh, **settings))
    assert changed(held_out) == before
    rest = np.setdiff1d(np.arange(ROWS), held_out)
    arrays, _, batches = changed(rest)
    assert arrays != before[0]
    assert batches != before[2]


def test_statistics_of_an_earlier_run_are_used_again(table, mesh):
    first = make(table, mesh)
    other = table._replace(train=table.train | {"feature": 3 * table.train["feature"] + 1})
    assert learned(make(other, mesh))[0] != learned(first)[0]
    again = make(other, mesh, first.statistics)
    assert learned(again)[0] == learned(first)[0]
    assert again.meta["mean"] == first.meta["mean"]
    refitted = make(other, mesh, first.statistics, normalize="minmax")  # asked for something else
    assert learned(refitted)[0] == learned(make(other, mesh, normalize="minmax"))[0]


def test_labels_are_numbered_as_in_the_earlier_run(table, mesh):
    three = table._replace(train=table.train | {"label": np.int32(np.arange(ROWS) % 3)}, class_names=("a", "b", "c"))
    first = make(three, mesh)
    fewer = {key: value[three.train["label"] != 1] for key, value in three.train.items()}
    fewer["label"] = fewer["label"] // 2  # of the classes a and c
    again = make(three._replace(train=fewer, class_names=("a", "c")), mesh, first.statistics)
    assert again.meta["class_names"] == ("a", "b", "c")
    assert set(everything(again)["label"]) == {0, 2}
    with pytest.raises(UserError, match=r"trained without class 'd'; its classes are a, b, c"):
        make(three._replace(class_names=("a", "b", "d")), mesh, first.statistics)
    with pytest.raises(UserError, match=r"the category_names are \('town', 'job'\), but the run was trained on"):
        make(three._replace(category_names=("town", "job")), mesh, first.statistics)


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, line",
    [
        (
            {"impute": ""},
            r"'mine', train: column 'age' has \d+ missing values; set config\.data\.impute to 'mean', 'median'",
        ),
        ({"impute": "men"}, r"config\.data\.impute is 'men'; did you mean 'mean'"),
        ({"categories": "onehot"}, r"config\.data\.categories is 'onehot'; did you mean 'one_hot'"),
    ],
)
def test_mistakes(table, mesh, changed, line):
    with pytest.raises(UserError, match=line):
        make(table, mesh, **changed)


def test_categories_as_objects(table, mesh, tmp_path):
    """As pandas gives them: the same statistics, which can be read from the run folder again."""
    objects = table._replace(train=table.train | {"category": table.train["category"].astype(object)})
    for impute in ("mean", "mode"):
        dataset = make(objects, mesh, impute=impute)
        assert learned(dataset) == learned(make(table, mesh, impute=impute))
    preprocess.save(tmp_path, dataset.statistics)
    assert learned(make(objects, mesh, preprocess.load(tmp_path), impute="mode")) == learned(dataset)
    for value in (None, np.nan, 7):
        category = objects.train["category"].copy()
        category[5, 1] = value
        with pytest.raises(UserError, match=rf"'mine', test: column 'sex' has {value}; a category is a string, '' wh"):
            make(objects._replace(test=table.train | {"category": category}), mesh)


def test_categories_without_names(table, mesh):
    with pytest.raises(UserError, match="'mine' has 2 columns of categories, but 0 category_names"):
        make(table._replace(category_names=None), mesh)


def test_settings_without_an_effect(table, mesh):
    images = Source({"image": np.zeros((20, 4, 4, 1), np.uint8)})
    with pytest.raises(UserError, match=r"impute is 'mean'; data set 'mine' is not a table"):
        make(images, mesh)
    with pytest.raises(UserError, match=r"categories is 'embed'; data set 'mine' has no categories"):
        make(images, mesh, impute="", categories="embed")


@pytest.mark.parametrize("impute", ["mean", "mode"])
def test_a_column_that_is_missing_in_all_training_rows(table, mesh, impute):
    feature = table.train["feature"].copy()
    feature[:, 1] = np.nan
    empty = table._replace(train=table.train | {"feature": feature}, test=table.train)
    with pytest.raises(UserError, match=r"column 'height' is missing in all 203 training rows"):
        make(empty, mesh, impute=impute)
    with pytest.raises(UserError, match=r"every row of the train split misses a value"):
        make(empty, mesh, impute="drop")


def test_a_category_that_is_missing_in_all_training_rows(table, mesh):
    category = table.train["category"].copy()
    category[:, 0] = ""
    with pytest.raises(UserError, match=r"column 'town' is missing in all 203 training rows"):
        make(table._replace(train=table.train | {"category": category}), mesh, impute="mode")


@pytest.mark.parametrize(
    "key, had, wanted",
    [
        ("label", np.int32([0, 1, 1]), [1, 0, 0]),
        ("label", np.uint8([[[0, 1], [255, 0]]]), [[[1, 0], [255, 1]]]),  # pixels that count nowhere stay
        ("transcript", np.int32([[0, 1, -1], [1, -1, -1]]), [[1, 0, -1], [0, -1, -1]]),
    ],
)
def test_classes_are_numbered_as_in_the_earlier_run(key, had, wanted):
    source = Source({key: had}, class_names=("dog", "cat"))
    found = columns.as_in(source, {"class_names": np.array(["cat", "dog"])})
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.train[key], wanted)
    assert found.train[key].dtype == had.dtype
    assert found.test is None


def test_a_label_out_of_range_is_none_of_the_earlier_run_either(table, mesh):
    """Label 2 of two classes, where the earlier run had three."""
    labelled = table.train | {"label": np.int32(np.arange(ROWS) % 3)}
    first = make(table._replace(train=labelled, class_names=("a", "no", "yes")), mesh)
    with pytest.raises(UserError, match="label 2 in row 2 is out of range; there are 2 classes"):
        make(table._replace(train=labelled), mesh, first.statistics)
