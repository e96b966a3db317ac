"""What a candidate is worth: trained on the other folds, scored on images it has not seen."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from drexcache.bootstrap import Floats
from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.fusion import AttentionFusionRegressor, fit_many
from drexcache.metrics import METRICS
from drexcache.regressors import make_regressor
from drexcache.studies.evaluation import hash_folds
from drexcache.studies.searching.space import Candidate

Stage = tuple[int, int]  # repeat, fold
# what a training may raise for settings that do not suit the data; anything else is a bug and is shown
FAILURES = (ValueError, ArithmeticError, MemoryError, RuntimeError, DrexcacheError)


@dataclass(frozen=True)
class Task:
    """Training rows, and which of them are held out when.

    matrix : n rated images, none of which any test will use. folds : (repeats, n) ints.
    same : (n,) names that copies and near-copies of an image share; they share their folds.
    held : the folds that are held out; with only the first, it is an inner split.
    """

    matrix: FeatureMatrix
    folds: NDArray[np.intp]
    same: Sequence[str]
    held: int
    metric: str
    seed: int

    @property
    def stages(self) -> list[Stage]:
        """Trainings of one candidate, in order."""
        return [(repeat, fold) for repeat in range(len(self.folds)) for fold in range(self.held)]

    def rows(self, stage: Stage) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions of the images to train on and of those held out."""
        repeat, fold = stage
        out = self.folds[repeat] == fold
        return np.flatnonzero(~out), np.flatnonzero(out)

    def estimator(self, candidate: Candidate) -> Any:
        """The candidate's unfitted estimator, made for all of X: a fusion head knows its blocks' columns itself."""
        named = replace(self.matrix, blocks={name: self.matrix.blocks[name] for name in candidate.blocks})
        return make_regressor(candidate.regressor, named, self.seed, candidate.settings)

    def features(self, candidate: Candidate) -> NDArray[np.float32]:
        """What the candidate's estimator takes: all of X for a fusion head, else its blocks' columns."""
        every = len(candidate.blocks) == len(self.matrix.blocks)
        if every or isinstance(self.estimator(candidate), AttentionFusionRegressor):
            return self.matrix.X
        return self.matrix.select(candidate.blocks).X


def make_task(
    matrix: FeatureMatrix, same: Sequence[str], *, folds: int, repeats: int, holdout: bool, metric: str, seed: int
) -> Task:
    """The task on a matrix of training rows; ``same`` (n,) names images that must share a fold.

    The folds are those of `drexcache.studies.evaluate`, except that near-duplicates stay together.
    """
    divided = np.stack([hash_folds(matrix.ids, folds, repeat, same) for repeat in range(repeats)])
    return Task(matrix, divided, same, 1 if holdout else folds, metric, seed)


@dataclass
class Progress:
    """How far one candidate is: predictions (repeats, n), NaN where not yet held out, and a score per stage."""

    candidate: Candidate
    predicted: Floats
    fold_scores: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""

    def add(self, task: Task, predicted: Floats, seconds: float) -> None:
        """What the next stage predicted for its held-out images."""
        stage = task.stages[len(self.fold_scores)]
        rows = task.rows(stage)[1]
        self.predicted[stage[0], rows] = predicted
        self.seconds += seconds
        constant = len(rows) < 3 or np.ptp(predicted) <= 1e-12 * np.abs(predicted).max()
        self.fold_scores.append(None if constant else METRICS[task.metric](task.matrix.y[rows], predicted))

    def scores(self, task: Task, metric: str) -> list[float | None]:
        """The metric of each repeat's held-out predictions so far, None where it is undefined.

        Predictions that are constant in every fold have no correlation, although the folds' constants differ.
        """
        if metric in ("pearson", "spearman", "kendall") and all(score is None for score in self.fold_scores):
            return [None]
        begun = [(task.matrix.y[np.isfinite(row)], row[np.isfinite(row)]) for row in self.predicted]
        return [METRICS[metric](rated, row) for rated, row in begun if len(row) >= 3]

    def score(self, task: Task, metric: str | None = None) -> float | None:
        """Mean over the repeats; None where the metric is undefined."""
        values = self.scores(task, metric or task.metric)
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None


def start(task: Task, candidate: Candidate) -> Progress:
    """A candidate that nothing is known of."""
    return Progress(candidate, np.full(task.folds.shape, np.nan))


def advance(task: Task, members: Sequence[Progress]) -> None:
    """Train every member (all of one regressor) for its next stage; fusion heads together in one stack."""
    try:
        estimators = [task.estimator(member.candidate) for member in members]
        if len(members) > 1 and all(isinstance(one, AttentionFusionRegressor) for one in estimators):
            _advance_together(task, members, estimators)
            return
    except FAILURES:  # one of them: which one shows when each is trained alone
        pass
    for member in members:
        try:
            _advance_one(task, member)
        except FAILURES as error:
            member.failure = str(error).strip().split("\n")[0] or type(error).__name__


def _advance_together(task: Task, members: Sequence[Progress], estimators: Sequence[AttentionFusionRegressor]) -> None:
    rows = [task.rows(task.stages[len(member.fold_scores)]) for member in members]
    started = time.perf_counter()
    models = fit_many(estimators, task.matrix.X, task.matrix.y, [train for train, _ in rows])
    each = (time.perf_counter() - started) / len(members)
    parts = [_checked(model.predict(task.matrix.X[held])) for model, (_, held) in zip(models, rows, strict=True)]
    for member, predicted in zip(members, parts, strict=True):
        member.add(task, predicted, each)


def _advance_one(task: Task, member: Progress) -> None:
    train, held = task.rows(task.stages[len(member.fold_scores)])
    X = task.features(member.candidate)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its score says whether it went far enough
        estimator = task.estimator(member.candidate).fit(X[train], task.matrix.y[train])
    member.add(task, _checked(estimator.predict(X[held])), time.perf_counter() - started)


def _checked(predicted: Any) -> Floats:
    values = np.asarray(predicted, dtype=np.float64).reshape(-1)
    if not np.isfinite(values).all():
        raise ValueError("its predictions are not finite")
    return values
