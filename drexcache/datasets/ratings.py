"""Files of ratings become rows of names, scores and labels, all of them still text."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path

import numpy as np
import openpyxl

from drexcache.datasets import raters
from drexcache.datasets.raters import Floats
from drexcache.datasets.urls import Url, is_url
from drexcache.errors import DrexcacheError

# Column names that are understood without being told (see _plain). For images and splits the first that is
# there wins; several that could be ratings are an error, for the wrong one would go unnoticed.
IMAGE_COLUMNS = (
    "file", "filename", "file_name", "image", "image_name", "imagename", "image_file", "image_path", "img",
    "img_name", "path", "filepath", "file_path", "name", "image_id", "img_id", "id",
)  # fmt: skip
RATING_COLUMNS = (
    "rating", "score", "mos", "complexity", "gt", "mean", "mean_rating", "mean_score", "average",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "set", "subset")


_OPTIONS = {
    "image names": "--image-column",
    "ratings": "--rating-column",
    "splits": "--split-column",
    "groups": "--group-column",
    "raters": "--rater-column",
    "errors": "--error-column",
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table to read; None leaves it to common names ("file", "rating", "split", ...).

    rating : may be a pattern such as "rater_*" that fits several columns, one per rater.
    rater : who rated, where each line is one rater's rating of an image.
    error : each rating's standard error or, with error_raters, the deviation of so many raters.
    """

    image: str | None = None
    rating: str | None = None
    split: str | None = None
    groups: tuple[str, ...] = ()
    rater: str | None = None
    error: str | None = None
    error_raters: int | None = None

    def given(self) -> dict[str, object]:
        """The options that were given, by their name on the command line."""
        values = (self.image, self.rating, self.split, self.groups, self.rater, self.error)
        return {name: value for name, value in zip(_OPTIONS.values(), values, strict=True) if value}


@dataclass(frozen=True)
class Ratings:
    """What a file of ratings says, row by row, before it is matched to images.

    source : the file, for messages. names, scores : (rows,) as written. labels : column -> (rows,) texts.
    by_rater : (rows, raters) ratings, NaN where missing, whose means the scores are; or None.
    errors : (rows,) standard errors of the scores, NaN where missing; or None.
    """

    source: str
    names: tuple[str, ...]
    scores: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    by_rater: Floats | None = field(default=None, repr=False, compare=False)
    errors: Floats | None = field(default=None, repr=False, compare=False)


def read_ratings(path: str | PathLike[str], columns: Columns = Columns()) -> Ratings:
    """Read a table of ratings with a header row: .xlsx, or text separated by commas, semicolons or tabs.

    A note says which columns were guessed. The split column becomes the label "split", each group column the
    label of its own name. `drexcache.datasets.matching.match_ratings` then brings them into the order of the images.

    Raises
    ------
    DrexcacheError : not readable as a table, empty, or a column that is not there or could be one of several.
    """
    return parse_ratings(read_bytes(path), str(path), columns)


def parse_ratings(data: bytes, source: str, columns: Columns) -> Ratings:
    """`read_ratings` of a file's bytes; source is its name.

    >>> ratings = parse_ratings(b"file;mos\\na.jpg;3.5\\n", "r.csv", Columns())
    >>> ratings.names, ratings.scores, ratings.notes
    (('a.jpg',), ('3.5',), ("r.csv: guessed image names from column 'file', ratings from column 'mos'",))
    """
    header, *rows = _table(data, source)
    if not rows:
        raise DrexcacheError(f"{source}: no ratings below the header row ({', '.join(header)})")
    if columns.split not in (None, "split") and "split" in columns.groups:
        raise DrexcacheError(f"{source}: splits from {columns.split!r} and the group column 'split' would share a name")
    image_at = _column(header, columns.image, IMAGE_COLUMNS, source, "image names")
    ratings_at = _rating_columns(header, columns.rating, source)
    labels = {name: _column(header, name, (), source, "groups") for name in columns.groups}
    chosen = [(columns.image, image_at, "image names"), (columns.rating, ratings_at[0], "ratings")]
    if columns.split is not None or any(_plain(name) in SPLIT_COLUMNS for name in header):
        labels["split"] = _column(header, columns.split, SPLIT_COLUMNS, source, "splits")
        chosen.append((columns.split, labels["split"], "splits"))
    guessed = [f"{what} from column {header[at]!r}" for told, at, what in chosen if told is None]
    cells = list(zip(*rows, strict=True))
    found = Ratings(
        source,
        cells[image_at],
        cells[ratings_at[0]],
        {name: cells[at] for name, at in labels.items()},
        (f"{source}: guessed {', '.join(guessed)}",) if guessed else (),
    )
    return _agreement(found, header, cells, columns, ratings_at)


def _rating_columns(header: list[str], told: str | None, source: str) -> list[int]:
    """Where the ratings stand: in one column, or in all that a pattern fits, one per rater."""
    fits = [at for at, name in enumerate(header) if told is not None and fnmatchcase(name, told)]
    if told in header or len(fits) < 2:
        return [_column(header, told, RATING_COLUMNS, source, "ratings")]
    return fits


def _agreement(
    found: Ratings, header: list[str], cells: list[tuple[str, ...]], columns: Columns, ratings_at: list[int]
) -> Ratings:
    """The ratings with what the table says of several raters or of the ratings' errors."""
    source = found.source
    if (columns.rater is not None) + (columns.error is not None) + (len(ratings_at) > 1) > 1:
        raise DrexcacheError(f"{source}: give one of --rater-column, --error-column and several rating columns")
    if columns.error_raters is not None and columns.error is None:
        raise DrexcacheError(f"{source}: --raters says of how many raters --error-column is the deviation; give both")
    if columns.error is not None:
        texts = cells[_column(header, columns.error, (), source, "errors")]
        values = [
            raters.number(text, f"error of {name}", source) for name, text in zip(found.names, texts, strict=True)
        ]
        errors = np.array(values) / math.sqrt(columns.error_raters or 1)
        if (errors < 0).any():
            raise DrexcacheError(f"{source}: column {columns.error!r}: errors of ratings cannot be negative")
        return replace(found, errors=errors)
    if len(ratings_at) > 1:
        rows = [
            [raters.number(cells[at][row], f"{header[at]} of image {name}", source) for at in ratings_at]
            for row, name in enumerate(found.names)
        ]
        table = np.array(rows)
        return replace(found, scores=raters.means(table), by_rater=table)
    if columns.rater is None:
        return found
    who = cells[_column(header, columns.rater, (), source, "raters")]
    lines, table = raters.table_of(found.names, who, found.scores, source)
    labels = {name: tuple(column[line] for line in lines) for name, column in found.labels.items()}
    names = tuple(found.names[line] for line in lines)
    return replace(found, names=names, scores=raters.means(table), labels=labels, by_rater=table)


def parse_ic9600(parts: Mapping[str, tuple[str, bytes]]) -> Ratings:
    """IC9600's labels: split -> (file name, bytes); a line is a name, which may hold blanks, and a score.

    >>> parse_ic9600({"test": ("test.txt", b"a b.jpg  0.25\\n")})
    Ratings(source='test.txt', names=('a b.jpg',), scores=('0.25',), labels={'split': ('test',)}, notes=())
    """
    rows: list[tuple[str, str, str]] = []
    for split, (source, data) in parts.items():
        before = len(rows)
        for number, line in enumerate(_text(data, source).splitlines(), 1):
            fields = line.rsplit(maxsplit=1)
            if len(fields) == 1:
                raise DrexcacheError(
                    f"{source}: line {number} is {line.strip()!r}; expected a name, blanks and a score"
                )
            if fields:
                rows.append((fields[0].strip(), fields[1], split))
        if len(rows) == before:
            raise DrexcacheError(f"{source}: no ratings; expected lines of a name, blanks and a score")
    names, scores, splits = zip(*rows, strict=True)
    return Ratings(" and ".join(source for source, _ in parts.values()), names, scores, {"split": splits})


def parse_savoias(data: bytes, source: str, column: str | None) -> tuple[str, ...]:
    """Scores of SAVOIAS's images 0, 1, ... : the column 'gt' (or the named one) below its header."""
    header, *rows = _table(data, source)
    at = _column(header, column or "gt", (), source, "ratings")
    if not rows:
        raise DrexcacheError(f"{source}: no ratings below the header row ({', '.join(header)})")
    return tuple(row[at] for row in rows)


def read_bytes(path: str | PathLike[str]) -> bytes:
    """A whole file, or one sentence on why not; the path may be a URL."""
    try:
        if is_url(path):
            folder, _, name = str(path).rpartition("/")
            return Url(folder).read(name)
        return Path(path).read_bytes()
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be read ({error.strerror or error})") from error


def _table(data: bytes, source: str) -> list[list[str]]:
    """Rows of an .xlsx workbook's first sheet or of delimited text, all as text; the first is the header."""
    rows = _workbook(data, source) if source.lower().endswith(".xlsx") else _delimited(data, source)
    if not rows:
        raise DrexcacheError(f"{source}: empty; expected a header row and then a row for each image")
    return rows


def _delimited(data: bytes, source: str) -> list[list[str]]:
    text = _text(data, source)
    try:
        first = text.lstrip("\r\n")
        delimiter = max(",;\t", key=lambda mark: len(next(csv.reader(io.StringIO(first), delimiter=mark), [])))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DrexcacheError(f"{source}: not a table of text ({error})") from error
    rows = [(line, row) for line, row in rows if any(row)]
    for line, row in rows:
        if len(row) != len(rows[0][1]):
            raise DrexcacheError(
                f"{source}: line {line} has {len(row)} cells where the header has {len(rows[0][1])} "
                f"({', '.join(rows[0][1])}); put a name that holds {delimiter!r} in double quotes"
            )
    return [row for _, row in rows]


def _workbook(data: bytes, source: str) -> list[list[str]]:
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
    """A workbook's cell as text; a float's text reads back as the same float."""
    return "" if value is None else str(value).strip()


def _text(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DrexcacheError(f"{source}: not UTF-8 text (at byte {error.start}); save it as UTF-8") from error


def _plain(name: str) -> str:
    """A column's name in lower case, blanks and hyphens as "_"."""
    return name.casefold().replace(" ", "_").replace("-", "_")


def _column(header: list[str], told: str | None, known: Sequence[str], source: str, what: str) -> int:
    """Where a column stands: the one that was told or, failing that, the one of a known name."""
    if told is None:
        found = [at for name in known for at, cell in enumerate(header) if _plain(cell) == name]
    else:
        found = [at for at, cell in enumerate(header) if cell == told]
    option = _OPTIONS[what]
    if not found:
        there = f"the header row has: {', '.join(header)}"
        missing = "no column is known by its name to hold" if told is None else f"no column {told!r} of"
        several = ", or several with a pattern such as 'rater*'" if what == "ratings" else ""
        raise DrexcacheError(f"{source}: {missing} {what}; {there}; name one with {option}{several}")
    if len(found) > 1 and (told is not None or known is RATING_COLUMNS):
        several = ", ".join(header[at] for at in found)
        raise DrexcacheError(f"{source}: several columns could be {what} ({several}); name one with {option}")
    return found[0]
