"""Ridge: scikit-learn's contract and numbers, by every way to compute them, and in a stream."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut, PredefinedSplit, RepeatedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from drexcache.regressors import ridge_selection
from drexcache.regressors.ridge import PENALTIES, GramRidge, fit_ridge_stream
from drexcache.regressors.ridge_shifts import shifted_solutions

SHAPES = [(150, 40), (60, 60), (50, 200), (61, 60)]
FEW = (0.1, 3.0, 100.0)


def problem(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of unlike means and scales, one of them constant, and ratings that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(0.01, 100, d) + np.linspace(-1000, 1000, d)
    X[:, 1] = 0.1
    y = 0.5 + 0.1 * X[:, 3] / X[:, 3].std() + 0.1 * rng.normal(size=n)
    return X, y


@parametrize_with_checks([GramRidge(), GramRidge(cv=3, standardize=False)])
def test_scikit_learns_contract(estimator: GramRidge, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize("shape", SHAPES)
def test_leave_one_out_equals_ridge_cv_behind_a_scaler(shape: tuple[int, int]) -> None:
    X, y = problem(*shape)
    ours = GramRidge().fit(X, y)
    theirs = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(X, y)
    assert ours.alpha_ == theirs[-1].alpha_
    assert_allclose(ours.errors_.min(), -theirs[-1].best_score_, rtol=1e-6)
    new = problem(30, shape[1], seed=1)[0]
    assert_allclose(ours.predict(new), theirs.predict(new), rtol=1e-6)


def test_leave_one_out_equals_leaving_out_one_at_a_time() -> None:
    for shape in ((25, 8), (12, 20)):
        X, y = problem(*shape)
        ours = GramRidge(FEW, standardize=False).fit(X, y)
        slow = [np.mean((cross_val_predict(Ridge(a), X, y, cv=LeaveOneOut()) - y) ** 2) for a in FEW]
        assert_allclose(ours.errors_, slow, rtol=1e-6)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_folds_equal_a_grid_search(shape: tuple[int, int], standardize: bool) -> None:
    X, y = problem(*shape)
    folds = KFold(4, shuffle=True, random_state=1)
    ours = GramRidge(FEW, cv=folds, standardize=standardize).fit(X, y)
    pipeline = make_pipeline(StandardScaler() if standardize else "passthrough", Ridge())
    slow = [np.mean((cross_val_predict(pipeline.set_params(ridge__alpha=a), X, y, cv=folds) - y) ** 2) for a in FEW]
    assert_allclose(ours.errors_, slow, rtol=1e-6)
    best = pipeline.set_params(ridge__alpha=ours.alpha_).fit(X, y)
    assert_allclose(ours.predict(X), best.predict(X), rtol=1e-6)
    search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, cv=3, scoring="neg_mean_squared_error").fit(X[:48], y[:48])
    assert GramRidge(cv=3, standardize=False).fit(X[:48], y[:48]).alpha_ == search.best_params_["alpha"]


@pytest.mark.parametrize("cv", [None, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_computes_the_same(shape: tuple[int, int], cv: int | None) -> None:
    """On a GPU where there is one, else torch's processor in its stead."""
    X, y = problem(*shape)
    expected = GramRidge(cv=cv, device="cpu").fit(X, y)
    device = "cuda" if torch.cuda.is_available() else "cpu:0"
    found = GramRidge(cv=cv, device=device).fit(X, y)
    assert found.alpha_ == expected.alpha_
    assert_allclose(found.errors_, expected.errors_, rtol=1e-8)
    assert_allclose(found.predict(X), expected.predict(X), rtol=1e-8)


@pytest.mark.parametrize(("d", "band"), [(1, 4), (2, 4), (5, 4), (6, 4), (45, 8), (130, 16), (600, 128)])
def test_shifted_solutions_solve(d: int, band: int) -> None:
    rng = np.random.default_rng(d)
    X, b, shifts = rng.normal(size=(2 * d, d)), rng.normal(size=d), np.array([0.01, 1.0, 1e4])
    A = X.T @ X
    found = shifted_solutions(A.copy(), b, shifts, band)
    for x, shift in zip(found.T, shifts, strict=True):
        assert_allclose(A @ x + shift * x, b, atol=1e-9)
    with pytest.raises(ValueError, match="too small"):
        shifted_solutions(-A, b, shifts, band)


def test_a_stream_equals_memory_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem(203, 40)
    expected = GramRidge(FEW, cv=PredefinedSplit(np.arange(203) % 5)).fit(X, y)
    monkeypatch.setattr(ridge_selection, "ROWS_AT_ONCE", 30)
    pieces = GramRidge(FEW, cv=PredefinedSplit(np.arange(203) % 5)).fit(X, y)
    for bounds in ([0, 203], [0, 2, 3, 90, 203], list(range(0, 204, 29))):
        chunks = ((X[i:j], y[i:j]) for i, j in pairwise(bounds))
        streamed = fit_ridge_stream(chunks, GramRidge(FEW))
        for found in (streamed, pieces):
            assert found.alpha_ == expected.alpha_
            assert_allclose(found.errors_, expected.errors_, rtol=1e-8)
            assert_allclose(found.predict(X), expected.predict(X), rtol=1e-8)


def test_a_stream_needs_no_more_memory_for_more_rows() -> None:
    def chunks(count: int, rng: np.random.Generator) -> object:
        for _ in range(count):
            X = rng.normal(size=(500, 100)).astype("f4")
            yield X, X[:, 0]

    peaks = []
    for count in (2, 40):
        tracemalloc.start()
        fit_ridge_stream(chunks(count, np.random.default_rng(0)), GramRidge(device="cpu"))  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 40 * 500 * 100 * 4


def test_mistakes_say_what_is_wrong() -> None:
    X, y = problem(20, 4)
    for model, message in (
        (GramRidge(alphas=(1.0, 0.0)), r"numbers above 0; found \(1.0, 0.0\)"),
        (GramRidge(alphas=()), "one or more"),
        (GramRidge(cv=RepeatedKFold(n_splits=2, n_repeats=2)), "each of the 20 rows once"),
        (GramRidge(cv=30), "number of splits"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
    with pytest.raises(ValueError, match="folds must be 2 to 3"):
        fit_ridge_stream([(X[:3], y[:3])])
    with pytest.raises(ValueError, match="folds must be 2 to 0"):
        fit_ridge_stream([])
    with pytest.raises(ValueError, match="3 features"):
        fit_ridge_stream([(X, y), (X[:, :3], y)])
