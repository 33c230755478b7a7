"""The real data sets that scikit-learn carries inside its package: no files, no network."""

from collections.abc import Callable

import numpy as np

from zoo.types import Source


def _bunch(loader: str):
    import sklearn.datasets  # takes a second: only when one of these sets is asked for

    return getattr(sklearn.datasets, loader)()


def digits(data_dir=None) -> Source:
    """1,797 handwritten digits as uint8 images [8, 8, 1] (UCI, Alpaydin & Kaynak 1998), 10 classes."""
    bunch = _bunch("load_digits")
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    return Source({"image": images, "label": labels}, class_names=tuple(map(str, bunch.target_names)))


def _features(loader: str, about: str) -> Callable[..., Source]:
    def load(data_dir=None) -> Source:
        bunch = _bunch(loader)
        features = bunch.data.astype(np.float32)
        names = tuple(bunch.feature_names)
        if "target_names" not in bunch:
            return Source({"feature": features, "target": bunch.target.astype(np.float32)}, feature_names=names)
        arrays = {"feature": features, "label": bunch.target.astype(np.int32)}
        return Source(arrays, class_names=tuple(map(str, bunch.target_names)), feature_names=names)

    load.__doc__ = about
    return load


iris = _features("load_iris", "150 rows, 4 features, 3 classes (Fisher 1936).")
wine = _features("load_wine", "178 rows, 13 features, 3 classes.")
breast_cancer = _features("load_breast_cancer", "569 rows, 30 features, 2 classes.")
diabetes = _features("load_diabetes", "442 rows, 10 features, a real target (Efron et al. 2004).")
