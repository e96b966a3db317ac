"""The tables of a report, for the page and as CSV, markdown and LaTeX files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drexcache.files import Content
from drexcache.scores import NAMES, Entry, Table, number, p_text, render, score_entry, train_to_test, true_minus
from drexcache.studies.comparison import Comparison, Pair
from drexcache.studies.reporting.evidence import CELL, INSIDE

if TYPE_CHECKING:
    import pandas as pd


SMALLEST_FIRST = {"RMSE", "MAE", "RMAE", "RMSE calibrated", "p (Holm)", "training (s)"}


@dataclass(frozen=True)
class SortableTable:
    """A table as the page shows it. bar : the column whose intervals are drawn as bars, on a scale from low to high."""

    table: Table
    bar: int
    low: float = 0.0
    high: float = 1.0

    @property
    def rows(self) -> list[list[Entry]]:
        """The entries; a plain text becomes an entry that sorts by its text."""
        return [
            [true_minus(one) if isinstance(one, Entry) else Entry(one, one) for one in line] for line in self.table.body
        ]

    @property
    def descending(self) -> list[int]:
        """The columns that the first click sorts in descending order, so that the best comes first."""
        columns = enumerate(zip(*self.rows, strict=True))
        numeric = [at for at, own in columns if not any(isinstance(one.value, str) for one in own)]
        return [at for at in numeric if self.table.headers[at] not in SMALLEST_FIRST]

    def place(self, value: float) -> float:
        """A value's position on the bar's scale, in per cent."""
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 1)


def score_table(means: pd.DataFrame, metric: str) -> SortableTable:
    """A row per regressor and cell, cells within a dataset first; a column per metric, the chosen one first.

    means : from `ScoreTable.means`.
    """
    means = means[means.group == ""].sort_values("kind", key=lambda kind: ~kind.isin(INSIDE), kind="stable")
    metrics = list(dict.fromkeys([metric, *means.metric]))
    calibrated, ceilings = bool(means.calibrated.any()), bool(means.ceiling.notna().any())
    body = []
    for (name, kind, train, test), own in means.groupby(["regressor", *CELL], sort=False):
        raw, n = own[~own.calibrated], int(own.n.iloc[0])
        line: list[Entry | str] = [name, train_to_test(train, test, kind if kind == "split" else "")]
        line += [_value(raw[raw.metric == one]) for one in metrics]
        line += [_value(own[(own.metric == "rmse") & own.calibrated])] if calibrated else []
        line += [_share(raw[raw.metric == "pearson"])] if ceilings else []
        body.append([*line, Entry(f"{n:,}", n), _seconds(own.seconds.mean())])
    headers = ["regressor", "train → test", *(NAMES.get(one, one) for one in metrics)]
    headers += ["RMSE calibrated"] * calibrated + ["r / noise ceiling"] * ceilings + ["images", "training (s)"]
    return _with_scale(Table("All scores", headers, body, "scores"), bar=2)


def group_table(means: pd.DataFrame, metric: str) -> SortableTable:
    """A row per cell, group and regressor."""
    means = means[(means.group != "") & (means.metric == metric) & ~means.calibrated]
    body = [
        [row.regressor, train_to_test(row.train, row.test), row.group, _score(row), Entry(f"{row.n:,}", row.n)]
        for row in means.itertuples()
    ]
    headers = ["regressor", "train → test", "group", NAMES[metric], "images"]
    return _with_scale(Table("Scores by group", headers, body, "groups"), bar=3)


def comparison_table(comparison: Comparison) -> SortableTable:
    """A row per pair of regressors and cell."""
    pairs = comparison.pairs
    seeds = any(pair.first_seed_sd is not None or pair.second_seed_sd is not None for pair in pairs)
    headers = ["train → test", "first", "second", "difference", "verdict", "p (Holm)", "first's", "second's"]
    headers += ["first's SD over seeds", "second's SD over seeds"] * seeds + ["images"]
    limits = [abs(limit) for pair in pairs for limit in (pair.low, pair.high) if limit is not None]
    reach = max(limits, default=1.0) or 1.0
    table = Table("Differences", headers, [_pair_line(pair, seeds) for pair in pairs], "differences")
    return SortableTable(table, bar=3, low=-reach, high=reach)


def table_files(table: Table, folder: Path) -> dict[str | Path, Content]:
    """The table as CSV (every digit, interval ends in columns of their own), markdown and LaTeX (booktabs) files."""
    csv: dict[str | Path, Content] = {folder / f"{table.name}.csv": table.to_pandas().to_csv(index=False)}
    return csv | text_files([replace(table, title="")], folder / table.name)


def text_files(tables: Sequence[Table], stem: Path) -> dict[str | Path, Content]:
    """Tables as STEM.md and STEM.tex: what the two files hold."""
    return {stem.with_suffix(".md"): render(tables), stem.with_suffix(".tex"): render(tables, form="latex")}


def _pair_line(pair: Pair, seeds: bool) -> list[Entry | str]:
    faint = pair.verdict not in ("better", "worse")
    spreads = [score_entry(sd, missing="") for sd in (pair.first_seed_sd, pair.second_seed_sd)]
    return [
        train_to_test(pair.train, pair.test), pair.first, pair.second,
        replace(score_entry(pair.difference, pair.low, pair.high, sign=True, missing=""), faint=faint),
        Entry(pair.sentence, pair.sentence, faint=faint), Entry(p_text(pair.p_holm), pair.p_holm),
        score_entry(pair.first_value, missing="undefined"), score_entry(pair.second_value, missing="undefined"),
        *(spreads if seeds else []), Entry(f"{pair.n:,}", pair.n),
    ]  # fmt: skip


def _seconds(value: float) -> Entry:
    return Entry(number(value, 1), value if math.isfinite(value) else None)


def _value(means: pd.DataFrame) -> Entry | str:
    """The score in these rows (there is at most one); "" if the metric was not measured."""
    return _score(means.iloc[0]) if len(means) else ""


def _score(row: pd.Series) -> Entry:
    return score_entry(row.value, row.low, row.high, missing="undefined")


def _share(means: pd.DataFrame) -> Entry | str:
    """Pearson's r as a share of the noise ceiling; "" if that is unknown."""
    known = means[means.ceiling.notna() & means.value.notna()]
    if known.empty:
        return ""
    value, ceiling = known[["value", "ceiling"]].iloc[0]
    return Entry(f"{value / ceiling:.0%} of {number(ceiling)}", value / ceiling)


def _with_scale(table: Table, bar: int) -> SortableTable:
    """The table with its bars on a scale of whole tenths that covers all intervals."""
    found = SortableTable(table, bar)
    limits = [limit for line in found.rows for limit in (line[bar].low, line[bar].high) if limit is not None]
    if not limits:
        return found
    low, high = math.floor(10 * min(limits)) / 10, math.ceil(10 * max(limits)) / 10
    return SortableTable(table, bar, low, max(high, low + 0.1))
