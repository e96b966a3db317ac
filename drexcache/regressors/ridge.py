"""GramRidge: ridge regression with every penalty tried at once, in memory or streamed over a cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import BaseCrossValidator, check_cv
from sklearn.utils.validation import check_is_fitted, validate_data

from drexcache.cache import DONE, FeatureCache
from drexcache.errors import DrexcacheError
from drexcache.regressors.ridge_moments import Moments
from drexcache.regressors.ridge_selection import ROWS_AT_ONCE, Selected, by_folds, from_folds, leave_one_out

# For standardised features: from nearly none to nearly all shrinkage at a few thousand columns.
PENALTIES = tuple(10.0 ** (half / 2) for half in range(13))  # 1 to 1e6


class GramRidge(RegressorMixin, BaseEstimator):
    """Ridge regression whose penalty is chosen by leave-one-out or k-fold, as scikit-learn's `RidgeCV` chooses it.

    Parameters
    ----------
    alphas : penalties to choose from, above 0.
    cv : None for leave-one-out (exact, without fitting n times), a number of folds, or a splitter of scikit-learn
        whose test folds hold every row once.
    standardize : whether each column is first brought to deviation 1. By leave-one-out all rows set mean and
        deviation, like ``make_pipeline(StandardScaler(), RidgeCV())``; by folds the training rows do.
    device : "cpu" (NumPy), "cuda" (torch) or "auto".

    Attributes
    ----------
    coef_ : (d,), intercept_ : for the columns as they come. alpha_ : the penalty chosen.
    errors_ : (k,) each penalty's mean squared error out of fold. n_features_in_ : d.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = GramRidge(alphas=(0.1, 1.0, 100.0)).fit(X, X[:, 0] + 1)
    >>> model.alpha_, model.predict(X[:2]).shape, model.errors_.shape
    (0.1, (2,), (3,))
    """

    __module__ = "drexcache"  # the public place, which model files name; the class itself may move

    def __init__(
        self,
        alphas: Sequence[float] = PENALTIES,
        *,
        cv: int | BaseCrossValidator | None = None,
        standardize: bool = True,
        device: str = "auto",
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.standardize = standardize
        self.device = device

    def fit(self, X: np.ndarray, y: np.ndarray) -> GramRidge:
        """Fit on X (n, d) and y (n,); the price is that of d or n columns' products, whichever is less.

        Raises
        ------
        ValueError : NaN or infinite values, fewer than 2 rows, a penalty that is not above 0, or test folds that do
            not hold every row once.
        """
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), y_numeric=True, ensure_min_samples=2)
        y, alphas, device = y.astype(np.float64), _checked(self.alphas), _device(self.device)
        if self.cv is None:
            return self._set(leave_one_out(X, y, alphas, self.standardize, device), alphas)
        tests = [test for _, test in check_cv(self.cv).split(X, y)]
        if not np.array_equal(np.sort(np.concatenate(tests)), np.arange(len(y))):
            raise ValueError(f"the test folds of cv={self.cv!r} must together hold each of the {len(y)} rows once")
        return self._set(by_folds(X, y, alphas, tests, self.standardize, device), alphas)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Scores (n,) of X (n, d)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return X @ self.coef_ + self.intercept_

    def _set(self, selected: Selected, alphas: np.ndarray) -> GramRidge:
        self.coef_, self.intercept_ = selected.coef, selected.intercept
        self.errors_, self.alpha_ = selected.errors, float(alphas[selected.best])
        return self


def fit_ridge_stream(
    chunks: Iterable[tuple[np.ndarray, np.ndarray]], ridge: GramRidge | None = None, folds: int = 5
) -> GramRidge:
    """Fit a ridge on rows that do not fit in memory, in one pass; what is kept is ``folds + 1`` matrices (d, d).

    chunks : X (m, d) and y (m,) one after another, such as `cache_chunks` reads; some thousands of rows each are quick.
    ridge : its alphas, standardize and device are used, and it is fitted; default ``GramRidge()``.
    folds : the penalty is chosen by this many; row i of the stream is in fold i % folds.

    Raises
    ------
    ValueError : no row at all, fewer rows than folds, NaN or infinite values, or chunks of different width.

    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> fit_ridge_stream((X[i : i + 20], X[i : i + 20, 0]) for i in range(0, 60, 20)).alpha_
    1.0
    """
    model = GramRidge() if ridge is None else ridge
    alphas, device = _checked(model.alphas), _device(model.device)
    sums: list[Moments] = []
    n = 0
    for chunk in chunks:
        X, y = validate_data(model, *chunk, dtype=(np.float64, np.float32), y_numeric=True, reset=not sums)
        if not sums:
            shift, y_shift = X.mean(0, dtype=np.float64), float(np.mean(y))
            sums = [Moments.zero(shift, y_shift, device) for _ in range(folds)]
        for fold, moments in enumerate(sums):
            first = (fold - n) % folds
            moments.add(X[first::folds], y[first::folds])
        n += len(y)
    if not 2 <= folds <= n:
        raise ValueError(f"folds must be 2 to {n}, the number of rows; found {folds}")
    return model._set(from_folds(sums, alphas, model.standardize), alphas)


def cache_chunks(
    cache: FeatureCache, blocks: Sequence[str] | None = None, target: str | None = None, rows: int = ROWS_AT_ONCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The features (m, d) and ratings (m,) on [0, 1] of a cache's rated images, ``rows`` images at a time.

    The columns are those of ``cache.matrix(blocks, target)``; only whole blocks can be chosen.

    Raises
    ------
    DrexcacheError : an unknown block or target, a cache without ratings.
    """
    names = list(blocks) if blocks else list(cache.blocks)
    chosen = target or next(iter(cache.targets), None)
    if chosen not in cache.targets:
        raise DrexcacheError(f"{cache.path}: no target named {chosen}; it has: {', '.join(cache.targets) or 'none'}")
    y = cache.targets[chosen].unit()
    usable = np.isfinite(y) & np.all([cache.status(name) == DONE for name in names], axis=0)
    for start in range(0, len(cache), rows):
        keep = usable[start : start + rows]
        if keep.any():
            piece = slice(start, start + len(keep))
            yield np.concatenate([cache.features(name, piece)[keep] for name in names], axis=1), y[piece][keep]


def _checked(alphas: Sequence[float]) -> np.ndarray:
    values = np.asarray(alphas, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"alphas must be one or more numbers above 0; found {alphas!r}")
    return values


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
