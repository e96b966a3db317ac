"""ScoreTable: every score of an evaluation, one row each, as CSV and as a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from drexcache.errors import DrexcacheError
from drexcache.scores.overview import LIMITS, score_tables
from drexcache.scores.records import read_records, write_records
from drexcache.scores.text import render

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Score:
    """One metric of one regressor, trained on one dataset and tested on the same or another.

    kind : "in-domain" (out-of-fold predictions, pooled over folds), "split" (the dataset's own train and
        test), "cross" (another dataset) or "leave-one-out" (trained on all datasets but the tested one).
    seed, repeat : the regressor's seed, and the number of the division into folds.
    group : the group of images scored; "" for all.
    calibrated : whether this is an error after linear calibration (see drexcache.studies.evaluation.scoring).
    value, low, high : the metric with its 95% interval, None where undefined (constant predictions).
    n : number of images; seconds : training time; note : a caveat about the row.
    ceiling : the highest Pearson's r that these ratings allow, if their reliability is known.
    """

    regressor: str
    train: str
    test: str
    kind: str
    seed: int
    repeat: int
    group: str
    metric: str
    calibrated: bool
    value: float | None
    low: float | None
    high: float | None
    n: int
    seconds: float | None = None
    note: str = ""
    ceiling: float | None = None


NOTE_ENDS = " | "
Record = TypeVar("Record", bound=Any)  # a dataclass with a regressor
TYPES: dict[str, type] = {
    "regressor": str, "train": str, "test": str, "kind": str, "seed": int, "repeat": int, "group": str, "metric": str,
    "calibrated": bool, "n": int, "note": str,
}  # fmt: skip
OPTIONAL: dict[str, type] = {"value": float, "low": float, "high": float, "seconds": float, "ceiling": float}
COLUMNS = [field.name for field in fields(Score)]
WHAT = ["regressor", "kind", "train", "test", "group", "metric", "calibrated"]  # rows that agree here are averaged


@dataclass
class ScoreTable:
    """All scores of an evaluation.

    >>> row = Score("ridge", "art", "art", "in-domain", 42, 0, "", "pearson", False, 0.5, 0.3, 0.7, 60)
    >>> table = ScoreTable([row])
    >>> table.select(metric="pearson", test="art").rows[0].value
    0.5
    >>> table.to_pandas()[["regressor", "value"]].to_dict("records")
    [{'regressor': 'ridge', 'value': 0.5}]
    """

    rows: list[Score] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Caveats about the scores, each note once."""
        parts = (note for row in self.rows for note in row.note.split(NOTE_ENDS) if note)
        return list(dict.fromkeys(parts))

    def select(self, **wanted: object) -> ScoreTable:
        """The rows whose fields have those values, such as ``select(metric="rmse", calibrated=True)``."""
        rows = self.rows
        return ScoreTable([row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())])

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row per score and a column per field of `Score`; undefined or unknown values are NaN."""
        import pandas as pd

        frame = pd.DataFrame([astuple(row) for row in self.rows], columns=COLUMNS)
        return frame.astype(dict.fromkeys(OPTIONAL, "float64"))

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame) -> ScoreTable:
        """The table from a frame as `to_pandas` returns it; the columns note, seconds and ceiling may be missing.

        Raises
        ------
        DrexcacheError : another column is missing.
        """
        needed = [name for name in COLUMNS if name not in ("note", "seconds", "ceiling")]
        missing = [name for name in needed if name not in frame]
        if missing:
            raise DrexcacheError(f"no column {', '.join(missing)} in the scores; they have: {', '.join(frame)}")
        known = frame[[name for name in COLUMNS if name in frame]]
        return cls([Score(**row) for row in known.astype(object).where(known.notna(), None).to_dict("records")])

    def means(self) -> pd.DataFrame:
        """The scores averaged over their runs (seeds and repeats), in order of appearance.

        A row per regressor, kind, train, test, group, metric and calibrated; value, low and high are NaN if any run has
        none. The runs share their images, so averaging does not narrow the intervals; several seeds widen them by the
        variance of a mean over so many. n and ceiling are the first run's, seconds is the mean, and seeds, repeats and
        runs are counts.
        """
        frame = self.to_pandas()
        groups = frame.groupby(WHAT, sort=False)
        means = groups[LIMITS].mean()
        seeds = frame.groupby([*WHAT, "seed"], sort=False).value.mean().groupby(WHAT, sort=False)
        error = (1.96 * seeds.std() / seeds.count() ** 0.5).fillna(0)
        for end, sign in (("low", -1), ("high", 1)):
            reach = (means[end] - means.value).abs()
            means[end] += sign * ((reach**2 + error**2) ** 0.5 - reach)
        return (
            means.where(groups[LIMITS].count().eq(groups.size(), axis=0))
            .join(groups.agg(n=("n", "first"), seconds=("seconds", "mean"), ceiling=("ceiling", "first"),
                             seeds=("seed", "nunique"), repeats=("repeat", "nunique"), runs=("n", "size")))
            .reset_index()
        )  # fmt: skip

    def to_csv(self, path: str | Path | BinaryIO) -> None:
        """Write one line per score; numbers keep every digit, undefined values are empty cells."""
        write_records(path, COLUMNS, [astuple(row) for row in self.rows])

    @classmethod
    def read_csv(cls, path: str | Path) -> ScoreTable:
        """Read a table that `to_csv` wrote.

        Raises
        ------
        DrexcacheError : no such file, a missing column, or a cell of the wrong type.
        """
        required = {name: OPTIONAL.get(name) or TYPES[name] for name in COLUMNS if name != "ceiling"}
        return cls.from_pandas(read_records(path, required, OPTIONAL))

    def markdown(self, metric: str = "pearson") -> str:
        """The summary tables in GitHub's markdown, starting with `metric` and its intervals."""
        return render(score_tables(self, metric), self.notes)

    def _repr_html_(self) -> str:
        return render(score_tables(self), self.notes, "html")

    def latex(self, metric: str = "pearson") -> str:
        """The same tables in LaTeX, with booktabs."""
        return render(score_tables(self, metric), self.notes, "latex")


def told_apart(files: Mapping[str, Sequence[Record]]) -> list[Record]:
    """Join the scores (or runs) of several files; a regressor found in more than one is named "label: regressor".

    >>> row = Score("ridge", "art", "art", "in-domain", 42, 0, "", "pearson", False, 0.5, 0.3, 0.7, 60)
    >>> [one.regressor for one in told_apart({"a.csv": [row], "b.csv": [row, replace(row, regressor="svr")]})]
    ['a.csv: ridge', 'b.csv: ridge', 'svr']
    """
    homes: dict[str, set[str]] = {}
    for label, records in files.items():
        for one in records:
            homes.setdefault(one.regressor, set()).add(label)
    return [
        replace(one, regressor=f"{label}: {one.regressor}") if len(homes[one.regressor]) > 1 else one
        for label, records in files.items()
        for one in records
    ]
