"""Linear maps fitted on training rows: ZCA whitening, and scikit-learn's principal components and discriminants.

Each takes the rows as float64 [N, D] (images flattened), and gives shift [D] and matrix [D, K] of
x -> (x - shift) @ matrix.
"""

import warnings

import numpy as np

from zoo.errors import UserError

Arrays = dict[str, np.ndarray]


def zca(x: np.ndarray, label=None, eps: float = 1e-2) -> Arrays:
    """ZCA whitening: no correlations, all variances 1, as near to the input as can be; zca:<eps>, 0.01 by default.

    Bell & Sejnowski 1997; `eps` is added to every variance (Krizhevsky 2009, appendix A), so that directions that
    hardly vary are not blown up to noise.
    """
    if not eps > 0:
        raise UserError(f"config.data.normalize: zca has eps {eps:g}; it must be more than 0")
    variance, directions = np.linalg.eigh(np.atleast_2d(np.cov(x, rowvar=False)))
    return {
        "shift": x.mean(0),
        "matrix": directions / np.sqrt(np.maximum(variance, 0) + eps) @ directions.T,
    }


def pca(x: np.ndarray, label=None, components: float = 0) -> Arrays:
    """Principal components: all, pca:<number>, or those with a share of the variance, such as pca:0.95."""
    from sklearn.decomposition import PCA

    most = min(x.shape)
    if components < 0 or components > most or (components > 1 and components % 1):
        raise UserError(
            f"config.data.normalize: pca has {components:g} components; it must be a number of 1 to {most}, or a share "
            "of the variance below 1"
        )
    wanted = None if not components else components if components < 1 else int(components)
    solver = "covariance_eigh" if len(x) > 10 * x.shape[1] else "full"  # no solver that draws random numbers
    found = PCA(wanted, svd_solver=solver).fit(x)
    return {"shift": found.mean_, "matrix": found.components_.T}


def lda(x: np.ndarray, label: np.ndarray | None = None, components: float = 0) -> Arrays:
    """Linear discriminants of the classes: as many as classes less one, or lda:<number>."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    if label is None or label.ndim > 1:
        raise UserError("config.data.normalize: lda needs a class for each row, and this data set has none")
    most = min(len(np.unique(label)) - 1, x.shape[1])
    if components % 1 or not 0 <= components <= most:
        raise UserError(f"config.data.normalize: lda has {components:g} components; it must be a number of 1 to {most}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variables are collinear")  # the rank is reduced, which is all it takes
        found = LinearDiscriminantAnalysis(solver="svd", n_components=int(components) or None).fit(x, label)
    return {"shift": found.xbar_, "matrix": found.scalings_[:, : int(components) or most]}
