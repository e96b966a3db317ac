"""FeatureMatrix: the plain arrays that every regressor takes, and checks of its rows before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from drexcache.cache.shown import ShownMatrix
from drexcache.datasets import has_value
from drexcache.errors import DrexcacheError, listed, nearest

NAMED = 5  # images in a message


@dataclass(frozen=True)
class FeatureMatrix(ShownMatrix):
    """The features and ratings of n images; row i of everything belongs to the image ``ids[i]``.

    Attributes
    ----------
    X : float32 (n, d), C-contiguous.
    y : float64 (n,), ratings scaled from the target's range to [0, 1], 1 the most of what is rated (a target whose
        lower ratings mean more is flipped); NaN where an image has no rating.
    ids : (n,) image ids.
    blocks : block name -> its columns of X; together they cover X in order.
    taps : "block/tap" -> its columns of X.
    dataset, target : names of the dataset and of the ratings; low, high : the target's own range, ``declared`` or
        only observed; higher_is : whether a higher rating means "more" or "less".
    fingerprints : block name -> fingerprint.
    hashes : (n,) SHA-256 of each image file, as hex; "dataset/id" if the file was never read.
    labels : column name -> (n,) strings, such as a split ("train"/"test") or a group ("" if unknown).
    noise : variance of the rating errors in y, None if unknown.
    images : the folder, zip or URL of the images at extraction, "" if unknown.

    >>> m = FeatureMatrix(np.ones((2, 3), "f4"), np.array([0.0, 1.0]), ["a", "b"], {"cue": slice(0, 3)})
    >>> m.rows([1]).ids, m.select(["cue"]).X.shape
    (['b'], (2, 3))
    """

    X: np.ndarray
    y: np.ndarray
    ids: Sequence[str]
    blocks: dict[str, slice]
    taps: dict[str, slice] = field(default_factory=dict)
    dataset: str = ""
    target: str = "rating"
    low: float = 0.0
    high: float = 1.0
    higher_is: str = "more"
    declared: bool = True
    fingerprints: dict[str, str] = field(default_factory=dict)
    hashes: Sequence[str] = ()
    labels: dict[str, Sequence[str]] = field(default_factory=dict)
    noise: float | None = None
    images: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: Sequence[int] | np.ndarray) -> FeatureMatrix:
        """The given rows (row numbers, or a boolean mask of n), in that order."""
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        pick = [int(i) for i in index]
        return replace(
            self,
            X=self.X[index],
            y=self.y[index],
            ids=[self.ids[i] for i in pick],
            hashes=[self.hashes[i] for i in pick] if len(self.hashes) else (),
            labels={name: [column[i] for i in pick] for name, column in self.labels.items()},
        )

    def where(self, label: str, value: str) -> FeatureMatrix:
        """The rows whose label has that value, such as ``where("split", "train")``, which also finds "Train set".

        Raises
        ------
        DrexcacheError : no such label, or no row with that value (lists the known ones).
        """
        if label not in self.labels:
            known = nearest(label, self.labels) or "it has none"
            raise DrexcacheError(f"{self.dataset}: no label named {label}; {known}")
        found = np.array(has_value(self.labels[label], value), dtype=bool)
        if not found.any():
            values = ", ".join(sorted(set(self.labels[label])))
            raise DrexcacheError(f"{self.dataset}: no image with {label}={value}; values: {values}")
        return self.rows(found)

    def select(self, names: Sequence[str]) -> FeatureMatrix:
        """Only the given blocks or taps ("block" or "block/tap"); each becomes a block of the result.

        Raises
        ------
        DrexcacheError : an unknown name (lists the known ones).
        """
        known = {**self.taps, **self.blocks}
        names = listed(names, "blocks")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DrexcacheError(f"no block or tap named {', '.join(unknown)}; {nearest(unknown[0], sorted(known))}")
        blocks, start = {}, 0
        for name in names:
            width = known[name].stop - known[name].start
            blocks[name] = slice(start, start + width)
            start += width
        X = np.ascontiguousarray(np.concatenate([self.X[:, known[name]] for name in names], axis=1))
        taps = {
            tap: slice(
                blocks[name].start + cols.start - known[name].start,
                blocks[name].start + cols.stop - known[name].start,
            )
            for name in names
            for tap, cols in self.taps.items()
            if tap.startswith(name + "/") or tap == name
        }
        prints = {name: self.fingerprints.get(name.split("/")[0], "") for name in names}
        return replace(self, X=X, blocks=blocks, taps=taps, fingerprints=prints)

    def raw(self, y: np.ndarray) -> np.ndarray:
        """Convert ratings or predictions on [0, 1] back to the target's own range and direction."""
        y = np.asarray(y, dtype=np.float64)
        return self.low + (self.high - self.low) * (y if self.higher_is == "more" else 1.0 - y)


def rated_rows(matrix: FeatureMatrix, where: str) -> FeatureMatrix:
    """The rows that have a rating (not NaN).

    Raises
    ------
    DrexcacheError : an infinite rating, or a feature that is NaN or infinite (names the first images).

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
    """Raise DrexcacheError about these images with infinite ratings, if there are any; names the first."""
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
