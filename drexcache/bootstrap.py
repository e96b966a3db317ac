"""Bootstrap without a Python loop: metrics of many resamples at once, and the intervals they give.

A resample of n images is a row of n weights: how often each image was drawn. Every metric here takes a whole
matrix of such rows, so that two regressors can be measured on the very same resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from drexcache.errors import DrexcacheError

Floats = NDArray[np.float64]
BLOCK = 2_000_000  # weights held at a time: 16 MB, however many images there are


def resample_weights(n: int, n_boot: int, seed: int = 0, groups: Sequence[str] | None = None) -> Iterator[Floats]:
    """Blocks of weights, (b, n) each, ``n_boot`` rows in all: how often each image was drawn, with replacement.

    With `groups`, (n,) names, whole groups are drawn instead of images (the cluster bootstrap).

    >>> block = next(resample_weights(5, n_boot=3))
    >>> block.shape, block.sum(axis=1)
    ((3, 5), array([5., 5., 5.]))
    """
    rng = np.random.default_rng(seed)
    members = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = int(members.max()) + 1
    if units < 2:
        raise DrexcacheError(f"a bootstrap needs at least 2 {'images' if groups is None else 'groups'}; found {units}")
    rows = max(1, BLOCK // n)
    for start in range(0, n_boot, rows):
        b = min(rows, n_boot - start)
        drawn = rng.integers(units, size=(b, units)) + units * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * units).reshape(b, units)  # (b, units)
        yield counts[:, members].astype(np.float64)  # (b, n)


def resampled(metric: str, rated: Floats, predicted: Floats, weights: Floats) -> Floats:
    """That metric of every resample: weights (b, n) -> (b,), NaN where it is undefined (constant values).

    >>> resampled("mae", np.array([0.0, 1.0]), np.array([0.5, 1.0]), np.array([[1.0, 1.0], [2.0, 0.0]]))
    array([0.25, 0.5 ])
    """
    if metric == "pearson":
        return _pearson(np.broadcast_to(rated, weights.shape), np.broadcast_to(predicted, weights.shape), weights)
    if metric == "spearman":
        return _pearson(_midranks(rated, weights), _midranks(predicted, weights), weights)
    if metric == "kendall":
        return _kendall(rated, predicted, weights)
    loss = image_loss(metric, rated, predicted)
    mean = weights @ loss / weights.sum(axis=1)
    return mean if metric == "mae" else np.sqrt(mean)


def image_loss(metric: str, rated: Floats, predicted: Floats) -> Floats:
    """What each image adds to an error metric: the squared error for "rmse", the absolute one for "mae", "rmae"."""
    error = predicted - rated
    return error**2 if metric == "rmse" else np.abs(error)


def bca_interval(estimate: float, values: Floats, jackknife: Floats, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987, JASA 82, eq. 2.3 and 6.6).

    Parameters
    ----------
    estimate : the metric on the images themselves; values : (n_boot,) of the resamples;
    jackknife : (n,) with one image (or one group) left out at a time.
    """
    values = values[np.isfinite(values)]
    away = jackknife.mean() - jackknife
    spread = (away**2).sum() ** 1.5
    if not len(values) or spread == 0 or values.min() == values.max():
        return estimate, estimate
    below = ((values < estimate).mean() + (values <= estimate).mean()) / 2  # a tie counts half
    bias = stats.norm.ppf(np.clip(below, 0.5 / len(values), 1 - 0.5 / len(values)))
    acceleration = (away**3).sum() / (6 * spread)
    z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(values, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def _pearson(x: Floats, y: Floats, w: Floats) -> Floats:
    """Weighted Pearson's r of every row; x, y, w all (b, n)."""
    total = w.sum(axis=1, keepdims=True)
    dx = x - (w * x).sum(axis=1, keepdims=True) / total
    dy = y - (w * y).sum(axis=1, keepdims=True) / total
    covariance = (w * dx * dy).sum(axis=1)
    xx, yy = (w * dx * dx).sum(axis=1), (w * dy * dy).sum(axis=1)
    flat = (xx <= 1e-20 * (w * x * x).sum(axis=1)) | (yy <= 1e-20 * (w * y * y).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(covariance / np.sqrt(xx * yy), -1.0, 1.0)
    return np.where(flat, np.nan, r)


def _midranks(x: Floats, w: Floats) -> Floats:
    """Mean rank of every image inside every resample, (b, n); an image drawn twice ties with itself."""
    ties, level = _tie_counts(x, w)  # (b, distinct values), (n,)
    return (np.cumsum(ties, axis=1) - (ties - 1) / 2)[:, level]


def _tie_counts(x: Floats, w: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """How many images of each resample share each distinct value of x, and which value each image has."""
    _, level = np.unique(x, return_inverse=True)
    order = np.argsort(level, kind="stable")
    first = np.searchsorted(level[order], np.arange(level.max() + 1))
    return np.add.reduceat(w[:, order], first, axis=1), level


def _kendall(x: Floats, y: Floats, w: Floats) -> Floats:
    """Kendall's tau-b (Kendall 1945) of every resample: sum over pairs of w_i w_j sign_ij, as a matrix product."""
    total = w.sum(axis=1)
    concordance = np.zeros(len(w))
    small = w.astype(np.float32)  # counts are small whole numbers: exact
    for start in range(0, len(x), 1024):  # so that a large n never needs an (n, n) matrix
        part = slice(start, start + 1024)
        signs = np.sign(x[:, None] - x[part]) * np.sign(y[:, None] - y[part])  # (n, 1024)
        concordance += ((small @ signs.astype(np.float32)) * small[:, part]).sum(axis=1, dtype=np.float64) / 2
    pairs = total * (total - 1) / 2
    untied = [pairs - (t * (t - 1) / 2).sum(axis=1) for t in (_tie_counts(x, w)[0], _tie_counts(y, w)[0])]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(untied[0] * untied[1] > 0, concordance / np.sqrt(untied[0] * untied[1]), np.nan)
