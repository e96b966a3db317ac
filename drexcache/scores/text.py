"""What a person reads of a ScoreTable, in markdown or LaTeX: the chosen metric with intervals first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from drexcache.errors import DrexcacheError
from drexcache.scores.table import Score, ScoreTable
from drexcache.scores.tables import Table, render

NAMES = {
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
    "kendall": "Kendall's τ",
    "rmse": "RMSE",
    "mae": "MAE",
    "rmae": "RMAE",
}
UNDEFINED = "undefined (constant predictions)"
INSIDE = ("in-domain", "split")
Cell = tuple[str, str, str]  # kind, train set, test set


def text(table: ScoreTable, metric: str = "pearson", form: str = "markdown") -> str:
    """The tables of `score_tables` and the notes, as markdown or LaTeX."""
    return render(score_tables(table, metric), table.notes, form)


def score_tables(table: ScoreTable, metric: str = "pearson") -> list[Table]:
    """The tables to look at; numbers are means over seeds and repeats, and so are the ends of their intervals.

    Each where there is something to show: inside the datasets (a line per dataset, a column per regressor; the
    other way round where there are more regressors), train -> test for each regressor, all metrics, groups,
    shares of the noise ceiling.

    Raises
    ------
    DrexcacheError : no scores, or none of that metric.
    """
    if not table.rows:
        raise DrexcacheError("no scores to show")
    chosen = table.select(metric=metric, calibrated=False)
    if not chosen.rows:
        raise DrexcacheError(f"no scores of metric {metric!r}; there are: {', '.join(_unique(table.rows, 'metric'))}")
    return [
        *_inside(chosen, metric), *_matrices(chosen, metric), _all_metrics(table), *_groups(chosen, metric),
        *_shares(table),
    ]  # fmt: skip


def mean_score(rows: Sequence[Score]) -> tuple[float | None, float | None, float | None]:
    """Value, low and high, each the mean over the runs (seeds, repeats) of one cell; None if any has none.

    The runs share their images, so that the ends of their intervals do not come closer together by averaging.
    """
    columns = [[getattr(row, name) for row in rows] for name in ("value", "low", "high")]
    means = [None if not rows or None in values else statistics.fmean(values) for values in columns]
    return means[0], means[1], means[2]


def _inside(chosen: ScoreTable, metric: str) -> list[Table]:
    """In-domain scores, datasets against regressors."""
    rows = [row for row in chosen.rows if row.kind in INSIDE and not row.group]
    if not rows:
        return []
    sets, regressors = _unique(rows, "test"), _unique(rows, "regressor")
    cells = {
        (test, name): _text([row for row in rows if (row.test, row.regressor) == (test, name)])
        for test in sets
        for name in regressors
    }
    how = " and ".join({"in-domain": "out of fold", "split": "official split"}[kind] for kind in _unique(rows, "kind"))
    title = f"**Inside a dataset ({how}): {NAMES[metric]} [95% interval]**{_runs(rows)}"
    if len(regressors) > len(sets):
        body = [[name, *(cells[test, name] for test in sets)] for name in regressors]
        return [Table(title, ["regressor", *sets], body)]
    body = [[test, *(cells[test, name] for name in regressors)] for test in sets]
    return [Table(title, ["dataset", *regressors], body)]


def _matrices(chosen: ScoreTable, metric: str) -> list[Table]:
    """For each regressor: a line per training set, a column per test set."""
    parts = []
    for name in _unique(chosen.rows, "regressor"):
        rows = [row for row in chosen.rows if row.regressor == name and not row.group]
        if all(row.kind in INSIDE for row in rows):
            continue
        tests = _unique(rows, "test")
        plain = [row for row in rows if row.kind != "leave-one-out"]
        body = [
            [
                train,
                *(_text([row for row in plain if (row.train, row.test) == (train, test)]) for test in tests),
            ]
            for train in _unique(plain, "train")
        ]
        left = [row for row in rows if row.kind == "leave-one-out"]
        if left:
            body.append(["all but the tested one", *(_text([row for row in left if row.test == t]) for t in tests)])
        title = f"**{name}, trained on (line) → tested on (column): {NAMES[metric]} [95% interval]**{_runs(rows)}"
        parts.append(Table(title, ["train → test", *tests], body))
    return parts


def _all_metrics(table: ScoreTable) -> Table:
    """A line per regressor and cell, a column per metric."""
    rows = [row for row in table.rows if not row.group]
    metrics = _unique(rows, "metric")
    body = []
    for name in _unique(rows, "regressor"):
        mine = [row for row in rows if row.regressor == name]
        for cell in _cells(mine):
            own = [row for row in mine if (row.kind, row.train, row.test) == cell]
            values = [_pair([row for row in own if row.metric == metric]) for metric in metrics]
            seconds = mean_seconds(own)
            body.append([name, _arrow(cell), str(own[0].n), *values, "" if seconds is None else f"{seconds:.1f}"])
    title = "**All metrics**, errors on ratings put on [0, 1]"
    if any(row.calibrated for row in rows):
        title += "; in brackets after a linear calibration fitted on the other half of the test images"
    headers = [
        "regressor",
        "train → test",
        "n",
        *(NAMES.get(metric, metric) for metric in metrics),
        "training (s)",
    ]
    return Table(title, headers, body)


def mean_seconds(rows: Sequence[Score]) -> float | None:
    """Mean training time of one run; None where it is not known."""
    known = [row.seconds for row in rows if row.seconds is not None]
    return statistics.fmean(known) if known else None


def _groups(chosen: ScoreTable, metric: str) -> list[Table]:
    """A line per group and cell, a column per regressor."""
    rows = [row for row in chosen.rows if row.group]
    if not rows:
        return []
    regressors = _unique(rows, "regressor")
    body = []
    for cell in _cells(rows):
        here = [row for row in chosen.rows if (row.kind, row.train, row.test) == cell]
        for group in ["", *_unique([row for row in here if row.group], "group")]:
            own = [row for row in here if row.group == group]
            texts = [_text([row for row in own if row.regressor == name]) for name in regressors]
            body.append([_arrow(cell), group or "all", str(own[0].n), *texts])
    title = f"**By group: {NAMES[metric]} [95% interval]**"
    return [Table(title, ["train → test", "group", "n", *regressors], body)]


def _shares(table: ScoreTable) -> list[Table]:
    """Pearson's r as a share of the noise ceiling, a line per cell with one, a column per regressor."""
    rows = [row for row in table.select(metric="pearson", group="").rows if row.ceiling is not None]
    regressors, body = _unique(rows, "regressor"), []
    for cell in _cells(rows):
        own = [row for row in rows if (row.kind, row.train, row.test) == cell]
        highest = own[0].ceiling or 1.0
        means = [mean_score([row for row in own if row.regressor == name]) for name in regressors]
        body.append([_arrow(cell), f"{highest:.3f}", *(_share(mean, highest) for mean in means)])
    title = (
        "**Share of the noise ceiling: Pearson's r / highest r that the raters' agreement allows [95% interval of r]**"
    )
    return [Table(title, ["train → test", "ceiling", *regressors], body)] if body else []


def _share(mean: tuple[float | None, float | None, float | None], highest: float) -> str:
    value, low, high = mean
    if value is None:
        return UNDEFINED
    share = f"{value / highest:.0%}"
    return share if low is None or high is None else f"{share} [{low / highest:.0%}, {high / highest:.0%}]"


def score_text(value: float | None, low: float | None, high: float | None) -> str:
    """A score with its interval.

    >>> score_text(0.8821, 0.8472, 0.9101)
    '0.882 [0.847, 0.910]'
    """
    if value is None:
        return UNDEFINED
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _text(rows: Sequence[Score]) -> str:
    """The mean score of these runs of a cell; nothing where there are none."""
    return score_text(*mean_score(rows)) if rows else ""


def _pair(rows: Sequence[Score]) -> str:
    """A score and, in brackets, the calibrated one; nothing where the metric was not measured."""
    if not rows:
        return ""
    raw, _, _ = mean_score([row for row in rows if not row.calibrated])
    fitted, _, _ = mean_score([row for row in rows if row.calibrated])
    text = "undefined" if raw is None else f"{raw:.3f}"
    return text if fitted is None else f"{text} ({fitted:.3f})"


def _arrow(cell: Cell) -> str:
    kind, train, test = cell
    return f"{test} ({kind})" if kind in INSIDE else f"{train} → {test}"


def _runs(rows: Sequence[Score]) -> str:
    """How many runs a mean is over, where there are several."""
    counts = {"seeds": len({row.seed for row in rows}), "repeats": len({row.repeat for row in rows})}
    several = " x ".join(f"{count} {what}" for what, count in counts.items() if count > 1)
    return f", mean over {several}" if several else ""


def _unique(rows: Sequence[Score], name: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(row, name)) for row in rows))


def _cells(rows: Sequence[Score]) -> list[Cell]:
    return list(dict.fromkeys((row.kind, row.train, row.test) for row in rows))
