"""Reading tables of text from whatever holds ratings: delimited text, a workbook, Parquet, a DataFrame.

A file's kind is recognised by its content, not its name. The separator is one with which all rows have the same number
of cells, and every guess becomes a note.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drexcache.datasets.files import read_bytes
from drexcache.datasets.numerals import decimal_sign, numbers
from drexcache.datasets.parquet import open_parquet, read_frame
from drexcache.errors import DrexcacheError, counted, several

if TYPE_CHECKING:
    from pandas import DataFrame

READ = "read are text (CSV, tab-separated), workbooks (.xlsx, .xlsm, .xls) and Parquet"
MAX_CELLS = 20_000_000
_SMALLER = "keep only the columns that are needed, or save it as .csv in parts"
_WORKBOOKS = (".xlsx", ".xlsm", ".xls")
_SEPARATORS = "\t;,|"
MAX_UNPACKED = 1 << 28  # bytes of a workbook or Parquet file when unpacked
_NOT_READ = (  # first bytes of files that people mistake for tables
    (b"MATLAB", "a MATLAB file; save its table with writetable as .csv"),
    (b"\x89HDF", "an HDF5 file (or one of MATLAB 7.3); save its table as .csv"),
    (b"\x1f\x8b", "packed with gzip; unpack it"),
    (b"%PDF", "a PDF"),
    (b"{\\rtf", "a text of a word processor (RTF); save its table as .csv"),
    (b"{", "JSON; save its table as .csv"),
    (b"[", "JSON; save its table as .csv"),
    (b"<", "HTML or XML, even if it is named .xls; open it in a spreadsheet program and save it as .xlsx or .csv"),
)
_MARKED = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
           (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_NOT_IN_TEXT = re.compile("[\0-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class TextTable:
    """A table of text, "" for an empty cell. source : the file, and the sheet if there are several.

    notes : what was guessed in order to read it, a sentence each.
    """

    source: str
    cells: DataFrame
    notes: tuple[str, ...] = ()

    @property
    def header(self) -> list[str]:
        return list(self.cells.columns)

    def without_blank_rows(self) -> TextTable:
        return replace(self, cells=self.cells[(self.cells != "").any(axis=1)])

    def texts(self, at: int) -> tuple[str, ...]:
        """The column at that position."""
        return tuple(self.cells.iloc[:, at])


def read_tables(ratings: str | PathLike[str] | DataFrame) -> list[TextTable]:
    """Read the table of a file, URL or DataFrame; a workbook gives one per sheet."""
    if isinstance(ratings, str | PathLike):
        return tables_of_file(read_bytes(ratings), str(ratings))
    return [table_of_frame(ratings, "the DataFrame")]


def tables_of_file(data: bytes, source: str) -> list[TextTable]:
    """Read the table in a file's bytes, or the tables of a workbook's sheets; source is the file's name.

    Raises
    ------
    DrexcacheError : not readable as a table, larger than the limits (docs/any-folder.md), without a header row, or
        with nothing below it.

    >>> [table] = tables_of_file(b"file;mos\\na.jpg;3.5\\n", "r.csv")
    >>> table.cells.to_dict("list")
    {'file': ['a.jpg'], 'mos': ['3.5']}
    """
    if data.startswith(b"PAR1"):
        return [table_of_frame(frame_of_parquet(data, source), source)]
    if data.startswith(b"PK\3\4"):
        sheets = _xlsx(data, source)
    elif data.startswith(b"\xd0\xcf\x11\xe0"):
        sheets = _xls(data, source)
    else:
        what = next((what for start, what in _NOT_READ if data.lstrip().startswith(start)), None)
        if what:
            raise DrexcacheError(f"{source}: {what}; {READ}")
        rows, notes = _delimited(data, source)
        return [_table(rows, source, notes)]
    return _tables_of_sheets(sheets, source)


def table_of_frame(frame: DataFrame, source: str) -> TextTable:
    """Convert a DataFrame to such a table; missing values become empty cells.

    Raises
    ------
    DrexcacheError : the frame is empty.
    """
    columns = [
        [_cell(value) for value in column.astype(object).where(column.notna(), None)] for _, column in frame.items()
    ]
    return _table([[str(name).strip() for name in frame.columns], *zip(*columns, strict=True)], source, [])


def decode(data: bytes, source: str) -> tuple[str, list[str]]:
    """Decode a file's text; also returns a note if the encoding was guessed.

    A byte order mark means UTF-8, 16 or 32. Without one, the text is UTF-16 if more than half of its odd or its even
    bytes are zero, else UTF-8, or Windows-1252 if it is not valid UTF-8.

    Raises
    ------
    DrexcacheError : none of these, or control characters that do not occur in text.

    >>> decode("caf\\u00e9".encode("cp1252"), "r.csv")
    ('café', ['not UTF-8: read as Windows-1252 text'])
    """
    marked = next((name for mark, name in _MARKED if data.startswith(mark)), None)
    zeros = data[::2].count(0) * 4 > len(data), data[1::2].count(0) * 4 > len(data)
    guessed = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(zeros, "utf-8")
    for encoding in [marked] if marked else [guessed, "cp1252"]:
        try:
            text = data.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
        if found := _NOT_IN_TEXT.search(text):
            raise DrexcacheError(f"{source}: not text ({found[0]!r} at character {found.start()}); {READ}")
        return text, ["not UTF-8: read as Windows-1252 text"] if encoding == "cp1252" else []
    raise DrexcacheError(f"{source}: not text in UTF-8, UTF-16 or Windows-1252; {READ}")


def _table(rows: Sequence[Sequence[str]], source: str, notes: list[str]) -> TextTable:
    """A table from rows that are all as long as the first, the header."""
    from pandas import DataFrame

    if not rows or not rows[0]:
        raise DrexcacheError(f"{source}: empty; expected a header row and then a row for each image")
    header, *below = rows
    if not below:
        raise DrexcacheError(f"{source}: no ratings below the header row ({', '.join(header)})")
    cells = DataFrame(below, dtype=object).set_axis(list(header), axis="columns")
    return TextTable(source, cells, tuple(f"{source}: {note}" for note in notes))


def _tables_of_sheets(sheets: dict[str, list[list[str]]], source: str) -> list[TextTable]:
    """A table for each sheet that has a header and rows; if none has, the first sheet's error is raised."""
    tables, errors = [], []
    for name, rows in sheets.items():
        while rows and not any(rows[-1]):  # only at the end: elsewhere a row's number may identify the image
            rows.pop()
        width = max(map(len, rows), default=0)
        check_cells(width * len(rows), source)
        titles = _titles(rows, width)
        below = [row + [""] * (width - len(row)) for row in rows[len(titles) :]]
        notes = [] if source.lower().endswith(_WORKBOOKS) else ["a workbook, whatever its name says"]
        notes += _title_notes([title for title in titles if title])
        if formulas := sum(text.startswith("=") for row in below for text in row):
            notes.append(
                f"{several(formulas, 'formula has', 'formulas have')} no stored value: open the workbook in a "
                "spreadsheet program and save it"
            )
        try:
            tables.append(_table(below, f"{source}, sheet {name}" if len(sheets) > 1 else source, notes))
        except DrexcacheError as error:
            errors.append(error)
    if not tables:
        raise errors[0] if errors else DrexcacheError(f"{source}: a workbook without sheets")
    return tables


def _titles(rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """The titles above the header: rows with a single cell, in a table of at least two columns."""
    titles = []
    for row in rows:
        filled = list(filter(None, row))
        if len(filled) >= min(2, width):
            break
        titles.append("".join(filled))
    return titles


def _title_notes(titles: Sequence[str]) -> list[str]:
    return (
        [f"left out what stands above the header: {counted([repr(title[:40]) for title in titles])}"] if titles else []
    )


def _delimited(data: bytes, source: str) -> tuple[list[list[str]], list[str]]:
    """The rows of delimited text, read with the separator that fits all rows, and notes."""
    text, notes = decode(data, source)
    check_cells(text.count("\n") + max(map(text.count, _SEPARATORS)), source)
    readings = [_Reading.of(text, mark, source) for mark in _SEPARATORS if mark in text]
    readings = readings or [_Reading.of(text, ",", source)]
    agreeing = [reading for reading in readings if len(reading.header) > 1 and not reading.odd_lines]
    if len(agreeing) > 1:
        best = max(agreeing, key=lambda reading: reading.number_columns())
    else:
        best = max(agreeing or readings, key=lambda reading: len(reading.header))
    if best.odd_lines:
        raise DrexcacheError(
            f"{source}: lines with another number of cells than the header's {len(best.header)} "
            f"({', '.join(best.header)}): {counted(best.odd_lines)}; put names and numbers that hold {best.mark!r} in "
            "double quotes"
        )
    return best.rows, notes + _title_notes(best.titles)


@dataclass(frozen=True)
class _Reading:
    """Text split by one separator, without blank lines; rows start with the header."""

    mark: str
    titles: list[str]
    rows: list[list[str]]
    odd_lines: list[str]

    @classmethod
    def of(cls, text: str, mark: str, source: str) -> _Reading:
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
        except csv.Error as error:
            raise DrexcacheError(f"{source}: not a table of text ({error})") from error
        lines = [(number, row) for number, row in lines if any(row)]
        titles = _titles((row for _, row in lines), max((len(row) for _, row in lines), default=0))
        lines = lines[len(titles) :]
        width = len(lines[0][1]) if lines else 0
        odd = [f"line {number} has {len(row)}" for number, row in lines if len(row) != width]
        return cls(mark, titles, [row for _, row in lines], odd)

    @property
    def header(self) -> list[str]:
        return self.rows[0] if self.rows else []

    def number_columns(self) -> int:
        """The number of columns that hold only numbers below the header."""
        columns = list(zip(*self.rows[1:], strict=True))
        return sum(bool(np.isfinite(numbers(column, decimal_sign(column)[0])).all()) for column in columns)


def _xlsx(data: bytes, source: str) -> dict[str, list[list[str]]]:
    """The sheets of an .xlsx or .xlsm; a formula without a stored value appears as its text."""
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info.file_size for info in archive.infolist()}
    except Exception as error:  # whatever a broken zip makes zipfile raise
        raise DrexcacheError(f"{source}: a broken zip or workbook ({error})") from error
    if "content.xml" in members or "xl/workbook.bin" in members:
        raise DrexcacheError(f"{source}: an OpenDocument (.ods) or binary (.xlsb) workbook; save it as .xlsx; {READ}")
    if sum(members.values()) > MAX_UNPACKED:
        raise DrexcacheError(f"{source}: a workbook of more than {MAX_UNPACKED >> 20} MiB unpacked; {_SMALLER}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions, which do not matter here
            sheets = _sheets_of(openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True), source)
            if any("" in row for rows in sheets.values() for row in rows):  # may be formulas without stored values
                formulas = _sheets_of(openpyxl.load_workbook(io.BytesIO(data), read_only=True), source)
                for name, rows in sheets.items():
                    _fill_in(rows, formulas.get(name, []))
    except DrexcacheError:
        raise
    except Exception as error:  # openpyxl passes on errors of zipfile and XML besides its own
        raise DrexcacheError(f"{source}: not a readable workbook ({_line(error)})") from error
    return sheets


def _sheets_of(book: Any, source: str) -> dict[str, list[list[str]]]:
    left = MAX_CELLS
    sheets: dict[str, list[list[str]]] = {}
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # some programs write wrong dimensions
        rows = sheets[sheet.title] = []
        for row in sheet.iter_rows(values_only=True):  # includes every row and cell that the file skips
            left -= max(1, len(row))
            if left < 0:
                raise DrexcacheError(f"{source}: more than {MAX_CELLS:,} cells; {_SMALLER}")
            rows.append([_cell(value) for value in row])
    return sheets


def _fill_in(rows: list[list[str]], formulas: list[list[str]]) -> None:
    """Fill cells whose formula has no stored value with the text of the formula."""
    for row, other in zip(rows, formulas, strict=False):
        for at, text in enumerate(other[: len(row)]):
            if not row[at] and text.startswith("="):
                row[at] = text


def _xls(data: bytes, source: str) -> dict[str, list[list[str]]]:
    import xlrd

    try:
        book = xlrd.open_workbook(file_contents=data, logfile=io.StringIO(), ragged_rows=True)
        check_cells(sum(sheet.nrows * sheet.ncols for sheet in book.sheets()), source)
        return {
            sheet.name: [
                [
                    xlrd.error_text_from_code.get(cell.value, "#")
                    if cell.ctype == xlrd.XL_CELL_ERROR
                    else _cell(cell.value)
                    for cell in row
                ]
                for row in sheet.get_rows()
            ]
            for sheet in book.sheets()
        }
    except DrexcacheError:
        raise
    except Exception as error:  # xlrd raises errors of many kinds
        raise DrexcacheError(f"{source}: not a readable .xls workbook ({_line(error)})") from error


def frame_of_parquet(source: bytes | Path, where: str, columns: Sequence[str] | None = None) -> DataFrame:
    """A Parquet file's columns, or some of them, within the limits for tables; raises as `read_frame` does."""
    about = open_parquet(source, where).metadata
    check_cells(about.num_rows * about.num_columns, where)
    return read_frame(source, where, columns, MAX_UNPACKED)


def check_cells(count: int, source: str) -> None:
    """Raise DrexcacheError if a table has more cells than that."""
    if count > MAX_CELLS:
        raise DrexcacheError(f"{source}: more than {MAX_CELLS:,} cells; {_SMALLER}")


def _cell(value: object) -> str:
    """A cell as text; a float's text reads back as the same float, and 12.0 becomes 12, as spreadsheets show it."""
    if isinstance(value, float | np.floating) and abs(float(value)) < 1e15 and float(value).is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


def _line(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
