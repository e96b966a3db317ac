"""ScoreTable: every score of an evaluation, one row each, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from drexcache.errors import DrexcacheError
from drexcache.files import write_file


@dataclass(frozen=True)
class Score:
    """One metric of one regressor, trained here and tested there.

    kind : "in-domain" (out-of-fold predictions, pooled over folds), "split" (the dataset's own train and
        test), "cross" (another dataset) or "leave-one-out" (all datasets but the tested one).
    seed, repeat : the regressor's seed, and which division into folds.
    group : the images it is about; "" for all.
    calibrated : an error after a linear calibration (see drexcache.studies.evaluation.scoring).
    value, low, high : the metric with its 95% interval, None where it is undefined (constant predictions).
    n : number of images; seconds : time of training; note : what to know before believing the row.
    ceiling : the highest Pearson's r to be expected of these images' ratings, where their reliability is known.
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


COLUMNS = [field.name for field in fields(Score)]
REQUIRED = [name for name in COLUMNS if name != "ceiling"]  # which files of earlier versions do not have
NOTE_ENDS = " | "


@dataclass
class ScoreTable:
    """All scores of an evaluation.

    >>> row = Score("ridge", "art", "art", "in-domain", 42, 0, "", "pearson", False, 0.5, 0.3, 0.7, 60)
    >>> table = ScoreTable([row])
    >>> table.select(metric="pearson", test="art").rows[0].value
    0.5
    """

    rows: list[Score] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What to know before believing the scores, each note once."""
        parts = (note for row in self.rows for note in row.note.split(NOTE_ENDS) if note)
        return list(dict.fromkeys(parts))

    def select(self, **wanted: object) -> ScoreTable:
        """The rows whose fields have those values, such as ``select(metric="rmse", calibrated=True)``."""
        rows = self.rows
        return ScoreTable([row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())])

    def to_csv(self, path: str | Path) -> None:
        """Write one line per score; numbers keep every digit, an undefined one is an empty cell."""
        write_records(path, COLUMNS, [astuple(row) for row in self.rows])

    @classmethod
    def read_csv(cls, path: str | Path) -> ScoreTable:
        """The table that `to_csv` wrote.

        Raises
        ------
        DrexcacheError : no such file, a missing column, or a cell that is not what its column holds.
        """
        return cls([_score(path, line, record) for line, record in read_records(path, REQUIRED)])

    def markdown(self, metric: str = "pearson") -> str:
        """The table to look at, in GitHub's markdown: `metric` first, with its intervals."""
        from drexcache.scores.text import text

        return text(self, metric)

    def latex(self, metric: str = "pearson") -> str:
        """The same tables for a paper, with booktabs."""
        from drexcache.scores.text import text

        return text(self, metric, "latex")


def write_records(path: str | Path, columns: Sequence[str], records: Sequence[Sequence[object]]) -> None:
    """Write a CSV with a header; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(records)
    write_file(path, text.getvalue())


def read_records(path: str | Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells by column name of every line of a CSV that has at least those columns."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            found = list(reader.fieldnames or [])
            records = [(reader.line_num, record) for record in reader]
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DrexcacheError(f"{path}: not a CSV file: {error}") from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise DrexcacheError(f"{path}: no column {', '.join(missing)}; it has: {', '.join(found) or 'nothing'}")
    for line, record in records:
        if "" in record:
            raise DrexcacheError(f"{path}: line {line} has more cells than the header, {len(found)}")
    return records


def number(path: str | Path, line: int, record: dict[str, str], name: str) -> float:
    """That cell as a finite number."""
    try:
        value = float(record[name])
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise DrexcacheError(f"{path}: line {line}: {name} should be a number, found {record[name]!r}")
    return value


def whole(path: str | Path, line: int, record: dict[str, str], name: str) -> int:
    """That cell as a whole number."""
    value = number(path, line, record, name)
    if value != int(value):
        raise DrexcacheError(f"{path}: line {line}: {name} should be a whole number, found {record[name]!r}")
    return int(value)


def _score(path: str | Path, line: int, record: dict[str, str]) -> Score:
    if record["calibrated"] not in ("True", "False"):
        raise DrexcacheError(f"{path}: line {line}: calibrated should be True or False, found {record['calibrated']!r}")

    def optional(name: str) -> float | None:
        return number(path, line, record, name) if record.get(name) else None

    return Score(
        record["regressor"],
        record["train"],
        record["test"],
        record["kind"],
        whole(path, line, record, "seed"),
        whole(path, line, record, "repeat"),
        record["group"],
        record["metric"],
        record["calibrated"] == "True",
        optional("value"),
        optional("low"),
        optional("high"),
        whole(path, line, record, "n"),
        optional("seconds"),
        record["note"],
        optional("ceiling"),
    )
