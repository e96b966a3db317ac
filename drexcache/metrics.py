"""How well predictions agree with ratings: six metrics and their confidence intervals.

Every metric takes ``rated`` and ``predicted``, both (n,) floats, and returns None where it is undefined (a
correlation with constant values), never NaN. Fewer than 3 images, or a value that is not finite, raises
DrexcacheError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from drexcache.bootstrap import Floats, image_loss, resample_weights, resampled, standard_error
from drexcache.errors import DrexcacheError

MIN_IMAGES = 10  # fewer tell next to nothing about a correlation
CORRELATIONS = ("pearson", "spearman", "kendall")


def pearson(rated: ArrayLike, predicted: ArrayLike) -> float | None:
    """Pearson's r (PLCC), signed: a flipped scale shows as a negative number.

    >>> round(pearson([0, 1, 2], [5, 3, 1]), 6)
    -1.0
    >>> pearson([0, 1, 2], [5, 5, 5]) is None
    True
    """
    return _correlation(lambda a, b: np.corrcoef(a, b)[0, 1], rated, predicted)


def spearman(rated: ArrayLike, predicted: ArrayLike) -> float | None:
    """Spearman's rho (SRCC), signed: Pearson's r of the ranks, where ties share their mean rank."""
    from scipy import stats  # SciPy takes longer to import than all the rest

    return _correlation(lambda a, b: stats.spearmanr(a, b).statistic, rated, predicted)


def kendall(rated: ArrayLike, predicted: ArrayLike) -> float | None:
    """Kendall's tau-b (KRCC), signed: concordant minus discordant pairs, corrected for ties."""
    from scipy import stats

    return _correlation(lambda a, b: stats.kendalltau(a, b).statistic, rated, predicted)


def rmse(rated: ArrayLike, predicted: ArrayLike) -> float:
    """Root mean squared error, in the unit of the ratings.

    >>> rmse([0, 0, 0, 0], [1, 1, 1, 1])
    1.0
    """
    return math.sqrt(_mean_loss("rmse", rated, predicted))


def mae(rated: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute error, in the unit of the ratings."""
    return _mean_loss("mae", rated, predicted)


def rmae(rated: ArrayLike, predicted: ArrayLike) -> float:
    """Root of the mean absolute error, which the DReX paper (arXiv 2511.16991) reports as "RMAE"."""
    return math.sqrt(_mean_loss("rmae", rated, predicted))


METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float | None]] = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
    "rmse": rmse,
    "mae": mae,
    "rmae": rmae,
}


def higher_is_better(metric: str) -> bool:
    """Whether a higher value is better: True for the correlations, False for the errors."""
    return metric in CORRELATIONS


def checked(rated: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    """Both arrays as float64 (n,).

    Raises
    ------
    DrexcacheError : the lengths differ, there are fewer than 3 images, or a value is not finite.
    """
    rated, predicted = (np.asarray(values, dtype=np.float64) for values in (rated, predicted))
    if rated.ndim != 1 or rated.shape != predicted.shape:
        raise DrexcacheError(f"a metric needs a prediction per rating; found shapes {rated.shape}, {predicted.shape}")
    if len(rated) < 3:
        raise DrexcacheError(f"a metric needs at least 3 images; found {len(rated)}")
    for name, values in (("rating", rated), ("prediction", predicted)):
        if not np.isfinite(values).all():
            raise DrexcacheError(f"{name}s that are not finite: {(~np.isfinite(values)).sum()} of {len(values)}")
    return rated, predicted


def interval(
    metric: str,
    rated: ArrayLike,
    predicted: ArrayLike,
    *,
    level: float = 0.95,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    n_boot: int = 2000,
) -> tuple[float | None, float | None]:
    """The metric's confidence interval (low, high), or (None, None) if the metric is undefined.

    Correlations: Fisher's z, exact for bivariate normal values and rather wide for evenly spread ratings.
    Errors: the bootstrap over images, on the logarithmic scale. With `groups`, (n,) names of clusters of images
    (at least 2, better 20): the bootstrap over whole groups for every metric, on the atanh scale for correlations
    and the logarithmic scale for errors.

    >>> low, high = interval("pearson", [0, 1, 2, 3, 4], [0, 1, 2, 4, 3])
    >>> round(low, 3), round(high, 3)
    (0.086, 0.993)
    """
    from scipy import special

    rated, predicted = checked(rated, predicted)
    value = METRICS[metric](rated, predicted)
    if value is None:
        return None, None
    if groups is None and metric in CORRELATIONS:
        return fisher_interval(metric, value, len(rated), level)
    blocks = resample_weights(len(rated), n_boot, seed, groups)
    values = np.concatenate([resampled(metric, rated, predicted, weights) for weights in blocks])
    units = len(rated) if groups is None else len(set(groups))
    scale, back = (np.arctanh, np.tanh) if metric in CORRELATIONS else (np.log, np.exp)
    with np.errstate(divide="ignore"):
        centre, values = scale(value), scale(values)
    if not np.isfinite(centre):
        return value, value  # perfect on every image, and so on every resample
    reach = special.stdtrit(units - 1, (1 + level) / 2) * standard_error(values, units)
    return float(back(centre - reach)), float(back(centre + reach))


def fisher_interval(metric: str, r: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a correlation, tanh(atanh(r) -+ z * s), where s^2 is the variance of atanh(r):

    "pearson": 1 / (n - 3) (Fisher 1921, Metron 1);
    "spearman": (1 + r^2 / 2) / (n - 3) (Bonett & Wright 2000, Psychometrika 65, 23-28);
    "kendall": 0.437 / (n - 4) (Fieller, Hartley & Pearson 1957, Biometrika 44, 470-481).

    With too few images for the formula it is (-1, 1).

    >>> [round(limit, 4) for limit in fisher_interval("pearson", 0.958, 2880)]
    [0.9549, 0.9609]
    """
    from scipy import special

    spare = n - (4 if metric == "kendall" else 3)
    if spare <= 0:
        return -1.0, 1.0
    variance = {"pearson": 1.0, "spearman": 1 + r * r / 2, "kendall": 0.437}[metric] / spare
    reach = special.ndtri((1 + level) / 2) * math.sqrt(variance)
    with np.errstate(divide="ignore"):
        z = np.arctanh(r)
    return float(np.tanh(z - reach)), float(np.tanh(z + reach))


def _correlation(function: Callable, rated: ArrayLike, predicted: ArrayLike) -> float | None:
    rated, predicted = checked(rated, predicted)
    if any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in (rated, predicted)):
        return None
    return float(function(rated, predicted))


def _mean_loss(metric: str, rated: ArrayLike, predicted: ArrayLike) -> float:
    return float(image_loss(metric, *checked(rated, predicted)).mean())
