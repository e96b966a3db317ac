"""Significance of a difference: tests of two correlations or two errors, Holm's correction, and images needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from drexcache.bootstrap import Floats

ALPHA, POWER = 0.05, 0.8
MOST_IMAGES = 1_000_000  # an estimate above this says nothing useful


def t_p(t: ArrayLike, degrees: float) -> Floats:
    """Two-sided p of Student's t.

    >>> round(float(t_p(2.0, 10)), 4)
    0.0734
    """
    return 2 * special.stdtr(degrees, -np.abs(t))


def paired_t_p(first: Floats, second: Floats) -> float:
    """p of the paired t test of two losses of the same images, (n,) each, which do not differ by a constant.

    >>> round(paired_t_p(np.array([1.0, 2.0, 4.0]), np.array([0.0, 2.0, 2.0])), 4)
    0.2254
    """
    differences = first - second
    n = len(differences)
    return float(t_p(differences.mean() / differences.std(ddof=1) * math.sqrt(n), n - 1))


def williams_p(r1: ArrayLike, r2: ArrayLike, r12: ArrayLike, n: int) -> Floats:
    """Two-sided p of Williams' T2 for r1 = r2, Student's t with n - 3 degrees of freedom.

    r1, r2 are the correlations of two regressors with the ratings, r12 that of the two predictions with each other, n
    is the number of images. Williams (1959, J. R. Stat. Soc. B 21, 396-399), in the form that Steiger (1980,
    Psychological Bulletin 87, 245-251) recommends; the example is Steiger's. Accurate for normal values; on ranks and
    with uneven or heavy-tailed errors it rejects too often (in our simulations 7 to 9% and more instead of 5%).
    Identical correlations give 1.

    >>> float(williams_p(0.5, 0.4, 0.1, 103).round(3))
    0.375
    """
    r1, r2, r12 = (np.asarray(r, dtype=np.float64) for r in (r1, r2, r12))
    determinant = 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12
    under = 2 * (n - 1) / (n - 3) * np.maximum(determinant, 0) + ((r1 + r2) / 2) ** 2 * (1 - r12) ** 3
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (r1 - r2) * np.sqrt((n - 1) * (1 + r12) / under)
    return np.where(r1 == r2, 1.0, t_p(t, n - 3))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number so that the chance of any false alarm stays below the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    stepped = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected.tolist()


def images_needed(p: float, n: int, comparisons: int) -> int | None:
    """The number of images needed to find a difference of the observed size with 80% probability; None above a million.

    >>> images_needed(0.2, n=200, comparisons=1)
    960
    """
    z = -special.ndtri(p / 2)
    if z == 0:
        return None
    exact = n * ((special.ndtri(POWER) - special.ndtri(ALPHA / comparisons / 2)) / z) ** 2
    return int(round(exact, 1 - math.floor(math.log10(exact)))) if exact <= MOST_IMAGES else None
