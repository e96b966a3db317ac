"""Ridge: scikit-learn's contract and numbers, by every way to compute them, and in a stream."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from drexcache.regressors import ridge
from drexcache.regressors.ridge import PENALTIES, GramRidge

SHAPES = [(150, 40), (60, 60), (50, 200), (61, 60)]
FEW = (0.1, 3.0, 100.0)


def problem(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of unlike means and scales, one of them constant, and ratings that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(0.01, 100, d) + np.linspace(-1000, 1000, d)
    X[:, 1] = 0.1
    y = 0.5 + 0.1 * X[:, 3] / X[:, 3].std() + 0.1 * rng.normal(size=n)
    return X, y


# a row of weight 2 is left out as one, of two equal rows one stays; RidgeCV has the same exception
NOT_REPETITION = {"check_sample_weight_equivalence_on_dense_data": "leaving out a row is not leaving out a weight"}


@parametrize_with_checks(
    [GramRidge(), GramRidge(standardize=False)], expected_failed_checks=lambda estimator: NOT_REPETITION
)
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


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_of_rows_are_those_of_ridge_cv_behind_a_scaler(shape: tuple[int, int]) -> None:
    X, y = problem(*shape)
    weights = np.random.default_rng(2).integers(0, 5, len(y)).astype(float)
    ours = GramRidge().fit(X, y, sample_weight=weights)
    theirs = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    theirs.fit(X, y, standardscaler__sample_weight=weights, ridgecv__sample_weight=weights)
    assert ours.alpha_ == theirs[-1].alpha_
    new = problem(30, shape[1], seed=1)[0]
    assert_allclose(ours.predict(new), theirs.predict(new), rtol=1e-6)
    alone = GramRidge().fit(X[weights > 0], y[weights > 0], sample_weight=weights[weights > 0])
    assert_allclose(ours.errors_, alone.errors_, rtol=1e-6)
    assert_allclose(GramRidge().fit(X, y, sample_weight=np.ones(len(y))).coef_, GramRidge().fit(X, y).coef_, rtol=1e-9)


def test_weighted_leave_one_out_equals_leaving_out_one_at_a_time() -> None:
    for shape in ((25, 8), (12, 20)):
        X, y = problem(*shape)
        weights = np.linspace(0.5, 3, len(y))
        ours = GramRidge(FEW, standardize=False).fit(X, y, sample_weight=weights)
        slow = np.zeros(len(FEW))
        for at in range(len(y)):
            rest = np.arange(len(y)) != at
            for which, a in enumerate(FEW):
                one = Ridge(a).fit(X[rest], y[rest], sample_weight=weights[rest])
                slow[which] += weights[at] * (one.predict(X[at : at + 1])[0] - y[at]) ** 2
        assert_allclose(ours.errors_, slow / weights.sum(), rtol=1e-6)


def test_leave_one_out_equals_leaving_out_one_at_a_time() -> None:
    for shape in ((25, 8), (12, 20)):
        X, y = problem(*shape)
        ours = GramRidge(FEW, standardize=False).fit(X, y)
        slow = [np.mean((cross_val_predict(Ridge(a), X, y, cv=LeaveOneOut()) - y) ** 2) for a in FEW]
        assert_allclose(ours.errors_, slow, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_computes_the_same(shape: tuple[int, int]) -> None:
    """On a GPU where there is one, else torch's processor in its stead."""
    X, y = problem(*shape)
    expected = GramRidge(device="cpu").fit(X, y)
    device = "cuda" if torch.cuda.is_available() else "cpu:0"
    found = GramRidge(device=device).fit(X, y)
    assert found.alpha_ == expected.alpha_
    assert_allclose(found.errors_, expected.errors_, rtol=1e-8)
    assert_allclose(found.predict(X), expected.predict(X), rtol=1e-8)


class Rows:
    """Rows as a cache gives them, made again at every pass."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def pieces(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        for start in range(0, len(self), size):
            X = rng.normal(size=(min(size, len(self) - start), self.shape[1])).astype("f4")
            yield X, X[:, 0]


@pytest.mark.parametrize("size", [29, 30, 203])
def test_a_stream_equals_memory_whatever_the_chunks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows((203, 40))
    X, y = next(rows.pieces(203))
    expected = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(X.astype("f8"), y)
    monkeypatch.setattr(ridge, "SUMMED_ROWS", size)
    for found in (GramRidge().fit_stream(rows), GramRidge().fit(X, y)):  # type: ignore[arg-type]
        assert found.alpha_ == expected[-1].alpha_
        assert_allclose(found.errors_.min(), -expected[-1].best_score_, rtol=1e-6)
        assert_allclose(found.predict(X), expected.predict(X), rtol=1e-6)


def test_a_stream_needs_no_more_memory_for_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "SUMMED_ROWS", 500)
    peaks = []
    for n in (1000, 20_000):
        tracemalloc.start()
        GramRidge(device="cpu").fit_stream(Rows((n, 100)))  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 40 * 500 * 100 * 4


def test_mistakes_say_what_is_wrong() -> None:
    X, y = problem(20, 4)
    for model, message in (
        (GramRidge(alphas=(1.0, 0.0)), r"numbers above 0; found \(1.0, 0.0\)"),
        (GramRidge(alphas=()), "one or more"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
