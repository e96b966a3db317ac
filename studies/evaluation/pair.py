"""An evaluation's two files, the scores and the predictions behind them: written together, refused if mixed."""

from __future__ import annotations

from pathlib import Path

from drexcache.errors import DrexcacheError
from drexcache.files import write_files
from drexcache.metrics import METRICS
from drexcache.scores import Score, ScoreTable
from drexcache.studies.evaluation.predictions import Predictions, Run, predictions_beside


def write_pair(out: str | Path, scores: ScoreTable, predictions: Predictions) -> Path:
    """Write the scores and, beside them, the predictions; the predictions' path.

    Raises
    ------
    DrexcacheError : a file cannot be written.
    """
    beside = predictions_beside(out)
    write_files({out: scores.to_csv, beside: predictions.to_csv})
    return beside


def read_pair(path: str | Path) -> tuple[ScoreTable, Predictions]:
    """A file of scores and the predictions beside it, which must give those scores.

    Raises
    ------
    DrexcacheError : a file that is missing or not what it should be, or two that do not belong together, as a process
        killed between renaming the one and the other leaves them.
    """
    beside = predictions_beside(path)
    scores = ScoreTable.read_csv(path)
    if not beside.is_file():
        raise DrexcacheError(
            f"{path}: the per-image predictions that evaluate writes beside it are missing ({beside.name}); "
            "put them there, or run evaluate again"
        )
    predictions = Predictions.read_csv(beside)
    _check(path, scores, predictions)
    return scores, predictions


def _check(path: str | Path, table: ScoreTable, predictions: Predictions) -> None:
    """Every score has its predictions, gives what they give, and the other way round."""
    if not table.rows:
        raise DrexcacheError(f"{path}: holds no scores")
    apart = f"the scores and {predictions_beside(path).name} do not belong together; run evaluate again"
    runs = {_key(run): run for run in predictions.runs}
    scored = {_key(row): row for row in table.rows if not row.group and not row.calibrated and row.metric == "rmse"}
    if not scored:
        raise DrexcacheError(f"{path}: holds no scores of metric rmse over all images, which every evaluation has")
    for one, others, what in ((scored, runs, "predictions"), (runs, scored, "scores")):
        missing = [key for key in one if key not in others]
        if missing:
            name, _, train, test, seed, repeat = missing[0]
            where = f"{name}, {train} → {test}, seed {seed}, repeat {repeat}"
            raise DrexcacheError(f"{path}: no {what} of {where} ({len(missing)} such runs); {apart}")
    for key, run in runs.items():
        found, stated = METRICS["rmse"](run.rated, run.predicted), scored[key].value
        if found is None or stated is None or abs(found - stated) > 1e-6:
            where = f"{run.regressor}, {run.train} → {run.test}"
            raise DrexcacheError(f"{path}: says RMSE {stated} of {where}, but its predictions give {found}; {apart}")


def _key(one: Run | Score) -> tuple[str, str, str, str, int, int]:
    return one.regressor, one.kind, one.train, one.test, one.seed, one.repeat
