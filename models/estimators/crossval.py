"""How well an estimator predicts shapes it was not fitted to, beside two trivial baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..spread import spread
from .base import KernelEstimator, Shapes

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Score:
    """Relative errors over all rows, each predicted by a fit that never saw its shape.

    Parameters
    ----------
    rows, folds : int
    parameters : int
        Numbers fitted, factors of tools included.
    mean, median : float
        Absolute relative error.
    fitted : float
        Mean error on the very rows that were fitted, for comparison.
    roofline : float
        Mean error of the datasheet alone.
    nearest : float
        Mean error of the datasheet times what the nearest known shape loses to it.
    spread : float
        Of the logarithm of measured over predicted time (`models.spread`).
    by : mapping of str to float
        Mean error by dtype, operation and tool where there are several.
    """

    rows: int
    folds: int
    parameters: int
    mean: float
    median: float
    fitted: float
    roofline: float
    nearest: float
    spread: float
    by: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON holds it, errors to four decimals."""
        data = asdict(self)
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in data.items()}
        return {**rounded, "by": {key: round(value, 4) for key, value in self.by.items()}}


def fold_of(estimator: KernelEstimator, X: Shapes, folds: int = FOLDS) -> NDArray[np.int64]:
    """Fold of every row, by a checksum of its shape: one shape is in one fold whatever dtype or tool it was timed by.

    Parameters
    ----------
    estimator : KernelEstimator
        Whose columns are the shape.
    X : mapping of str to array, of shape (rows,)
    folds : int

    Returns
    -------
    array of int, of shape (rows,)
    """
    shape = [np.asarray(X[name], dtype=float).tolist() for name in estimator.columns if name in X]
    rows = zip(*shape, strict=True)
    return np.array([crc32("x".join(f"{value:g}" for value in row).encode()) % folds for row in rows])


def cross_validate(
    estimator: KernelEstimator, X: Shapes, y: NDArray[np.float64], folds: int = FOLDS
) -> tuple[Score, NDArray[np.float64]]:
    """Score of an estimator by cross-validation over shapes.

    Parameters
    ----------
    estimator : KernelEstimator
        Fitted or not; it is left as it is.
    X : mapping of str to array, of shape (rows,)
    y : array of float, of shape (rows,)
        Times [s].
    folds : int

    Returns
    -------
    Score
    array of float, of shape (rows,)
        Predictions of rows by the fit that did not see their shape [s].
    """
    fold, predicted, nearest = fold_of(estimator, X, folds), np.empty(len(y)), np.empty(len(y))
    roofline = estimator.roofline(X)
    whole = type(estimator)(**estimator.get_params()).fit(X, y)
    for held in sorted(set(fold.tolist())):
        out, known = fold == held, fold != held
        if not known.any():
            known = out  # all rows have one shape: nothing else is known
        own = type(estimator)(**estimator.get_params()).fit(_rows(X, known), y[known])
        predicted[out] = own.predict(_rows(X, out))
        nearest[out] = nearest_times(estimator, X, y, known, out)
    error = np.abs(predicted / y - 1)
    score = Score(
        rows=len(y),
        folds=folds,
        parameters=len(whole.fitted_) + len(whole.tools_),
        mean=float(error.mean()),
        median=float(np.median(error)),
        fitted=float(np.abs(whole.predict(X) / y - 1).mean()),
        roofline=float(np.abs(roofline / y - 1).mean()),
        nearest=float(np.abs(nearest / y - 1).mean()),
        spread=spread(np.log(y / predicted)),
        by=_by(X, error),
    )
    return score, predicted


def _rows(X: Shapes, mask: NDArray[np.bool_]) -> Shapes:
    return {name: np.asarray(column)[mask] for name, column in X.items()}


def nearest_times(
    estimator: KernelEstimator,
    X: Shapes,
    y: NDArray[np.float64],
    known: NDArray[np.bool_],
    out: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """A trivial prediction: the roofline times what the nearest known shape loses to it.

    Nearest in the logarithm of the shape, texts compared first.

    Parameters
    ----------
    estimator : KernelEstimator
    X : mapping of str to array, of shape (rows,)
    y : array of float, of shape (rows,)
        Times [s].
    known, out : array of bool, of shape (rows,)
        Rows whose times may be used, and rows to predict.

    Returns
    -------
    array of float, of shape (rows to predict,)
        Times [s].
    """
    roofline = estimator.roofline(X)
    loss = y[known] / roofline[known]
    shape = np.array([np.log1p(np.asarray(X[n], dtype=float)) for n in estimator.columns if n in X]).T
    texts = [np.asarray(X[n]) for n in ("dtype", "operation") if n in X]
    distance = np.abs(shape[out][:, None] - shape[known][None]).sum(axis=2)
    for text in texts:
        distance = distance + 1e3 * (text[out][:, None] != text[known][None])
    return np.asarray(roofline[out] * loss[distance.argmin(axis=1)])


def _by(X: Shapes, error: NDArray[np.float64]) -> dict[str, float]:
    """Mean error by every text that differs among the rows."""
    found = {}
    for column in ("dtype", "operation", "tool"):
        texts = np.asarray(X[column]) if column in X else np.array([""])
        names = sorted(set(texts.tolist()))
        if len(names) > 1:
            found.update({f"{column} {name}": float(error[texts == name].mean()) for name in names})
    return found
