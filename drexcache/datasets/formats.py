"""Tables of text, whatever file they come from: delimited text, a workbook, a DataFrame."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    from pandas import DataFrame

Floats = NDArray[np.float64]


def table_of_file(data: bytes, source: str) -> DataFrame:
    """The table in a file's bytes, every cell text, "" where empty.

    Read are .xlsx and text separated by commas, semicolons or tabs.

    Raises
    ------
    DrexcacheError : not readable as a table, no header row, or nothing below it. source : the file's name.

    >>> table_of_file(b"file;mos\\na.jpg;3.5\\n", "r.csv").to_dict("list")
    {'file': ['a.jpg'], 'mos': ['3.5']}
    """
    rows = _workbook(data, source) if source.lower().endswith(".xlsx") else _delimited(data, source)
    if not rows:
        raise DrexcacheError(f"{source}: empty; expected a header row and then a row for each image")
    return _table(rows[0], list(zip(*rows[1:], strict=True)), source)


def table_of_frame(frame: DataFrame, source: str) -> DataFrame:
    """A DataFrame as such a table; missing values are empty cells.

    Raises
    ------
    DrexcacheError : as `table_of_file`.
    """
    columns = [
        [_cell(value) for value in column.astype(object).where(column.notna(), None)] for _, column in frame.items()
    ]
    return _table(list(map(str, frame.columns)), columns if len(frame) else [], source)


def _table(header: Sequence[str], columns: Sequence[Sequence[str]], source: str) -> DataFrame:
    from pandas import DataFrame

    if not columns:
        raise DrexcacheError(f"{source}: no ratings below the header row ({', '.join(header)})")
    table = DataFrame(dict(enumerate(columns)), dtype=object)  # not str, which pandas would keep in another form
    return table.set_axis(header, axis="columns")


def decode(data: bytes, source: str) -> str:
    """UTF-8 as text.

    Raises
    ------
    DrexcacheError : not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DrexcacheError(f"{source}: not UTF-8 text (at byte {error.start}); save it as UTF-8") from error


def numbers(texts: Iterable[str]) -> Floats:
    """Finite numbers, NaN for all else.

    >>> numbers(["1", "2e-1", "n/a", "inf"])
    array([1. , 0.2, nan, nan])
    """
    values = np.array([_number(text) for text in texts], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _delimited(data: bytes, source: str) -> list[list[str]]:
    text = decode(data, source)
    try:
        first = text.lstrip("\r\n")
        delimiter = max(",;\t", key=lambda mark: len(next(csv.reader(io.StringIO(first), delimiter=mark), [])))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DrexcacheError(f"{source}: not a table of text ({error})") from error
    lines = [(number, row) for number, row in lines if any(row)]
    for number, row in lines:
        if len(row) != len(lines[0][1]):
            raise DrexcacheError(
                f"{source}: line {number} has {len(row)} cells where the header has {len(lines[0][1])} "
                f"({', '.join(lines[0][1])}); put a name that holds {delimiter!r} in double quotes"
            )
    return [row for _, row in lines]


def _workbook(data: bytes, source: str) -> list[list[str]]:
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions, which are of no use here
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            rows = [[_cell(value) for value in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    except Exception as error:  # openpyxl lets the errors of zipfile, of XML and its own out
        raise DrexcacheError(f"{source}: not an .xlsx workbook ({error})") from error
    while rows and not any(rows[-1]):  # only at the end: in between, a row's number may be the image's
        rows.pop()
    width = max(map(len, rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _cell(value: object) -> str:
    """A cell as text; a float's text reads back as the same float."""
    return "" if value is None else str(value).strip()
