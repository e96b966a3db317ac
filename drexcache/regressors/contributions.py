"""What each arm contributes to a prediction, for any regressor: Shapley values over arms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

EXACT = 4  # arms up to which all of their subsets are asked for
ROUNDS = 16  # orders of the arms that are sampled beyond, and their reverses


def contributions(
    estimator: Any, X: np.ndarray, blocks: Mapping[str, slice], mean: np.ndarray | None = None, *, seed: int = 0
) -> np.ndarray:
    """How much each arm moves each prediction away from that of the mean image: (n, n_arms), in the prediction's units.

    An arm that is left out is replaced by its mean. The values are Shapley's (1953): what an arm adds, averaged over
    all orders in which the arms can be added; with more than 4 arms over 32 orders drawn at random. A row's values sum
    to its prediction less the mean image's. They say what the regressor does, not whether it is right to.

    Parameters
    ----------
    estimator : fitted, with ``predict``. X : (n, d). blocks : name -> columns of X, in the order of the result.
    mean : (d,) what stands for an arm that is left out; default: the mean of X. seed : of the drawn orders.

    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> line = LinearRegression().fit(X, X @ [1.0, 2.0, 0.0])
    >>> found = contributions(line, X, {"a": slice(0, 1), "b": slice(1, 3)})
    >>> bool(np.allclose(found, (X[:, :2] - X[:, :2].mean(0)) * [1.0, 2.0]))
    True
    """
    columns = list(blocks.values())
    absent = X.mean(0) if mean is None else mean
    known: dict[frozenset[int], np.ndarray] = {}

    def predicted(present: frozenset[int]) -> np.ndarray:
        """(n,) with the other arms at their mean."""
        if present not in known:
            seen = np.broadcast_to(absent, X.shape).astype(X.dtype)
            for arm in present:
                seen[:, columns[arm]] = X[:, columns[arm]]
            known[present] = np.asarray(estimator.predict(seen), dtype=np.float64).reshape(-1)
        return known[present]

    total, orders = np.zeros((len(X), len(columns))), _orders(len(columns), seed)
    for order in orders:
        for place, arm in enumerate(order):
            before = frozenset(order[:place])
            total[:, arm] += predicted(before | {arm}) - predicted(before)
    return total / len(orders)


def _orders(arms: int, seed: int) -> list[tuple[int, ...]]:
    """All orders of a few arms; else some drawn at random, each with its reverse, which evens out their errors."""
    if arms <= EXACT:
        return list(itertools.permutations(range(arms)))
    rng = np.random.default_rng(seed)
    drawn = [tuple(rng.permutation(arms).tolist()) for _ in range(min(ROUNDS, math.factorial(arms) // 2))]
    return [*drawn, *(order[::-1] for order in drawn)]
