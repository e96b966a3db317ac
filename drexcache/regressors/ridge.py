"""GramRidge: ridge regression with the penalty chosen by leave-one-out, in memory or streamed from a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from drexcache.cache import CachedRows
from drexcache.devices import resolve_device
from drexcache.regressors.ridge_sums import Sums, deviation, eigenvectors, to_device, to_numpy

# For standardised features: from almost no to almost complete shrinkage with a few thousand columns.
PENALTIES = tuple(10.0 ** (half / 2) for half in range(13))  # 1 to 1e6
SUMMED_ROWS = 4096

# X (m, d), y (m,) and, if rows have weights, these (m,); every call goes over all rows
Chunks = Callable[[], Iterable[tuple[np.ndarray, ...]]]


class GramRidge(RegressorMixin, BaseEstimator):
    """Ridge regression with the penalty chosen by exact leave-one-out, as scikit-learn's `RidgeCV` does.

    All penalties are tried with a single eigendecomposition: of the Gram matrix of the columns or, if there are no more
    rows than columns, of the rows (Golub, Heath & Wahba 1979).

    Parameters
    ----------
    alphas : penalties to choose from, above 0.
    standardize : whether to scale each column to standard deviation 1 over all rows first, as
        ``make_pipeline(StandardScaler(), RidgeCV())`` does.
    device : "cpu" (NumPy), "cuda" (torch) or "auto".

    Attributes
    ----------
    coef_, intercept_ : (d,) and a number, for unscaled columns. alpha_ : the chosen penalty.
    errors_ : (k,) each penalty's leave-one-out mean squared error. n_features_in_ : d.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> model = GramRidge(alphas=(0.1, 1.0, 100.0)).fit(X, X[:, 0] + 1)
    >>> model.alpha_, model.predict(X[:2]).shape, model.errors_.shape
    (0.1, (2,), (3,))
    """

    __module__ = "drexcache"  # the public path, which model files contain; the class itself may move

    def __init__(self, alphas: Sequence[float] = PENALTIES, *, standardize: bool = True, device: str = "auto") -> None:
        self.alphas = alphas
        self.standardize = standardize
        self.device = device

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> GramRidge:
        """Fit on X (n, d) and y (n,); the cost is dominated by a Gram matrix of size n or d, whichever is smaller.

        sample_weight : (n,) weights of at least 0 of the rows' squared errors, means and deviations.

        Raises
        ------
        ValueError : NaN or infinite values, fewer than 2 rows, or a penalty that is not above 0.
        """
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), y_numeric=True, ensure_min_samples=2)
        y, w = y.astype(np.float64), None
        if sample_weight is not None:
            w = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if len(y) <= X.shape[1]:
            self._fit_rows(X, y, np.ones(len(y)) if w is None else w)
        else:
            rows = (X, y) if w is None else (X, y, w)
            self._fit_columns(lambda: _chunks(*rows))
        return self

    def fit_stream(self, rows: CachedRows) -> GramRidge:
        """Fit on rows read from a cache twice, some thousands at a time; the result is the same as that of `fit`.

        Memory grows with the number of columns, not of rows.

        Raises
        ------
        ValueError : as `fit`.
        """
        if len(rows) <= rows.shape[1]:
            return self.fit(rows.read(np.arange(len(rows))), rows.y)
        self.n_features_in_ = rows.shape[1]
        self._fit_columns(lambda: rows.pieces(size=SUMMED_ROWS))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predictions (n,) for X (n, d)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return X @ self.coef_ + self.intercept_

    def _fit_rows(self, X: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        """Fit by the Gram matrix K (n, n) of the rows, each times the root of its weight in w (n,).

        With G = K + a I, the leave-one-out error_i = (G⁻¹y)_i / (G⁻¹)_ii, adjusted for the mean.
        """
        alphas, device = _checked(self.alphas), str(resolve_device(self.device, float64=True))
        share, root = w / w.sum(), np.sqrt(w)
        mean, y_mean = share @ X, share @ y
        scale = deviation(mean, share @ (X - mean) ** 2, len(X)) if self.standardize else np.ones(X.shape[1])
        Z = to_device((X - mean) / scale * root[:, None], device)
        values, U = eigenvectors(Z @ Z.T)
        a = to_device(alphas, device)
        shrunk = 1 / (values[:, None] + a)  # (n, k)
        dual = U @ ((U.T @ to_device((y - y_mean) * root, device))[:, None] * shrunk)
        left_out = to_numpy(a * dual / (a * (U**2 @ shrunk) - to_device(share, device)[:, None]))
        best = self._choose(alphas, np.sum(left_out**2, axis=0) / w.sum())
        self.coef_ = to_numpy(Z.T @ dual[:, best]) / scale
        self.intercept_ = float(y_mean - mean @ self.coef_)

    def _fit_columns(self, chunks: Chunks) -> None:
        """Fit by the columns' Gram matrix (d, d), and a second pass over the rows for their leverages h.

        The leave-one-out error_i = residual_i / (1 - h_i); h includes 1/n for the mean, which every row influences.
        """
        alphas, device = _checked(self.alphas), str(resolve_device(self.device, float64=True))
        total = _summed(chunks(), device)
        scaled = total.scaled(self.standardize)
        values, V = eigenvectors(scaled.gram)
        shrunk = 1 / (values[:, None] + to_device(alphas, device))  # (d, k)
        weights = (V.T @ scaled.xy)[:, None] * shrunk
        squares = np.zeros(len(alphas))
        for X, y, *w in chunks():
            x, t = total.shifted(X, y)
            Z = ((x - scaled.mean) / scaled.scale) @ V
            residual = (t - scaled.y_mean)[:, None] - Z @ weights
            row = to_device(w[0], device)[:, None] if w else 1.0
            squares += to_numpy((row * (residual / (1 - row * (1 / total.n + Z**2 @ shrunk))) ** 2).sum(0))
        best = self._choose(alphas, squares / total.n)
        self.coef_ = to_numpy(V @ weights[:, best] / scaled.scale)
        mean = to_numpy(total.shift + scaled.mean)
        self.intercept_ = float(total.y_shift + scaled.y_mean - mean @ self.coef_)

    def _choose(self, alphas: np.ndarray, errors: np.ndarray) -> int:
        """The index of the penalty with the smallest error."""
        best = int(np.argmin(errors))
        self.errors_, self.alpha_ = errors, float(alphas[best])
        return best


def _chunks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    for start in range(0, len(arrays[0]), SUMMED_ROWS):
        yield tuple(array[start : start + SUMMED_ROWS] for array in arrays)


def _summed(chunks: Iterable[tuple[np.ndarray, ...]], device: str) -> Sums:
    """The sums over all rows, shifted by the first chunk's mean."""
    rest = iter(chunks)
    first = next(rest)
    total = Sums(first[0].mean(0, dtype=np.float64), float(first[1].mean()), device)
    for piece in chain([first], rest):
        total.add(*piece)
    return total


def _checked(alphas: Sequence[float]) -> np.ndarray:
    values = np.asarray(alphas, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"alphas must be one or more numbers above 0; found {alphas!r}")
    return values
