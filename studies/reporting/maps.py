"""A look at the images of a report: a map of them by their features, those most alike, ratings to check, and copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from drexcache.bootstrap import Floats
from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.studies.comparison import Rows, Suspect, copies, directions, nearest_rows, suspects_given
from drexcache.studies.reporting.evidence import Result
from drexcache.studies.reporting.provenance import Provenance

MOST = 20_000  # images to compare with each other
DRAWN = 1_500  # images on a map, evenly chosen among more: t-SNE of them takes seconds
ALIKE = 6  # images shown as the most like one


@dataclass(frozen=True)
class ImageMap:
    """The n images of a dataset by their features, beside the predictions of its best regressor.

    ids : (n,) images. near : (n, k) rows of those most like each, the nearest first. rows : (m,) rows on the map;
    at : (m, 2) where they are on it. suspects : ratings to check, none where no regressor was trained on this dataset.
    copies : groups of copies and near-copies.
    """

    dataset: str
    result: Result
    ids: list[str]
    near: Rows
    rows: Rows
    at: Floats
    suspects: list[Suspect]
    copies: list[list[str]]


def image_maps(results: Sequence[Result], origin: Provenance) -> tuple[list[ImageMap], list[str]]:
    """A map for each dataset whose cache is known; and notes on those left out. results : the first of each counts."""
    best: dict[str, Result] = {}
    for result in results:
        best.setdefault(result.test, result)
    maps, notes = [], []
    for dataset, result in best.items():
        if dataset not in origin.caches:
            continue  # which the provenance says
        if len(result.ids) > MOST:
            notes.append(f"{dataset}: no map of its images; there are more than {MOST:,}")
            continue
        try:
            maps.append(_map(result, _features(origin, result)))
        except DrexcacheError as error:
            notes.append(f"{dataset}: no map of its images: {error}")
    return maps, notes


def _features(origin: Provenance, result: Result) -> FeatureMatrix:
    """The features of the result's images in its order, with the ratings on its scale."""
    cache = origin.caches[result.test]
    matrix = cache.matrix(origin.evaluated.get(result.test), next(iter(cache.targets), None))
    row = {image: at for at, image in enumerate(matrix.ids)}
    if missing := [image for image in result.ids if image not in row]:
        raise DrexcacheError(f"{cache.path} has no features of {len(missing)} images, such as {missing[0]}")
    matrix = matrix.rows([row[image] for image in result.ids])
    return replace(matrix, y=result.rated, low=0.0, high=1.0, higher_is="more")  # its ratings stand as they are


def _map(result: Result, matrix: FeatureMatrix) -> ImageMap:
    near = nearest_rows(matrix)
    rows = np.unique(np.linspace(0, len(matrix) - 1, min(DRAWN, len(matrix))).astype(np.intp))
    return ImageMap(
        result.test, result, list(matrix.ids), near[:, :ALIKE], rows, _places(directions(matrix)[rows]),
        suspects_given(matrix, result.predicted, near) if result.inside else [], copies(matrix),
    )  # fmt: skip


def _places(unit: Floats) -> Floats:
    """(n, 2) places of images, those alike beside each other: t-SNE (van der Maaten & Hinton 2008, JMLR 9)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    with threadpool_limits(1):  # its threads wait in a loop, which on a busy machine takes minutes
        parts = PCA(min(30, *unit.shape), random_state=0).fit_transform(unit)
        places = TSNE(perplexity=min(30.0, (len(unit) - 1) / 3), max_iter=500, random_state=0).fit_transform(parts)
    return np.asarray(places, dtype=np.float64)


def nearest_numbers(maps: Sequence[ImageMap], numbers: dict[tuple[str, str], int]) -> dict[int, list[int]]:
    """The number of each image -> the numbers of those most like it."""
    found: dict[int, list[int]] = {}
    for one in maps:
        own = [numbers[one.dataset, image] for image in one.ids]
        found |= {own[row]: [own[at] for at in near] for row, near in enumerate(one.near.tolist())}
    return found
