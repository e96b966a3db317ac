"""A Gaussian process with one kernel per block, whose widths maximise the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, overload

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from drexcache.fusion import resolved_arms

EVIDENCE_ROWS = 1000  # at most, for finding weight, widths and noise
JITTER = 1e-8
CONSTANT = 100.0  # variance of the prior mean, for ratings of variance 1: practically unknown
WIDTH, NOISE, DEVIATION = 0.25, 0.25, 0.6  # medians of the priors, and the deviation of their logarithms
BOUNDS = {"weight": (1e-6, 1e2), "width": (1e-4, 10.0), "noise": (1e-4, 1e2)}


class KernelFusionRegressor(RegressorMixin, BaseEstimator):
    """A Gaussian process whose kernel is a product of one RBF kernel per block of columns.

    k(x, x') = constant + weight exp(-Σ_b width_b mean((x_b - x'_b)²)), on standardised columns and ratings, plus noise:
    two images are similar if they are similar in every block. Blocks differ only in width, whatever their number of
    columns. The constant is so large that the mean is left free. Weight, widths and noise maximise the evidence
    (Rasmussen & Williams 2006, equations 5.8 and 5.9) under log-normal priors of widths and noise, which prevent
    overfitting on few images; the width of a block unrelated to the ratings shrinks towards 0. Beyond ``rows`` rows the
    kernel is approximated from that many of them, drawn at random (Nystroem; the variance is the "deterministic
    training conditional" of Quiñonero-Candela & Rasmussen 2005).

    Parameters
    ----------
    arms : name -> columns of X, a slice or (start, stop), such as the ``blocks`` of a `FeatureMatrix`; None takes all
        columns as one block. Columns in no arm are ignored.
    rows : largest number of rows in the kernel, which takes the memory of rows² numbers.
    random_state : seed for drawing those rows if there are more.

    Attributes
    ----------
    arms_ : the blocks' names. widths_ : (n_arms,) how much a difference in that block matters.
    relevance_ : (n_arms,) the widths as shares of their sum. weight_, noise_ : variances, for ratings of variance 1.
    evidence_ : the logarithm of the evidence.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(80, 6))
    >>> model = KernelFusionRegressor({"a": (0, 3), "b": (3, 6)}).fit(X, X[:, 0] + X[:, 1])
    >>> bool(model.relevance_[0] > 0.5), [values.shape for values in model.predict(X, return_std=True)]
    (True, [(80,), (80,)])
    """

    __module__ = "drexcache"  # the public place, which model files name; the class itself may move

    def __init__(
        self, arms: Mapping[str, slice | Sequence[int]] | None = None, *, rows: int = 2000,
        random_state: int | np.random.RandomState | None = 42,
    ) -> None:  # fmt: skip
        self.arms = arms
        self.rows = rows
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> KernelFusionRegressor:
        """Fit on X (n, d) and ratings y (n,).

        Raises
        ------
        ValueError : NaN or infinite values, fewer than 2 rows, or arms that do not fit X.
        """
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), y_numeric=True, ensure_min_samples=2)
        if not isinstance(self.rows, int | np.integer) or self.rows < 1:
            raise ValueError(f"rows must be a whole number of at least 1, found {self.rows!r}")
        self.arms_, self.columns_ = resolved_arms(self.arms, X.shape[1])
        self.mean_, deviation = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
        varies = deviation > 1e-6 * np.abs(self.mean_)  # constant columns are ignored
        self.scale_ = np.where(varies, 1 / np.where(varies, deviation, 1), 0.0)
        for cols in self.columns_:
            self.scale_[cols] /= np.sqrt(max(1, varies[cols].sum()))
        self.y_mean_, self.y_scale_ = float(np.mean(y, dtype=np.float64)), float(np.std(y, dtype=np.float64)) or 1.0
        order = check_random_state(self.random_state).permutation(len(X))
        few, t = np.sort(order[:EVIDENCE_ROWS]), (y - self.y_mean_) / self.y_scale_
        Z = self._scaled(X)
        with threadpool_limits(1, user_api="blas"):  # on so few rows more threads mostly wait for each other
            self._find_widths(Z[few], t[few])
        self.basis_ = Z if len(X) <= self.rows else Z[np.sort(order[: self.rows])]
        self._solve(Z, t)
        return self

    @overload
    def predict(self, X: np.ndarray, return_std: Literal[False] = False) -> np.ndarray: ...

    @overload
    def predict(self, X: np.ndarray, return_std: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(self, X: np.ndarray, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predictions (n,) for X (n, d); with return_std also the standard deviation of a rating, including noise."""
        check_is_fitted(self)
        Z = self._scaled(validate_data(self, X, dtype=(np.float64, np.float32), reset=False))
        k = self._kernel(Z, self.basis_)  # (n, m)
        mean = self.y_mean_ + self.y_scale_ * (k @ self.dual_)
        if not return_std:
            return mean
        variance = CONSTANT + self.weight_ + self.noise_ - np.einsum("nm,nm->n", k @ self.explained_, k)
        return mean, self.y_scale_ * np.sqrt(np.maximum(variance, self.noise_))

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Scale rows so that squared distances are means over the varying columns of a block."""
        return (X - self.mean_) * self.scale_

    def _kernel(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """The kernel (a, b) of standardised rows A (a, d) and B (b, d)."""
        parts = zip(self.columns_, self.widths_, strict=True)
        far = np.sum([width * _distances(A[:, cols], B[:, cols]) for cols, width in parts], axis=0)
        return CONSTANT + self.weight_ * np.exp(-far)

    def _find_widths(self, Z: np.ndarray, t: np.ndarray) -> None:
        """The widths that maximise the evidence of t (n,) for standardised rows Z (n, d); 0 for a constant block."""
        varied = [block for block, cols in enumerate(self.columns_) if self.scale_[cols].any()] or [0]
        blocks = [Z[:, self.columns_[block]] for block in varied]
        distances = np.stack([_distances(block, block) for block in blocks])
        b = len(blocks)
        bounds = [BOUNDS["weight"], *[BOUNDS["width"]] * b, BOUNDS["noise"]]
        found = minimize(
            _negative_posterior, np.log([1.0, *[WIDTH] * b, NOISE]), (distances, t), method="L-BFGS-B", jac=True,
            bounds=np.log(bounds), options={"maxiter": 100, "ftol": 1e-7},
        )  # fmt: skip
        weight, *widths, noise = np.exp(found.x).tolist()
        self.weight_, self.widths_, self.noise_ = weight, np.zeros(len(self.columns_)), noise
        self.widths_[varied] = np.array(widths) / b
        self.evidence_ = -_negative_evidence(found.x, distances, t)[0]
        self.relevance_ = self.widths_ / self.widths_.sum()

    def _solve(self, Z: np.ndarray, t: np.ndarray) -> None:
        """dual_ (m,): a prediction is its kernel with the basis times it; explained_ (m, m): how variance shrinks."""
        K = self._kernel(self.basis_, self.basis_)
        exact = len(self.basis_) == len(Z)
        K[np.diag_indices_from(K)] += self.noise_ if exact else JITTER * len(K)
        L = cholesky(K, lower=True)
        self.explained_ = cho_solve((L, True), np.eye(len(K)))
        if exact:
            self.dual_ = cho_solve((L, True), t)
            return
        A, right = np.eye(len(K)) * self.noise_, np.zeros(len(K))
        for start in range(0, len(Z), self.rows):
            part = solve_triangular(L, self._kernel(self.basis_, Z[start : start + self.rows]), lower=True)  # (m, rows)
            A += part @ part.T
            right += part @ t[start : start + self.rows]
        inverse = cho_solve((cholesky(A, lower=True), True), np.eye(len(K)))
        back = solve_triangular(L, np.eye(len(K)), lower=True)  # L⁻¹
        self.dual_ = back.T @ (inverse @ right)
        self.explained_ -= self.noise_ * back.T @ inverse @ back


def _distances(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Squared distances (a, b) of rows A (a, d) and B (b, d)."""
    return np.maximum((A**2).sum(1)[:, None] + (B**2).sum(1)[None, :] - 2 * A @ B.T, 0)


def _negative_posterior(log_values: np.ndarray, distances: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """`_negative_evidence` minus the logarithm of the priors of widths and noise."""
    value, gradient = _negative_evidence(log_values, distances, t)
    away = (log_values - np.log([1.0, *[WIDTH] * len(distances), NOISE])) / DEVIATION
    away[0] = 0.0  # the weight is free
    return value + 0.5 * float(away @ away), gradient + away / DEVIATION


def _negative_evidence(log_values: np.ndarray, distances: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """-log p(t), and its gradient by the logarithms of weight, widths (b,) and noise.

    d/dv = -tr((αα' - K⁻¹) dK/dv) / 2 with α = K⁻¹t. distances : (b, n, n).
    """
    n, (weight, *others) = len(t), np.exp(log_values)
    widths, noise = np.array(others[:-1]), others[-1]
    part = weight * np.exp(-np.tensordot(widths / len(widths), distances, 1))
    K = CONSTANT + part
    K[np.diag_indices(n)] += noise
    L = cholesky(K, lower=True)
    inverse, _ = lapack.dpotri(L, lower=True)  # a third of solving for the identity; only its lower triangle is set
    inverse += np.tril(inverse, -1).T
    alpha = inverse @ t
    inner = np.outer(alpha, alpha) - inverse
    by_weight = part * inner
    by_width = -widths / len(widths) * np.tensordot(distances, by_weight, 2)
    gradient = -0.5 * np.array([by_weight.sum(), *by_width, noise * np.trace(inner)])
    return float(0.5 * t @ alpha + np.log(np.diag(L)).sum() + 0.5 * n * np.log(2 * np.pi)), gradient
