"""Dividing images into training and test: folds and halves by hash, or a dataset's own split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drexcache.cache import FeatureMatrix
from drexcache.datasets import SPELLINGS, split_part
from drexcache.errors import DrexcacheError, nearest


def hash_folds(ids: Sequence[str], k: int, seed: int = 0, same: Sequence[str] = ()) -> NDArray[np.intp]:
    """The fold, 0..k-1, of each of the n images: (n,) ints.

    Images are ranked by the SHA-256 of "seed:id" and dealt out in turn, so that their order does not matter and fold
    sizes differ by at most one image. (The hash modulo k would also be independent of the other images, but its folds
    would differ in size: 5 folds of 100 images easily have 12 to 28.)

    Parameters
    ----------
    ids : unique ids of the images. seed : another seed gives another, independent division.
    same : (n,) hashes of the image files; images with the same hash count as one and go to the same fold.

    Raises
    ------
    DrexcacheError : fewer than 2 folds, or more folds than different images.

    >>> hash_folds(["a", "b", "c", "d"], 2).tolist(), hash_folds(["d", "c", "b", "a"], 2).tolist()
    ([1, 1, 0, 0], [0, 0, 1, 1])
    """
    # the smallest id represents all images with the same hash
    first: dict[str, str] = {}
    for image, file in zip(ids, same or ids, strict=True):
        first[file] = min(image, first.get(file, image))
    units = sorted(first.values(), key=lambda image: hashlib.sha256(f"{seed}:{image}".encode()).digest())
    if not 2 <= k <= len(units):
        raise DrexcacheError(
            f"the number of folds must be 2 to {len(units)}, the number of different images; found {k}"
        )
    fold = {image: rank % k for rank, image in enumerate(units)}
    return np.array([fold[first[file]] for file in (same or ids)], dtype=np.intp)


def split_rows(matrix: FeatureMatrix, column: str = "split") -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks (n,) of the training and test images of the dataset's own split; see `split_parts`.

    Raises
    ------
    DrexcacheError : no such column, no training or test images, or an unknown text.
    """
    parts = split_parts(matrix, column)
    if not parts["train"].any() or not parts["test"].any():
        found = _some(matrix.labels[column])
        raise DrexcacheError(f"{matrix.dataset}: column {column!r} must say 'train' and 'test'; it says {found}")
    return parts["train"], parts["test"]


def split_parts(matrix: FeatureMatrix, column: str) -> dict[str, NDArray[np.bool_]]:
    """Masks (n,) of the images that a column calls "train", "validation" and "test", in any usual spelling.

    Case does not matter, nor does "set" at the end; an empty text belongs to no part.

    Raises
    ------
    DrexcacheError : no such column, or a text that is none of these (lists the unknown ones).

    >>> labels = {"set": ["Train", "TEST", "val", "training set"]}
    >>> toy = FeatureMatrix(np.zeros((4, 1), "f4"), np.zeros(4), list("abcd"), {"x": slice(0, 1)}, labels=labels)
    >>> {part: mask.tolist() for part, mask in split_parts(toy, "set").items() if part != "validation"}
    {'train': [True, False, False, True], 'test': [False, True, False, False]}
    """
    if column not in matrix.labels:
        known = nearest(column, matrix.labels) or "it has no labels"
        raise DrexcacheError(f"{matrix.dataset}: no label named {column} to split by; {known}")
    parts = [split_part(text) for text in matrix.labels[column]]
    strange = [text for text, part in zip(matrix.labels[column], parts, strict=True) if part is None]
    if strange:
        raise DrexcacheError(
            f"{matrix.dataset}: column {column!r} must say 'train', 'test' or 'validation'; it says {_some(strange)}"
        )
    return {part: np.array([found == part for found in parts], dtype=bool) for part in SPELLINGS}


def splitting_column(matrix: FeatureMatrix) -> str | None:
    """The column that tells training images from others, or None if there is none.

    This is any column that names a training part and another part, or the column "split" whatever its values, because
    it holds a dataset's official split.
    """
    for column, labels in matrix.labels.items():
        parts = {split_part(text) for text in labels}
        if "train" in parts and parts & {"test", "validation"}:
            return column
        if column == "split" and parts - {""} not in (set(), {"train"}):
            return column
    return None


def _some(labels: Sequence[str]) -> str:
    return ", ".join(repr(text) for text in sorted(set(map(str, labels)))[:5])
