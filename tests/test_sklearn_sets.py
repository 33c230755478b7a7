"""The bundled sets, as scikit-learn gives them."""

import numpy as np
import pytest
import sklearn.datasets

from zoo import data

SETS = {  # name: rows, shape of a row, rows of each class
    "digits": (1_797, (8, 8, 1), (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)),
    "iris": (150, (4,), (50, 50, 50)),
    "wine": (178, (13,), (59, 71, 48)),
    "breast_cancer": (569, (30,), (212, 357)),
    "diabetes": (442, (10,), None),
}


@pytest.mark.parametrize("name", SETS)
def test_shapes_types_and_counts(name):
    source, (rows, shape, classes) = data.load(name), SETS[name]
    key = "image" if name == "digits" else "feature"
    answer = "label" if classes else "target"
    assert set(source.train) == {key, answer}
    assert source.train[key].shape == (rows, *shape)
    assert source.train[key].dtype == (np.uint8 if key == "image" else np.float32)
    assert source.train[answer].shape == (rows,)
    assert source.train[answer].dtype == (np.int32 if classes else np.float32)
    assert source.validation is source.test is None
    if classes:
        assert tuple(np.bincount(source.train["label"])) == classes
        assert len(source.class_names) == len(classes)
        assert all(type(class_name) is str for class_name in source.class_names)
    else:
        assert source.class_names is None
    assert source.feature_names is None or len(source.feature_names) == shape[0]


@pytest.mark.parametrize("name", [name for name in SETS if name != "digits"])
def test_values(name):
    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    train = data.load(name).train
    np.testing.assert_array_equal(train["feature"], x.astype(np.float32))
    np.testing.assert_array_equal(train["target" if name == "diabetes" else "label"], y)


def test_digits_keep_their_17_grey_levels():
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    train = data.load("digits").train
    assert len(np.unique(train["image"])) == 17
    np.testing.assert_allclose(train["image"].reshape(-1, 64), x * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(train["label"], y)


def test_names():
    assert data.load("iris").class_names == ("setosa", "versicolor", "virginica")
    assert data.load("iris").feature_names[0] == "sepal length (cm)"
    assert data.load("digits").class_names == tuple("0123456789")
