"""The trials of one regressor that are in training, refilled as they finish, are pruned or fail."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import PercentilePruner
from optuna.trial import TrialState

from drexcache.errors import DrexcacheError
from drexcache.files import write_file
from drexcache.metrics import METRICS
from drexcache.studies.searching.space import SearchSpace
from drexcache.studies.searching.task import Attempt, Task, advance
from drexcache.studies.searching.trials import ERROR, claim, elsewhere, give_up

KEEP = 20.0  # per cent: a trial continues while it is in the best fifth of the completed ones at the same stage
SURE = 100  # held-out images needed before a trial is judged
SECONDARY = ("pearson", "spearman", "rmse", "mae")


def make_pruner(task: Task) -> PercentilePruner:
    """A pruner that judges after every fold, on the pooled predictions so far, so that candidates share their images.

    It does not judge after every epoch: under a one-cycle schedule the score half-way through a training says little
    about the final one (benchmarks/results/early-scores.md).
    """
    return PercentilePruner(KEEP, n_startup_trials=5, n_warmup_steps=_unjudged(task))


def _unjudged(task: Task) -> int:
    """The number of stages after which too few images have been held out to judge a trial."""
    return math.ceil(SURE / np.bincount(task.folds[0]).min()) - 1


def stack_size(space: SearchSpace, task: Task) -> int:
    """The number of trials to train together: 1, or with ``fit_many`` one that suits the device."""
    if not hasattr(task.estimator(space.candidate(space.defaults(task.matrix))), "fit_many"):
        return 1
    return 32 if torch.cuda.is_available() else 8


@dataclass
class Pool:
    """The trials of one study that this process is training, each at its own stage.

    total : trials that the study will have in the end. size : trials to train at a time.
    """

    study: Study
    space: SearchSpace
    task: Task
    total: int
    folder: Path
    size: int = 1
    members: list[tuple[Trial, Attempt]] = field(default_factory=list)

    def refill(self) -> bool:
        """Claim as many trials as there is room for; False if there is nothing to train."""
        while len(self.members) < self.size:
            trial = claim(self.study, self.space.distributions, self.total)
            if trial is None:
                break
            self.members.append((trial, Attempt(self.task, self.space.candidate(trial.params))))
        return bool(self.members)

    def train(self) -> None:
        """Train every member for one stage; writes nothing."""
        advance([attempt for _, attempt in self.members])

    def report(self) -> None:
        """Record the stage's results; drop the members that are done, pruned or failed."""
        self.members = [(trial, attempt) for trial, attempt in self.members if self.goes_on(trial, attempt)]

    def wait(self) -> bool:
        """Whether other processes still work on this study; gives up the trials of dead ones, to be claimed again."""
        alive, dead = elsewhere(self.study, [trial.number for trial, _ in self.members])
        for number in dead:
            give_up(self.study, number)
        return bool(alive or dead)

    def leave(self) -> None:
        """Give up the unfinished members."""
        for trial, _ in self.members:
            give_up(self.study, trial.number)
        self.members = []

    def goes_on(self, trial: Trial, attempt: Attempt) -> bool:
        """Record the stage and finish the trial if it is over; True if it continues."""
        try:
            state = self._report(trial, attempt)
            if state is None:
                return True
            value = attempt.score(self.task.metric) if state is TrialState.COMPLETE else None
            self.study.tell(trial, value, state)
        except (UpdateFinishedTrialError, ValueError):  # another process thought this one dead and gave the trial up
            pass
        return False

    def _report(self, trial: Trial, attempt: Attempt) -> TrialState | None:
        """The state in which the trial ends now, or None if it continues."""
        stage, last = len(attempt.fold_scores), len(self.task.stages)
        score = None if attempt.failure else attempt.score(self.task.metric)
        if attempt.failure or (stage == last and score is None):
            constant = f"it predicts one number for all images of a fold: {self.task.metric} is undefined"
            trial.set_user_attr(ERROR, attempt.failure or constant)
            return TrialState.FAIL
        if score is not None:
            trial.report(score, stage - 1)
        # asking the pruner reads all trials, so skip it where the answer is certain to be no
        pruned = _unjudged(self.task) < stage < last and score is not None and trial.should_prune()
        if stage < last and not pruned:
            return None
        self._describe(trial, attempt)
        if pruned:
            return TrialState.PRUNED
        save_predictions(self.folder, self.space.regressor, trial.number, attempt.predicted)
        return TrialState.COMPLETE

    def _describe(self, trial: Trial, attempt: Attempt) -> None:
        """Store what a dashboard shows beside the score."""
        trial.set_user_attr("fold scores", attempt.fold_scores)
        trial.set_user_attr("seconds", round(attempt.seconds, 3))
        for metric in SECONDARY:
            if metric != self.task.metric and metric in METRICS:
                trial.set_user_attr(metric, attempt.score(metric))
        if len(self.task.folds) > 1:
            repeats = [value for value in attempt.scores(self.task.metric) if value is not None]
            trial.set_user_attr("sd over repeats", float(np.std(repeats, ddof=1)) if len(repeats) > 1 else None)


def save_predictions(folder: Path, regressor: str, number: int, predicted: np.ndarray) -> None:
    """Save a trial's held-out predictions (repeats, n) as float32, NaN where not held out."""
    write_file(
        predictions_path(folder, regressor, number),
        lambda file: np.save(file, predicted.astype(np.float32), allow_pickle=False),
    )


def read_predictions(folder: Path, regressor: str, number: int, task: Task) -> NDArray[np.float64] | None:
    """A completed trial's held-out predictions (repeats, n); None if they are in another process's folder.

    Raises
    ------
    DrexcacheError : the file holds something else, such as predictions for other images or folds.
    """
    path = predictions_path(folder, regressor, number)
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if (shape, dtype) != (task.folds.shape, np.dtype(np.float32)):
                raise ValueError("of other images")
            predicted = np.frombuffer(file.read(4 * task.folds.size + 1), np.float32).reshape(shape)
        if not np.array_equal(np.isfinite(predicted), task.folds < task.held):
            raise ValueError("of other folds")
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DrexcacheError(
            f"{path}: not the predictions that this search wrote ({reason}); take it from a copy"
        ) from error
    return predicted.astype(np.float64)


def predictions_path(folder: Path, regressor: str, number: int) -> Path:
    """The file that holds a trial's predictions."""
    return folder / "predictions" / f"{regressor}-{number:05}.npy"
