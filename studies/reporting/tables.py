"""The tables of a report, for the page and as CSV, markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drexcache.files import write_file
from drexcache.scores import NAMES, Score, Table, mean_score, mean_seconds, render, write_records
from drexcache.studies.comparison import Comparison, Pair
from drexcache.studies.reporting.results import INSIDE, Evidence

Column = tuple[str, str, str, str]  # regressor, kind, train set, test set


@dataclass(frozen=True)
class Cell:
    """text : what to read, its interval apart. sort : what to sort by, None to come last. low, high : the
    interval. faint : whether it is within noise."""

    text: str
    sort: str | float | None
    low: float | None = None
    high: float | None = None
    faint: bool = False

    @property
    def interval(self) -> str:
        """Such as "[0.843, 0.907]"; "" where there is none."""
        return "" if self.low is None or self.high is None else f"[{number(self.low)}, {number(self.high)}]"


@dataclass(frozen=True)
class SortableTable:
    """name : of its files. bar : the column whose intervals are drawn, on the scale from low to high."""

    name: str
    title: str
    headers: list[str]
    rows: list[list[Cell]]
    bar: int
    low: float = 0.0
    high: float = 1.0

    def place(self, value: float) -> float:
        """A value's place on the bar's scale, in percent."""
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 1)


def number(value: float, sign: bool = False, digits: int = 3) -> str:
    """A number with a true minus, and no sign on a zero.

    >>> number(-0.0001), number(-0.25, digits=2), number(0.25, sign=True)
    ('0.000', '−0.25', '+0.250')
    """
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def score_table(evidence: Evidence, metric: str) -> SortableTable:
    """A row per regressor and cell, inside the datasets first, the chosen metric first; means over runs."""
    rows = [row for row in evidence.scores.rows if not row.group]
    metrics = [metric, *dict.fromkeys(row.metric for row in rows if row.metric != metric)]
    calibrated, ceilings = any(row.calibrated for row in rows), any(row.ceiling is not None for row in rows)
    cells: dict[Column, list[Score]] = {}
    for row in sorted(rows, key=lambda row: row.kind not in INSIDE):
        cells.setdefault((row.regressor, row.kind, row.train, row.test), []).append(row)
    body = []
    for (name, kind, train, test), own in cells.items():
        line = [_words(name), _words(_where(kind, train, test))]
        line += [_value([row for row in own if row.metric == one and not row.calibrated]) for one in metrics]
        line += [_value([row for row in own if row.metric == "rmse" and row.calibrated])] * calibrated
        line += [_share(own)] * ceilings
        seconds = mean_seconds(own)
        line += [Cell(f"{own[0].n:,}", own[0].n), _words(kind)]
        body.append([*line, Cell("", None) if seconds is None else Cell(f"{seconds:.1f}", seconds)])
    headers = ["regressor", "train → test", *(NAMES.get(one, one) for one in metrics)]
    headers += ["RMSE calibrated"] * calibrated + ["r / noise ceiling"] * ceilings + ["images", "kind", "training (s)"]
    return _with_scale(SortableTable("scores", "All scores", headers, body, bar=2))


def group_table(evidence: Evidence, metric: str) -> SortableTable:
    """A row per cell, group and regressor."""
    cells: dict[tuple[Column, str], list[Score]] = {}
    for row in evidence.scores.select(metric=metric, calibrated=False).rows:
        if row.group:
            cells.setdefault(((row.regressor, row.kind, row.train, row.test), row.group), []).append(row)
    body = [
        [_words(name), _words(_where(*cell)), _words(group), _value(own), Cell(f"{own[0].n:,}", own[0].n)]
        for ((name, *cell), group), own in cells.items()
    ]
    headers = ["regressor", "train → test", "group", NAMES[metric], "images"]
    return _with_scale(SortableTable("groups", "Scores by group", headers, body, bar=3))


def comparison_table(comparison: Comparison) -> SortableTable:
    """A row per pair of regressors and cell."""
    pairs = comparison.pairs
    seeds = any(pair.first_seed_sd is not None or pair.second_seed_sd is not None for pair in pairs)
    headers = ["train → test", "first", "second", "difference", "verdict", "p (Holm)", "first's", "second's"]
    headers += ["first's SD over seeds", "second's SD over seeds"] * seeds + ["images"]
    limits = [abs(limit) for pair in pairs for limit in (pair.low, pair.high) if limit is not None]
    reach = max(limits, default=1.0) or 1.0
    body = [_pair_line(pair, seeds) for pair in pairs]
    return SortableTable("differences", "Differences", headers, body, bar=3, low=-reach, high=reach)


def save_table(table: SortableTable, folder: Path) -> None:
    """Write it as CSV (every digit, ends of intervals in columns of their own), markdown and LaTeX (booktabs)."""
    wide = [any(row[column].interval for row in table.rows) for column in range(len(table.headers))]
    columns: list[str] = []
    for name, with_interval in zip(table.headers, wide, strict=True):
        columns += [name, f"{name} low", f"{name} high"] if with_interval else [name]
    records = []
    for row in table.rows:
        parts = [
            [cell.sort, cell.low, cell.high] if with_interval else [cell.sort]
            for cell, with_interval in zip(row, wide, strict=True)
        ]
        records.append([value for part in parts for value in part])
    write_records(folder / f"{table.name}.csv", columns, records)
    texts = [[f"{cell.text} {cell.interval}".strip() for cell in row] for row in table.rows]
    save_text([Table("", table.headers, texts)], folder / table.name)


def save_text(printed: Sequence[Table], stem: Path) -> None:
    """Write tables as STEM.md and STEM.tex."""
    for ending, form in (("md", "markdown"), ("tex", "latex")):
        write_file(stem.with_suffix(f".{ending}"), render(printed, form=form))


def _pair_line(pair: Pair, seeds: bool) -> list[Cell]:
    faint = pair.verdict not in ("better", "worse")
    difference, p = _number(pair.difference, pair.low, pair.high, sign=True), pair.p_holm
    return [
        _words(_where(pair.kind, pair.train, pair.test)), _words(pair.first), _words(pair.second),
        replace(difference, faint=faint), Cell(pair.sentence, pair.sentence, faint=faint),
        Cell("", None) if p is None else Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p),
        _number(pair.first_value), _number(pair.second_value),
        *[Cell("", None) if sd is None else _number(sd) for sd in (pair.first_seed_sd, pair.second_seed_sd)] * seeds,
        Cell(f"{pair.n:,}", pair.n),
    ]  # fmt: skip


def _where(kind: str, train: str, test: str) -> str:
    return test if kind in INSIDE else f"{train} → {test}"


def _words(text: str) -> Cell:
    return Cell(text, text)


def _value(rows: Sequence[Score]) -> Cell:
    """The mean over runs; empty where the metric was not measured."""
    return _number(*mean_score(rows)) if rows else Cell("", None)


def _share(rows: Sequence[Score]) -> Cell:
    """Pearson's r as a share of the highest that the raters' agreement allows; empty where that is not known."""
    known = [row for row in rows if row.ceiling is not None]
    value = mean_score(known)[0] if known else None
    if value is None or not known[0].ceiling:
        return Cell("", None)
    return Cell(f"{value / known[0].ceiling:.0%} of {known[0].ceiling:.3f}", value / known[0].ceiling)


def _number(value: float | None, low: float | None = None, high: float | None = None, sign: bool = False) -> Cell:
    return Cell("undefined", None) if value is None else Cell(number(value, sign), value, low, high)


def _with_scale(table: SortableTable) -> SortableTable:
    """The same table, its bars on a scale of whole tenths around all intervals."""
    limits = [limit for row in table.rows for limit in (row[table.bar].low, row[table.bar].high) if limit is not None]
    if not limits:
        return table
    low, high = math.floor(10 * min(limits)) / 10, math.ceil(10 * max(limits)) / 10
    return replace(table, low=low, high=max(high, low + 0.1))
