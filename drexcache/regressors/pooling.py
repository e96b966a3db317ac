"""Training any regressor on several datasets at once: ratings on one scale, and a shared and an own part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.regressors.ridge import GramRidge

DATASET = "@dataset"  # the label that names each row's dataset, in rows joined from several
UPSIDE_DOWN = -0.3  # r below which a dataset's ratings seem to be reversed with respect to all others


def _has_attention(pooled: PooledRegressor) -> bool:
    return hasattr(pooled.regressor, "attention")


class PooledRegressor(RegressorMixin, BaseEstimator):
    """A regressor trained on several datasets, each rated on its own scale.

    All datasets' ratings are scaled to the same mean and spread, and a shared regressor is trained on all of them. With
    ``own``, another one is trained on that dataset alone, and predictions are the mean of both, on that dataset's
    scale; otherwise predictions are on the datasets' mean scale.

    Parameters
    ----------
    regressor : any regressor, unfitted. own : the label of the dataset whose images will be predicted, or None.

    Attributes
    ----------
    shared_, own_ : fitted regressors; ``own_`` is None without ``own``. n_features_in_ : columns of X.

    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> names = np.repeat(["low", "high"], 30)
    >>> y = np.where(names == "low", 0.2 + 0.1 * X[:, 0], 0.6 + 0.2 * X[:, 0])
    >>> pooled = PooledRegressor(LinearRegression(), own="high").fit(X, y, names)
    >>> bool(np.allclose(pooled.own_.predict(X), 0.6 + 0.2 * X[:, 0]))
    True
    """

    __module__ = "drexcache"  # the public place, which model files name; the class itself may move

    def __init__(self, regressor: Any, own: str | None = None) -> None:
        self.regressor = regressor
        self.own = own

    def fit(self, X: np.ndarray, y: np.ndarray, datasets: ArrayLike, **options: Any) -> PooledRegressor:
        """Fit on X (n, d), ratings y (n,) and each row's dataset (n,); ``options`` of rows (n,) go to the regressor.

        Raises
        ------
        ValueError : a dataset with constant ratings, no dataset named ``own``, or whatever the regressor refuses.
        """
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), y_numeric=True)
        labels = np.asarray(datasets).astype(str)
        if self.own is not None and self.own not in labels:
            raise ValueError(f"no row is of dataset {self.own}")
        self.shared_ = clone(self.regressor).fit(X, on_one_scale(y, labels, self.own), **options)
        self.own_ = None
        if self.own is not None:
            mine = labels == self.own
            parts = {name: np.asarray(value)[mine] for name, value in options.items()}
            self.own_ = clone(self.regressor).fit(X[mine], y[mine], **parts)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predictions (n,) for X (n, d)."""
        return self._mean("predict", X)

    @available_if(_has_attention)
    def attention(self, X: np.ndarray) -> np.ndarray:
        """Attention weights (n, n_arms), the mean of both parts."""
        return self._mean("attention", X)

    @property
    def arms_(self) -> list[str]:
        """The arms' names, if the regressor has arms."""
        return self.shared_.arms_

    def _mean(self, method: str, X: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        parts = [part for part in (self.shared_, self.own_) if part is not None]
        found = [np.asarray(getattr(part, method)(X), dtype=np.float64) for part in parts]
        return np.mean([one.reshape(len(X), -1) if method == "attention" else one.reshape(-1) for one in found], axis=0)


def on_one_scale(y: np.ndarray, labels: np.ndarray, own: str | None = None) -> np.ndarray:
    """Scale each dataset's ratings (n,) to the mean and deviation of ``own``, or to the averages over datasets.

    Raises
    ------
    ValueError : a dataset with constant ratings, which have no spread.

    >>> on_one_scale(np.array([0.0, 2.0, 5.0, 9.0]), np.array(["a", "a", "b", "b"])).tolist()
    [2.5, 5.5, 2.5, 5.5]
    """
    names, codes = np.unique(labels, return_inverse=True)
    parts = [y[codes == code] for code in range(len(names))]
    mean, deviation = np.array([part.mean() for part in parts]), np.array([part.std() for part in parts])
    if not deviation.all():
        name = names[deviation == 0][0]
        count = int((labels == name).sum())
        raise ValueError(
            f"the ratings of dataset {name} ({count}) are all the same: they have no spread of their own to put beside "
            "the others'; leave it out"
        )
    mine = names == own
    to_mean, to_deviation = (values[mine][0] if mine.any() else values.mean() for values in (mean, deviation))
    return (y - mean[codes]) / deviation[codes] * to_deviation + to_mean


def joined(parts: Sequence[FeatureMatrix], name: str) -> FeatureMatrix:
    """Join the rows of all parts as one matrix with the first one's columns; the label `DATASET` names their datasets.

    Raises
    ------
    DrexcacheError : two parts of one dataset, or different blocks or fingerprints (says field by field).
    """
    refuse_unlike(parts)
    if len(parts) == 1:
        return parts[0]
    blocks = list(parts[0].blocks)
    same = [part if list(part.blocks) == blocks else part.select(blocks) for part in parts]
    known = [label for label in same[0].labels if all(label in part.labels for part in same)]
    labels: dict[str, Sequence[str]]
    labels = {label: [value for part in same for value in part.labels[label]] for label in known}
    return replace(
        parts[0],
        X=np.concatenate([part.X for part in same]),
        y=np.concatenate([part.y for part in same]),
        ids=[f"{part.dataset}/{image}" for part in same for image in part.ids],
        dataset=name,
        hashes=[],
        labels=labels | {DATASET: [part.dataset for part in same for _ in part.ids]},
    )


def refuse_unlike(matrices: Sequence[FeatureMatrix]) -> None:
    """Refuse two matrices of one dataset, or with different blocks or fingerprints (says field by field)."""
    names = [matrix.dataset for matrix in matrices]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DrexcacheError(f"each dataset must have a name of its own; more than one is named {', '.join(twice)}")
    found = [line for matrix in matrices[1:] for line in differing_features(matrices[0], matrix)]
    if found:
        raise DrexcacheError(f"the caches' features cannot be compared: {'; '.join(found)}")


def differing_features(first: FeatureMatrix, other: FeatureMatrix) -> list[str]:
    """The differences that keep two matrices from being compared, field by field."""
    lines = []
    for block in dict.fromkeys([*first.blocks, *other.blocks]):
        missing = [matrix.dataset for matrix in (first, other) if block not in matrix.blocks]
        if missing:
            lines.append(f"block {block} is missing in {missing[0]}")
            continue
        for what, here, there in (
            ("width", _width(first, block), _width(other, block)),
            ("fingerprint", first.fingerprints.get(block, "none")[:12], other.fingerprints.get(block, "none")[:12]),
        ):
            if here != there:
                lines.append(f"block {block} has {what} {here} in {first.dataset} but {there} in {other.dataset}")
    return lines


def _width(matrix: FeatureMatrix, block: str) -> int:
    return matrix.blocks[block].stop - matrix.blocks[block].start


def upside_down(matrix: FeatureMatrix) -> list[str]:
    """A sentence on each dataset of a joined matrix whose ratings contradict the predictions of a ridge on the others.

    Correlations from fewer than 10 images, or that chance could explain, are not reported.
    """
    labels, found = np.asarray(matrix.labels[DATASET]), []
    for name in dict.fromkeys(labels.tolist()):
        mine = labels == name
        if mine.sum() < 10 or (~mine).sum() < 10 or not np.ptp(matrix.y[mine]):
            continue
        others = GramRidge().fit(matrix.X[~mine], on_one_scale(matrix.y[~mine], labels[~mine]))
        predicted = others.predict(matrix.X[mine])
        r = float(np.corrcoef(predicted, matrix.y[mine])[0, 1]) if np.ptp(predicted) else 0.0
        if r < min(UPSIDE_DOWN, -3.3 / math.sqrt(mine.sum())):
            found.append(
                f"{name}: its ratings seem to run the other way than the others' (a ridge trained on those predicts "
                f"them with r = {r:.2f}); where low ratings mean more, say so by drexcache cache rate --higher-is less"
            )
    return found
