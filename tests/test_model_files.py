"""Model files: every regressor predicts the same after loading, and a stranger's file is one sentence at worst."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import is_regressor
from sklearn.utils import all_estimators

from drexcache import DrexcacheError
from drexcache.cache import FeatureMatrix
from drexcache.regressors import make_regressor, regressors
from drexcache.regressors.saving import dump_estimator, load_estimator, refuse_unsavable

FEWER = {"n_estimators": 3, "max_iter": 3}


def problem(n: int = 60, d: int = 8) -> FeatureMatrix:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype("f4")
    y = 0.5 + 0.1 * np.tanh(X[:, 0]) + 0.02 * rng.normal(size=n)
    return FeatureMatrix(X, y, [f"{i}.png" for i in range(n)], {"a": slice(0, 5), "b": slice(5, d)})


def importable() -> list[str]:
    """The import paths of scikit-learn's regressors."""
    found = []
    for name, kind in all_estimators(type_filter="regressor"):
        try:
            if is_regressor(kind()):
                found.append(f"{kind.__module__.partition('._')[0]}:{name}")
        except TypeError:  # needs arguments
            continue
    return found


SETTINGS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in regressors() if not name.startswith("fusion")]
SETTINGS += [("svr", {"pca": 16}), ("mlp", {"regressor__pca": 16}), ("ridge", {"standardize": False})]
SETTINGS += [("neighbours", {"kneighborsregressor__metric": "euclidean"})]
SETTINGS += [("neighbours", {"kneighborsregressor__weights": "uniform"})]


@pytest.mark.parametrize(("name", "settings"), SETTINGS + [(path, {}) for path in importable()])
def test_a_regressor_predicts_the_same_after_loading_or_is_refused_before_training(
    name: str, settings: dict[str, Any]
) -> None:
    matrix = problem()
    estimator = make_regressor(name, matrix, 0, settings)
    estimator.set_params(**{key: value for key, value in FEWER.items() if key in estimator.get_params()})
    try:
        refuse_unsavable(estimator)
    except DrexcacheError as error:
        assert ":" in name and "evaluate can still use it" in str(error)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(matrix.X, matrix.y)
    loaded = load_estimator(dump_estimator(estimator))
    np.testing.assert_array_equal(loaded.predict(matrix.X), estimator.predict(matrix.X))


def test_most_linear_regressors_can_be_saved() -> None:
    saved = []
    for path in importable():
        try:
            refuse_unsavable(make_regressor(path, problem()))
            saved.append(path.partition(":")[2])
        except DrexcacheError:
            continue
    assert len(saved) >= 25 and {"HuberRegressor", "Lasso", "LinearSVR", "NuSVR", "DecisionTreeRegressor"} <= set(saved)
