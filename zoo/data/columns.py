"""Columns of a table: missing values, and categories as one-hot columns or as numbers for embeddings.

A raw table has 'feature' float32 [N, D] with NaN where a number is missing, and 'category' strings [N, K], empty where
a category is missing. What was not among the training rows has no column of its own: it is all zeros, one-hot and
embedded.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zoo.errors import UserError, did_you_mean
from zoo.types import Batch, Source

Arrays = Mapping[str, np.ndarray]

IMPUTE = {"": None, "mean": "mean", "median": "median", "mode": "most_frequent", "drop": None}  # -> scikit-learn's
CATEGORIES = ("one_hot", "embed")


def check(options: Mapping[str, Any], splits: Mapping[str, Arrays], source: Source) -> None:
    """Refuses `config.data.impute` and `.categories` that do not exist or have nothing to work on.

    Raises:
      UserError: also where a category is not a string, or values are missing and `impute` is not set.
    """
    impute, categories, train = options["impute"], options["categories"], splits["train"]
    if impute not in IMPUTE:
        raise UserError(f"config.data.impute is {impute!r}{did_you_mean(impute, IMPUTE.keys() - {''})}")
    if categories not in CATEGORIES:
        raise UserError(f"config.data.categories is {categories!r}{did_you_mean(categories, CATEGORIES)}")
    if impute and "feature" not in train and "category" not in train:
        raise UserError(f"config.data.impute is {impute!r}; data set {options['name']!r} is not a table")
    if categories != "one_hot" and "category" not in train:
        raise UserError(f"config.data.categories is {categories!r}; data set {options['name']!r} has no categories")
    if "category" in train:
        _check_categories(options["name"], splits, source)
    if impute or "feature" not in train:
        return
    for split, arrays in splits.items():
        missing = np.isnan(arrays["feature"]).reshape(-1, arrays["feature"].shape[-1]).sum(0)
        if missing.any():
            column = int(np.argmax(missing > 0))
            raise UserError(
                f"data set {options['name']!r}, {split}: column {_name(source, column)!r} has "
                f"{missing[column]} missing values; set config.data.impute to 'mean', 'median', 'mode' or 'drop'"
            )


def _check_categories(name: str, splits: Mapping[str, Arrays], source: Source) -> None:
    columns, names = splits["train"]["category"].shape[1], source.category_names or ()
    if len(names) != columns:
        raise UserError(f"data set {name!r} has {columns} columns of categories, but {len(names)} category_names")
    for split, arrays in splits.items():
        for column, values in zip(names, arrays["category"].T, strict=True):
            wrong = [value for value in values if not isinstance(value, str)] if values.dtype == object else []
            if wrong:
                raise UserError(
                    f"data set {name!r}, {split}: column {column!r} has {wrong[0]!r}; a category is a string, '' where "
                    "it is missing"
                )


def _name(source: Source, column: int) -> str:
    return source.feature_names[column] if source.feature_names else str(column)


def dropped(arrays: Arrays, what: str) -> Arrays:
    """The rows that miss nothing."""
    whole = np.ones(len(next(iter(arrays.values()))), bool)
    if "feature" in arrays:
        whole &= ~np.isnan(arrays["feature"]).reshape(len(whole), -1).any(1)
    if "category" in arrays:
        whole &= (arrays["category"] != "").all(1)
    if not whole.any():
        raise UserError(f"config.data.impute is 'drop', and every row of {what} misses a value; impute another way")
    return {key: array[whole] for key, array in arrays.items()}


def fit(train: Arrays, options: Mapping[str, Any], source: Source) -> dict[str, np.ndarray]:
    """What stands for missing values ('fill' float64 [D], 'category_fill' strings [K]), and the values of each category
    column in the training rows ('levels/<i>', sorted strings).

    'mean' and 'median' are of numbers; a missing category is then a category of its own, as it is without `impute`.
    """
    found, strategy = {}, IMPUTE[options["impute"]]
    if strategy and "feature" in train:
        x = train["feature"].reshape(len(train["feature"]), -1).astype(np.float64)
        empty = np.flatnonzero(np.isnan(x).all(0))
        if len(empty):
            raise UserError(f"column {_name(source, int(empty[0]))!r} is missing in all {len(x)} training rows")
        found["fill"] = _imputer(strategy, np.nan, x).reshape(train["feature"].shape[1:])
    if "category" in train:
        category = train["category"].astype(str)  # objects would not be read from a file again
        if options["impute"] == "mode":
            empty = np.flatnonzero((category == "").all(0))
            if len(empty):
                name = source.category_names[empty[0]]
                raise UserError(f"column {name!r} is missing in all {len(category)} training rows")
            found["category_fill"] = _imputer(strategy, "", category.astype(object)).astype(str)
            category = np.where(category == "", found["category_fill"], category)
        found |= {f"levels/{i}": np.unique(column) for i, column in enumerate(category.T)}
    return found


def _imputer(strategy: str, missing, x: np.ndarray) -> np.ndarray:
    from sklearn.impute import SimpleImputer

    return SimpleImputer(missing_values=missing, strategy=strategy).fit(x).statistics_


def encode(arrays: Arrays, statistics: Arrays) -> Arrays:
    """The same with 'category' as int32 [N, K]: the place of each value among its levels, their number if unseen."""
    if "category" not in arrays:
        return arrays
    category = arrays["category"].astype(str)
    if "category_fill" in statistics:
        category = np.where(category == "", statistics["category_fill"], category)
    ids = np.empty(category.shape, np.int32)
    for i, (column, levels) in enumerate(zip(category.T, _levels(statistics), strict=True)):
        place = np.minimum(np.searchsorted(levels, column), len(levels) - 1)
        ids[:, i] = np.where(levels[place] == column, place, len(levels))
    return {**arrays, "category": ids}


def _levels(statistics: Arrays) -> list[np.ndarray]:
    return [statistics[f"levels/{i}"] for i in range(len(statistics.get("category_names", ())))]


def _embedded(statistics: Arrays) -> bool:
    return json.loads(str(statistics["settings"]))["categories"] == "embed"


def joined(batch: Batch, statistics: Arrays) -> Batch:
    """'category' behind 'feature', in float32: one-hot columns, or the ids themselves, which the model embeds."""
    batch = dict(batch)
    ids = batch.pop("category")
    parts = [batch["feature"]] if "feature" in batch else []
    if _embedded(statistics):
        parts.append(ids.astype(jnp.float32))
    else:
        parts += [jax.nn.one_hot(ids[:, i], len(levels)) for i, levels in enumerate(_levels(statistics))]
    return batch | {"feature": jnp.concatenate(parts, axis=1)}


def describe(statistics: Arrays) -> dict[str, Any]:
    """For `meta`: 'feature_names' of what the model sees, and 'cardinalities' of columns to embed, else None."""
    names, levels = [str(name) for name in statistics.get("feature_names", ())], _levels(statistics)
    words = [str(name) for name in statistics.get("category_names", ())]
    if _embedded(statistics):
        return {"feature_names": tuple(names + words), "cardinalities": tuple(map(len, levels))}
    for word, values in zip(words, levels, strict=True):
        names += [f"{word}={value or 'missing'}" for value in values]
    return {"feature_names": tuple(names) or None, "cardinalities": None}


def as_in(source: Source, statistics: Arrays) -> Source:
    """A source for statistics of an earlier run: labels numbered as there.

    Raises:
      UserError: other columns, or a class that there was none of.
    """
    for key in ("feature_names", "category_names"):
        had, has = tuple(map(str, statistics.get(key, ()))), getattr(source, key) or ()
        if had != tuple(has):
            raise UserError(f"the {key} are {tuple(has)}, but the run was trained on {had}")
    names = tuple(map(str, statistics.get("class_names", ())))
    if not names or source.class_names in (None, names):
        return source
    unknown = set(source.class_names) - set(names)
    if unknown:
        raise UserError(f"the run was trained without class {min(unknown)!r}; its classes are {', '.join(names)}")
    place = np.array([names.index(name) for name in source.class_names], np.int32)

    def renumbered(arrays):
        key = "transcript" if "transcript" in arrays else "label"
        old = arrays[key]
        known = (old >= 0) & (old < len(place))  # what is none, padding and ignored pixels, stays as it is
        return {**arrays, key: np.where(known, place[np.where(known, old, 0)], old).astype(old.dtype)}

    splits = {
        split: arrays and renumbered(arrays) for split, arrays in zip(Source._fields[:3], source[:3], strict=True)
    }
    return source._replace(**splits, class_names=names)
