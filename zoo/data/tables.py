"""Tables of the UCI repository (https://archive.ics.uci.edu), in `data_dir`/tabular, perhaps as .gz or .xz."""

import pathlib

from zoo.data import csv_table, text
from zoo.errors import UserError
from zoo.types import Source

ADULT = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
AUTO_MPG = (
    "mpg", "cylinders", "displacement", "horsepower", "weight", "acceleration", "model year", "origin", "car name",
)  # fmt: skip
WISCONSIN = (
    "id", "clump thickness", "uniformity of cell size", "uniformity of cell shape", "marginal adhesion",
    "single epithelial cell size", "bare nuclei", "bland chromatin", "normal nucleoli", "mitoses", "class",
)  # fmt: skip


def adult(data_dir: pathlib.Path) -> Source:
    """Census income above 50,000 $ or not (Kohavi 1996): 32,561 training and 16,281 test rows, 6 numbers, 8 categories.

    2,399 and 1,221 rows miss a category: it is then one of its own.
    """
    train, test = _find(data_dir, "adult.data"), _find(data_dir, "adult.test")
    # The test file starts with a line of another program, and ends each class with a full stop.
    lines = [line.removesuffix(".") for line in text.read(test).splitlines() if not line.startswith("|")]
    options = {"header": "no", "delimiter": ",", "names": ADULT}
    tables = {
        "train": csv_table.read(train, **options),
        "test": csv_table.read(test, **options, content="\n".join(lines)),
    }
    return csv_table.source(tables, target="income")


def auto_mpg(data_dir: pathlib.Path) -> Source:
    """Miles per gallon of 398 cars, 1970 to 1982 (Quinlan 1993): 6 numbers, 6 of them missing, and the origin."""
    table = csv_table.read(_find(data_dir, "auto-mpg.data"), header="no", delimiter=" ", names=AUTO_MPG)
    return csv_table.source({"train": table}, target="mpg", categories=("origin",), drop=("car name",))


def breast_cancer_wisconsin(data_dir: pathlib.Path) -> Source:
    """Breast tumours by 9 grades from 1 to 10 (Wolberg & Mangasarian 1990): 699 rows, 16 miss one, 2 classes."""
    table = csv_table.read(_find(data_dir, "breast-cancer-wisconsin.data"), header="no", delimiter=",", names=WISCONSIN)
    found = csv_table.source({"train": table}, target="class", categories=("class",), drop=("id",))
    return found._replace(class_names=("benign", "malignant"))


def _find(data_dir: pathlib.Path, name: str) -> pathlib.Path:
    folder = data_dir / "tabular"
    for ending in ("", ".gz", ".xz"):
        if (path := folder / f"{name}{ending}").is_file():
            return path
    raise UserError(f"{folder} has no file {name}[.gz|.xz]; put it there, or set ZOO_DATA_DIR to the folder above it")
