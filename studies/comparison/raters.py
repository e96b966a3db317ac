"""The ratings of single raters behind a matrix, and fewer of them for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from drexcache.bootstrap import Floats
from drexcache.cache import FeatureMatrix
from drexcache.datasets import NO_COLUMNS, Columns, match_names, read_ratings
from drexcache.errors import DrexcacheError, counted, some

if TYPE_CHECKING:
    from pandas import DataFrame


def with_raters(
    matrix: FeatureMatrix, ratings: str | PathLike[str] | DataFrame, columns: Columns = NO_COLUMNS
) -> tuple[FeatureMatrix, Floats, list[str]]:
    """The images that several raters rated, with the mean of those as rating; (n, raters) ratings; and notes.

    ratings : a table with a column per rater (``Columns(rating="rater_*")``), or a line per rating
    (``Columns(rater="who")``). Ratings are scaled as the matrix's are; NaN where a rater did not rate.

    Raises
    ------
    DrexcacheError : no single raters in the table, ratings that are no numbers, an image in it twice, or no image of
        the matrix in it.
    """
    found = read_ratings(ratings, columns)
    if found.by_rater is None:
        raise DrexcacheError(
            f"{found.source}: expected the ratings of single raters, found one rating an image; name the columns with "
            '--rating-column "rater_*", or the column of raters with --rater-column'
        )
    names = match_names(matrix.ids, found.names)
    problems = [*found.problems, *([f"images in it twice: {counted(names.twice)}"] if names.twice else [])]
    if problems:
        raise DrexcacheError(f"{found.source}: {'; '.join(problems)}; correct the file")
    kept = np.flatnonzero(names.row >= 0)
    kept = kept[np.isfinite(found.by_rater[names.row[kept]]).any(axis=1)]
    if not len(kept):
        raise DrexcacheError(
            f"{found.source}: no image of {matrix.dataset} is rated; rated: {some(found.names)}; images: "
            f"{some(matrix.ids)}"
        )
    unit = (found.by_rater[names.row[kept]] - matrix.low) / (matrix.high - matrix.low)  # (n, raters)
    unit = unit if matrix.higher_is == "more" else 1 - unit
    notes = list(found.notes)
    if left := len(matrix) - len(kept):
        notes.append(f"{found.source}: {left} of the {len(matrix)} images of {matrix.dataset} are not rated, left out")
    return replace(matrix.rows(kept), y=np.nanmean(unit, axis=1)), unit, notes


def fewer_ratings(ratings: Floats, counts: Sequence[int], rng: np.random.Generator) -> Floats:
    """The images' mean ratings with fewer ratings of each: (counts, n). ratings : (n, raters), NaN where missing.

    If all raters rated all images, some of the raters are drawn; otherwise, some of each image's own ratings, all of
    them where it has fewer. Larger draws hold the smaller ones.

    >>> fewer_ratings(np.array([[1.0, 3.0, 8.0]]), [3], np.random.default_rng(0)).tolist()
    [[4.0]]
    """
    missing = np.isnan(ratings)
    keys = rng.random(ratings.shape) if missing.any() else np.broadcast_to(rng.random(ratings.shape[1]), ratings.shape)
    drawn = np.take_along_axis(ratings, np.where(missing, np.inf, keys).argsort(axis=1), axis=1)  # NaN last
    means = np.nancumsum(drawn, axis=1) / np.isfinite(drawn).cumsum(axis=1)  # (n, raters)
    return means[:, np.asarray(counts) - 1].T
