"""The results of a search: the best settings, a table of all regressors, and which parameters mattered."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from numpy.typing import NDArray
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from sklearn.exceptions import ConvergenceWarning

from drexcache.errors import DrexcacheError, Stopped
from drexcache.files import lock, run_id, write_files
from drexcache.metrics import higher_is_better, interval
from drexcache.scores import Entry, Table, number, render, score_entry
from drexcache.studies.searching.optimism import corrected
from drexcache.studies.searching.pool import Pool, read_predictions
from drexcache.studies.searching.space import BLOCK, Candidate, SearchSpace
from drexcache.studies.searching.task import Task
from drexcache.studies.searching.trials import BEAT, ERROR, WORKER, finished

FORMAT = 1  # of best.json
TRIAL_COLUMNS = ["regressor", "trial", "state", "score", "blocks", "settings", "details"]  # of trials.csv
ENOUGH = 10  # completed trials needed before importances mean anything


@dataclass(frozen=True)
class Row:
    """One regressor's best candidate, scored on its out-of-fold predictions.

    nested, nested_low, nested_high : the expected score of "search, then take the best" on new images (BBC-CV).
    train_seconds : one training on all images. predict_seconds : per 1,000 images. megabytes : size of the model.
    """

    regressor: str
    trials: int
    pruned: int
    failed: int
    score: float | None = None
    low: float | None = None
    high: float | None = None
    nested: float | None = None
    nested_low: float | None = None
    nested_high: float | None = None
    train_seconds: float | None = None
    predict_seconds: float | None = None
    megabytes: float | None = None
    blocks: str = ""
    settings: str = ""


@dataclass
class SearchResult:
    """What a search found.

    best : the contents of best.json. rows : one per regressor, best first. importance : regressor -> parameter ->
    share of the scores' variance that it explains. notes : caveats about the scores. interrupted : number of the
    signal that ended the search early, else 0. new : trials of this run; the others were there before.
    """

    best: dict[str, Any]
    rows: list[Row]
    importance: dict[str, dict[str, float]]
    folder: Path
    notes: list[str]
    interrupted: int = 0
    new: int = 0

    @property
    def finished(self) -> int:
        """The number of finished trials over all regressors."""
        return sum(row.trials for row in self.rows)

    def scores(self) -> list[dict[str, Any]]:
        """Each regressor's best score in the form that `drexcache.studies.ledger` records."""
        dataset = self.best["dataset"]
        return [
            {
                "regressor": row.regressor, "kind": "in-domain", "train": dataset, "test": dataset,
                "metric": self.best["metric"], "value": row.score, "low": row.low, "high": row.high,
                "n": self.best["images"], "runs": row.trials,
            }
            for row in self.rows
            if row.score is not None
        ]  # fmt: skip

    def tables(self) -> list[Table]:
        """The table of regressors."""
        headers = [
            "regressor", "trials (pruned, failed)", f"{self.best['metric']} [95% interval]",
            "nested estimate [95% interval]", "training s", "predicting s / 1,000", "MB", "blocks",
        ]  # fmt: skip
        best = len(self.rows) > 1  # they come best first
        body: list[list[Entry | str]] = [
            [
                row.regressor, f"{row.trials} ({row.pruned}, {row.failed})",
                replace(score_entry(row.score, row.low, row.high, missing="–"), best=best and row is self.rows[0]),
                score_entry(row.nested, row.nested_low, row.nested_high, missing="–"),
                number(row.train_seconds, 2, missing="–"), number(row.predict_seconds, 3, missing="–"),
                number(row.megabytes, 2, missing="–"), row.blocks,
            ]
            for row in self.rows
        ]  # fmt: skip
        return [Table("", headers, body)]

    def caveats(self) -> list[str]:
        """What mattered to each regressor, as far as it is known, and the notes."""
        mattered = [
            f"What mattered to {regressor}: "
            + ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items() if share >= 0.005)
            for regressor, shares in self.importance.items()
        ]
        return [*mattered, *self.notes]

    def markdown(self) -> str:
        """The table of regressors, the parameter importances and the notes, as markdown."""
        return render(self.tables(), self.caveats())

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row per regressor and the fields of `Row`, best first."""
        return pd.DataFrame([asdict(row) for row in self.rows])


def conclude(
    task: Task, pools: Sequence[Pool], folder: Path, notes: Sequence[str], *, interrupted: int = 0
) -> SearchResult:
    """Collect the finished trials, refit each regressor's best candidate once to time it, and write all files.

    After an interruption nothing is refitted, because there may be no time.

    Raises
    ------
    DrexcacheError : no trial succeeded; gives the first reason.
    """
    found = [_Found(task, pool.space, pool.study, folder) for pool in pools]
    complete = [one for one in found if one.complete]
    if not complete and interrupted:
        raise Stopped(interrupted)
    if not complete:
        reasons = [f"{one.space.regressor}: {reason}" for one in found for reason in one.reasons]
        raise DrexcacheError(
            f"{folder}: no trial has succeeded"
            + (f"; the first failed: {reasons[0]}" if reasons else " yet: none was finished")
        )
    complete.sort(key=lambda one: one.best.values[0], reverse=higher_is_better(task.metric))
    result = SearchResult(
        best=_best(task, complete),
        rows=[one.row(timed=not interrupted) for one in (*complete, *(one for one in found if not one.complete))],
        importance={one.space.regressor: shares for one in complete if (shares := one.importance())},
        folder=folder,
        notes=[*notes, *(remark for one in found for remark in one.remarks())],
        interrupted=interrupted,
    )
    _write(result, found)
    return result


class _Found:
    """The finished trials of one regressor."""

    def __init__(self, task: Task, space: SearchSpace, study: Study, folder: Path) -> None:
        self.task, self.space, self.study, self.folder = task, space, study, folder
        self.trials = finished(study)
        self.complete = [trial for trial in self.trials if trial.state is TrialState.COMPLETE]

    @property
    def best(self) -> FrozenTrial:
        """The completed trial with the best score; the first of them if several tie."""
        return (max if higher_is_better(self.task.metric) else min)(self.complete, key=lambda trial: trial.values[0])

    @property
    def reasons(self) -> list[str]:
        """Why trials failed, one reason per failed trial."""
        return [trial.user_attrs[ERROR] for trial in self.trials if ERROR in trial.user_attrs]

    @property
    def candidate(self) -> Candidate:
        """The candidate of the best trial."""
        return self.space.candidate(self.best.params)

    @cached_property
    def predictions(self) -> NDArray[np.float64]:
        """Predictions (candidates, repeats, n) of the completed trials found in the folder; NaN where not held out."""
        kept = [held for trial in self.complete if (held := self.held_out(trial)) is not None]
        return np.array(kept, dtype=np.float64).reshape(-1, *self.task.folds.shape)

    def limits(self) -> tuple[float | None, float | None]:
        """The best score's 95% interval, averaged over the repeats; (None, None) without predictions."""
        predicted, y = self.held_out(self.best), self.task.matrix.y
        held = [] if predicted is None else [(y[np.isfinite(row)], row[np.isfinite(row)]) for row in predicted]
        ends = [interval(self.task.metric, rated, row) for rated, row in held]
        known = [(low, high) for low, high in ends if low is not None and high is not None]
        return (float(np.mean([e[0] for e in known])), float(np.mean([e[1] for e in known]))) if known else (None, None)

    def row(self, *, timed: bool = True) -> Row:
        """The regressor's row of the table."""
        states = [trial.state for trial in self.trials]
        row = Row(self.space.regressor, len(states), states.count(TrialState.PRUNED), states.count(TrialState.FAIL))
        if not self.complete:
            return row
        low, high = self.limits()
        estimate, nested_low, nested_high = nested(self.task, self.predictions)
        costs = _cost(self.task, self.candidate) if timed else (None, None, None)
        return replace(
            row, score=self.best.values[0], low=low, high=high, nested=estimate, nested_low=nested_low,
            nested_high=nested_high, train_seconds=costs[0], predict_seconds=costs[1], megabytes=costs[2],
            blocks=", ".join(self.candidate.blocks), settings=json.dumps(self.candidate.settings),
        )  # fmt: skip

    def importance(self) -> dict[str, float]:
        """The share of the scores' variance that each parameter explains (fANOVA: Hutter, Hoos & Leyton-Brown 2014).

        Empty if there are too few trials or nothing varies.
        """
        varied = [name for name in self.space.distributions if len({repr(t.params[name]) for t in self.complete}) > 1]
        if len(self.complete) < ENOUGH or not varied or np.ptp([trial.values[0] for trial in self.complete]) == 0:
            return {}
        shares = get_param_importances(self.study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
        return {name.replace(BLOCK, "block "): share for name, share in shares.items()}

    def remarks(self) -> list[str]:
        """Notes on failed trials and on predictions that are not in the folder."""
        name, remarks = self.space.regressor, []
        if len(self.trials) >= self.space.size:
            size = f"{int(self.space.size):,} combination{'s' if self.space.size > 1 else ''} of settings and blocks"
            remarks.append(f"{name}: no more than {size} to try; all were")
        if self.reasons:
            failed, some = len(self.reasons), len(self.trials)
            remarks.append(f"{name}: {failed} of {some} trials failed, the first: {self.reasons[0]}")
        if self.complete and (kept := len(self.predictions)) < len(self.complete):
            remarks.append(
                f"{name}: the nested estimate is of {kept} of {len(self.complete)} trials; the predictions of the "
                "others are in the folders of other processes: give all the same folder"
            )
        return remarks

    def trial_record(self, trial: FrozenTrial) -> tuple:
        """One trial's line of trials.csv."""
        candidate = self.space.candidate(trial.params)
        details = {key: value for key, value in trial.user_attrs.items() if key not in (WORKER, BEAT)}
        return (
            self.space.regressor, trial.number, trial.state.name.lower(), trial.value, ", ".join(candidate.blocks),
            json.dumps(candidate.settings), json.dumps(details),
        )  # fmt: skip

    def held_out(self, trial: FrozenTrial) -> NDArray[np.float64] | None:
        """One trial's predictions (repeats, n), or None if they are not in the folder."""
        return read_predictions(self.folder, self.space.regressor, trial.number, self.task)


def nested(task: Task, predictions: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """`optimism.corrected` on the images that were held out; (None, None, None) without predictions."""
    if not len(predictions):
        return None, None, None
    held = np.isfinite(predictions).all(axis=(0, 1))
    groups = [name for name, is_held in zip(task.same, held.tolist(), strict=True) if is_held]
    return corrected(task.metric, task.matrix.y[held], predictions[:, :, held], groups)


def _cost(task: Task, candidate: Candidate) -> tuple[float, float, float]:
    """Seconds to train on all images, seconds to predict 1,000 images, and the fitted model's size in megabytes."""
    X, y = task.features(candidate), task.matrix.y
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator = task.estimator(candidate).fit(X, y)
    trained = time.perf_counter()
    estimator.predict(X)
    predicted = time.perf_counter()
    if hasattr(estimator, "get_state"):
        size = sum(array.nbytes for array in estimator.get_state()[0].values())
    else:
        size = len(skops.io.dumps(estimator))
    return trained - started, (predicted - trained) * 1000 / len(X), size / 1e6


def _best(task: Task, complete: Sequence[_Found]) -> dict[str, Any]:
    """The contents of best.json; its nested estimate repeats the choice among all regressors."""
    winner, matrix = complete[0], task.matrix
    estimate, *ends = nested(task, np.concatenate([one.predictions for one in complete]))
    return {
        "format": FORMAT, "drexcache": version("drexcache"), "regressor": winner.space.regressor,
        "blocks": list(winner.candidate.blocks), "settings": winner.candidate.settings, "seed": task.seed,
        "metric": task.metric, "score": winner.best.values[0], "interval": list(winner.limits()), "nested": estimate,
        "nested_interval": ends, "trials": sum(len(one.trials) for one in complete),
        "study": winner.study.study_name, "trial": winner.best.number, "dataset": matrix.dataset,
        "target": matrix.target, "images": len(matrix), "folds": int(task.folds.max()) + 1,
        "repeats": len(task.folds), "holdout": task.held == 1,
        "fingerprints": {name: matrix.fingerprints.get(name, "") for name in winner.candidate.blocks},
    }  # fmt: skip


def _write(result: SearchResult, found: Sequence[_Found]) -> None:
    """Write results.md, results.csv, importance.csv, trials.csv, and best.json, which holds the others' digests."""
    shares = [(name, *item) for name, own in result.importance.items() for item in own.items()]
    trials = [one.trial_record(trial) for one in found for trial in one.trials]
    texts = {
        "results.md": result.markdown(),
        "results.csv": _csv([field.name for field in fields(Row)], map(astuple, result.rows)),
        "importance.csv": _csv(["regressor", "parameter", "importance"], shares),
        "trials.csv": _csv(TRIAL_COLUMNS, trials),
    }
    result.best["files"] = {name: run_id(text.encode()) for name, text in texts.items()}
    texts["best.json"] = json.dumps(result.best, indent=2) + "\n"
    with _alone_in(result.folder):
        write_files({result.folder / name: text for name, text in texts.items()})


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """A context that only one process enters at a time: all processes of a shared search write its results."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _csv(columns: Sequence[str], records: Iterable[tuple]) -> str:
    return pd.DataFrame(list(records), columns=columns).to_csv(index=False)
