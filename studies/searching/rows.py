"""Which rows of a cache a search may see."""

from __future__ import annotations

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.studies.evaluation import split_rows

ALL = "none"


def training_rows(matrix: FeatureMatrix, split: str | None, where: str) -> FeatureMatrix:
    """The images that the column ``split`` calls "train", in a matrix of their own; all of them for "none".

    Raises
    ------
    DrexcacheError : no column is named although there is one that tells training from test images, so that what
        is chosen would be chosen on the test images too.

    >>> import numpy as np
    >>> matrix = FeatureMatrix(
    ...     np.ones((2, 1), "f4"), np.zeros(2), ["a", "b"], {"cue": slice(0, 1)}, labels={"split": ["train", "test"]}
    ... )
    >>> training_rows(matrix, "split", "art.h5").ids
    ['a']
    """
    if split == ALL:
        return matrix
    if split is None:
        for column, labels in matrix.labels.items():
            if {"train", "test"} <= set(labels):
                raise DrexcacheError(
                    f"{where}: column {column!r} tells training from test images; give --split {column} to search on "
                    f"the training images, or --split {ALL} to use all"
                )
        return matrix
    return matrix.rows(split_rows(matrix, split)[0])
