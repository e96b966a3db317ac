"""evaluate: train and test inside and across datasets; every prediction is kept, and the scores come from
them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import has_fit_parameter

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.scores import ScoreTable
from drexcache.studies.evaluation.cells import DATASET, Cell, Part, comparable, plan
from drexcache.studies.evaluation.predictions import Predictions, Run
from drexcache.studies.evaluation.scoring import score

Make = Callable[[str, FeatureMatrix, int], Any]
Progress = Callable[[int, int, str], None]
Fitted = tuple[Any, float]  # an estimator and the seconds its training took
TOGETHER = 32  # fusion heads at once on a GPU, where that takes little longer than one: a bound on memory


def evaluate(
    matrices: Sequence[FeatureMatrix], regressors: Sequence[str], *, train: Sequence[str] | None = None,
    test: Sequence[str] | None = None, folds: int = 5, repeats: int = 1, seeds: Sequence[int] = (42,),
    split: str | None = None, groups: str | None = None, leave_one_out: bool = False, near_copies: bool = True,
    make: Make | None = None, together: int | None = None, progress: Progress | None = None,
) -> tuple[ScoreTable, Predictions]:  # fmt: skip
    """Score regressors inside each dataset and for every train -> test pair of datasets.

    In-domain scores are of out-of-fold predictions, pooled over the folds. Folds follow a hash of the image's
    id and are the same for all regressors. Copies and near-copies of an image stay in one fold; an image whose
    file is in the test set too is left out of a cross-dataset training; notes say so, and where near-copies
    stand on both sides. Images without a rating are not used.

    Parameters
    ----------
    matrices : one per dataset, with the same blocks and fingerprints. regressors : names that `make` knows.
    train, test : names of datasets: only these cells. Default: all.
    folds, repeats : k-fold inside a dataset, repeated with other folds. seeds : of the regressors.
    split : a column of labels; in-domain scores are then of its "test" images after training on its "train"
        images. Cells across datasets always use all rated images of both.
    groups : a column of labels; also a score for each of its values.
    leave_one_out : also train on all datasets but one and test on that one.
    near_copies : look for near-copies (see `duplicates`), by the features of these matrices.
    make : (name, matrix, seed) -> unfitted estimator; default `drexcache.regressors.named.make_regressor`.
    together : how many fusion heads (folds, repeats, seeds) to train at once; default: many on a GPU, else 1.
    progress : called with (trainings done, trainings in all, what comes next).

    Raises
    ------
    DrexcacheError : matrices that cannot be compared, unknown names, fewer than 10 rated images, more folds
        than images, a training that fails or predicts something that is not finite.

    >>> from sklearn.linear_model import Ridge
    >>> X = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    >>> ids, blocks = [f"{i}.png" for i in range(40)], {"cues": slice(0, 3)}
    >>> toy = FeatureMatrix(X, X[:, 0] / 8 + 0.5, ids, blocks, dataset="toy")
    >>> scores, predictions = evaluate([toy], ["ridge"], make=lambda name, matrix, seed: Ridge())
    >>> round(scores.select(metric="pearson").rows[0].value, 2), len(predictions.runs[0].ids)
    (1.0, 40)
    """
    if not regressors or len(set(regressors)) < len(regressors):
        raise DrexcacheError(f"name one or more different regressors; found: {', '.join(regressors) or 'none'}")
    if not seeds or len(set(seeds)) < len(seeds) or repeats < 1:
        raise DrexcacheError(f"needs one or more different seeds and repeats >= 1; found {list(seeds)} and {repeats}")
    cells = plan(comparable(matrices), train, test, folds=folds, split=split, leave_one_out=leave_one_out)
    cells = [cell.looked_through() for cell in cells] if near_copies else cells
    for cell in cells:
        cell.check(groups)
    together = together or (TOGETHER if torch.cuda.is_available() else 1)
    trainer = _Trainer(make or _make_regressor, regressors, seeds, together, progress)
    trainer.total = sum(cell.trainings * _repeats(cell, repeats) for cell in cells) * len(regressors) * len(seeds)
    predictions = Predictions()
    for cell in cells:
        predictions.runs += trainer.runs(cell, _repeats(cell, repeats), groups)
    noise = {cell.test.dataset: cell.test.noise for cell in cells}
    return score(predictions, {cell.name: cell.notes() for cell in cells}, noise), predictions


@dataclass(frozen=True)
class _Job:
    """One training. ``key``: shared by trainings with the same result, () where there is no other."""

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
    """What one training predicted: (n,) values and, by arm, (n,) attention weights."""

    test: FeatureMatrix
    fold: int
    predicted: np.ndarray
    attention: dict[str, np.ndarray]
    seconds: float


class _Trainer:
    """Fits every regressor with every seed on what a cell trains on, once for all its test sets."""

    def __init__(
        self, make: Make, regressors: Sequence[str], seeds: Sequence[int], together: int, progress: Progress | None
    ) -> None:  # fmt: skip
        self.make, self.regressors, self.seeds = make, regressors, seeds
        self.together, self.progress = together, progress
        self.done = self.total = 0
        self.kept: dict[tuple, Fitted] = {}  # of the current train set only

    def runs(self, cell: Cell, repeats: int, groups: str | None) -> list[Run]:
        """One run per repeat, regressor and seed."""
        parts = [(repeat, part) for repeat in range(repeats) for part in cell.parts(repeat)]
        pieces: dict[tuple[int, str, int], list[_Piece]] = {
            who: [] for who in product(range(repeats), self.regressors, self.seeds)
        }
        for name in self.regressors:
            jobs = [_Job(name, seed, repeat, part) for repeat, part in parts for seed in self.seeds]
            for job, fitted in self._trained(jobs, cell):
                pieces[job.repeat, name, job.seed].append(_piece(job, fitted, job.label(cell)))
        return [_run(cell, *who, own, groups) for who, own in pieces.items()]

    def _trained(self, jobs: Sequence[_Job], cell: Cell) -> Iterator[tuple[_Job, Fitted]]:
        """Every job with its fitted estimator, trained as soon as it is asked for."""
        while jobs:
            if self.progress:
                self.progress(self.done, self.total, jobs[0].label(cell))
            kept = self.kept.get(jobs[0].key)
            fitted = [kept] if kept else self._fit(jobs, jobs[0].label(cell))
            self._keep(jobs, fitted)
            self.done += len(fitted)
            yield from zip(jobs, fitted, strict=False)
            jobs = jobs[len(fitted) :]

    def _fit(self, jobs: Sequence[_Job], label: str) -> list[Fitted]:
        """The first job done or, of regressors that train together, the first few."""
        started = time.perf_counter()
        try:
            first = self.make(jobs[0].name, train := jobs[0].part.train, jobs[0].seed)
            batch, source = jobs[: self.together], jobs[0].part.source
            if not hasattr(first, "fit_many") or len(batch) == 1:
                return [(first.fit(train.X, train.y, **_datasets(first, train)), time.perf_counter() - started)]
            heads = [first, *(self.make(job.name, job.part.train, job.seed) for job in batch[1:])]
            fitted = first.fit_many(
                heads, source.X, source.y, [job.part.rows for job in batch], **_datasets(first, source)
            )
        except ValueError as error:
            raise DrexcacheError(f"{label}: the training failed: {str(error).splitlines()[0]}") from error
        seconds = (time.perf_counter() - started) / len(fitted)
        return [(estimator, seconds) for estimator in fitted]

    def _keep(self, jobs: Sequence[_Job], fitted: Sequence[Fitted]) -> None:
        """Keep what other cells of the same train set will ask for again, and drop what none will."""
        for job, one in zip(jobs, fitted, strict=False):
            if job.key:
                self.kept = {old: kept for old, kept in self.kept.items() if old[0] == job.key[0]}
                self.kept[job.key] = one


def _datasets(estimator: Any, train: FeatureMatrix) -> dict[str, Any]:
    """Which dataset each row is from, for a regressor whose ``fit`` asks for it."""
    joined = DATASET in train.labels and has_fit_parameter(estimator, "datasets")
    return {"datasets": train.labels[DATASET]} if joined else {}


def _piece(job: _Job, fitted: Fitted, label: str) -> _Piece:
    """What the fitted estimator says of the job's test rows."""
    estimator, seconds = fitted
    test = job.part.test
    predicted, attention = _predict(estimator, test.X, label)
    return _Piece(replace(test, X=test.X[:0]), job.part.fold, predicted, attention, seconds)


def _predict(estimator: Any, X: np.ndarray, label: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predictions (n,) and, of a regressor that has them, attention weights by arm."""
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
    arms = pieces[0].attention
    folds = [np.full(len(piece.test), piece.fold, dtype=np.intp) for piece in pieces]
    return Run(
        name, *cell.name, seed, repeat,
        ids=[image for test in tests for image in test.ids],
        fold=np.concatenate(folds),
        rated=np.concatenate([test.y for test in tests]),
        predicted=np.concatenate([piece.predicted for piece in pieces]),
        group=[group for test in tests for group in test.labels[groups]] if groups else (),
        attention={arm: np.concatenate([piece.attention[arm] for piece in pieces]) for arm in arms},
        seconds=sum(piece.seconds for piece in pieces),
    )  # fmt: skip


def _repeats(cell: Cell, repeats: int) -> int:
    """Only k-fold has something to repeat."""
    return repeats if cell.kind == "in-domain" else 1


def _make_regressor(name: str, matrix: FeatureMatrix, seed: int) -> Any:
    from drexcache.regressors import make_regressor

    return make_regressor(name, matrix, seed)
