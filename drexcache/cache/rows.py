"""CachedRows: rows of a cache whose features stay on disk until they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drexcache.cache.format import DONE
from drexcache.cache.matrix import refuse_infinite_ratings, refuse_unusable_features
from drexcache.cache.reader import FeatureCache
from drexcache.datasets import has_value
from drexcache.errors import DrexcacheError, listed, nearest

READ_ROWS = 512  # per read
GAP = 4  # up to so many rows in between are cheaper to read than to skip


@dataclass(frozen=True)
class CachedRows:
    """Rows of a cache as a regressor sees them, made by `rated_rows_of` or `featured_rows_of`.

    Attributes
    ----------
    cache : where the features are. places : (n,) their row numbers in the cache, ascending. y : float64 (n,) on
        [0, 1], NaN where there is no rating.
    blocks : block or "block/tap" name -> its columns; together they cover the d columns in order.
    target : the ratings' name, "" if none were requested.

    Can be read from several threads.
    """

    cache: FeatureCache
    places: np.ndarray
    y: np.ndarray
    blocks: dict[str, slice]
    target: str

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)"""
        return len(self), max(columns.stop for columns in self.blocks.values())

    def rows(self, index: np.ndarray) -> CachedRows:
        """The given rows (ascending row numbers, or a boolean mask of n)."""
        return replace(self, places=self.places[index], y=self.y[index])

    def read(self, index: np.ndarray) -> np.ndarray:
        """Read the features float32 (m, d) of the rows ``index`` (m,), ascending.

        Raises
        ------
        DrexcacheError : a feature is NaN or infinite (names the first images).
        """
        out = np.empty((len(index), self.shape[1]), np.float32)
        done = 0
        for places in _runs(self.places[index]):
            self._read(places, out[done : done + len(places)])
            done += len(places)
        return out

    def pieces(self, index: np.ndarray | None = None, size: int = READ_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield features (m, d) and ratings (m,) of all rows, or of ascending ``index``, ``size`` rows at a time."""
        index = np.arange(len(self)) if index is None else index
        for start in range(0, len(index), size):
            some = index[start : start + size]
            yield self.read(some), self.y[some]

    def _read(self, places: np.ndarray, out: np.ndarray) -> None:
        """Fill out (m, d) with nearby rows of the cache, with one read per block, however many taps."""
        span, wanted = slice(int(places[0]), int(places[-1]) + 1), places - places[0]
        stored: dict[str, np.ndarray] = {}
        for name, columns in self.blocks.items():
            block, _, tap = name.partition("/")
            if block not in stored:
                stored[block] = self.cache.features(block, span)
            values = stored[block] if len(wanted) == span.stop - span.start else stored[block][wanted]
            values = values[:, self.cache.blocks[block].taps[tap]] if tap else values
            if values.dtype == np.float16:
                import torch  # converts 8 times as fast; a prediction of images reads float32, and need not wait for it

                torch.from_numpy(out[:, columns]).copy_(torch.from_numpy(values))
            else:
                out[:, columns] = values
            if not np.isfinite(out[:, columns]).all():
                ids = [self.cache.ids[place] for place in places.tolist()]
                refuse_unusable_features(out[:, columns], ids, name, str(self.cache.path))


def rated_rows_of(
    cache: FeatureCache, columns: Sequence[str] = (), target: str | None = None, split: tuple[str, str] | None = None
) -> CachedRows:
    """The rows of a cache that have a rating and all the blocks; reads no features.

    columns : block or "block/tap" names; default: all blocks. target : name of the ratings; default: the only ones.
    split : label and value that the rows must have, such as ("split", "train").

    Raises
    ------
    DrexcacheError : an unknown block, tap, target, label or value, no target at all, or infinite ratings.
    """
    blocks, done = _chosen(cache, columns)
    rated = cache.target(target)
    if rated is None:
        raise DrexcacheError(f"{cache.path}: it holds no ratings to train on; add them with drexcache cache rate")
    y = rated.unit()
    wanted = done & ~np.isnan(y)
    if split is not None:
        wanted &= _labelled(cache, *split)
    places = np.flatnonzero(wanted)
    infinite = np.isinf(y[places])
    if infinite.any():
        refuse_infinite_ratings([cache.ids[place] for place in places[infinite].tolist()], str(cache.path))
    return CachedRows(cache, places, y[places], blocks, rated.name)


def featured_rows_of(cache: FeatureCache, columns: Sequence[str] = ()) -> CachedRows:
    """The rows of a cache that have all the blocks, rated or not; reads no features.

    columns : block or "block/tap" names; default: all blocks.

    Raises
    ------
    DrexcacheError : an unknown block or tap, or no image that has all the blocks.
    """
    blocks, done = _chosen(cache, columns)
    places = np.flatnonzero(done)
    if not len(places):
        raise DrexcacheError(f"{cache.path}: no image has features in {', '.join(blocks)}")
    return CachedRows(cache, places, np.full(len(places), np.nan), blocks, "")


def _chosen(cache: FeatureCache, columns: Sequence[str]) -> tuple[dict[str, slice], np.ndarray]:
    """The columns of each block or tap, and bool (n,): whether an image has all the blocks."""
    blocks, end = {}, 0
    for name in listed(columns or cache.blocks, "blocks"):
        blocks[name] = slice(end, end := end + _width(cache, name))
    done = np.ones(len(cache.ids), bool)
    for block in {name.partition("/")[0] for name in blocks}:
        done &= cache.status(block) == DONE
    return blocks, done


def _width(cache: FeatureCache, name: str) -> int:
    block, _, tap = name.partition("/")
    known = {**cache.blocks, **{f"{b}/{t}": None for b, stored in cache.blocks.items() for t in stored.taps}}
    if name not in known:
        raise DrexcacheError(f"{cache.path}: no block or tap named {name}; {nearest(name, sorted(known))}")
    if not tap:
        return cache.blocks[block].dim
    columns = cache.blocks[block].taps[tap]
    return columns.stop - columns.start


def _labelled(cache: FeatureCache, label: str, value: str) -> np.ndarray:
    """Whether each image's label has that value, in the sense of `FeatureMatrix.where`: bool (n,)."""
    if label not in cache.labels:
        raise DrexcacheError(f"{cache.path}: no label named {label}; {nearest(label, cache.labels) or 'it has none'}")
    found = np.array(has_value(cache.labels[label], value), dtype=bool)
    if not found.any():
        values = ", ".join(sorted(set(cache.labels[label])))
        raise DrexcacheError(f"{cache.path}: no image with {label}={value}; values: {values}")
    return found


def _runs(places: np.ndarray) -> Iterator[np.ndarray]:
    """Split ascending row numbers into pieces that are worth one read each.

    >>> [run.tolist() for run in _runs(np.array([0, 1, 4, 90, 91]))]
    [[0, 1, 4], [90, 91]]
    """
    for run in np.split(places, np.flatnonzero(np.diff(places) > GAP) + 1):
        for start in range(0, len(run), READ_ROWS):
            yield run[start : start + READ_ROWS]
