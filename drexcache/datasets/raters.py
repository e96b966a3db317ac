"""How far raters agree, which limits how well their mean rating can be predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from drexcache.datasets.numerals import Floats
from drexcache.errors import several
from drexcache.metrics import MIN_IMAGES

SPLITS = 200


def split_half(ratings: Floats) -> float | None:
    """The reliability of the mean of all raters, from 0 to 1, or None if unknown. ratings : (n, raters).

    The raters are split into two halves at random, 200 times; r is the mean correlation between the halves'
    mean ratings, and the Spearman-Brown formula (1910, Br. J. Psychol. 3, 271-295 and 296-322) gives the
    reliability of k raters from that of halves of m: f r / (1 + (f - 1) r), f = k / m. If the number is odd, one
    rater is left out of each split. If not every rater rated every image, each image's own ratings are split
    instead, and k and m are means over the images; images with a single rating are left out.

    >>> truth, rng = np.arange(200.0), np.random.default_rng(0)
    >>> noise = rng.normal(scale=truth.std() * 2, size=(200, 12))  # reliability 12 / (12 + 4)
    >>> round(split_half(truth[:, None] + noise), 2)
    0.74
    """
    counts = np.isfinite(ratings).sum(1)
    ratings, counts = ratings[counts >= 2], counts[counts >= 2]
    if len(ratings) < MIN_IMAGES:
        return None
    halves = _halves_of_raters(ratings) if np.isfinite(ratings).all() else _halves_of_each(ratings, counts)
    found = [np.corrcoef(one, other)[0, 1] for one, other in halves if np.ptp(one) > 0 and np.ptp(other) > 0]
    if not found:
        return None
    r, f = float(np.mean(found)), float(counts.mean() / (counts // 2).mean())
    return f * r / (1 + (f - 1) * r) if r > 0 else 0.0


def centred(ratings: Floats) -> Floats:
    """The ratings (n, raters) moved so that every rater has the mean of all of them.

    Some people give higher ratings than others; where not all rated all, that would tell images apart.

    >>> centred(np.array([[1.0, 3.0], [2.0, 4.0]]))
    array([[2., 2.], [3., 3.]])
    """
    return ratings - np.nanmean(ratings, axis=0) + np.nanmean(ratings)


def described(table: Floats) -> str:
    """A phrase on how many raters a table (n, raters) has."""
    counts = np.isfinite(table).sum(1)
    each = f"{counts.min()} to {counts.max()} for each image" if counts.min() < table.shape[1] else "all rated all"
    return f"split halves of {several(table.shape[1], 'rater')}, {each}"


def _halves_of_raters(ratings: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Yield the mean ratings (n,) of one half of the raters and of the other, SPLITS times."""
    rng, raters = np.random.default_rng(0), ratings.shape[1]
    for _ in range(SPLITS):
        order = rng.permutation(raters)
        one, other = order[: raters // 2], order[raters // 2 : raters // 2 * 2]
        yield ratings[:, one].mean(1), ratings[:, other].mean(1)


def _halves_of_each(ratings: Floats, counts: NDArray[np.intp]) -> Iterator[tuple[Floats, Floats]]:
    """The same if raters rated only some images: each image's own ratings are split."""
    # packed to the left, so that 500 raters with 20 ratings per image take only 20 columns
    packed = np.argsort(np.isnan(ratings), axis=1, kind="stable")[:, : counts.max()]
    ratings = np.take_along_axis(ratings, packed, axis=1)
    rng, half = np.random.default_rng(0), (counts // 2)[:, None]
    for _ in range(SPLITS):
        keys = np.where(np.isnan(ratings), np.inf, rng.random(ratings.shape))
        rank = keys.argsort(axis=1).argsort(axis=1)
        one = np.where(rank < half, ratings, 0).sum(1, keepdims=True) / half
        other = np.where((rank >= half) & (rank < 2 * half), ratings, 0).sum(1, keepdims=True) / half
        yield one[:, 0], other[:, 0]


def from_errors(values: Floats, errors: Floats) -> float | None:
    """The reliability of ratings (n,) with standard errors (n,): the share of their variance that is not error.

    1 - mean(error^2) / variance, the definition of classical test theory (Lord & Novick 1968, chapter 3).

    >>> from_errors(np.arange(10.0), np.full(10, np.var(np.arange(10.0), ddof=1) ** 0.5 / 2))
    0.75
    """
    both = np.isfinite(values) & np.isfinite(errors)
    if both.sum() < MIN_IMAGES or np.ptp(values[both]) == 0:
        return None
    return max(0.0, float(1 - (errors[both] ** 2).mean() / np.var(values[both], ddof=1)))


def ceiling(reliability: float) -> float:
    """The highest Pearson's r that predictions can be expected to reach with ratings of that reliability.

    Rating errors cannot be predicted from an image, so r is at most the square root of the reliability (Spearman
    1904, Am. J. Psychol. 15, 72-101).

    >>> ceiling(0.81)
    0.9
    """
    return math.sqrt(reliability)
