"""The rows of a matrix that a regressor can learn from or be judged by: rated, and all numbers finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drexcache.cache.matrix import FeatureMatrix
from drexcache.errors import DrexcacheError

NAMED = 5


def rated_rows(matrix: FeatureMatrix, where: str) -> FeatureMatrix:
    """The rows that have a rating (NaN stands for none).

    Raises
    ------
    DrexcacheError : an infinite rating, or a feature that is NaN or infinite; names the first images.

    >>> m = FeatureMatrix(np.ones((2, 3), "f4"), np.array([0.5, np.nan]), ["a.png", "b.png"], {"cues": slice(0, 3)})
    >>> rated_rows(m, "art.h5").ids
    ['a.png']
    """
    rated = matrix.rows(~np.isnan(matrix.y))
    infinite = [name for name, value in zip(rated.ids, rated.y, strict=True) if np.isinf(value)]
    refuse_infinite_ratings(infinite, where)
    for block, columns in rated.blocks.items():
        refuse_unusable_features(rated.X[:, columns], rated.ids, block, where)
    return rated


def refuse_infinite_ratings(ids: Sequence[str], where: str) -> None:
    """Raise DrexcacheError if any image has an infinite rating; names the first."""
    if ids:
        raise DrexcacheError(f"{where}: infinite ratings of {_list(ids)}")


def refuse_unusable_features(X: np.ndarray, ids: Sequence[str], block: str, where: str) -> None:
    """Raise DrexcacheError if the features X (n, d) of the n images are not all finite; names the first."""
    finite = np.isfinite(X).all(axis=1)
    if not finite.all():
        bad = [name for name, good in zip(ids, finite, strict=True) if not good]
        raise DrexcacheError(
            f"{where}: NaN or infinite features in block {block} of {_list(bad)}; "
            "extract these images again or leave them out"
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
