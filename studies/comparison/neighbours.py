"""Looking at the data: the images most like one, ratings that deserve a second look, and copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drexcache.bootstrap import Floats
from drexcache.cache import FeatureMatrix, rated_rows
from drexcache.datasets import match_names
from drexcache.errors import DrexcacheError, nearest, some
from drexcache.studies.evaluation import evaluate, kept_together

NEIGHBOURS = 10
Rows = NDArray[np.intp]
FAR = 3.0  # standard deviations that a rating is off, by its neighbours and by a regressor that has not seen it


@dataclass(frozen=True)
class Suspect:
    """A rating that deserves a second look, in the target's own range.

    predicted : by a regressor that has not seen the image. around : mean rating of its neighbours, apart by the
    standard deviation ``apart``. neighbours : the nearest three.
    """

    image: str
    rated: float
    predicted: float
    around: float
    apart: float
    neighbours: tuple[str, ...]


def similar(matrix: FeatureMatrix, image: str, count: int = NEIGHBOURS) -> list[tuple[str, float]]:
    """The images most like one, the nearest first, with their cosine similarity (every block counts the same).

    image : an id, or a name that fits exactly one by the rules of ratings.

    Raises
    ------
    DrexcacheError : no such image.

    >>> X = np.array([[1, 0], [0, 1], [0.9, 0.1], [-1, 0]], "f4")
    >>> toy = FeatureMatrix(X, np.zeros(4), ["a.png", "b.png", "c.png", "d.png"], {"cues": slice(0, 2)})
    >>> [name for name, _ in similar(toy, "a", count=2)]
    ['c.png', 'b.png']
    """
    found = np.flatnonzero(match_names(matrix.ids, [image]).row == 0)
    if not len(found):
        hint = f"{nearest(image, matrix.ids, shown=())} there are: {some(matrix.ids)}".lstrip()
        raise DrexcacheError(f"{matrix.dataset}: no image {image}; {hint}")
    unit = directions(matrix)
    likeness = unit @ unit[found[0]]
    order = [at for at in np.argsort(-likeness, kind="stable").tolist() if at != found[0]][:count]
    return [(matrix.ids[at], float(likeness[at])) for at in order]


def directions(matrix: FeatureMatrix) -> Floats:
    """(n, d) rows of length 1 in which every block, its columns standardised, has the same part."""
    parts = []
    for columns in matrix.blocks.values():
        block = matrix.X[:, columns].astype(np.float64)
        block = (block - block.mean(0)) / np.where(block.std(0) > 0, block.std(0), 1)
        parts.append(block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12))
    return np.concatenate(parts, axis=1) / np.sqrt(len(parts))


def nearest_rows(matrix: FeatureMatrix, count: int = NEIGHBOURS) -> Rows:
    """(n, count) rows of the images most like each image, the nearest first, as in `similar`; fewer of few images."""
    from sklearn.neighbors import NearestNeighbors

    unit = directions(matrix)
    return NearestNeighbors(n_neighbors=min(count, len(unit) - 1)).fit(unit).kneighbors(return_distance=False)


def suspects(matrix: FeatureMatrix, regressor: str = "ridge", count: int = 20) -> list[Suspect]:
    """Ratings far from those of similar images, which agree, and from what a regressor expects; the farthest first.

    Both have to say so by three standard deviations, and in the same direction.

    Raises
    ------
    DrexcacheError : as `drexcache.studies.evaluate`.
    """
    matrix = rated_rows(matrix, matrix.dataset)
    _, predictions = evaluate([matrix], [regressor])
    (run,) = predictions.runs
    by_id = dict(zip(run.ids, run.predicted.tolist(), strict=True))
    return suspects_given(matrix, np.array([by_id[image] for image in matrix.ids]), nearest_rows(matrix), count)


def suspects_given(matrix: FeatureMatrix, predicted: Floats, near: Rows, count: int = 20) -> list[Suspect]:
    """The same with known predictions (n,) on [0, 1], each by a regressor that has not seen the image.

    near : from `nearest_rows`.
    """
    around, apart = matrix.y[near].mean(1), matrix.y[near].std(1, ddof=1)
    error, gap = matrix.y - predicted, matrix.y - around
    far = (np.abs(error) > FAR * _usual(error)) & (np.abs(gap) > FAR * np.maximum(_usual(gap), apart))
    rows = np.flatnonzero(far & (np.sign(error) == np.sign(gap)))
    rows = rows[np.argsort(-np.abs(error[rows]), kind="stable")][:count]
    own, scale = matrix.raw, abs(matrix.high - matrix.low)
    return [
        Suspect(
            matrix.ids[row], float(own(matrix.y[row])), float(own(predicted[row])), float(own(around[row])),
            float(scale * apart[row]), tuple(matrix.ids[at] for at in near[row, :3].tolist()),
        )
        for row in rows.tolist()
    ]  # fmt: skip


def _usual(values: Floats) -> float:
    """The standard deviation about 0 of all but the outliers: 1.4826 times the median distance."""
    return 1.4826 * float(np.median(np.abs(values)))


def copies(matrix: FeatureMatrix) -> list[list[str]]:
    """Groups of images that are copies or near-copies of each other, the largest first."""
    same, _ = kept_together(matrix)
    groups: dict[str, list[str]] = {}
    for image, name in zip(matrix.ids, same or matrix.hashes, strict=False):
        groups.setdefault(name, []).append(image)
    return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
