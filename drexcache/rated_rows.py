"""The rows of a matrix that a regressor can learn from or be judged by: rated, and all numbers finite."""

from __future__ import annotations

import numpy as np

from drexcache.errors import DrexcacheError
from drexcache.matrix import FeatureMatrix

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
    if infinite:
        raise DrexcacheError(f"{where}: infinite ratings of {_list(infinite)}")
    for block, columns in rated.blocks.items():
        finite = np.isfinite(rated.X[:, columns]).all(axis=1)
        if not finite.all():
            bad = [name for name, good in zip(rated.ids, finite, strict=True) if not good]
            raise DrexcacheError(
                f"{where}: NaN or infinite features in block {block} of {_list(bad)}; "
                "extract these images again or leave them out"
            )
    return rated


def _list(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
