"""The tables that summarise a ScoreTable for a reader, starting with the chosen metric and its intervals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from drexcache.errors import DrexcacheError, nearest
from drexcache.metrics import higher_is_better
from drexcache.scores.text import NAMES, UNDEFINED, Entry, Table, number, score_entry, train_to_test

if TYPE_CHECKING:
    import pandas as pd

    from drexcache.scores.table import ScoreTable

LIMITS = ["value", "low", "high"]
WITHIN = {"in-domain": "out of fold", "split": "official split"}
CELL = ["kind", "train", "test"]


def score_tables(table: ScoreTable, metric: str = "pearson") -> list[Table]:
    """The summary tables; scores and the ends of their intervals are means over seeds and repeats.

    Tables without content are left out: scores within each dataset (a line per dataset and a column per regressor,
    or the other way round if there are more regressors), train -> test for each regressor, all metrics, groups, and
    shares of the noise ceiling.

    Raises
    ------
    DrexcacheError : no scores, or none of that metric.
    """
    if not table.rows:
        raise DrexcacheError("no scores to show")
    means = table.means()
    chosen = means[(means.metric == metric) & ~means.calibrated]
    if chosen.empty:
        raise DrexcacheError(f"no scores of metric {metric!r}; {nearest(metric, means.metric.unique())}")
    whole = chosen[chosen.group == ""]
    return [
        *_inside(whole[whole.kind.isin(list(WITHIN))], metric),
        *(found for _, own in whole.groupby("regressor", sort=False) for found in _matrix(own, metric)),
        _all_metrics(means[means.group == ""]),
        *_groups(chosen, metric),
        *_shares(means[(means.metric == "pearson") & (means.group == "") & means.ceiling.notna()]),
    ]


def mean_entry(means: pd.DataFrame) -> Entry | str:
    """The score of these rows of `ScoreTable.means` (their mean if there are several); "" if there are none."""
    return score_entry(*means[LIMITS].mean(skipna=False)) if len(means) else ""


def _inside(means: pd.DataFrame, metric: str) -> list[Table]:
    """The scores within each dataset: datasets by regressors."""
    if means.empty:
        return []
    how = " and ".join(WITHIN[kind] for kind in means.kind.unique())
    title = f"**Inside a dataset ({how}): {_headline(metric)}**{_runs(means)}"
    sets, regressors = list(means.test.unique()), list(means.regressor.unique())
    body = [[test, *_best_marked(_along(means[means.test == test], "regressor", regressors), metric)] for test in sets]
    if len(regressors) > len(sets):
        return [Table(title, ["regressor", *sets], list(zip(regressors, *(line[1:] for line in body), strict=True)))]
    return [Table(title, ["dataset", *regressors], body)]


def _matrix(means: pd.DataFrame, metric: str) -> list[Table]:
    """One regressor's table: a line per training set, a column per test set; none if it has no cross-dataset score."""
    if means.kind.isin(list(WITHIN)).all():
        return []
    tests, left_out = list(means.test.unique()), means.kind == "leave-one-out"
    body = [[train, *_along(own, "test", tests)] for train, own in means[~left_out].groupby("train", sort=False)]
    if left_out.any():
        body.append(["all but the tested one", *_along(means[left_out], "test", tests)])
    name = means.regressor.iloc[0]
    title = f"**{name}, trained on (line) → tested on (column): {_headline(metric)}**{_runs(means)}"
    return [Table(title, ["train → test", *tests], body)]


def _all_metrics(means: pd.DataFrame) -> Table:
    """A line per regressor and cell, a column per metric."""
    metrics, body = list(means.metric.unique()), []
    for name, mine in means.groupby("regressor", sort=False):
        for (kind, train, test), own in mine.groupby(CELL, sort=False):
            values = [_raw_and_calibrated(own[own.metric == metric]) for metric in metrics]
            seconds = number(own.seconds.mean(), 1)
            body.append([name, train_to_test(train, test, kind), str(own.n.iloc[0]), *values, seconds])
    title = "**All metrics**, errors on ratings put on [0, 1]"
    if means.calibrated.any():
        title += "; in brackets after a linear calibration fitted on the other half of the test images"
    names = [NAMES.get(metric, metric) for metric in metrics]
    return Table(title, ["regressor", "train → test", "n", *names, "training (s)"], body)


def _groups(chosen: pd.DataFrame, metric: str) -> list[Table]:
    """A line per group and cell, a column per regressor."""
    regressors, body = list(chosen[chosen.group != ""].regressor.unique()), []
    for (kind, train, test), here in chosen.groupby(CELL, sort=False):
        if (here.group != "").any():
            for group, own in here.groupby("group", sort=False):
                line = [train_to_test(train, test, kind), group or "all", str(own.n.iloc[0])]
                body.append([*line, *_along(own, "regressor", regressors)])
    title = f"**By group: {_headline(metric)}**"
    return [Table(title, ["train → test", "group", "n", *regressors], body)] if body else []


def _shares(means: pd.DataFrame) -> list[Table]:
    """Pearson's r as a share of the noise ceiling: a line per cell that has one, a column per regressor."""
    regressors, body = list(means.regressor.unique()), []
    for (kind, train, test), own in means.groupby(CELL, sort=False):
        shares = {row.regressor: _share(row.value, row.low, row.high, row.ceiling) for row in own.itertuples()}
        line = [train_to_test(train, test, kind), number(own.ceiling.iloc[0])]
        body.append([*line, *(shares.get(name, "") for name in regressors)])
    title = (
        "**Share of the noise ceiling: Pearson's r / highest r that the raters' agreement allows [95% interval of r]**"
    )
    return [Table(title, ["train → test", "ceiling", *regressors], body)] if body else []


def _share(value: float, low: float, high: float, ceiling: float) -> str:
    if math.isnan(value):
        return UNDEFINED
    return f"{value / ceiling:.0%}" + ("" if math.isnan(low) else f" [{low / ceiling:.0%}, {high / ceiling:.0%}]")


def _along(means: pd.DataFrame, column: str, names: list[str]) -> list[Entry | str]:
    """The score for each name in that column."""
    return [mean_entry(means[means[column] == name]) for name in names]


def _best_marked(entries: list[Entry | str], metric: str) -> list[Entry | str]:
    """The entries, the best of several marked."""
    found = [one.value for one in entries if isinstance(one, Entry) and isinstance(one.value, float)]
    if len(found) < 2:
        return entries
    best = max(found) if higher_is_better(metric) else min(found)
    return [replace(one, best=True) if isinstance(one, Entry) and one.value == best else one for one in entries]


def _raw_and_calibrated(means: pd.DataFrame) -> str:
    """A score with the calibrated one in brackets; "" if the metric was not measured."""
    if means.empty:
        return ""
    raw, fitted = (means[means.calibrated == flag].value.mean(skipna=False) for flag in (False, True))
    return number(raw, missing="undefined") + ("" if math.isnan(fitted) else f" ({number(fitted)})")


def _headline(metric: str) -> str:
    return f"{NAMES[metric]} [95% interval]"


def _runs(means: pd.DataFrame) -> str:
    """The end of a title: how many runs the means are over, or "" for one."""
    several = [f"{n} {what}" for what in ("seeds", "repeats") if (n := means[what].max()) > 1]
    return f", mean over {' x '.join(several)}" if several else ""
