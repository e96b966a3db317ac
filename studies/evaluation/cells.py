"""The cells of an evaluation, and the images that each trains and tests on, with no image on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from drexcache.cache import FeatureMatrix, rated_rows
from drexcache.errors import DrexcacheError, listed, nearest, several
from drexcache.metrics import MIN_IMAGES
from drexcache.regressors import joined, refuse_unlike, upside_down
from drexcache.studies.evaluation.copies import Looks, connected, kept_together, on_both_sides
from drexcache.studies.evaluation.folds import hash_folds, split_rows


@dataclass(frozen=True)
class Part:
    """One training: the source's rows to train on and the target's rows to predict (None: all).

    It holds row numbers instead of copies, so that all folds of all repeats fit into memory and can be trained
    together. Parts with the same ``key`` train on the same images.
    """

    source: FeatureMatrix
    target: FeatureMatrix
    rows: NDArray[np.intp] | None = None
    tested: NDArray[np.intp] | None = None
    fold: int = 0
    key: tuple[str, frozenset[str]] | None = None

    @property
    def train(self) -> FeatureMatrix:
        """The rows to train on."""
        return self.source if self.rows is None else self.source.rows(self.rows)

    @property
    def test(self) -> FeatureMatrix:
        """The rows to predict."""
        return self.target if self.tested is None else self.target.rows(self.tested)


@dataclass(frozen=True)
class Cell:
    """One train set and one test set.

    kind : "in-domain" (folds), "split" (the dataset's own train and test), "cross" or "leave-one-out".
    sources : the matrices to train on; empty within a dataset. others : those that every training within a dataset also
    uses whole. split : the column of the dataset's own split. folds : their number. same : (n,) names; images with the
    same name share a fold. found : notes on the images.
    """

    kind: str
    train: str
    test: FeatureMatrix
    sources: tuple[FeatureMatrix, ...] = ()
    others: tuple[FeatureMatrix, ...] = ()
    split: str = ""
    folds: int = 0
    same: Sequence[str] = ()
    found: Sequence[str] = ()

    @property
    def name(self) -> tuple[str, str, str]:
        """kind, train set, test set."""
        return self.kind, self.train, self.test.dataset

    @property
    def trainings(self) -> int:
        """The number of trainings in one repeat."""
        return self.folds if self.kind == "in-domain" else 1

    def parts(self, repeat: int = 0) -> Iterator[Part]:
        """Yield the trainings of one repeat."""
        if self.kind not in ("in-domain", "split"):
            shared = _shared(self.sources, self.test)
            yield Part(joined(self._apart(self.sources), self.train), self.test, key=(self.train, shared))
            return
        source = joined([self.test, *self._apart(self.others)], self.test.dataset)
        more = np.arange(len(self.test), len(source))
        for fold, (train, tested) in enumerate(self._divisions(repeat)):
            rows = np.concatenate([np.flatnonzero(train), more])
            yield Part(source, self.test, rows=rows, tested=np.flatnonzero(tested), fold=fold)

    def _divisions(self, repeat: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Masks (n,) of the dataset's images to train on and to predict, a pair for each training."""
        if self.kind == "split":
            return [split_rows(self.test, self.split)]
        folds = hash_folds(self.test.ids, self.folds, repeat, self.same or self.test.hashes)
        return [(folds != fold, folds == fold) for fold in range(self.folds)]

    def _apart(self, matrices: Sequence[FeatureMatrix]) -> list[FeatureMatrix]:
        """The matrices without the image files that are in the test set, if enough others remain."""
        shared = _shared(matrices, self.test)
        left = [m.rows([h not in shared for h in m.hashes]) if shared & set(m.hashes) else m for m in matrices]
        return [m for m in left if len(m) >= MIN_IMAGES]

    @property
    def too_few(self) -> str:
        """Why the cell cannot be trained (too many training images are in the test set, too), or "" if it can."""
        shared = _shared(self.sources, self.test)
        left = sum(image not in shared for source in self.sources for image in source.hashes or source.ids)
        where = f"{self.train} → {self.test.dataset}"
        why = f"only {several(left, 'image is', 'images are')} left to train on, the others are in the test set too"
        return f"{where}: not scored, {why}" if self.sources and not self._apart(self.sources) else ""

    def check(self, groups: str | None) -> None:
        """Raise DrexcacheError, before the first training, if there are too many folds or no such split or group."""
        if self.kind == "in-domain":
            different = len(set(self.same or self.test.hashes or self.test.ids))
            if not 2 <= self.folds <= different:
                raise DrexcacheError(
                    f"{self.test.dataset}: folds must be 2 to {different} (different images or groups); "
                    f"found {self.folds}"
                )
        if self.kind == "split":
            counts = [int(mask.sum()) for mask in split_rows(self.test, self.split)]
            if min(counts) < MIN_IMAGES:
                raise DrexcacheError(
                    f"{self.test.dataset}: split {self.split} has {several(counts[0], 'rated image')} to train and "
                    f"{counts[1]} to test; each needs at least {MIN_IMAGES}"
                )
        if groups is not None:
            label(self.test, groups)

    def looked_through(self, looks: Looks | None) -> Cell:
        """The cell after a search for near-copies, which share a fold within a dataset and are only noted across."""
        same, found = self.same, list(self.found)
        if self.kind == "in-domain":
            same, more = kept_together(self.test, looks)
            found += more
        if self.kind == "split":
            train, tested = (self.test.rows(mask) for mask in split_rows(self.test, self.split))
            found += on_both_sides([train], tested, f"{self.test.dataset}, split {self.split}", looks)
        if elsewhere := self.sources or self.others:
            origin = self.train if self.sources else ", ".join(one.dataset for one in elsewhere)
            found += on_both_sides(elsewhere, self.test, f"{origin} → {self.test.dataset}", looks)
        return replace(self, same=same, found=found)

    def grouped(self, column: str) -> Cell:
        """The cell with all images of the same value of that label in one fold; images without a value stay single."""
        if self.kind != "in-domain":
            return self
        values = label(self.test, column)
        names = [value or f"/{image}" for value, image in zip(values, self.test.ids, strict=True)]
        same = np.unique(self.same or self.test.hashes or self.test.ids, return_inverse=True)[1]
        codes = np.unique(names, return_inverse=True)[1]
        first = {int(code): int(group) for code, group in zip(codes[::-1], same[::-1], strict=True)}
        whole = connected(same, (same, np.array([first[int(code)] for code in codes])))
        count = several(len(set(whole.tolist())), "group", "groups")
        note = f"{self.test.dataset}: images of one {column} stay in one fold ({count})"
        return replace(self, same=[str(group) for group in whole.tolist()], found=[*self.found, note])

    def notes(self) -> list[str]:
        """Caveats about the cell's scores."""
        involved = {matrix.dataset: matrix for matrix in (*self.sources, self.test)}.values()
        notes = [
            f"{m.dataset}: ratings are put on [0, 1] by the lowest and highest seen ({m.low:g}, {m.high:g}), "
            "not by a declared range, so errors do not carry over to other datasets"
            for m in involved
            if not m.declared
        ]
        return notes + [note for note in (self._leaks(), *self.found, self._left_out(), self._scales()) if note]

    def _leaks(self) -> str:
        """A note on identical image files on both sides, and what was done about them."""
        test = self.test.dataset
        if self.kind == "in-domain":
            copies = len(self.test.hashes) - len(set(self.test.hashes))
            count = several(copies, "image is a copy", "images are copies")
            return f"{test}: {count} of another one, kept in the same fold" if copies else ""
        if self.kind == "split":
            train, tested = (self.test.rows(mask) for mask in split_rows(self.test, self.split))
            shared = _shared([train], tested)
            count = several(len(shared), "image stands", "images stand")
            return f"{test}: {count} in both parts of its split {self.split}" if shared else ""
        shared = _shared(self.sources, self.test)
        count = several(len(shared), "image is in both and WAS", "images are in both and WERE")
        return f"{self.train} → {test}: {count} LEFT OUT OF THE TRAINING" if shared else ""

    def _left_out(self) -> str:
        """A note on images in neither part of the dataset's own split."""
        if self.kind != "split":
            return ""
        train, test = split_rows(self.test, self.split)
        count = several(int((~train & ~test).sum()), "image is", "images are")
        reason = f"neither in the training nor in the test part of split {self.split}, and not used"
        return "" if (train | test).all() else f"{self.test.dataset}: {count} {reason}"

    def _scales(self) -> str:
        """How ratings of several datasets were brought together."""
        scaled = "each dataset's ratings are put on one mean and one spread"
        if self.kind == "leave-one-out":
            return f"{self.train}: the training mixes {len(self.sources)} datasets; {scaled}"
        if not self.others:
            return ""
        names = ", ".join(matrix.dataset for matrix in self.others)
        return (
            f"{self.train}: half of each prediction is of a training on its own images alone, half of one on those and "
            f"all images of {names}, where {scaled}"
        )


def cells_of(
    matrices: Sequence[FeatureMatrix], train: Sequence[str] | None, test: Sequence[str] | None, *,
    others: Sequence[FeatureMatrix], folds: int, split: str | None, leave_one_out: bool,
) -> list[Cell]:  # fmt: skip
    """The cells of an evaluation; those with the same train set are adjacent.

    others : datasets to train on, too, within a dataset.

    Raises
    ------
    DrexcacheError : an unknown dataset, or leave-one-out with fewer than 3 datasets.
    """
    known = {matrix.dataset: matrix for matrix in matrices}
    train, test = listed(train or (), "train"), listed(test or (), "test")
    unknown = [name for name in (*train, *test) if name not in known]
    if unknown:
        raise DrexcacheError(f"no dataset named {', '.join(unknown)}; {nearest(unknown[0], known)}")
    cells = []
    for source in train or known:
        for target in test or known:
            if source != target:
                cells.append(Cell("cross", source, known[target], sources=(known[source],)))
                continue
            more = tuple(matrix for matrix in others if matrix.dataset != target)
            kind = "split" if split else "in-domain"
            cells.append(Cell(kind, source, known[target], others=more, split=split or "", folds=folds))
    if leave_one_out:
        if len(matrices) < 3:
            raise DrexcacheError(f"leaving out one dataset at a time needs at least 3 of them; found {len(matrices)}")
        for target in test or known:
            rest = tuple(matrix for matrix in matrices if matrix.dataset != target)
            cells.append(Cell("leave-one-out", f"all but {target}", known[target], sources=rest))
    mixed = {matrix.dataset: matrix for matrix in (*matrices, *others)} if others or leave_one_out else {}
    strange = upside_down(joined(list(mixed.values()), "all")) if len(mixed) > 1 else []
    return [replace(cell, found=strange) if cell.others or len(cell.sources) > 1 else cell for cell in cells]


def label(matrix: FeatureMatrix, column: str) -> Sequence[str]:
    """The texts (n,) of a label.

    Raises
    ------
    DrexcacheError : no such label (lists the known ones).
    """
    if column not in matrix.labels:
        known = nearest(column, matrix.labels) or "it has no labels"
        raise DrexcacheError(f"{matrix.dataset}: no label named {column}; {known}")
    return matrix.labels[column]


def comparable(matrices: Sequence[FeatureMatrix]) -> list[FeatureMatrix]:
    """The rated rows of the matrices, after checking that they can be compared, with blocks in the same order.

    Raises
    ------
    DrexcacheError : no matrix, two of one dataset, different blocks or fingerprints (says which), features or ratings
        that are not finite (names the images), fewer than 10 rated images, or constant ratings.
    """
    matrices = listed(matrices, "matrices, as cache.matrix() gives them", FeatureMatrix)
    if not matrices:
        raise DrexcacheError("no dataset to evaluate on")
    refuse_unlike(matrices)
    ready = []
    for matrix in matrices:
        rated = rated_rows(matrix, matrix.dataset)
        if len(rated) < MIN_IMAGES:
            raise DrexcacheError(f"{matrix.dataset}: needs at least {MIN_IMAGES} rated images; found {len(rated)}")
        if np.ptp(rated.y) == 0:
            raise DrexcacheError(f"{matrix.dataset}: all {len(rated)} ratings are the same; there is nothing to learn")
        ready.append(
            rated if list(rated.blocks) == list(matrices[0].blocks) else rated.select(list(matrices[0].blocks))
        )
    return ready


def _shared(sources: Sequence[FeatureMatrix], test: FeatureMatrix) -> frozenset[str]:
    """Hashes of the image files that are both in the test set and in a source."""
    return frozenset(test.hashes) & frozenset(image for source in sources for image in source.hashes)
