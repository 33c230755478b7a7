"""The tables of the UCI repository: counts that their documentation states."""

import numpy as np
import pytest

from zoo import data
from zoo.errors import UserError


@pytest.fixture(scope="module")
def adult(shared_data):
    return data.load("adult", str(shared_data))


def test_adult(adult):
    """adult.names: 32,561 and 16,281 rows, of which 30,162 and 15,060 miss nothing; 24.78 % of these earn more."""
    for split, rows, whole, share in ((adult.train, 32_561, 30_162, 0.2489), (adult.test, 16_281, 15_060, 0.2457)):
        assert split["feature"].shape == (rows, 6)
        assert split["category"].shape == (rows, 8)
        known = (split["category"] != "").all(1)
        assert known.sum() == whole
        assert split["label"][known].mean() == pytest.approx(share, abs=1e-4)
        assert not np.isnan(split["feature"]).any()
    assert adult.class_names == ("<=50K", ">50K")
    assert adult.feature_names[:2] == ("age", "fnlwgt")
    assert adult.train["feature"][0].tolist() == [39, 77516, 13, 2174, 0, 40]
    assert adult.train["category"][0].tolist() == [
        "State-gov", "Bachelors", "Never-married", "Adm-clerical", "Not-in-family", "White", "Male", "United-States",
    ]  # fmt: skip
    levels = {
        name: len(set(column) - {""})
        for name, column in zip(adult.category_names, adult.train["category"].T, strict=True)
    }
    assert levels == {
        "workclass": 8, "education": 16, "marital-status": 7, "occupation": 14, "relationship": 6, "race": 5, "sex": 2,
        "native-country": 41,
    }  # fmt: skip


def test_auto_mpg(shared_data):
    """auto-mpg.names: 398 rows, horsepower has 6 missing values."""
    source = data.load("auto_mpg", str(shared_data))
    assert source.train["feature"].shape == (398, 6)
    missing = np.isnan(source.train["feature"]).sum(0)
    assert dict(zip(source.feature_names, missing, strict=True)) == {
        "cylinders": 0, "displacement": 0, "horsepower": 6, "weight": 0, "acceleration": 0, "model year": 0,
    }  # fmt: skip
    values, counts = np.unique(source.train["category"], return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {"1": 249, "2": 70, "3": 79}
    assert source.train["feature"][0].tolist() == [8, 307, 130, 3504, 12, 70]
    assert source.train["target"][[0, -1]].tolist() == [18, 31]


def test_breast_cancer_wisconsin(shared_data):
    """breast-cancer-wisconsin.names: 699 rows, 16 missing values, 458 benign and 241 malignant."""
    source = data.load("breast_cancer_wisconsin", str(shared_data))
    feature = source.train["feature"]
    assert feature.shape == (699, 9)
    assert np.isnan(feature).sum() == np.isnan(feature[:, source.feature_names.index("bare nuclei")]).sum() == 16
    assert (np.nanmin(feature), np.nanmax(feature)) == (1, 10)
    assert source.class_names == ("benign", "malignant")
    assert np.bincount(source.train["label"]).tolist() == [458, 241]


@pytest.mark.parametrize("name", ["adult", "auto_mpg", "breast_cancer_wisconsin"])
def test_missing_files(name, tmp_path):
    with pytest.raises(UserError, match=r"tabular has no file .*\[\.gz\|\.xz\]; put it there, or set ZOO_DATA_DIR"):
        data.load(name, str(tmp_path))
