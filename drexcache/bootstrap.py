"""Vectorised bootstrap: metrics of many resamples at once, and their standard error.

A resample of n images is a row of n weights: how often each image was drawn. Every metric here takes a whole
matrix of such rows, so that two regressors can be scored on exactly the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from drexcache.errors import DrexcacheError

Floats = NDArray[np.float64]
WEIGHTS_AT_ONCE = 2_000_000  # weights in memory at a time: 16 MB, however many images there are


def resample_weights(n: int, n_boot: int, seed: int = 0, groups: Sequence[str] | None = None) -> Iterator[Floats]:
    """Yield blocks of weights, (b, n) each and ``n_boot`` rows in all: how often each image was drawn.

    Images are drawn with replacement. With `groups`, (n,) names, whole groups are drawn (the cluster bootstrap).

    >>> block = next(resample_weights(5, n_boot=3))
    >>> block.shape, block.sum(axis=1)
    ((3, 5), array([5., 5., 5.]))
    """
    members = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = int(members.max()) + 1
    if units < 2:
        raise DrexcacheError(f"a bootstrap needs at least 2 {'images' if groups is None else 'groups'}; found {units}")
    rows = max(1, WEIGHTS_AT_ONCE // n)
    for start in range(0, n_boot, rows):
        counts = _drawn(units, min(rows, n_boot - start), seed, start)  # (b, units)
        yield counts[:, members].astype(np.float64)  # (b, n)


@lru_cache(maxsize=16)  # drawing takes ten times as long as scoring, and all metrics use the same draws
def _drawn(units: int, b: int, seed: int, start: int) -> NDArray[np.int16]:
    """How often each unit was drawn in b resamples, (b, units)."""
    drawn = np.random.default_rng((seed, start)).integers(units, size=(b, units))
    flat = np.bincount((drawn + units * np.arange(b)[:, None]).ravel(), minlength=b * units)
    return flat.reshape(b, units).astype(np.int16)


def resampled(metric: str, rated: Floats, predicted: Floats, weights: Floats) -> Floats:
    """The metric of every resample: weights (b, n) -> (b,), NaN where undefined (constant values).

    >>> resampled("mae", np.array([0.0, 1.0]), np.array([0.5, 1.0]), np.array([[1.0, 1.0], [2.0, 0.0]]))
    array([0.25, 0.5 ])
    """
    if metric == "pearson":
        return _pearson(rated, predicted, weights)
    if metric == "spearman":
        return _spearman(rated, predicted, weights)
    if metric == "kendall":
        return _kendall(rated, predicted, weights)
    loss = image_loss(metric, rated, predicted)
    mean = weights @ loss / weights.sum(axis=1)
    return mean if metric == "mae" else np.sqrt(mean)


def image_loss(metric: str, rated: Floats, predicted: Floats) -> Floats:
    """Each image's loss under an error metric: squared error for "rmse", absolute error for the others."""
    error = predicted - rated
    return error**2 if metric == "rmse" else np.abs(error)


def standard_error(values: Floats, units: int) -> float:
    """The standard error of a metric from its values on all resamples, (n_boot,), of so many units (images or groups).

    The bootstrap underestimates the variance by the factor (units - 1) / units (Efron & Tibshirani 1993, An
    Introduction to the Bootstrap), which is corrected here and matters for a few groups. With Student's t, on a scale
    where the metric is nearly symmetric, it gives better coverage than percentiles or BCa: in our simulations of 20
    to 50 images, 93 to 96% instead of 90 to 94%. Non-finite values are left out; fewer than two finite ones give 0.
    """
    values = values[np.isfinite(values)]
    return float(values.std()) * math.sqrt(units / (units - 1)) if len(values) > 1 else 0.0


def _pearson(x: Floats, y: Floats, w: Floats) -> Floats:
    """Pearson's r of every resample, from weighted sums."""
    x, y = x - x.mean(), y - y.mean()  # centred, so that the sums of squares lose no digits
    total = w.sum(axis=1)
    sums = w @ np.stack([x, y, x * x, y * y, x * y], axis=1)  # (b, n) @ (n, 5) -> (b, 5)
    sx, sy, sxx, syy, sxy = sums.T
    xx, yy, xy = sxx - sx * sx / total, syy - sy * sy / total, sxy - sx * sy / total
    flat = (xx <= 1e-12 * sxx) | (yy <= 1e-12 * syy)
    return _correlation(xy, xx, yy, flat)


def _spearman(x: Floats, y: Floats, w: Floats) -> Floats:
    """Spearman's rho of every resample: Pearson's r of the ranks within the resample."""
    rx, ry = _centred_ranks(x, w), _centred_ranks(y, w)
    xy, xx, yy = (np.einsum("bn,bn,bn->b", w, a, b) for a, b in ((rx, ry), (rx, rx), (ry, ry)))
    return _correlation(xy, xx, yy, (xx <= 0) | (yy <= 0))


def _correlation(xy: Floats, xx: Floats, yy: Floats, undefined: NDArray[np.bool_]) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(xy / np.sqrt(xx * yy), -1.0, 1.0)
    return np.where(undefined, np.nan, r)


def _centred_ranks(x: Floats, w: Floats) -> Floats:
    """The rank of every image within every resample minus the mean rank, (b, n); ties share their mean rank."""
    ties, level = _tie_counts(x, w)  # (b, distinct values), (n,)
    ranks = np.cumsum(ties, axis=1) - ties / 2 - w.sum(axis=1, keepdims=True) / 2
    return ranks[:, level]


def _tie_counts(x: Floats, w: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """How many images of each resample have each distinct value of x, and the index of each image's value."""
    _, level = np.unique(x, return_inverse=True)
    order = np.argsort(level, kind="stable")
    first = np.searchsorted(level[order], np.arange(level.max() + 1))
    return np.add.reduceat(w[:, order], first, axis=1), level


def _kendall(x: Floats, y: Floats, w: Floats) -> Floats:
    """Kendall's tau-b of every resample: the sum over pairs of w_i w_j sign_ij is a matrix product."""
    total = w.sum(axis=1)
    concordance = np.zeros(len(w))
    small = w.astype(np.float32)  # exact, because counts are small integers
    for start in range(0, len(x), 1024):  # so that a large n never needs an (n, n) matrix
        part = slice(start, start + 1024)
        signs = np.sign(x[:, None] - x[part]) * np.sign(y[:, None] - y[part])  # (n, 1024)
        concordance += ((small @ signs.astype(np.float32)) * small[:, part]).sum(axis=1, dtype=np.float64) / 2
    pairs = total * (total - 1) / 2
    xx, yy = (pairs - (t * (t - 1) / 2).sum(axis=1) for t in (_tie_counts(x, w)[0], _tie_counts(y, w)[0]))
    return _correlation(concordance, xx, yy, (xx <= 0) | (yy <= 0))
