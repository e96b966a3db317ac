"""Which columns of a table hold what: those that the user named, else those with common names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np

from drexcache.datasets.formats import TextTable
from drexcache.datasets.numerals import numbers
from drexcache.datasets.splits import split_part, split_texts
from drexcache.errors import DrexcacheError, counted, nearest, with_guesses

# Column names that are recognised by themselves (see plain_name). For images and splits the first one present wins;
# several that could be ratings are an error, because a wrong choice would go unnoticed.
IMAGE_COLUMNS = (
    "file", "filename", "file_name", "image", "image_name", "imagename", "image_file", "image_path", "img",
    "img_name", "path", "filepath", "file_path", "name", "image_id", "img_id", "id",
)  # fmt: skip
RATING_COLUMNS = (
    "rating", "score", "mos", "complexity", "gt", "mean", "mean_rating", "mean_score", "mean_opinion_score", "average",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "set", "subset")
_OPTIONS = {  # what a column holds -> the option that names it
    "image names": "--image-column", "ratings": "--rating-column", "splits": "--split-column",
    "groups": "--group-column", "raters": "--rater-column", "errors": "--error-column",
}  # fmt: skip
Found = TypeVar("Found")


@dataclass(frozen=True)
class Columns:
    """The columns of a table to read; None looks for a common name ("file", "rating", "split", ...).

    rating : may be a pattern such as "rater_*" that matches several columns, one per rater.
    rater : the column of raters, if each line is one rater's rating of an image.
    error : each rating's standard error or, with error_raters, the standard deviation over that many raters.
    """

    image: str | None = None
    rating: str | None = None
    split: str | None = None
    groups: tuple[str, ...] = ()
    rater: str | None = None
    error: str | None = None
    error_raters: int | None = None

    def given(self) -> list[str]:
        """The command-line names of the options that were given."""
        values = (self.image, self.rating, self.split, self.groups, self.rater, self.error)
        return [option for option, value in zip(_OPTIONS.values(), values, strict=True) if value]


NO_COLUMNS = Columns()


@dataclass(frozen=True)
class Positions:
    """Column numbers. ratings : one, or one per rater; labels : name -> column; guessed : a phrase per guess."""

    image: int
    ratings: list[int]
    labels: dict[str, int]
    rater: int | None
    error: int | None
    guessed: list[str]


def choose(tables: Sequence[TextTable], find: Callable[[list[str]], Found]) -> tuple[TextTable, Found, list[str]]:
    """The only table whose header has everything, what ``find`` returned for it, and a note on the other tables.

    Raises
    ------
    DrexcacheError : no such table (says what ``find`` missed, from its LookupError: what, option), or several.
    """
    fits: list[tuple[TextTable, Found]] = []
    missing = []
    for table in tables:
        try:
            fits.append((table, find(table.header)))
        except LookupError as error:
            what, option = error.args
            there = f"the header row has: {', '.join(table.header)}{_odd_header(table.header)}"
            missing.append(with_guesses(f"{table.source}: {what}; {there}; name one with {option}", table.notes))
    if not fits:
        raise DrexcacheError("; ".join(missing[:3]))
    table, found = fits[0]
    if len(fits) > 1:
        raise DrexcacheError(
            f"several sheets could hold the ratings: {counted([table.source for table, _ in fits])}; save the one you "
            "mean as a file of its own"
        )
    return table, found, [f"{table.source}: the one of {len(tables)} sheets with such columns"] if missing else []


def _odd_header(header: Sequence[str]) -> str:
    """What may be wrong with a header row in which nothing is found."""
    if len(header) == 1 and " " in header[0]:
        return " (cells are told apart by tabs, semicolons, commas or |)"
    is_number = np.isfinite(numbers(header)).any()
    return " (which looks like data: the first row has to name the columns)" if is_number else ""


def with_split(table: TextTable, places: Positions) -> Positions:
    """The places, with a split column that is known by its content: parts of a split, training and another.

    A column that has the name of a split comes first; others are then mentioned.
    """
    rest = set(range(len(table.header))) - {places.image, *places.ratings, *places.labels.values()}
    parts = {at: set(map(split_part, set(split_texts(table.header[at], table.texts(at))))) for at in sorted(rest)}
    found = [at for at, own in parts.items() if {"train"} < own - {""} <= {"train", "validation", "test"}]
    if not found:
        return places
    labels, names = places.labels, " and ".join(repr(table.header[at]) for at in found)
    if "split" in labels:
        told = f"though {names} could be them, too: name one with --split-column"
    elif len(found) == 1:
        labels, told = {**labels, "split": found[0]}, f"splits from column {names}, by its words"
    else:
        told = f"no splits, for {names} could all be them: name one with --split-column"
    return replace(places, labels=labels, guessed=[*places.guessed, told])


def find_columns(header: list[str], columns: Columns) -> Positions:
    """The positions of the columns. Raises LookupError, as `find_column` does, on all that are missing or ambiguous."""
    problems: list[tuple[str, str]] = []

    def find(named: str | None, known: Sequence[str], what: str) -> int:
        try:
            return find_column(header, named, known, what)
        except LookupError as error:
            problems.append(error.args)
            return -1

    image = find(columns.image, IMAGE_COLUMNS, "image names")
    by_pattern = [at for at, name in enumerate(header) if columns.rating and fnmatchcase(name, columns.rating)]
    if columns.rating in header or len(by_pattern) < 2:
        ratings = [find(columns.rating, RATING_COLUMNS, "ratings")]
    else:
        ratings = by_pattern
    labels = {name: find(name, (), "groups") for name in columns.groups}
    if columns.split is not None or any(plain_name(name) in SPLIT_COLUMNS for name in header):
        labels["split"] = find(columns.split, SPLIT_COLUMNS, "splits")
    rater = find(columns.rater, (), "raters") if columns.rater is not None else None
    error = find(columns.error, (), "errors") if columns.error is not None else None
    if problems:
        raise LookupError("; ".join(what for what, _ in problems), " and one with ".join(o for _, o in problems))
    chosen = [(columns.image, image, "image names"), (columns.rating, ratings[0], "ratings")]
    if "split" in labels and "split" not in columns.groups:
        chosen.append((columns.split, labels["split"], "splits"))
    guessed = [f"{what} from column {header[at]!r}" for named, at, what in chosen if named is None]
    return Positions(image, ratings=ratings, labels=labels, rater=rater, error=error, guessed=guessed)


def find_column(header: list[str], named: str | None, known: Sequence[str], what: str) -> int:
    """The position of one column: the one that the user named or, failing that, one with a known name.

    Raises LookupError with what is wrong and the option that helps.
    """
    if named is None:
        found = [at for name in known for at, cell in enumerate(header) if plain_name(cell) == name]
    else:
        found = [at for at, cell in enumerate(header) if cell == named]
    option = _OPTIONS[what]
    if not found:
        missing = f"no column is known by its name to hold {what}"
        if named is not None:
            missing = f"no column {named!r} of {what}; {nearest(named, header, shown=())}".removesuffix("; ")
        several = ", or several with a pattern such as 'rater*'" if what == "ratings" else ""
        raise LookupError(missing, option + several)
    if len(found) > 1 and (named is not None or known is RATING_COLUMNS):
        several = ", ".join(header[at] for at in found)
        raise LookupError(f"several columns could be {what} ({several})", option)
    return found[0]


def plain_name(name: str) -> str:
    """A column's name in lower case, with "_" for spaces and hyphens."""
    return name.casefold().replace(" ", "_").replace("-", "_")
