"""Reading tables of ratings as names, scores and labels, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from drexcache.datasets.columns import NO_COLUMNS, Columns, choose, find_column, find_columns, with_split
from drexcache.datasets.formats import TextTable, decode, read_tables
from drexcache.datasets.numerals import Floats, decimal_sign, numbers, wrong_numbers
from drexcache.datasets.splits import split_texts
from drexcache.errors import DrexcacheError, counted

if TYPE_CHECKING:
    from pandas import DataFrame

_NO_RATING = ("", "na", "n/a", "nan", "-")
_MAX_RATINGS = 200_000_000  # 8 bytes each, images by raters


@dataclass(frozen=True)
class Ratings:
    """A table of ratings, row by row, before it is matched to images.

    source : the file, for messages. names, scores : (rows,) as written. labels : column -> (rows,) texts.
    notes : what was guessed. decimal : the decimal sign. problems : what is wrong with the table, a phrase each.
    by_rater : (rows, raters) ratings, NaN where missing, whose means replace the scores; or None.
    errors : (rows,) standard errors of the scores, NaN where missing; or None.
    """

    source: str
    names: tuple[str, ...]
    scores: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    decimal: str = "."
    problems: tuple[str, ...] = ()
    by_rater: Floats | None = field(default=None, repr=False, compare=False)
    errors: Floats | None = field(default=None, repr=False, compare=False)


def read_ratings(ratings: str | PathLike[str] | DataFrame, columns: Columns = NO_COLUMNS) -> Ratings:
    """Read a table of ratings with a header row: text, a workbook, Parquet or a DataFrame (docs/any-folder.md).

    Notes say what was guessed: columns, encoding, decimal sign, sheet. The split column becomes the label "split", and
    each group column a label of its own name. `drexcache.datasets.match_ratings` then matches the ratings to images,
    and refuses those that are wrong.

    Raises
    ------
    DrexcacheError : not readable as a table, empty, or a column that is missing or ambiguous.
    """
    return ratings_of(read_tables(ratings), columns)


def ratings_of(tables: Sequence[TextTable], columns: Columns) -> Ratings:
    """Find the ratings in the tables of one file.

    >>> from drexcache.datasets.formats import tables_of_file
    >>> ratings = ratings_of(tables_of_file(b"file;mos\\na.jpg;3,5\\n", "r.csv"), Columns())
    >>> ratings.names, ratings.scores, ratings.decimal
    (('a.jpg',), ('3,5',), ',')
    >>> print(*ratings.notes)
    r.csv: guessed image names from column 'file', ratings from column 'mos', decimal commas
    """
    source = tables[0].source
    if columns.split not in (None, "split") and "split" in columns.groups:
        raise DrexcacheError(f"{source}: splits from {columns.split!r} and the group column 'split' would share a name")
    if columns.error_raters is not None and columns.error is None:
        raise DrexcacheError(f"{source}: --raters counts the raters behind --error-column; give both")
    table, places, notes = choose(tables, lambda header: find_columns(header, columns))
    places = places if columns.split or "split" in columns.groups else with_split(table, places)
    if (columns.rater is not None) + (columns.error is not None) + (len(places.ratings) > 1) > 1:
        raise DrexcacheError(f"{source}: give one of --rater-column, --error-column and several rating columns")
    table = table.without_blank_rows()
    scores = [table.texts(at) for at in places.ratings]
    errors = table.texts(places.error) if places.error is not None else ()
    decimal, unclear = decimal_sign([*chain(*scores), *errors])
    single_raters = len(scores) > 1 or places.rater is not None  # whose numbers are checked one by one
    guessed = places.guessed + (["decimal commas"] if decimal == "," else [])
    ratings = Ratings(
        table.source,
        names=table.texts(places.image),
        scores=scores[0],
        labels={
            name: split_texts(table.header[at], table.texts(at)) if name == "split" else table.texts(at)
            for name, at in places.labels.items()
        },
        notes=(*table.notes, *notes, *([f"{table.source}: guessed {', '.join(guessed)}"] if guessed else [])),
        decimal=decimal,
        problems=wrong_numbers(unclear, () if single_raters else table.texts(places.image), scores[0], decimal),
    )
    if places.error is not None:
        return _with_errors(ratings, errors, columns.error_raters or 1)
    if len(scores) > 1:
        return _with_raters(ratings, [table.header[at] for at in places.ratings], scores)
    return ratings if places.rater is None else _by_image(ratings, table.texts(places.rater))


def ratings_of_ic9600(parts: Mapping[str, tuple[str, bytes]]) -> Ratings:
    """Read IC9600's labels: split -> (file name, bytes); a line is a name, which may contain spaces, and a score.

    >>> ratings_of_ic9600({"test": ("test.txt", b"a b.jpg  0.25\\n")}).names
    ('a b.jpg',)
    """
    rows: list[tuple[str, str, str]] = []
    notes: list[str] = []
    for split, (source, data) in parts.items():
        text, guessed = decode(data, source)
        notes += [f"{source}: {note}" for note in guessed]
        lines = [(number, line.rsplit(maxsplit=1)) for number, line in enumerate(text.splitlines(), 1)]
        if wrong := [f"line {number} is {fields[0]!r}" for number, fields in lines if len(fields) == 1]:
            raise DrexcacheError(f"{source}: expected lines of a name, blanks and a score; others: {counted(wrong)}")
        here = [(fields[0].strip(), fields[1], split) for _, fields in lines if fields]
        if not here:
            raise DrexcacheError(f"{source}: no ratings; expected lines of a name, blanks and a score")
        rows += here
    names, scores, splits = zip(*rows, strict=True)
    source = " and ".join(source for source, _ in parts.values())
    decimal, unclear = decimal_sign(scores)
    return Ratings(
        source, names, scores, {"split": splits}, notes=tuple(notes), decimal=decimal,
        problems=wrong_numbers(unclear, names, scores, decimal),
    )  # fmt: skip


def ratings_of_savoias(tables: Sequence[TextTable], column: str | None, images: Mapping[int, str]) -> Ratings:
    """Read SAVOIAS's ratings: the column 'gt' (or the named one), row i for image i. images : number -> id."""
    table, at, notes = choose(tables, lambda header: find_column(header, column or "gt", (), "ratings"))
    scores = table.texts(at)
    decimal, unclear = decimal_sign(scores)
    names = tuple(images.get(number, str(number)) for number in range(len(scores)))
    return Ratings(
        table.source,
        names=names,
        scores=scores,
        labels={},
        notes=(*table.notes, *notes),
        decimal=decimal,
        problems=wrong_numbers(unclear, names, scores, decimal),
    )


def _with_errors(ratings: Ratings, texts: Sequence[str], raters: int) -> Ratings:
    """The ratings with standard errors. texts : (rows,) standard deviations over that many raters."""
    errors, wrong = _numbers_or_nothing(texts, [f"error of {name}" for name in ratings.names], ratings.decimal)
    problems = [f"errors that are no number: {counted(wrong)}"] if wrong else []
    if negative := [ratings.names[at] for at in np.flatnonzero(errors < 0).tolist()]:
        problems.append(f"errors of ratings that are negative: {counted(negative)}")
    return replace(ratings, errors=errors / math.sqrt(raters), problems=(*ratings.problems, *problems))


def _with_raters(ratings: Ratings, raters: Sequence[str], columns: Sequence[Sequence[str]]) -> Ratings:
    """The ratings as means over raters, given one column per rater."""
    found = [
        _numbers_or_nothing(column, [f"{rater} of {name}" for name in ratings.names], ratings.decimal)
        for rater, column in zip(raters, columns, strict=True)
    ]
    wrong = list(chain(*(texts for _, texts in found)))
    problems = (f"ratings of raters that are no number: {counted(wrong)}",) if wrong else ()
    by_rater = np.stack([values for values, _ in found], axis=1)
    return replace(ratings, by_rater=by_rater, problems=ratings.problems + problems)


def _by_image(ratings: Ratings, who: Sequence[str]) -> Ratings:
    """Turn one line per rating into one line per image, in order of appearance. who : (rows,) raters."""
    from pandas import Series, factorize

    whose = [f"{rater} of {name}" for name, rater in zip(ratings.names, who, strict=True)]
    values, wrong = _numbers_or_nothing(ratings.scores, whose, ratings.decimal)
    problems = [f"ratings of raters that are no number: {counted(wrong)}"] if wrong else []
    rows, names = factorize(np.array(ratings.names, dtype=object))
    columns, raters = factorize(np.array(who, dtype=object))
    if len(names) * len(raters) > _MAX_RATINGS:
        raise DrexcacheError(
            f"{ratings.source}: {len(names)} images by {len(raters)} raters; expected at most {_MAX_RATINGS:,} in all: "
            "is that the column of raters?"
        )
    if twice := [whose[at] for at in np.flatnonzero(Series(rows * len(raters) + columns).duplicated()).tolist()]:
        problems.append(f"several ratings of one image by one rater: {counted(twice)}")
    by_rater = np.full((len(names), len(raters)), np.nan)
    by_rater[rows, columns] = values
    first = np.unique(rows, return_index=True)[1].tolist()
    return replace(
        ratings,
        names=tuple(names),
        scores=tuple(ratings.scores[row] for row in first),
        labels={name: tuple(column[row] for row in first) for name, column in ratings.labels.items()},
        problems=(*ratings.problems, *problems),
        by_rater=by_rater,
    )


def _numbers_or_nothing(texts: Sequence[str], whose: Sequence[str], decimal: str) -> tuple[Floats, list[str]]:
    """Numbers (rows,), NaN where missing, and the texts that are neither, each with its owner in whose : (rows,)."""
    values = numbers(texts, decimal)
    bad = [at for at in np.flatnonzero(np.isnan(values)).tolist() if texts[at].casefold() not in _NO_RATING]
    return values, [f"{whose[at]} = {texts[at]!r}" for at in bad]
