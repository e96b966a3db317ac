"""Regressors by name: each a scikit-learn estimator with its own scaling, sharing ``fit(X, y)``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from drexcache.errors import DrexcacheError
from drexcache.fusion import PRESETS, AttentionFusionRegressor
from drexcache.matrix import FeatureMatrix

# On standardised features; the grid reaches from nearly none to nearly all shrinkage at a few thousand columns.
RIDGE_PENALTIES = np.logspace(0, 6, 13)


def _fusion(preset: str) -> AttentionFusionRegressor:
    return AttentionFusionRegressor(**PRESETS[preset])


_MAKERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "mean": ("the training ratings' mean: the floor", DummyRegressor),
    "ridge": (
        "linear, standardised columns, penalty by leave-one-out over 13 values from 1 to 1e6",
        lambda: make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_PENALTIES)),
    ),
    "svr": (
        "support vectors, RBF kernel, standardised columns, C=1, epsilon=0.02",
        lambda: make_pipeline(StandardScaler(), SVR(C=1.0, epsilon=0.02)),
    ),
    "fusion-paper": (
        "DReX's attention-fusion head and training recipe to the letter",
        lambda: _fusion("fusion-paper"),
    ),
    "fusion": (
        "the same head made fit for hundreds of images: at least 400 steps, an EMA over a tenth of them",
        lambda: _fusion("fusion"),
    ),
}


def regressors() -> dict[str, Any]:
    """Name -> unfitted estimator with its default settings.

    >>> sorted(regressors())
    ['fusion', 'fusion-paper', 'mean', 'ridge', 'svr']
    """
    return {name: make() for name, (_, make) in _MAKERS.items()}


def describe_regressors() -> dict[str, str]:
    """Name -> one line about it."""
    return {name: line for name, (line, _) in _MAKERS.items()}


def make_regressor(name: str, matrix: FeatureMatrix, seed: int = 42) -> Any:
    """The unfitted estimator of that name, made for this matrix: fusion gets its arms, a random one its seed.

    Every block of the matrix is an arm.

    Raises
    ------
    DrexcacheError : an unknown name; the message names the nearest.
    """
    if name not in _MAKERS:
        close = difflib.get_close_matches(name, _MAKERS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DrexcacheError(f"no regressor named {name}; {hint}there are: {', '.join(_MAKERS)}")
    estimator: BaseEstimator = _MAKERS[name][1]()
    if isinstance(estimator, AttentionFusionRegressor):
        estimator.set_params(arms=dict(matrix.blocks))
    seeds = {key: seed for key in estimator.get_params() if key.rpartition("__")[2] == "random_state"}
    return estimator.set_params(**seeds)
