"""The Gaussian process with a kernel per block, beside scikit-learn's for one block and plain algebra for several."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from drexcache.regressors import KernelFusionRegressor
from drexcache.regressors.kernels import CONSTANT, _distances, _negative_posterior

ARMS = {"a": slice(0, 4), "b": slice(4, 10)}


def data(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of two arms, of which only the first tells the rating."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 10))
    return X, 3 + np.sin(X[:, 0]) + X[:, 1] + 0.2 * rng.normal(size=n)


@parametrize_with_checks([KernelFusionRegressor()])
def test_scikit_learns_contract(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_one_block_is_scikit_learns_gaussian_process() -> None:
    X, y = data()
    mine = KernelFusionRegressor().fit(X[:80], y[:80])
    Z, t = (X - X[:80].mean(0)) / X[:80].std(0), (y[:80] - y[:80].mean()) / y[:80].std()
    rbf = ConstantKernel(mine.weight_) * RBF(np.sqrt(10 / mine.widths_[0] / 2))
    kernel = ConstantKernel(CONSTANT, "fixed") + rbf + WhiteKernel(mine.noise_)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0).fit(Z[:80], t)
    assert mine.evidence_ == pytest.approx(theirs.log_marginal_likelihood_value_, rel=1e-9)
    expected = theirs.predict(Z[80:], return_std=True)
    mean, std = mine.predict(X[80:], return_std=True)
    np.testing.assert_allclose(mean, y[:80].mean() + y[:80].std() * expected[0], rtol=1e-8)
    np.testing.assert_allclose(std, y[:80].std() * expected[1], rtol=1e-6)


def test_the_gradient_of_the_evidence() -> None:
    X, y = data(30)
    distances = np.stack([_distances(X[:, cols], X[:, cols]) for cols in ARMS.values()])
    found = check_grad(
        lambda v: _negative_posterior(v, distances, y)[0], lambda v: _negative_posterior(v, distances, y)[1],
        np.log([0.7, 0.02, 0.05, 0.1]),
    )  # fmt: skip
    assert found < 1e-3


def test_a_block_that_tells_nothing_loses_its_width_and_the_spread_covers_the_ratings() -> None:
    X, y = data(400)
    model = KernelFusionRegressor(ARMS).fit(X[:200], y[:200])
    assert model.arms_ == ["a", "b"] and model.relevance_[0] > 0.7
    mean, std = model.predict(X[200:], return_std=True)
    assert np.corrcoef(mean, y[200:])[0, 1] > 0.95
    assert 0.9 < (np.abs(mean - y[200:]) < 1.96 * std).mean() < 0.99


def test_many_rows_are_approximated_from_some_of_them() -> None:
    X, y = data(300)
    exact, close = KernelFusionRegressor(ARMS).fit(X, y), KernelFusionRegressor(ARMS, rows=120).fit(X, y)
    assert close.basis_.shape == (120, 10)
    assert np.corrcoef(exact.predict(X), close.predict(X))[0, 1] > 0.995
    K, k = close._kernel(close.basis_, close.basis_), close._kernel(close._scaled(X), close.basis_)
    K += 1e-8 * 120 * np.eye(120)  # which keeps its decomposition stable
    t = (y - y.mean()) / y.std()
    posterior = K + k.T @ k / close.noise_
    np.testing.assert_allclose(
        (close.predict(X) - y.mean()) / y.std(), k @ np.linalg.solve(posterior, k.T @ t) / close.noise_, atol=1e-3
    )
    variance = CONSTANT + close.weight_ + close.noise_ - np.einsum("nm,nm->n", k @ np.linalg.inv(K), k)
    variance += np.einsum("nm,nm->n", k @ np.linalg.inv(posterior), k)
    np.testing.assert_allclose(close.predict(X, return_std=True)[1] / y.std(), np.sqrt(variance), atol=1e-3)


def test_constant_columns_and_uneven_units_change_nothing() -> None:
    X, y = data()
    expected = KernelFusionRegressor(ARMS).fit(X, y).predict(X)
    scaled = X * np.where(np.arange(10) % 2, 1e6, 1.0) + 5
    np.testing.assert_allclose(KernelFusionRegressor(ARMS).fit(scaled, y).predict(scaled), expected, rtol=1e-5)
    more = np.concatenate([X, np.full((120, 3), 7.0)], axis=1)
    model = KernelFusionRegressor({**ARMS, "c": slice(10, 13)}).fit(more, y)
    np.testing.assert_allclose(model.predict(more), expected, atol=0.02)
    more[:, 10:] = -4.0  # a block that never varied has no say
    np.testing.assert_allclose(model.predict(more), expected, atol=0.02)
    assert np.isfinite(KernelFusionRegressor().fit(X[:2], y[:2]).predict(X)).all()


def test_what_cannot_be_fitted_is_one_sentence() -> None:
    X, y = data(20)
    with pytest.raises(ValueError, match="rows must be a whole number of at least 1, found 0"):
        KernelFusionRegressor(rows=0).fit(X, y)
    with pytest.raises(ValueError, match="arm 'a' names columns 0 to 11, but X has columns 0 to 10"):
        KernelFusionRegressor({"a": (0, 11)}).fit(X, y)
