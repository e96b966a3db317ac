"""evaluate: train and test within and across datasets, keep every prediction, and compute the scores from them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError, listed
from drexcache.regressors import ChosenSettings, contributions
from drexcache.scores import ScoreTable
from drexcache.studies.evaluation.cells import Cell, Part, cells_of, comparable
from drexcache.studies.evaluation.copies import Files, Looks
from drexcache.studies.evaluation.making import Make, Maker, different_names
from drexcache.studies.evaluation.predictions import Predictions, Run
from drexcache.studies.evaluation.scoring import outside_the_range, score

Progress = Callable[[int, int, str], None]
Fitted = tuple[Any, float]  # an estimator and its training time in seconds
TOGETHER = 32  # fusion heads at a time on a GPU, where that takes little longer than one; limits memory
SMALL = 20_000_000  # values of X below which one thread per training and several folds in parallel are faster


def evaluate(
    matrices: Sequence[FeatureMatrix], regressors: Sequence[str], *, train: Sequence[str] | None = None,
    test: Sequence[str] | None = None, folds: int = 5, repeats: int = 1, seeds: Sequence[int] = (42,),
    split: str | None = None, groups: str | None = None, group_folds: str | None = None, weights: str | None = None,
    leave_one_out: bool = False, others: Sequence[FeatureMatrix] = (), contributions: bool = False,
    near_copies: bool = True,
    pictures: Files | None = None, chosen: Mapping[str, ChosenSettings] | None = None, make: Make | None = None,
    together: int | None = None, progress: Progress | None = None,
) -> tuple[ScoreTable, Predictions]:  # fmt: skip
    """Score regressors within each dataset and for every train -> test pair of datasets.

    In-domain scores are of out-of-fold predictions, pooled over the folds. Folds follow a hash of the image's id and
    are the same for all regressors. Copies and near-copies of an image share a fold. An image whose file is also in the
    test set is left out of a cross-dataset training, and the cell is left out if too few images remain; notes report
    this, and near-copies on both sides. Images without a rating are not used.

    Parameters
    ----------
    matrices : one per dataset, with the same blocks and fingerprints. regressors : names that `make` knows.
    train, test : names of datasets, to compute only these cells. Default: all.
    folds, repeats : k-fold within a dataset, repeated with other folds. seeds : of the regressors.
    split : a column of labels; in-domain scores are then of its "test" images after training on its "train"
        images. Cells across datasets always use all rated images of both.
    groups : a column of labels; also score each of its values separately.
    group_folds : a column of labels; all images of one value share a fold.
    weights : a column of labels with a positive number per image, such as how many people rated it: the weight of the
        image in training, for regressors that take weights.
    leave_one_out : also train on all datasets but one and test on that one.
    others : datasets, some of ``matrices`` or none, that every training within a dataset also uses whole, see
        `drexcache.regressors.PooledRegressor`.
    contributions : also compute what each block adds to each prediction, see `drexcache.regressors.contributions`.
    near_copies : look for near-copies (see `copies`) by the features of these matrices.
    pictures : (dataset, image) -> its file, so that pixels decide what is a near-copy. Default: the files as they were
        at extraction; if those are gone, features alone decide.
    chosen : for names among the regressors that stand for the result of a search, its settings and blocks.
    make : (name, matrix, seed) -> unfitted estimator; default `drexcache.regressors.named.make_regressor`.
    together : number of trainings (folds, repeats, seeds) to do together, for regressors that can, such as fusion
        heads; default: many on a GPU, else 1.
    progress : called with (trainings done, total trainings, what comes next).

    Raises
    ------
    DrexcacheError : matrices that cannot be compared, unknown names, fewer than 10 rated images, more folds than
        images, or a training that fails or predicts values that are not finite.

    >>> from sklearn.linear_model import Ridge
    >>> X = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    >>> ids, blocks = [f"{i}.png" for i in range(40)], {"cues": slice(0, 3)}
    >>> toy = FeatureMatrix(X, X[:, 0] / 8 + 0.5, ids, blocks, dataset="toy")
    >>> scores, predictions = evaluate([toy], ["ridge"], make=lambda name, matrix, seed: Ridge())
    >>> round(scores.select(metric="pearson").rows[0].value, 2), len(predictions.runs[0].ids)
    (1.0, 40)
    """
    regressors, seeds = different_names(regressors), listed(seeds, "seeds", (int, np.integer))
    if not seeds or len(set(seeds)) < len(seeds) or repeats < 1:
        raise DrexcacheError(f"needs one or more different seeds and repeats >= 1; found {list(seeds)} and {repeats}")
    matrices = listed(matrices, "matrices, as cache.matrix() gives them", FeatureMatrix)
    # compared with each other once, even if a matrix is also among the others
    everything = [*matrices, *(matrix for matrix in others if not any(matrix is one for one in matrices))]
    ready = dict(zip(map(id, everything), comparable(everything), strict=True))
    cells = cells_of(
        [ready[id(matrix)] for matrix in matrices], train, test, others=[ready[id(matrix)] for matrix in others],
        folds=folds, split=split, leave_one_out=leave_one_out,
    )  # fmt: skip
    left_out = [reason for cell in cells if (reason := cell.too_few)]
    cells = [cell for cell in cells if not cell.too_few]
    if not cells:
        raise DrexcacheError(f"nothing to evaluate: {'; '.join(left_out)}")
    looks = Looks.of([cell.test for cell in cells] + [one for cell in cells for one in cell.sources], pictures)
    cells = [cell.looked_through(looks) for cell in cells] if near_copies else cells
    cells = [cell.grouped(group_folds) for cell in cells] if group_folds else cells
    for cell in cells:
        cell.check(groups)
    trainer = _Trainer(Maker(make, chosen or {}, weights), regressors, seeds, together, progress, contributions)
    trainer.total = sum(cell.trainings * _repeats(cell, repeats) for cell in cells) * len(regressors) * len(seeds)
    predictions = Predictions()
    for cell in cells:
        predictions.runs += trainer.runs(cell, _repeats(cell, repeats), groups)
    notes: dict[tuple, list[str]] = {cell.name: [*cell.notes(), *left_out] for cell in cells}
    for cell in cells:
        for name in regressors:
            own = predictions.of(cell.name, name)
            notes[(name, *cell.name)] = outside_the_range(own, cell.test)
    return score(predictions, notes, {cell.test.dataset: cell.test.noise for cell in cells}), predictions


@dataclass(frozen=True)
class _Job:
    """One training. ``key``: equal for trainings with the same result; () if the result is not shared."""

    name: str
    seed: int
    repeat: int
    part: Part

    @property
    def key(self) -> tuple:
        return (*self.part.key, self.name, self.seed) if self.part.key else ()

    def label(self, cell: Cell) -> str:
        """The training, for messages."""
        return f"{self.name} (seed {self.seed}), {cell.train} → {cell.test.dataset}"


@dataclass(frozen=True)
class _Piece:
    """The predictions of one training: values (n,) and, by arm, attention weights and contributions (n,)."""

    test: FeatureMatrix
    fold: int
    predicted: np.ndarray
    attention: dict[str, np.ndarray]
    contributions: dict[str, np.ndarray]
    seconds: float


class _Trainer:
    """Fits every regressor with every seed on each train set, once for all its test sets."""

    def __init__(
        self, maker: Maker, regressors: Sequence[str], seeds: Sequence[int], together: int | None,
        progress: Progress | None, contributions: bool,
    ) -> None:  # fmt: skip
        self.maker, self.regressors, self.seeds = maker, regressors, seeds
        self.together, self.progress, self.contributions = together, progress, contributions
        self.done = self.total = 0
        self.kept: dict[tuple, Fitted] = {}  # of the current train set only

    def runs(self, cell: Cell, repeats: int, groups: str | None) -> list[Run]:
        """Train and predict one cell; returns one run per repeat, regressor and seed."""
        parts = [(repeat, part) for repeat in range(repeats) for part in cell.parts(repeat)]
        pieces: dict[tuple[int, str, int], list[_Piece]] = {
            who: [] for who in product(range(repeats), self.regressors, self.seeds)
        }
        for name in self.regressors:
            jobs = [_Job(name, seed, repeat, part) for repeat, part in parts for seed in self.seeds]
            for job, fitted in self._trained(jobs, cell):
                pieces[job.repeat, name, job.seed].append(self._piece(job, fitted, job.label(cell)))
        return [_run(cell, *who, own, groups) for who, own in pieces.items()]

    def _trained(self, jobs: Sequence[_Job], cell: Cell) -> Iterator[tuple[_Job, Fitted]]:
        """Yield every job with its fitted estimator."""
        batches = self._batches([job for job in jobs if not job.key or job.key not in self.kept], cell)
        ready: list[Fitted] = []
        for job in jobs:
            if self.progress and not ready:
                self.progress(self.done, self.total, job.label(cell))
            kept = self.kept.get(job.key)
            ready = ready or ([kept] if kept else next(batches))
            found, *ready = ready
            if job.key:  # other cells with the same train set will need it again; earlier train sets are done
                self.kept = {key: one for key, one in self.kept.items() if key[0] == job.key[0]} | {job.key: found}
            self.done += 1
            yield job, found

    def _batches(self, jobs: Sequence[_Job], cell: Cell) -> Iterator[list[Fitted]]:
        """Yield fitted batches: many in one training if the regressor can, else one by one, small ones in parallel."""
        if not jobs:
            return
        source = self.maker.features(jobs[0].name, jobs[0].part.source)
        with _one_sentence(jobs[0].label(cell)):
            first = self.maker.estimator(jobs[0].name, _rows(source, jobs[0].part), jobs[0].seed)
        unfitted = [first, *[None] * (len(jobs) - 1)]
        if hasattr(first, "fit_many"):
            size = self.together or (TOGETHER if _has_gpu() else 1)
            for start in range(0, len(jobs), size):
                yield self._fit_many(jobs[start : start + size], unfitted[start], source, cell)
            return

        def fit(job: _Job, estimator: Any) -> list[Fitted]:
            return [self._fit(job, estimator, source, job.label(cell))]

        if source.X.size > SMALL:
            yield from map(fit, jobs, unfitted)
        else:
            with threadpool_limits(1), ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
                yield from pool.map(fit, jobs, unfitted)

    def _fit(self, job: _Job, estimator: Any, source: FeatureMatrix, label: str) -> Fitted:
        train = _rows(source, job.part)
        started = time.perf_counter()
        with _one_sentence(label):
            estimator = self.maker.estimator(job.name, train, job.seed) if estimator is None else estimator
            estimator.fit(train.X, train.y, **self.maker.options(job.name, estimator, train))
        return estimator, time.perf_counter() - started

    def _fit_many(self, jobs: Sequence[_Job], first: Any, source: FeatureMatrix, cell: Cell) -> list[Fitted]:
        label = jobs[0].label(cell)
        if len(jobs) == 1:
            return [self._fit(jobs[0], first, source, label)]
        started = time.perf_counter()
        with _one_sentence(label):
            heads = [first] if first is not None else []
            for job in jobs[len(heads) :]:
                heads.append(self.maker.estimator(job.name, _rows(source, job.part), job.seed))
            options = self.maker.options(jobs[0].name, heads[0], source)
            fitted = heads[0].fit_many(heads, source.X, source.y, [job.part.rows for job in jobs], **options)
        seconds = (time.perf_counter() - started) / len(fitted)
        return [(estimator, seconds) for estimator in fitted]

    def _piece(self, job: _Job, fitted: Fitted, label: str) -> _Piece:
        """The fitted estimator's predictions for the job's test rows."""
        estimator, seconds = fitted
        test = self.maker.features(job.name, job.part.test)
        predicted, attention = _predict(estimator, test.X, label)
        by_arm: dict[str, np.ndarray] = {}
        if self.contributions:
            by_arm = dict(zip(test.blocks, contributions(estimator, test.X, test.blocks).T, strict=True))
        return _Piece(replace(test, X=test.X[:0]), job.part.fold, predicted, attention, by_arm, seconds)


def _rows(source: FeatureMatrix, part: Part) -> FeatureMatrix:
    return source if part.rows is None else source.rows(part.rows)


@contextmanager
def _one_sentence(label: str) -> Iterator[None]:
    """A context that turns a ValueError of training into DrexcacheError with one sentence."""
    try:
        yield
    except ValueError as error:
        raise DrexcacheError(f"{label}: the training failed: {str(error).splitlines()[0]}") from error


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _predict(estimator: Any, X: np.ndarray, label: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predictions (n,) and, if the regressor has them, attention weights by arm."""
    predicted = np.asarray(estimator.predict(X), dtype=np.float64).reshape(-1)
    if len(predicted) != len(X) or not np.isfinite(predicted).all():
        raise DrexcacheError(f"{label}: predicted values that are not {len(X)} finite numbers")
    if not hasattr(estimator, "attention"):
        return predicted, {}
    weights = np.asarray(estimator.attention(X), dtype=np.float64)  # (n, n_arms)
    return predicted, dict(zip(estimator.arms_, weights.T, strict=True))


def _run(cell: Cell, repeat: int, name: str, seed: int, pieces: Sequence[_Piece], groups: str | None) -> Run:
    """The pieces of all folds as one run of a regressor with a seed."""
    tests = [piece.test for piece in pieces]
    folds = [np.full(len(piece.test), piece.fold, dtype=np.intp) for piece in pieces]
    kind, train, tested = cell.name
    return Run(
        regressor=name, kind=kind, train=train, test=tested, seed=seed, repeat=repeat, target=cell.test.target,
        ids=[image for test in tests for image in test.ids],
        fold=np.concatenate(folds),
        rated=np.concatenate([test.y for test in tests]),
        predicted=np.concatenate([piece.predicted for piece in pieces]),
        group=[group for test in tests for group in test.labels[groups]] if groups else (),
        attention=_all(piece.attention for piece in pieces),
        contributions=_all(piece.contributions for piece in pieces),
        seconds=sum(piece.seconds for piece in pieces),
    )  # fmt: skip


def _all(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The values by arm of all pieces, one after another."""
    first, *rest = parts
    return {arm: np.concatenate([first[arm], *(part[arm] for part in rest)]) for arm in first}


def _repeats(cell: Cell, repeats: int) -> int:
    """The number of repeats, which is 1 for anything but k-fold."""
    return repeats if cell.kind == "in-domain" else 1
