"""What each arm contributes to a prediction, for any regressor: Shapley values over arms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

EXACT = 4  # up to so many arms the values are computed from all subsets
SAMPLED = 16  # with more arms, orders to sample; each is used together with its reverse


def contributions(
    estimator: Any, X: np.ndarray, blocks: Mapping[str, slice], mean: np.ndarray | None = None, *, seed: int = 0
) -> np.ndarray:
    """How much each arm moves each prediction away from that of the mean image: (n, n_arms), in the prediction's units.

    These are Shapley values (1953): what an arm adds, averaged over all orders in which arms can be added, or over 32
    random orders if there are more than 4 arms. An arm not yet added has its mean values. A row's values add up to its
    prediction minus the mean image's. They explain what the regressor does, not whether it is right.

    Parameters
    ----------
    estimator : fitted, with ``predict``. X : (n, d). blocks : name -> columns of X, in the order of the result.
    mean : (d,) values for an arm not yet added; default: the mean of X. seed : of the random orders.

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
        """Predictions (n,) with the other arms at their mean."""
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
    """All orders of a few arms; of many, some random ones, each with its reverse, which reduces the variance."""
    if arms <= EXACT:
        return list(itertools.permutations(range(arms)))
    rng = np.random.default_rng(seed)
    drawn = [tuple(rng.permutation(arms).tolist()) for _ in range(min(SAMPLED, math.factorial(arms) // 2))]
    return [*drawn, *(order[::-1] for order in drawn)]
