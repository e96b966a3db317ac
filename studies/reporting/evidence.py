"""The material of a report: score files with their predictions, checked, joined and averaged over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError, nearest, several
from drexcache.metrics import METRICS, MIN_IMAGES
from drexcache.scores import ScoreTable, score_text, train_to_test
from drexcache.studies.comparison import join
from drexcache.studies.evaluation import Predictions, Run, read_pair

if TYPE_CHECKING:
    import pandas as pd

INSIDE = ("in-domain", "split")
CELL = ["kind", "train", "test"]


@dataclass(frozen=True)
class Scale:
    """The scale of a dataset's ratings, such as 1 to 7.

    least, most : the ratings that mean least and most of what is rated; least is the higher number if lower ratings
    mean more.
    """

    least: float = 0.0
    most: float = 1.0

    @property
    def limits(self) -> tuple[float, float]:
        """The lower and the higher end."""
        return min(self.least, self.most), max(self.least, self.most)

    @property
    def digits(self) -> int:
        """The decimals to show of a rating: two on a scale of width 1, none on one of width 1,000.

        >>> Scale(0, 1).digits, Scale(1, 7).digits, Scale(0, 100).digits
        (2, 2, 1)
        """
        low, high = self.limits
        return 2 if high - low < 20 else 1 if high - low < 500 else 0

    def of(self, unit: Floats) -> Floats:
        """Convert values on [0, 1] to this scale.

        >>> Scale(5, 1).of(np.array([0.0, 0.75]))
        array([5., 2.])
        """
        return self.least + unit * (self.most - self.least)


@dataclass(frozen=True)
class Result:
    """One regressor's predictions for the n images of one cell, averaged over its runs (seeds, repeats).

    ids, group : as in `drexcache.studies.evaluation.Run`. rated, predicted : (n,) on `scale`.
    spread : (n,) standard deviation of an image's predictions over the runs, or None with one run.
    attention : arm -> (n,) weights, each fold shifted to the common average; fold_averages : arm -> lowest and
    highest average weight of any fold's model. contributions : arm -> (n,) what it adds to each prediction, on `scale`.
    metric : its name; value, low, high : its mean over the runs and the interval, None if undefined.
    ceiling : the highest Pearson's r that the raters' agreement allows, if known and the metric is Pearson's r.
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
    fold_averages: dict[str, tuple[float, float]]
    metric: str
    value: float | None
    low: float | None
    high: float | None
    ceiling: float | None = None
    contributions: dict[str, Floats] = field(default_factory=dict)
    scale: Scale = Scale()

    @property
    def cell(self) -> tuple[str, str, str]:
        """kind, train set, test set."""
        return self.kind, self.train, self.test

    @property
    def inside(self) -> bool:
        """Whether the regressor was trained on images of the tested dataset."""
        return self.kind in INSIDE

    @property
    def title(self) -> str:
        """The dataset's name, or "train → test"."""
        return train_to_test(self.train, self.test)

    @property
    def score(self) -> str:
        """The value with its interval, or words if it is undefined."""
        return score_text(self.value, self.low, self.high)

    @property
    def share(self) -> str:
        """The value as a share of the noise ceiling, in words; "" if the ceiling is unknown."""
        if self.value is None or self.ceiling is None:
            return ""
        return f"{self.value / self.ceiling:.0%} of the noise ceiling, {self.ceiling:.3f}"

    @property
    def residual(self) -> Floats:
        """(n,) predicted minus rated."""
        return self.predicted - self.rated

    def on(self, scale: Scale) -> Result:
        """This result, which is on 0 to 1, converted to the given scale."""
        return replace(
            self,
            rated=scale.of(self.rated),
            predicted=scale.of(self.predicted),
            spread=None if self.spread is None else self.spread * abs(scale.most - scale.least),
            contributions={arm: own * (scale.most - scale.least) for arm, own in self.contributions.items()},
            scale=scale,
        )


@dataclass(frozen=True)
class Evidence:
    """Everything in the score files. means : the scores averaged over runs. files : label -> path of the scores."""

    scores: ScoreTable
    means: pd.DataFrame
    predictions: Predictions
    results: list[Result]
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def regressors(self) -> list[str]:
        """Names of the regressors, in order of appearance."""
        return list(dict.fromkeys(result.regressor for result in self.results))

    @property
    def images(self) -> dict[str, list[str]]:
        """Tested dataset -> ids of its images, in order of appearance."""
        images: dict[str, dict[str, None]] = {}
        for result in self.results:
            images.setdefault(result.test, {}).update(dict.fromkeys(result.ids))
        return {dataset: list(ids) for dataset, ids in images.items()}

    @property
    def image_numbers(self) -> dict[tuple[str, str], int]:
        """(dataset, id) -> the image's number in the order of `images`, from 0."""
        keys = ((dataset, image) for dataset, ids in self.images.items() for image in ids)
        return {key: number for number, key in enumerate(keys)}

    def on(self, scales: Mapping[str, Scale]) -> Evidence:
        """The same evidence with the ratings of these datasets on their own scales."""
        return replace(self, results=[result.on(scales.get(result.test, result.scale)) for result in self.results])

    def of(self, regressor: str) -> list[Result]:
        """The results of one regressor."""
        return [result for result in self.results if result.regressor == regressor]

    def home(self, regressor: str) -> list[Result]:
        """The regressor's results on the dataset it was trained on; if there are none, all its results."""
        own = self.of(regressor)
        return [result for result in own if result.inside] or own


def read_evidence(paths: Sequence[str | Path], metric: str) -> Evidence:
    """Read score files and the predictions beside them; a regressor in more than one file gets the file's name.

    Raises
    ------
    DrexcacheError : a missing or invalid file, scores and predictions that do not belong together, an unknown
        metric, or a cell with fewer than 10 images.
    """
    if metric not in METRICS:
        raise DrexcacheError(f"no metric named {metric}; {nearest(metric, METRICS)}")
    files = {str(path): Path(path) for path in paths}
    if not files:
        raise DrexcacheError("no scores to report on; name one or more files that evaluate wrote")
    pairs = {label: read_pair(path) for label, path in files.items()}
    tables = {label: table for label, (table, _) in pairs.items()}
    predictions = {label: made for label, (_, made) in pairs.items()}
    for label, run in ((label, run) for label, made in predictions.items() for run in made.runs):
        if len(run.ids) < MIN_IMAGES:
            count = several(len(run.ids), "image")
            raise DrexcacheError(f"{label}: {run.test} has {count}; a report needs at least {MIN_IMAGES}")
    joined = join(predictions)
    scores = _renamed(tables, predictions, joined)
    cells: dict[tuple[str, ...], list[Run]] = {}
    for run in joined.runs:
        cells.setdefault((run.regressor, *run.cell), []).append(run)
    means = scores.means()
    chosen = means[(means.metric == metric) & (means.group == "") & ~means.calibrated]
    scored = chosen.set_index(["regressor", *CELL])
    results = [_result(runs, metric, scored.loc[key]) for key, runs in cells.items()]
    return Evidence(scores, means, joined, results, files)


def _renamed(
    tables: Mapping[str, ScoreTable], predictions: Mapping[str, Predictions], joined: Predictions
) -> ScoreTable:
    """All rows, with the regressors named as in the joined predictions."""
    runs = ((label, run.regressor) for label, one in predictions.items() for run in one.runs)
    names = dict(zip(runs, (run.regressor for run in joined.runs), strict=True))
    rows = [
        replace(row, regressor=names[label, row.regressor]) for label, table in tables.items() for row in table.rows
    ]
    return ScoreTable(rows)


def _result(runs: Sequence[Run], metric: str, mean: pd.Series) -> Result:
    """Average the runs of one regressor and cell on the images that all of them predict; mean : of their scores."""
    first = runs[0]
    common = set(first.ids).intersection(*(run.ids for run in runs))
    ids = [image for image in first.ids if image in common]
    orders = [_rows_of(ids, run) for run in runs]
    predicted = np.stack([run.predicted[order] for run, order in zip(runs, orders, strict=True)])  # (runs, n)
    weights = {arm: [run.attention[arm] for run in runs] for arm in _common([run.attention for run in runs])}
    averages = {arm: [_fold_averages(run, arm) for run in runs] for arm in weights}  # (n,) per run
    shifted = {
        arm: [one - average + one.mean() for one, average in zip(own, averages[arm], strict=True)]
        for arm, own in weights.items()
    }
    added = {arm: [run.contributions[arm] for run in runs] for arm in _common([run.contributions for run in runs])}
    value, low, high, ceiling = mean[["value", "low", "high", "ceiling"]].astype(object).where(mean.notna(), None)
    return Result(
        regressor=first.regressor, kind=first.kind, train=first.train, test=first.test, ids=ids,
        rated=first.rated[orders[0]], predicted=predicted.mean(axis=0),
        spread=predicted.std(axis=0, ddof=1) if len(runs) > 1 else None,
        group=[first.group[row] for row in orders[0]] if first.group else [],
        attention={arm: _mean(own, orders) for arm, own in shifted.items()},
        fold_averages={arm: (float(np.min(own)), float(np.max(own))) for arm, own in averages.items()},
        metric=metric, value=value, low=low, high=high, ceiling=ceiling,
        contributions={arm: _mean(own, orders) for arm, own in added.items()},
    )  # fmt: skip


def _rows_of(ids: Sequence[str], run: Run) -> list[int]:
    """The run's rows of these images."""
    place = {image: row for row, image in enumerate(run.ids)}
    return [place[image] for image in ids]


def _mean(values: Sequence[Floats], orders: Sequence[Sequence[int]]) -> Floats:
    """The mean over the runs of each one's values in its order: (n,)."""
    return np.asarray(np.mean([one[order] for one, order in zip(values, orders, strict=True)], axis=0))


def _common(by_arm: Sequence[Mapping[str, Floats]]) -> list[str]:
    """The arms that all runs have."""
    return [arm for arm in by_arm[0] if all(arm in one for one in by_arm)]


def _fold_averages(run: Run, arm: str) -> Floats:
    """For each image, the average weight over the images that the same fold's model predicted: (n,)."""
    weights, (_, fold) = run.attention[arm], np.unique(run.fold, return_inverse=True)
    return np.asarray((np.bincount(fold, weights) / np.bincount(fold))[fold], dtype=np.float64)
