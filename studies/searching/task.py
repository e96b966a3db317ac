"""Scoring a candidate by cross-validation: trained on the other folds, scored on images it has not seen.

A search sees only training images (`training_rows`), and near-duplicates share a fold.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from drexcache.bootstrap import Floats
from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.metrics import METRICS
from drexcache.regressors import make_regressor
from drexcache.studies.evaluation import hash_folds, split_rows, splitting_column
from drexcache.studies.searching.space import Candidate

ALL = "none"  # the value of --split that means all images
Stage = tuple[int, int]  # repeat, fold
# what training may raise when settings do not suit the data; anything else is a bug and is not caught
FAILURES = (ValueError, ArithmeticError, MemoryError, RuntimeError, DrexcacheError)


def training_rows(matrix: FeatureMatrix, split: str | None, where: str) -> FeatureMatrix:
    """A matrix of the images that the column ``split`` calls "train", or of all images if ``split`` is "none".

    Raises
    ------
    DrexcacheError : no column was given although the matrix has one that tells training from test images; the
        search would make its choice on test images too.

    >>> import numpy as np
    >>> matrix = FeatureMatrix(
    ...     np.ones((2, 1), "f4"), np.zeros(2), ["a", "b"], {"cue": slice(0, 1)}, labels={"split": ["train", "test"]}
    ... )
    >>> training_rows(matrix, "split", "art.h5").ids
    ['a']
    """
    if split == ALL:
        return matrix
    if split is None:
        column = splitting_column(matrix)
        if column is not None:
            raise DrexcacheError(
                f"{where}: column {column!r} tells training from test images; give --split {column} to search on "
                f"the training images, or --split {ALL} to use all"
            )
        return matrix
    return matrix.rows(split_rows(matrix, split)[0])


@dataclass(frozen=True)
class Task:
    """Training rows and their division into folds.

    matrix : n rated images, none of them used by any test. folds : (repeats, n) ints.
    same : (n,) names; copies and near-copies of an image share a name and thus a fold.
    held : how many folds are held out in turn; 1 makes it a single inner split.
    """

    matrix: FeatureMatrix
    folds: NDArray[np.intp]
    same: Sequence[str]
    held: int
    metric: str
    seed: int

    @property
    def stages(self) -> list[Stage]:
        """The trainings of one candidate, in order."""
        return [(repeat, fold) for repeat in range(len(self.folds)) for fold in range(self.held)]

    def rows(self, stage: Stage) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row numbers of the images to train on and of those held out."""
        repeat, fold = stage
        out = self.folds[repeat] == fold
        return np.flatnonzero(~out), np.flatnonzero(out)

    def estimator(self, candidate: Candidate) -> Any:
        """The candidate's unfitted estimator; a fusion head is built for the full X and picks its blocks' columns."""
        named = replace(self.matrix, blocks={name: self.matrix.blocks[name] for name in candidate.blocks})
        return make_regressor(candidate.regressor, named, self.seed, candidate.settings)

    def features(self, candidate: Candidate) -> NDArray[np.float32]:
        """The features that the candidate's estimator takes: the full X if it has arms, else its blocks' columns."""
        every = len(candidate.blocks) == len(self.matrix.blocks)
        if every or hasattr(self.estimator(candidate), "arms"):
            return self.matrix.X
        return self.matrix.select(candidate.blocks).X


def make_task(
    matrix: FeatureMatrix, same: Sequence[str], *, folds: int, repeats: int, holdout: bool, metric: str, seed: int
) -> Task:
    """The task on a matrix of training rows; images with the same name in ``same`` (n,) share a fold.

    The folds are those of `drexcache.studies.evaluate`, except that near-duplicates stay together.
    """
    divided = np.stack([hash_folds(matrix.ids, folds, repeat, same) for repeat in range(repeats)])
    return Task(matrix, divided, same, 1 if holdout else folds, metric, seed)


class Attempt:
    """One candidate's progress: predictions (repeats, n), NaN where not yet held out, and a score per stage."""

    def __init__(self, task: Task, candidate: Candidate) -> None:
        self.task, self.candidate = task, candidate
        self.predicted: Floats = np.full(task.folds.shape, np.nan)
        self.fold_scores: list[float | None] = []
        self.seconds = 0.0
        self.failure = ""

    @property
    def rows(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row numbers of the images to train on next, and of those held out."""
        return self.task.rows(self.task.stages[len(self.fold_scores)])

    def add(self, predicted: Any, seconds: float) -> None:
        """Add the next stage's predictions for its held-out images.

        Raises
        ------
        ValueError : a prediction is not finite.
        """
        values = np.asarray(predicted, dtype=np.float64).reshape(-1)
        if not np.isfinite(values).all():
            raise ValueError("its predictions are not finite")
        repeat, rows = self.task.stages[len(self.fold_scores)][0], self.rows[1]
        self.predicted[repeat, rows] = values
        self.seconds += seconds
        constant = len(rows) < 3 or np.ptp(values) <= 1e-12 * np.abs(values).max()
        self.fold_scores.append(None if constant else METRICS[self.task.metric](self.task.matrix.y[rows], values))

    def scores(self, metric: str) -> list[float | None]:
        """The metric of each repeat's held-out predictions so far; None where it is undefined.

        Predictions that are constant within every fold have no correlation, even if the constants differ.
        """
        if metric in ("pearson", "spearman", "kendall") and all(score is None for score in self.fold_scores):
            return [None]
        held = [(self.task.matrix.y[np.isfinite(row)], row[np.isfinite(row)]) for row in self.predicted]
        return [METRICS[metric](rated, row) for rated, row in held if len(row) >= 3]

    def score(self, metric: str) -> float | None:
        """The metric's mean over the repeats; None if it is undefined for any."""
        values = self.scores(metric)
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None


def advance(attempts: Sequence[Attempt]) -> None:
    """Train every attempt (one task, one regressor) for its next stage, together if the regressor can."""
    try:
        if len(attempts) > 1:  # the regressor has fit_many
            _advance_together(attempts)
            return
    except FAILURES:  # train each alone to find out which one failed
        pass
    for attempt in attempts:
        try:
            _advance_one(attempt)
        except FAILURES as error:
            attempt.failure = str(error).strip().split("\n")[0] or type(error).__name__


def _advance_together(attempts: Sequence[Attempt]) -> None:
    matrix, rows = attempts[0].task.matrix, [attempt.rows for attempt in attempts]
    estimators = [attempt.task.estimator(attempt.candidate) for attempt in attempts]
    started = time.perf_counter()
    models = estimators[0].fit_many(estimators, matrix.X, matrix.y, [train for train, _ in rows])
    seconds = (time.perf_counter() - started) / len(attempts)
    parts = [model.predict(matrix.X[held]) for model, (_, held) in zip(models, rows, strict=True)]
    if not all(np.isfinite(predicted).all() for predicted in parts):
        raise ValueError("predictions that are not finite")
    for attempt, predicted in zip(attempts, parts, strict=True):
        attempt.add(predicted, seconds)


def _advance_one(attempt: Attempt) -> None:
    task, (train, held) = attempt.task, attempt.rows
    X = task.features(attempt.candidate)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the score shows whether it converged well enough
        estimator = task.estimator(attempt.candidate).fit(X[train], task.matrix.y[train])
    attempt.add(estimator.predict(X[held]), time.perf_counter() - started)
