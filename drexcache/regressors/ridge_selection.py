"""Ridge's penalty by leave-one-out or by folds, and the coefficients that go with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drexcache.regressors.ridge_moments import Array, Moments, deviation, eigenvectors, to_device, to_numpy
from drexcache.regressors.ridge_shifts import shifted_solutions

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Selected:
    """Out-of-fold mean squared error of each penalty (k,), the best one's position, and its fit to all rows."""

    errors: np.ndarray
    best: int
    coef: np.ndarray
    intercept: float


def row_chunks(X: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows, some thousands at a time."""
    for start in range(0, len(y), ROWS_AT_ONCE):
        yield X[start : start + ROWS_AT_ONCE], y[start : start + ROWS_AT_ONCE]


def leave_one_out(X: np.ndarray, y: np.ndarray, alphas: np.ndarray, standardize: bool, device: str) -> Selected:
    """Each row predicted by the fit to all others: exact, from one eigendecomposition (Golub, Heath & Wahba 1979)."""
    few = len(y) <= X.shape[1]
    return (_leave_one_out_few if few else _leave_one_out_many)(X, y, alphas, standardize, device)


def _leave_one_out_few(X: np.ndarray, y: np.ndarray, alphas: np.ndarray, standardize: bool, device: str) -> Selected:
    """By the rows' products (n, n). With G = K + a I: error_i = (G⁻¹y)_i / (G⁻¹)_ii, less the mean's own part."""
    Z, mean, scale = _scaled_rows(X, standardize, device)
    values, U = eigenvectors(Z @ Z.T)
    centred = to_device(y - y.mean(), device)
    shrunk = 1 / (values.clip(0)[:, None] + to_device(alphas, device))  # (n, k)
    dual = U @ ((U.T @ centred)[:, None] * shrunk)
    a = to_device(alphas, device)
    errors = to_numpy(a * dual / (a * (U**2 @ shrunk) - 1 / len(y)))
    errors = np.mean(errors**2, axis=0)
    best = int(np.argmin(errors))
    coef = to_numpy(Z.T @ dual[:, best]) / scale
    return Selected(errors, best, coef, float(y.mean() - mean @ coef))


def _leave_one_out_many(X: np.ndarray, y: np.ndarray, alphas: np.ndarray, standardize: bool, device: str) -> Selected:
    """By the columns' products (d, d), and the rows again for their leverages h: error_i = residual_i / (1 - h_i)."""
    total = _moments(X, y, X[:ROWS_AT_ONCE].mean(0, dtype=np.float64), float(y.mean()), device)
    all_rows = total.scaled(standardize)
    values, V = eigenvectors(all_rows.gram)
    shrunk = 1 / (values.clip(0)[:, None] + to_device(alphas, device))  # (d, k)
    turned = (V.T @ all_rows.xy)[:, None] * shrunk
    squares = np.zeros(len(alphas))
    for rows, rated in row_chunks(X, y):
        Z = ((to_device(rows, device) - total.shift - all_rows.mean) / all_rows.scale) @ V
        residual = (to_device(rated, device) - total.y_shift - all_rows.y_mean)[:, None] - Z @ turned
        squares += to_numpy(((residual / (1 - 1 / len(y) - Z**2 @ shrunk)) ** 2).sum(0))
    best = int(np.argmin(squares))
    return _selected(squares / len(y), total, *all_rows.unscaled(V @ turned[:, [best]]))


def by_folds(
    X: np.ndarray, y: np.ndarray, alphas: np.ndarray, tests: Sequence[np.ndarray], standardize: bool, device: str
) -> Selected:
    """Each row of ``tests``, which hold every row once, predicted by the fit to the rows of the other tests."""
    if len(y) > X.shape[1]:
        shift = X[:ROWS_AT_ONCE].mean(0, dtype=np.float64)
        return from_folds([_moments(X[t], y[t], shift, float(y.mean()), device) for t in tests], alphas, standardize)
    squares = np.zeros(len(alphas))
    for test in tests:
        train = np.setdiff1d(np.arange(len(y)), test)
        coef, intercept = _fit_few(X[train], y[train], alphas, standardize, device)
        squares += ((X[test] @ coef + intercept - y[test, None]) ** 2).sum(0)
    best = int(np.argmin(squares))
    coef, intercept = _fit_few(X, y, alphas[[best]], standardize, device)
    return Selected(squares / len(y), best, coef[:, 0], float(intercept[0]))


def from_folds(folds: Sequence[Moments], alphas: np.ndarray, standardize: bool) -> Selected:
    """From the folds' sums alone: what a fold is trained on is the total minus its own."""
    total = folds[0]
    for fold in folds[1:]:
        total = total + fold
    squares = np.zeros(len(alphas))
    for fold in folds:
        train = (total - fold).scaled(standardize)
        squares += fold.squared_error(*train.unscaled(shifted_solutions(train.gram, train.xy, alphas)))
    best = int(np.argmin(squares))
    all_rows = total.scaled(standardize)
    weights = shifted_solutions(all_rows.gram, all_rows.xy, alphas[[best]])
    return _selected(squares / total.n, total, *all_rows.unscaled(weights))


def _selected(errors: np.ndarray, total: Moments, weights: Array, intercept: Array) -> Selected:
    """With the weights (d, 1) and the intercept (1,) brought back from shifted columns."""
    coef = to_numpy(weights)[:, 0]
    own = float(to_numpy(intercept)[0]) + total.y_shift - float(to_numpy(total.shift) @ coef)
    return Selected(errors, int(np.argmin(errors)), coef, own)


def _moments(X: np.ndarray, y: np.ndarray, shift: np.ndarray, y_shift: float, device: str) -> Moments:
    moments = Moments.zero(shift, y_shift, device)
    for rows, rated in row_chunks(X, y):
        moments.add(rows, rated)
    return moments


def _scaled_rows(X: np.ndarray, standardize: bool, device: str) -> tuple[Array, np.ndarray, np.ndarray]:
    """Scaled rows (n, d), and the columns' mean (d,) and scale (d,)."""
    mean = X.mean(0, dtype=np.float64)
    centred = X - mean
    scale = deviation(mean, (centred**2).mean(0), len(X)) if standardize else np.ones(X.shape[1])
    return to_device(centred / scale, device), mean, scale


def _fit_few(
    X: np.ndarray, y: np.ndarray, alphas: np.ndarray, standardize: bool, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (d, k) and intercepts (k,) by the rows' products."""
    Z, mean, scale = _scaled_rows(X, standardize, device)
    dual = shifted_solutions(Z @ Z.T, to_device(y - y.mean(), device), alphas)
    coef = to_numpy(Z.T @ dual) / scale[:, None]
    return coef, y.mean() - mean @ coef
