"""CSV files of records: written line by line, and read into a data frame with every cell checked."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from drexcache.errors import DrexcacheError
from drexcache.files import kind_of_file, open_regular, write_file

if TYPE_CHECKING:
    import pandas as pd


def write_records(path: str | Path | BinaryIO, columns: Sequence[str], records: Iterable[Sequence[object]]) -> None:
    """Write a CSV with a header; numbers keep every digit, None becomes an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(records)
    write_file(path, text.getvalue())


def read_records(
    path: str | Path, columns: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> pd.DataFrame:
    """Read a CSV file into a data frame of typed columns, indexed by line number in the file.

    columns : name -> the type of its cells (str, int, float or bool). optional : the same for columns whose cells may
    be empty (NaN, None), by name or pattern ("attention_*"); a column listed only here may be missing. All other
    columns are text.

    Raises
    ------
    DrexcacheError : no such file, not a CSV, a missing column, or a cell of the wrong type (names its line).
    """
    import pandas as pd

    header, lines = _read(path, list(columns))
    frame = pd.DataFrame(list(lines.values()), index=list(lines), columns=header, dtype=object)
    for name in header:
        empty_as = next((kind for pattern, kind in (optional or {}).items() if fnmatchcase(name, pattern)), None)
        kind = columns.get(name) or empty_as or str
        if kind is not str:
            values = [
                _converted(text, kind, (path, line, name)) if text or not empty_as else None
                for line, text in zip(lines, frame[name], strict=True)
            ]
            frame[name] = pd.Series(values, frame.index, dtype="float64" if kind is float else None)
    return frame


def _read(path: str | Path, columns: Sequence[str]) -> tuple[list[str], dict[int, list[str]]]:
    """The header, and line number -> cells; a short line is filled up with empty cells."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DrexcacheError(f"{path}: not a CSV file, but {kind_of_file(path)}") from error
    except csv.Error as error:
        raise DrexcacheError(f"{path}: not a CSV file: {error}") from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise DrexcacheError(f"{path}: no column {', '.join(missing)}; it has: {', '.join(header) or 'nothing'}")
    for line, cells in lines:
        if len(cells) > len(header):
            raise DrexcacheError(f"{path}: line {line} has more cells than the header, {len(header)}")
    return header, {line: cells + [""] * (len(header) - len(cells)) for line, cells in lines}


def _converted(text: str, kind: type, place: tuple[str | Path, int, str]) -> float | bool:
    """The cell's text converted to a finite number, a whole number, or True or False."""
    if kind is bool and text in ("True", "False"):
        return text == "True"
    try:
        value = float(text) if text.isascii() and "_" not in text else float("nan")  # Python takes 3_5, and any digits
    except ValueError:
        value = float("nan")
    if kind is float and abs(value) < float("inf"):
        return value
    if kind is int and value.is_integer():
        return int(value)
    path, line, name = place
    expected = {float: "a number", int: "a whole number", bool: "True or False"}[kind]
    raise DrexcacheError(f"{path}: line {line}: {name} should be {expected}, found {text!r}")
