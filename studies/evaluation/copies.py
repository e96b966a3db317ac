"""Finding copies of a picture in different files: suggested by features, confirmed by pixels.

The cosine over all features suggests a pair but proves nothing: the most similar pairs among a few thousand photographs
are often two beaches, which a network finds alike by their content. So every tap must agree, from the first stages,
which see edges and colours, to the last; and if the pictures can be read, their pixels decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import betainccinv

from drexcache.cache import FeatureMatrix
from drexcache.datasets import ImageFile, UnreadableImage, decode_rgb, is_url, read_images
from drexcache.errors import DrexcacheError, several, warnings_about

# In 3 categories of SAVOIAS (598 images, recipe offline) the cosine between different images reaches 0.73. For altered
# copies of 48 of them it is above 0.93 after re-encoding at JPEG quality 30, above 0.84 cropped by 3%, above 0.82
# mirrored, above 0.77 at half size (nine in ten above 0.8) and above 0.72 cropped by 10% (most above 0.8); most grey
# copies are not found.
THRESHOLD = 0.8
PART = 0.4  # the cosine that every tap must also reach
PART_COLUMNS = 16  # a narrower tap is not checked by itself
SUGGESTED = 0.6  # the cosine above which pixels are compared
SAME_LOOK = 0.95  # none of 162,000 pairs in SAVOIAS is above 0.94; most of 30 distortions of ten photographs are
CHANCE = 0.01  # expected number of pairs of unrelated images above the threshold, if there are few features
ROWS = 1024  # rows compared at a time, so that memory grows with the images and not with their pairs
FEW_PICTURES = 20  # with fewer different pictures, chance cannot be estimated
FEW_COLUMNS = 64  # with fewer, different pictures look alike, so that only equal features count, ...
MIN_COLUMNS = 8  # ... and with even fewer, features are not compared: a single column has only two directions
EQUAL = 0.9999  # up to rounding
MAX_PAIRS = 20_000**2  # comparing more would take longer than many trainings
PAIRS_NAMED = 3

Rows = NDArray[np.intp]
Matches = tuple[Rows, Rows, NDArray[np.float32]]  # rows of a, rows of b, their cosines
Files = Mapping[tuple[str, str], ImageFile]  # (dataset, image) -> its picture


class Looks:
    """Pictures as small grey views, which identify copies whatever their size, colours or encoding.

    The whole picture and its middle 95, 90 and 80% are compared, as they are and mirrored, regardless of brightness and
    contrast. A file is used only if it is still the one that was extracted.
    """

    def __init__(self, files: Files, hashes: Mapping[tuple[str, str], str] | None = None) -> None:
        self.files, self.hashes = files, hashes or {}
        self.views: dict[tuple[str, str], NDArray[np.float32] | None] = {}

    @classmethod
    def of(cls, matrices: Sequence[FeatureMatrix], files: Files | None = None) -> Looks | None:
        """The pictures in ``files``, by default where they were at extraction; None if there are none."""
        found = dict(files or {})
        for matrix in matrices if files is None else ():
            if matrix.images and Path(matrix.images).is_dir():  # not listed: a file may name any folder, such as /
                found |= {(matrix.dataset, image): ImageFile(f"{matrix.images}/{image}") for image in matrix.ids}
            elif matrix.images and not is_url(matrix.images) and Path(matrix.images).exists():
                with suppress(DrexcacheError):  # if it is no longer a file of images
                    table = read_images(matrix.images, False)
                    found |= {(matrix.dataset, image): file for image, file in zip(table.ids, table.files, strict=True)}
        hashes = {(m.dataset, image): own for m in matrices for image, own in zip(m.ids, m.hashes, strict=False)}
        return cls(found, hashes) if found else None

    def same(self, one: tuple[str, str], other: tuple[str, str]) -> bool | None:
        """Whether two (dataset, image) are the same picture; None if one of them cannot be read."""
        a, b = self._views(one), self._views(other)
        return None if a is None or b is None else bool(max((b @ a[0]).max(), (a @ b[0]).max()) >= SAME_LOOK)

    def _views(self, key: tuple[str, str]) -> NDArray[np.float32] | None:
        if key not in self.views:
            try:
                data = self.files[key].read()
                unchanged = self.hashes.get(key) in (None, hashlib.sha256(data).hexdigest())
                with warnings_about(key[1]):
                    self.views[key] = _views(decode_rgb(data).convert("L")) if unchanged else None
            except (KeyError, OSError, UnreadableImage):
                self.views[key] = None
        return self.views[key]


def _views(picture: Image.Image, side: int = 24) -> NDArray[np.float32]:
    """The views of a picture, (8, side * side), each with mean 0 and length 1; the first is the whole picture."""
    width, height = picture.size
    views = []
    for cut in (0.0, 0.025, 0.05, 0.1):  # of each edge
        box = (cut * width, cut * height, (1 - cut) * width, (1 - cut) * height)
        view = np.asarray(picture.resize((side, side), Image.Resampling.BOX, box=box), dtype=np.float32)
        view = view - view.mean()
        view /= max(float(np.linalg.norm(view)), 1e-6)
        views += [view.ravel(), view[:, ::-1].ravel()]
    return np.array(views)


class _Directions:
    """Standardised features scaled to length 1, Z (n, d), and the length of each part of every row."""

    def __init__(self, Z: NDArray[np.float32], parts: Sequence[slice]) -> None:
        self.Z, self.parts = Z, parts
        self.lengths = [np.maximum(np.linalg.norm(Z[:, part], axis=1), 1e-12) for part in parts]

    def agree(self, i: Rows, other: _Directions, j: Rows) -> NDArray[np.bool_]:
        """Whether every part of rows i is similar to that of the other's rows j: bool, like i."""
        agree = np.ones(len(i), dtype=bool)
        for part, mine, theirs in zip(self.parts, self.lengths, other.lengths, strict=True):
            for start in range(0, len(i), ROWS):
                at = slice(start, start + ROWS)
                dots = np.einsum("nd,nd->n", self.Z[i[at], part], other.Z[j[at], part])
                agree[at] &= dots >= PART * mine[i[at]] * theirs[j[at]]
        return agree


def near_copies(
    a: FeatureMatrix, b: FeatureMatrix | None = None, threshold: float | None = None, looks: Looks | None = None
) -> Iterator[Matches]:
    """Yield pairs of images that show the same picture, a block of rows at a time, by comparing all pairs exactly.

    A pair is a row of a and a row of b; without b, both are rows of a, the smaller first. The cosine of all columns,
    standardised over both matrices, must reach the threshold (0.8; more if so few features could reach that by chance;
    equality with fewer than 64 columns), and the cosine of every tap 0.4. If ``looks`` has both pictures, a cosine of
    0.6 is enough for their pixels to be compared, which then decide.

    Raises
    ------
    DrexcacheError : the matrices have different numbers of features.

    >>> X = np.random.default_rng(0).normal(size=(6, 80)).astype("f4")
    >>> X[4] = X[1] + 0.01
    >>> toy = FeatureMatrix(X, np.zeros(6), list("abcdef"), {"cues": slice(0, 80)})
    >>> [(i.tolist(), j.tolist()) for i, j, _ in near_copies(toy)]
    [([1], [4])]
    """
    if b is not None and a.X.shape[1] != b.X.shape[1]:
        raise DrexcacheError(f"{a.dataset} has {a.X.shape[1]} features and {b.dataset} {b.X.shape[1]}: not comparable")
    one, other = _directions(a, b)
    n, m = len(one.Z), len(other.Z)
    if threshold is None:
        threshold = max(THRESHOLD, _by_chance(one.Z, n * m)) if a.X.shape[1] >= FEW_COLUMNS else EQUAL
    for start in range(0, n, ROWS):
        for begin in range(start if b is None else 0, m, ROWS):
            cosines = np.minimum(one.Z[start : start + ROWS] @ other.Z[begin : begin + ROWS].T, 1.0)  # (rows, rows)
            i, j = np.nonzero(cosines >= (min(SUGGESTED, threshold) if looks else threshold))
            alike, i, j = cosines[i, j], i + start, j + begin
            same = (alike >= threshold) & one.agree(i, other, j)
            if b is None:
                same &= i < j
            if looks:
                for at, (row, column) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
                    seen = looks.same((a.dataset, a.ids[row]), ((b or a).dataset, (b or a).ids[column]))
                    same[at] = same[at] if seen is None else seen and (b is not None or row < column)
            if same.any():
                yield i[same], j[same], alike[same]


def kept_together(matrix: FeatureMatrix, looks: Looks | None = None) -> tuple[list[str], list[str]]:
    """Names (n,) that copies and near-copies of an image share, so that they share a fold; and notes on them.

    With fewer than 8 features only exact copies of a file are found.

    >>> X = np.random.default_rng(0).normal(size=(6, 80)).astype("f4")
    >>> X[4] = X[1] + 0.01
    >>> toy = FeatureMatrix(X, np.zeros(6), list("abcdef"), {"cues": slice(0, 80)}, dataset="toy")
    >>> kept_together(toy)[0]
    ['a', 'b', 'c', 'd', 'b', 'f']
    """
    files = list(matrix.hashes or matrix.ids)
    if matrix.X.shape[1] < MIN_COLUMNS:
        return files, []
    if len(matrix) ** 2 > MAX_PAIRS:
        return files, [_unseen(matrix.dataset)]
    looks = looks or Looks.of([matrix])
    file = np.unique(files, return_inverse=True)[1]
    group, best = file, _Best(len(matrix))
    for i, j, alike in near_copies(matrix, looks=looks):
        group = connected(group, (group[i], group[j]))
        other = file[i] != file[j]
        best.take(i[other], j[other], alike[other])
        best.take(j[other], i[other], alike[other])
    found = best.by_strength(group)
    names = dict(zip(group.tolist()[::-1], list(matrix.ids)[::-1], strict=True))  # a group's first image
    listed = [f"{matrix.ids[i]} and {matrix.ids[j]} (cosine {cosine:.3f})" for i, j, cosine in found[:PAIRS_NAMED]]
    count = several(len(found), "group of near-copies is", "groups of near-copies are")
    note = f"{matrix.dataset}: {count} kept in the same fold: "
    return [names[one] for one in group.tolist()], [note + _listed(listed, len(found))] if found else []


def on_both_sides(
    sources: Sequence[FeatureMatrix], test: FeatureMatrix, where: str, looks: Looks | None = None
) -> list[str]:
    """A note if images of the test set have near-copies among the training images.

    Copies with the same bytes are left to the caller. Near-copies stay in the training set: pictures that look the same
    to a backbone may still be different, and only someone who knows them can tell.
    """
    if test.X.shape[1] < MIN_COLUMNS:
        return []
    if sum(len(source) for source in sources) * len(test) > MAX_PAIRS:
        return [_unseen(where)]
    looks = looks or Looks.of([*sources, test])
    found: dict[int, tuple[float, str]] = {}
    for source in sources:
        best = _Best(len(test))
        for i, j, alike in near_copies(source, test, looks=looks):
            other = np.array([source.hashes[a] != test.hashes[b] for a, b in zip(i, j, strict=True)], dtype=bool)
            kept = other if len(source.hashes) and len(test.hashes) else slice(None)
            best.take(j[kept], i[kept], alike[kept])
        for tested, trained, cosine in best.by_strength(np.arange(len(test))):
            if cosine > found.get(tested, (0.0, ""))[0]:
                found[tested] = cosine, f"{source.ids[trained]} and {test.ids[tested]} (cosine {cosine:.3f})"
    pairs = [pair for _, pair in sorted(found.values(), reverse=True)]
    count = several(len(pairs), "tested image has", "tested images have")
    note = f"{where}: {count} a near-copy in the training, so that the score may be too high: "
    return [note + _listed(pairs[:PAIRS_NAMED], len(pairs))] if pairs else []


def connected(group: Rows, links: tuple[Rows, Rows]) -> Rows:
    """Group numbers (n,) after merging the linked groups.

    >>> connected(np.array([0, 1, 2, 3]), (np.array([0]), np.array([3]))).tolist()
    [0, 1, 2, 0]
    """
    size = int(group.max()) + 1 if len(group) else 0
    graph = coo_array((np.ones(len(links[0])), links), shape=(size, size))
    return connected_components(graph, directed=False)[1][group].astype(np.intp)


class _Best:
    """The strongest match of each row, using memory proportional to the rows."""

    def __init__(self, n: int) -> None:
        self.cosine, self.partner = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.intp)

    def take(self, rows: Rows, partners: Rows, alike: NDArray[np.float32]) -> None:
        order = np.argsort(alike, kind="stable")  # so that the strongest of several matches of a row is written last
        stronger = order[alike[order] > self.cosine[rows[order]]]
        self.cosine[rows[stronger]], self.partner[rows[stronger]] = alike[stronger], partners[stronger]

    def by_strength(self, group: Rows) -> list[tuple[int, int, float]]:
        """Row, partner and cosine of the strongest match of each group, strongest first."""
        found: dict[int, tuple[int, int, float]] = {}
        for row in np.argsort(-self.cosine, kind="stable").tolist():
            if self.cosine[row] > 0:
                found.setdefault(int(group[row]), (row, int(self.partner[row]), float(self.cosine[row])))
        return list(found.values())


def _directions(a: FeatureMatrix, b: FeatureMatrix | None) -> tuple[_Directions, _Directions]:
    """The rows of a and of b (or of a again), standardised over both."""
    rows = a.X if b is None else np.concatenate([a.X, b.X])
    mean, std = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    std[std <= 1e-6 * np.abs(mean)] = np.inf  # ignores constant columns
    Z = ((rows - mean) / std).astype(np.float32)
    Z /= np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12)
    parts = [columns for columns in _parts(a) if columns.stop - columns.start >= PART_COLUMNS]
    if b is None:
        both = _Directions(Z, parts)
        return both, both
    return _Directions(Z[: len(a)], parts), _Directions(Z[len(a) :], parts)


def _parts(matrix: FeatureMatrix) -> list[slice]:
    """The columns of each tap, and of each block without taps."""
    tapped = {tap.split("/")[0] for tap in matrix.taps}
    return [*matrix.taps.values(), *(columns for name, columns in matrix.blocks.items() if name not in tapped)]


def _by_chance(Z: NDArray[np.float32], comparisons: int) -> float:
    """The cosine that `CHANCE` pairs of unrelated rows are expected to exceed in so many comparisons.

    Between random directions in D dimensions cos^2 is Beta(1/2, (D - 1) / 2) with mean 1/D, which gives the effective
    number of dimensions D of the rows Z (n, d) of length 1. Copies would make D seem smaller, so it is estimated from
    rows that all differ; with too few of them the result is 0.
    """
    some = Z[np.linspace(0, len(Z) - 1, min(len(Z), ROWS)).astype(int)]
    cosines, different = some @ some.T, list[int]()
    for row in range(len(some)):
        if not (cosines[row, different] >= THRESHOLD).any():
            different.append(row)
    if len(different) < FEW_PICTURES:
        return 0.0
    among = cosines[np.ix_(different, different)][np.triu_indices(len(different), 1)]
    dimensions = 1.0 / max(float(np.mean(np.square(among))), 1e-6)
    rare = min(2 * CHANCE / comparisons, 1.0)
    return min(float(np.sqrt(betainccinv(0.5, max(dimensions - 1, 0.1) / 2, rare))), 0.9999)


def _listed(pairs: Sequence[str], count: int) -> str:
    return ", ".join(pairs) + (", ..." if count > len(pairs) else "")


def _unseen(where: str) -> str:
    return f"{where}: near-duplicates were not looked for among so many images"
