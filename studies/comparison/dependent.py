"""Two correlations with the same ratings, of the same images: is one larger? The normal-theory answers.

Notation: r1, r2 are the correlations of two regressors with the ratings, r12 that of the two predictions with
each other, n the number of images. All functions take numbers or arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from drexcache.bootstrap import Floats


def williams_p(r1: ArrayLike, r2: ArrayLike, r12: ArrayLike, n: int) -> Floats:
    """Two-sided p of Williams' T2 for r1 = r2, Student's t with n - 3 degrees of freedom.

    Williams (1959, J. R. Stat. Soc. B 21, 396-399), in the form that Steiger (1980, Psychological Bulletin
    87, 245-251) recommends; the example is Steiger's. Exact enough for normal values; with uneven or
    heavy-tailed errors it finds too much (in our simulations 7 to 9% and more instead of 5%), and so it does
    on ranks. Predictions that are the same give 1.

    >>> float(williams_p(0.5, 0.4, 0.1, 103).round(3))
    0.375
    """
    r1, r2, r12 = (np.asarray(r, dtype=np.float64) for r in (r1, r2, r12))
    determinant = 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12
    under = 2 * (n - 1) / (n - 3) * np.maximum(determinant, 0) + ((r1 + r2) / 2) ** 2 * (1 - r12) ** 3
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (r1 - r2) * np.sqrt((n - 1) * (1 + r12) / under)
    return np.where(r1 == r2, 1.0, 2 * stats.t.sf(np.abs(t), n - 3))


def zou_interval(
    r1: ArrayLike, r2: ArrayLike, r12: ArrayLike, limits1: ArrayLike, limits2: ArrayLike
) -> tuple[Floats, Floats]:
    """Interval (low, high) of r1 - r2 from the intervals of each, for overlapping correlations.

    Zou (2007, Psychological Methods 12, 399-413); the example is Zou's.

    limits1, limits2 : (low, high) of r1 and of r2, such as `drexcache.metrics.fisher_interval` gives.

    >>> from drexcache.metrics import fisher_interval
    >>> limits = [fisher_interval("pearson", r, 66) for r in (0.396, 0.179)]
    >>> [float(limit.round(3)) for limit in zou_interval(0.396, 0.179, 0.088, *limits)]
    [-0.093, 0.517]
    """
    r1, r2, r12 = (np.asarray(r, dtype=np.float64) for r in (r1, r2, r12))
    (l1, u1), (l2, u2) = np.asarray(limits1), np.asarray(limits2)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = ((r12 - r1 * r2 / 2) * (1 - r1**2 - r2**2 - r12**2) + r12**3) / ((1 - r1**2) * (1 - r2**2))
    c = np.where(np.isfinite(c), np.clip(c, -1, 1), 0.0)
    low = np.sqrt(np.maximum((r1 - l1) ** 2 + (u2 - r2) ** 2 - 2 * c * (r1 - l1) * (u2 - r2), 0))
    high = np.sqrt(np.maximum((u1 - r1) ** 2 + (r2 - l2) ** 2 - 2 * c * (u1 - r1) * (r2 - l2), 0))
    return r1 - r2 - low, r1 - r2 + high
