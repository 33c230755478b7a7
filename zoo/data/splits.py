"""Cutting validation and test rows from a set, always the same ones for a seed."""

from collections.abc import Mapping

import numpy as np

from zoo.data import columns
from zoo.errors import UserError
from zoo.types import Source

Arrays = Mapping[str, np.ndarray]


def split(
    source: Source, *, validation: float, test: float, seed: int, drop: bool = False, per_class: int = 0
) -> dict[str, Arrays]:
    """{'train': ..., 'validation': ..., 'test': ...}; splits without rows are left out.

    Args:
      validation, test: a share of the source's training rows if below 1, else a number of rows; not used where the
        set brings that split itself. Classes keep their proportions (stratified, by scikit-learn); rows with label
        maps are cut as whole images.
      seed: decides the rows.
      drop: whether rows that miss a value are left out, after the cuts.
      per_class: training rows of each class that are kept, after all that; 0 keeps all. Those of a smaller number are
        among those of a larger one.

    Raises:
      UserError: a negative share, so many rows that none are left for training, a class that has not as many, or a
        split whose rows all miss a value.
    """
    result = {"train": source.train}
    total = len(_any(source.train))
    for name, share, own in (("test", test, source.test), ("validation", validation, source.validation)):
        if own is not None:
            result[name] = own
            continue
        rows = max(round(share * total), 1) if 0 < share < 1 else share
        if not 0 <= rows < len(_any(result["train"])):
            raise UserError(
                f"config.data.{name} is {share}; it must be a share in [0, 1) or a number of rows, and leave some of "
                f"the {total} rows for training"
            )
        if rows := int(rows):
            result["train"], result[name] = _cut(result["train"], rows, seed, f"config.data.{name} is {share}")
    if drop:
        result = {name: columns.dropped(arrays, f"the {name} split") for name, arrays in result.items()}
    if per_class:
        result["train"] = _few(result["train"], per_class, seed, source.class_names)
    return result


def _few(arrays: Arrays, per_class: int, seed: int, class_names) -> Arrays:
    labels = arrays.get("label")
    if per_class < 0 or labels is None or labels.ndim > 1 or class_names is None:
        why = "it must be 0 (all) or more" if per_class < 0 else "the data set has no class for each row"
        raise UserError(f"config.data.per_class is {per_class}, but {why}")
    order, kept = np.random.default_rng(seed).permutation(len(labels)), []
    for label in range(len(class_names)):
        rows = order[labels[order] == label]
        if len(rows) < per_class:
            raise UserError(
                f"config.data.per_class is {per_class}, but class {class_names[label]!r} has {len(rows)} training rows"
            )
        kept.append(rows[:per_class])
    index = np.sort(np.concatenate(kept))
    return {key: value[index] for key, value in arrays.items()}


def _any(arrays: Arrays) -> np.ndarray:
    return next(iter(arrays.values()))


def _cut(arrays: Arrays, rows: int, seed: int, setting: str) -> tuple[Arrays, Arrays]:
    from sklearn.model_selection import train_test_split

    labels = arrays.get("label")
    if labels is not None and labels.ndim > 1:
        labels = None
    try:
        kept, cut = train_test_split(np.arange(len(_any(arrays))), test_size=rows, random_state=seed, stratify=labels)
    except ValueError as error:
        raise UserError(f"{setting}: {error}") from None
    return tuple({key: value[np.sort(index)] for key, value in arrays.items()} for index in (kept, cut))
