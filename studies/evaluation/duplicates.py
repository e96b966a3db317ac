"""Near-duplicates: images that are one picture (cropped, re-encoded, copied), found by their features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import beta

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError

# Inside 3 categories of SAVOIAS (598 images, recipe offline) the cosine between different images reaches 0.73. Of 48 of
# them, re-encoded at JPEG quality 30 all are above 0.93, cropped by 3% above 0.84, mirrored above 0.82, halved in size
# above 0.77 (nine in ten above 0.8), cropped by 10% above 0.72 (most above 0.8); made grey most are not found.
THRESHOLD = 0.8
CHANCE = 0.01  # expected number of pairs of unrelated images above the threshold, where features are few
ROWS = 1024  # rows compared at a time: memory does not grow with their number squared

Pair = tuple[int, int, float]


def near_duplicates(a: FeatureMatrix, b: FeatureMatrix | None = None, threshold: float | None = None) -> list[Pair]:
    """Pairs of images whose standardised features have a cosine of the threshold or more, the most alike first.

    Each is (row of a, row of b, cosine); without b, both are rows of a and the first is the smaller. Columns are
    standardised by the rows of both matrices, so that every feature counts alike. Every pair is compared; nothing
    is approximated. The default threshold is 0.8, or more where so few features would reach that by chance.

    Raises
    ------
    DrexcacheError : matrices with other blocks.

    >>> X = np.random.default_rng(0).normal(size=(6, 50)).astype("f4")
    >>> X[4] = X[1] + 0.01
    >>> near_duplicates(FeatureMatrix(X, np.zeros(6), list("abcdef"), {"cues": slice(0, 50)}))[0][:2]
    (1, 4)
    """
    if b is not None and a.X.shape[1] != b.X.shape[1]:
        raise DrexcacheError(f"{a.dataset} has {a.X.shape[1]} features and {b.dataset} {b.X.shape[1]}: not comparable")
    one, other = _directions(a, b)
    threshold = max(THRESHOLD, _by_chance(one, len(one) * len(other))) if threshold is None else threshold
    pairs: list[Pair] = []
    for start in range(0, len(one), ROWS):
        block = one[start : start + ROWS]
        first = start if b is None else 0  # the other half of a symmetric comparison
        for begin in range(first, len(other), ROWS):
            cosines = np.minimum(block @ other[begin : begin + ROWS].T, 1.0)  # (rows, rows)
            i, j = np.nonzero(cosines >= threshold)
            pairs += zip((i + start).tolist(), (j + begin).tolist(), cosines[i, j].astype(float).tolist(), strict=True)
    if b is None:
        pairs = [pair for pair in pairs if pair[0] < pair[1]]
    return sorted(pairs, key=lambda pair: -pair[2])


def duplicate_groups(matrix: FeatureMatrix, threshold: float | None = None) -> tuple[list[str], list[str]]:
    """(n,) names that copies and near-copies share, for `folds.hash_folds`; and what to know.

    >>> X = np.random.default_rng(0).normal(size=(6, 50)).astype("f4")
    >>> X[4] = X[1] + 0.01
    >>> toy = FeatureMatrix(X, np.zeros(6), list("abcdef"), {"cues": slice(0, 50)}, dataset="toy")
    >>> duplicate_groups(toy)
    (['a', 'b', 'c', 'd', 'b', 'f'], ['toy: nearly the same image, kept in one fold: b and e (cosine 1.000)'])
    """
    pairs = near_duplicates(matrix, threshold=threshold)
    labels = _components(len(matrix), pairs, list(matrix.hashes))
    first = dict(zip(labels.tolist()[::-1], list(matrix.ids)[::-1], strict=True))
    return [first[label] for label in labels.tolist()], _notes(matrix, pairs)


def _directions(a: FeatureMatrix, b: FeatureMatrix | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1 along the standardised features: (n, d) of a and of b (or of a again)."""
    rows = a.X if b is None else np.concatenate([a.X, b.X])
    mean, std = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    varies = std > 1e-6 * np.abs(mean)
    Z = ((rows[:, varies] - mean[varies]) / std[varies]).astype(np.float32)
    Z /= np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12)
    return (Z, Z) if b is None else (Z[: len(a)], Z[len(a) :])


def _by_chance(Z: np.ndarray, comparisons: int) -> float:
    """The cosine that `CHANCE` pairs of unrelated rows are expected to exceed in so many comparisons.

    Between random directions in D dimensions cos^2 is Beta(1/2, (D - 1) / 2) with mean 1/D, which tells the D that
    the rows Z (n, d) of length 1 really fill.
    """
    some = Z[:ROWS]
    cosines = (some @ some.T)[np.triu_indices(len(some), 1)]
    dimensions = 1.0 / max(float(np.mean(np.square(cosines))), 1e-6) if len(cosines) else 1.0
    return min(float(np.sqrt(beta.isf(min(2 * CHANCE / comparisons, 1.0), 0.5, max(dimensions - 1, 0.1) / 2))), 0.9999)


def _components(n: int, pairs: list[Pair], hashes: list[str]) -> NDArray[np.intp]:
    """(n,) numbers of the groups that pairs and equal hashes connect."""
    first: dict[str, int] = {}
    copies = [(row, first.setdefault(file, row)) for row, file in enumerate(hashes)]
    links = np.array([pair[:2] for pair in pairs] + copies, dtype=np.intp).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _notes(matrix: FeatureMatrix, pairs: list[Pair]) -> list[str]:
    if not pairs:
        return []
    shown = ", ".join(f"{matrix.ids[i]} and {matrix.ids[j]} (cosine {cosine:.3f})" for i, j, cosine in pairs[:5])
    more = f", and {len(pairs) - 5} more pairs" if len(pairs) > 5 else ""
    return [f"{matrix.dataset}: nearly the same image, kept in one fold: {shown}{more}"]
