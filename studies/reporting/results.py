"""What a report is about: score files with their predictions, checked, joined and averaged over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError
from drexcache.metrics import METRICS
from drexcache.scores import Score, ScoreTable, mean_score, score_text
from drexcache.studies.comparison import join
from drexcache.studies.evaluation import Predictions, Run, predictions_beside

INSIDE = ("in-domain", "split")
MIN_IMAGES = 10


@dataclass(frozen=True)
class Result:
    """One regressor in one cell: predictions averaged over its runs (seeds, repeats), n images.

    ids, rated, predicted, group, attention : as in `drexcache.studies.evaluation.predictions.Run`.
    spread : (n,) standard deviation of an image's predictions over the runs, or None with one run.
    metric : what value, low and high are about, mean over the runs; None where it is undefined.
    ceiling : the highest Pearson's r that the raters' agreement allows, where it is known and the metric is that.
    """

    regressor: str
    kind: str
    train: str
    test: str
    ids: list[str]
    rated: Floats
    predicted: Floats
    spread: Floats | None
    group: list[str]
    attention: dict[str, Floats]
    metric: str
    value: float | None
    low: float | None
    high: float | None
    ceiling: float | None = None

    @property
    def cell(self) -> tuple[str, str, str]:
        """kind, train set, test set."""
        return self.kind, self.train, self.test

    @property
    def inside(self) -> bool:
        """Whether it was trained on images of the tested dataset."""
        return self.kind in INSIDE

    @property
    def title(self) -> str:
        """The dataset, or "train → test"."""
        return self.test if self.inside else f"{self.train} → {self.test}"

    @property
    def score(self) -> str:
        """The value with its interval, in words where it is undefined."""
        return score_text(self.value, self.low, self.high)

    @property
    def share(self) -> str:
        """The value as a share of the noise ceiling, in words; "" where that is not known."""
        if self.value is None or self.ceiling is None:
            return ""
        return f"{self.value / self.ceiling:.0%} of the noise ceiling, {self.ceiling:.3f}"

    @property
    def residual(self) -> Floats:
        """(n,) predicted minus rated."""
        return self.predicted - self.rated


@dataclass(frozen=True)
class Evidence:
    """All that the score files hold. files : label -> path of the scores."""

    scores: ScoreTable
    predictions: Predictions
    results: list[Result]
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def regressors(self) -> list[str]:
        """Names of the regressors, in order of appearance."""
        return list(dict.fromkeys(result.regressor for result in self.results))

    @property
    def datasets(self) -> list[str]:
        """Names of the tested datasets, in order of appearance."""
        return list(dict.fromkeys(result.test for result in self.results))


def read_evidence(paths: Sequence[str | Path], metric: str) -> Evidence:
    """Read score files and the predictions beside them; a regressor of two files gets the file's name.

    Raises
    ------
    DrexcacheError : a file that is missing or not what it should be, scores and predictions that do not belong
        together, an unknown metric, a cell with fewer than 10 images.
    """
    if metric not in METRICS:
        raise DrexcacheError(f"no metric named {metric}; there are: {', '.join(METRICS)}")
    files = {str(path): Path(path) for path in paths}
    if not files:
        raise DrexcacheError("no scores to report on; name one or more files that evaluate wrote")
    tables = {label: ScoreTable.read_csv(path) for label, path in files.items()}
    runs = {label: _predictions(path) for label, path in files.items()}
    for label in files:
        _check_pair(label, tables[label], runs[label])
    scores, predictions = _join_scores(tables), join(runs)
    results = [_result(scores, own, metric) for own in _by_regressor_and_cell(predictions).values()]
    return Evidence(scores, predictions, results, files)


def _predictions(path: Path) -> Predictions:
    beside = predictions_beside(path)
    if not beside.is_file():
        raise DrexcacheError(
            f"{path}: the per-image predictions that evaluate writes beside it are missing ({beside.name}); "
            "put them there, or run evaluate again"
        )
    return Predictions.read_csv(beside)


def _check_pair(label: str, table: ScoreTable, predictions: Predictions) -> None:
    """Every score has its predictions, gives what they give, and the other way round."""
    if not table.rows:
        raise DrexcacheError(f"{label}: holds no scores")
    runs = {_key(run): run for run in predictions.runs}
    scored = {_key(row): row for row in table.rows if not row.group and not row.calibrated and row.metric == "rmse"}
    if not scored:
        raise DrexcacheError(f"{label}: holds no scores of metric rmse over all images, which every evaluation has")
    for one, others, what in ((scored, runs, "predictions"), (runs, scored, "scores")):
        missing = [key for key in one if key not in others]
        if missing:
            name, _, train, test, seed, repeat = missing[0]
            raise DrexcacheError(
                f"{label}: no {what} of {name}, {train} → {test}, seed {seed}, repeat {repeat} "
                f"({len(missing)} such runs); the scores and {predictions_beside(label).name} do not belong together"
            )
    for key, run in runs.items():
        if len(run.ids) < MIN_IMAGES:
            raise DrexcacheError(f"{label}: {run.test} has {len(run.ids)} images; a report needs at least {MIN_IMAGES}")
        found, stated = METRICS["rmse"](run.rated, run.predicted), scored[key].value
        if found is None or stated is None or abs(found - stated) > 1e-6:
            raise DrexcacheError(
                f"{label}: says RMSE {stated} of {run.regressor}, {run.train} → {run.test}, but its predictions give "
                f"{found}; the scores and {predictions_beside(label).name} do not belong together"
            )


def _key(one: Run | Score) -> tuple[str, str, str, str, int, int]:
    return one.regressor, one.kind, one.train, one.test, one.seed, one.repeat


def _join_scores(tables: Mapping[str, ScoreTable]) -> ScoreTable:
    """All rows, regressors of several files renamed as `drexcache.studies.comparison.verdicts.join` does."""
    homes: dict[str, set[str]] = {}
    for label, table in tables.items():
        for row in table.rows:
            homes.setdefault(row.regressor, set()).add(label)
    return ScoreTable(
        [
            replace(row, regressor=f"{label}: {row.regressor}" if len(homes[row.regressor]) > 1 else row.regressor)
            for label, table in tables.items()
            for row in table.rows
        ]
    )


def _by_regressor_and_cell(predictions: Predictions) -> dict[tuple[str, tuple[str, str, str]], list[Run]]:
    found: dict[tuple[str, tuple[str, str, str]], list[Run]] = {}
    for run in predictions.runs:
        found.setdefault((run.regressor, run.cell), []).append(run)
    return found


def _result(scores: ScoreTable, runs: Sequence[Run], metric: str) -> Result:
    """The runs of one regressor and cell, averaged over the images that all of them predict."""
    first = runs[0]
    common = set(first.ids).intersection(*(run.ids for run in runs))
    ids = [image for image in first.ids if image in common]
    orders = []
    for run in runs:
        place = {image: row for row, image in enumerate(run.ids)}
        orders.append([place[image] for image in ids])
    predicted = np.stack([run.predicted[order] for run, order in zip(runs, orders, strict=True)])  # (runs, n)
    attention = {
        arm: np.mean([run.attention[arm][order] for run, order in zip(runs, orders, strict=True)], axis=0)
        for arm in first.attention
        if all(arm in run.attention for run in runs)
    }
    rows = [
        row for row in scores.select(metric=metric, group="", calibrated=False, regressor=first.regressor).rows
        if (row.kind, row.train, row.test) == first.cell
    ]  # fmt: skip
    return Result(
        first.regressor, *first.cell, ids, first.rated[orders[0]], predicted.mean(axis=0),
        predicted.std(axis=0, ddof=1) if len(runs) > 1 else None,
        [first.group[row] for row in orders[0]] if first.group else [],
        attention, metric, *mean_score(rows), next((row.ceiling for row in rows if row.ceiling is not None), None),
    )  # fmt: skip
