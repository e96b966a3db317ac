"""Making the regressors of an evaluation, by name or as a search chose them, with their blocks and image weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import numpy as np

from drexcache.cache import FeatureMatrix
from drexcache.datasets import decimal_sign, numbers
from drexcache.errors import DrexcacheError, listed
from drexcache.regressors import DATASET, ChosenSettings, PooledRegressor, make_regressor
from drexcache.studies.evaluation.cells import label

Make = Callable[[str, FeatureMatrix, int], Any]


def different_names(regressors: Sequence[str]) -> list[str]:
    """The names of the regressors as a list.

    Raises
    ------
    DrexcacheError : there are none, or one comes twice.
    """
    names = listed(regressors, "regressors")
    if not names or len(set(names)) < len(names):
        raise DrexcacheError(f"name one or more different regressors; found: {', '.join(names) or 'none'}")
    return names


@dataclass(frozen=True)
class Maker:
    """Makes unfitted estimators, and selects the features and options that they are fitted with."""

    make: Make | None
    chosen: Mapping[str, ChosenSettings]
    weights: str | None

    def features(self, name: str, matrix: FeatureMatrix) -> FeatureMatrix:
        """The matrix with the blocks chosen for this regressor, or all blocks if none were chosen."""
        blocks = self.chosen[name].blocks if name in self.chosen else ()
        return matrix.select(blocks) if blocks else matrix

    def estimator(self, name: str, matrix: FeatureMatrix, seed: int) -> Any:
        """The unfitted regressor of that name; one of several datasets, where the rows are joined from such."""
        if DATASET in matrix.labels:
            mine = np.asarray(matrix.labels[DATASET]) == matrix.dataset
            one = replace(matrix.rows(mine) if mine.any() else matrix, labels={})
            return PooledRegressor(self.estimator(name, one, seed), own=matrix.dataset if mine.any() else None)
        if self.make:
            return self.make(name, matrix, seed)
        chosen = self.chosen.get(name)
        return make_regressor(chosen.regressor if chosen else name, matrix, seed, chosen.settings if chosen else None)

    def options(self, name: str, estimator: Any, train: FeatureMatrix) -> dict[str, Any]:
        """Further arguments of `fit`: image weights, and each row's dataset if there are several."""
        pooled = isinstance(estimator, PooledRegressor)
        options: dict[str, Any] = {"datasets": train.labels[DATASET]} if pooled else {}
        if self.weights:
            inner = estimator.regressor if pooled else estimator
            options[_weight_option(name, inner)] = _numbers(train, self.weights)
        return options


def _weight_option(name: str, estimator: Any) -> str:
    """The parameter of `fit` through which an estimator, or the last step of its pipeline, takes weights."""
    inner, prefix = getattr(estimator, "regressor", estimator), ""
    if hasattr(inner, "steps"):
        prefix, inner = f"{inner.steps[-1][0]}__", inner.steps[-1][1]
    if "sample_weight" not in signature(inner.fit).parameters:
        raise DrexcacheError(f"{name} takes no weights of images; choose another regressor or leave --weights out")
    return f"{prefix}sample_weight"


def _numbers(matrix: FeatureMatrix, column: str) -> np.ndarray:
    """A label's values as positive numbers (n,)."""
    texts = label(matrix, column)
    values = numbers(texts, decimal_sign(texts)[0])
    if wrong := [text for text, value in zip(texts, values.tolist(), strict=True) if not value > 0]:
        raise DrexcacheError(f"{matrix.dataset}: weights in column {column!r} must be above 0; found {wrong[0]!r}")
    return values
