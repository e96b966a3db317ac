"""Which image is trained on and which is scored: folds and halves by hash, or a dataset's own split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError


def hash_folds(ids: Sequence[str], k: int, seed: int = 0, same: Sequence[str] = ()) -> NDArray[np.intp]:
    """The fold, 0..k-1, of each of the n images: (n,) ints.

    Images are ranked by the SHA-256 of "seed:id" and dealt out in turn, so that the order of the images does
    not matter and folds differ in size by one image at most. (The hash modulo k would not even depend on
    which other images there are, but it leaves folds of very different sizes: 5 folds of 100 images easily
    hold 12 to 28.)

    Parameters
    ----------
    ids : unique ids of the images. seed : another seed is another, independent division.
    same : (n,) hashes of the image files; images with the same hash are one image and go to the same fold.

    Raises
    ------
    DrexcacheError : fewer than 2 folds, or more folds than different images.

    >>> hash_folds(["a", "b", "c", "d"], 2).tolist(), hash_folds(["d", "c", "b", "a"], 2).tolist()
    ([1, 1, 0, 0], [0, 0, 1, 1])
    """
    # the smallest id stands for all images with the same bytes
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
    """Masks (n,) of the images that the dataset's own split calls "train" and "test".

    Raises
    ------
    DrexcacheError : no such column, or no image called "train" or "test"; the message lists what there is.
    """
    if column not in matrix.labels:
        known = ", ".join(matrix.labels) or "none"
        raise DrexcacheError(f"{matrix.dataset}: no column {column!r} to split by; its columns: {known}")
    labels = np.asarray(matrix.labels[column], dtype=str)
    train, test = labels == "train", labels == "test"
    if not train.any() or not test.any():
        found = ", ".join(repr(str(label)) for label in np.unique(labels)[:5])
        raise DrexcacheError(f"{matrix.dataset}: column {column!r} must say 'train' and 'test'; it says {found}")
    return train, test
