"""Tables of ratings become names, scores and labels, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from drexcache.datasets.files import read_bytes
from drexcache.datasets.formats import Floats, decode, numbers, table_of_file, table_of_frame
from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    from pandas import DataFrame

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
_OPTIONS = {  # a column's kind -> the option that names it
    "image names": "--image-column", "ratings": "--rating-column", "splits": "--split-column",
    "groups": "--group-column", "raters": "--rater-column", "errors": "--error-column",
}  # fmt: skip
_NO_RATING = ("", "na", "n/a", "nan", "-")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table to read; None leaves it to common names ("file", "rating", "split", ...).

    rating : may be a pattern such as "rater_*" that fits several columns, one per rater.
    rater : who rated, where each line is one rater's rating of an image.
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
        """The options that were given, by their name on the command line."""
        values = (self.image, self.rating, self.split, self.groups, self.rater, self.error)
        return [option for option, value in zip(_OPTIONS.values(), values, strict=True) if value]


@dataclass(frozen=True)
class Ratings:
    """What a table of ratings says, row by row, before it is matched to images.

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


def read_ratings(ratings: str | PathLike[str] | DataFrame, columns: Columns = Columns()) -> Ratings:
    """Read a table of ratings with a header row: .xlsx, text separated by commas, semicolons or tabs, or a DataFrame.

    A note says which columns were guessed. The split column becomes the label "split", each group column the
    label of its own name. `drexcache.datasets.matching.match_ratings` then brings them into the order of the images.

    Raises
    ------
    DrexcacheError : not readable as a table, empty, or a column that is not there or could be one of several.
    """
    return ratings_of(*read_table(ratings), columns)


def read_table(ratings: str | PathLike[str] | DataFrame) -> tuple[DataFrame, str]:
    """The table of a file, its URL or a DataFrame, and its name for messages."""
    if isinstance(ratings, str | PathLike):
        return table_of_file(read_bytes(ratings), str(ratings)), str(ratings)
    return table_of_frame(ratings, "the DataFrame"), "the DataFrame"


def ratings_of(table: DataFrame, source: str, columns: Columns) -> Ratings:
    """`read_ratings` of a table of text; source is its name.

    >>> ratings = ratings_of(table_of_file(b"file;mos\\na.jpg;3.5\\n", "r.csv"), "r.csv", Columns())
    >>> ratings.names, ratings.scores, ratings.notes
    (('a.jpg',), ('3.5',), ("r.csv: guessed image names from column 'file', ratings from column 'mos'",))
    """
    if columns.split not in (None, "split") and "split" in columns.groups:
        raise DrexcacheError(f"{source}: splits from {columns.split!r} and the group column 'split' would share a name")
    header = list(table.columns)
    images = _column(header, columns.image, IMAGE_COLUMNS, source, "image names")
    scores = _rating_columns(header, columns.rating, source)
    labels = {name: _column(header, name, (), source, "groups") for name in columns.groups}
    chosen = [(columns.image, images, "image names"), (columns.rating, scores[0], "ratings")]
    if columns.split is not None or any(_plain(name) in SPLIT_COLUMNS for name in header):
        labels["split"] = _column(header, columns.split, SPLIT_COLUMNS, source, "splits")
        chosen.append((columns.split, labels["split"], "splits"))
    guessed = [f"{what} from column {header[at]!r}" for told, at, what in chosen if told is None]
    found = Ratings(
        source,
        names=_texts(table, images),
        scores=_texts(table, scores[0]),
        labels={name: _texts(table, at) for name, at in labels.items()},
        notes=(f"{source}: guessed {', '.join(guessed)}",) if guessed else (),
    )
    return _with_agreement(found, table, columns, scores)


def ratings_of_ic9600(parts: Mapping[str, tuple[str, bytes]]) -> Ratings:
    """IC9600's labels: split -> (file name, bytes); a line is a name, which may hold blanks, and a score.

    >>> ratings_of_ic9600({"test": ("test.txt", b"a b.jpg  0.25\\n")})
    Ratings(source='test.txt', names=('a b.jpg',), scores=('0.25',), labels={'split': ('test',)}, notes=())
    """
    rows: list[tuple[str, str, str]] = []
    for split, (source, data) in parts.items():
        before = len(rows)
        for number, line in enumerate(decode(data, source).splitlines(), 1):
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


def scores_of_savoias(table: DataFrame, source: str, column: str | None) -> tuple[str, ...]:
    """Scores of SAVOIAS's images 0, 1, ... : the column 'gt' (or the named one) of its workbook."""
    return _texts(table, _column(list(table.columns), column or "gt", (), source, "ratings"))


def _texts(table: DataFrame, at: int) -> tuple[str, ...]:
    return tuple(table.iloc[:, at])


def _rating_columns(header: list[str], told: str | None, source: str) -> list[int]:
    """Where the ratings stand: in one column, or in all that a pattern fits, one per rater."""
    fits = [at for at, name in enumerate(header) if told is not None and fnmatchcase(name, told)]
    if told in header or len(fits) < 2:
        return [_column(header, told, RATING_COLUMNS, source, "ratings")]
    return fits


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


def _plain(name: str) -> str:
    """A column's name in lower case, blanks and hyphens as "_"."""
    return name.casefold().replace(" ", "_").replace("-", "_")


def _with_agreement(found: Ratings, table: DataFrame, columns: Columns, scores: list[int]) -> Ratings:
    """The ratings with what the table says of several raters or of the ratings' errors."""
    source = found.source
    if (columns.rater is not None) + (columns.error is not None) + (len(scores) > 1) > 1:
        raise DrexcacheError(f"{source}: give one of --rater-column, --error-column and several rating columns")
    if columns.error_raters is not None and columns.error is None:
        raise DrexcacheError(f"{source}: --raters says of how many raters --error-column is the deviation; give both")
    header = list(table.columns)
    if columns.error is not None:
        texts = _texts(table, _column(header, columns.error, (), source, "errors"))
        whose = [f"error of {name}" for name in found.names]
        errors = _numbers_or_nothing(texts, whose, source) / math.sqrt(columns.error_raters or 1)
        if (errors < 0).any():
            raise DrexcacheError(f"{source}: column {columns.error!r}: errors of ratings cannot be negative")
        return replace(found, errors=errors)
    if len(scores) > 1:
        by_rater = [
            _numbers_or_nothing(_texts(table, at), [f"{header[at]} of image {name}" for name in found.names], source)
            for at in scores
        ]
        return _with_means(found, np.stack(by_rater, axis=1))
    if columns.rater is not None:
        return _by_image(found, _texts(table, _column(header, columns.rater, (), source, "raters")))
    return found


def _by_image(found: Ratings, who: tuple[str, ...]) -> Ratings:
    """One rating per line as one line per image, where it stood first. who : (rows,) raters."""
    from pandas import Series, factorize

    source = found.source
    whose = [f"rater {rater} of image {name}" for name, rater in zip(found.names, who, strict=True)]
    values = _numbers_or_nothing(found.scores, whose, source)
    rows, names = factorize(np.array(found.names, dtype=object))
    columns, raters = factorize(np.array(who, dtype=object))
    twice = Series(rows * len(raters) + columns).duplicated().to_numpy()
    if twice.any():
        at = int(twice.argmax())
        raise DrexcacheError(
            f"{source}: rater {who[at]!r} rates image {found.names[at]} twice; keep one of the two lines"
        )
    table = np.full((len(names), len(raters)), np.nan)
    table[rows, columns] = values
    first = np.unique(rows, return_index=True)[1]
    labels = {name: tuple(column[line] for line in first) for name, column in found.labels.items()}
    return _with_means(replace(found, names=tuple(names), labels=labels), table)


def _with_means(found: Ratings, by_rater: Floats) -> Ratings:
    """The ratings with each image's mean rating as its score, "" where it has none. by_rater : (rows, raters)."""
    counts = np.isfinite(by_rater).sum(axis=1)
    sums = np.nansum(by_rater, axis=1)
    means = tuple(repr(float(s / c)) if c else "" for s, c in zip(sums, counts, strict=True))
    return replace(found, scores=means, by_rater=by_rater)


def _numbers_or_nothing(texts: Sequence[str], whose: Sequence[str], source: str) -> Floats:
    """Numbers (rows,), NaN where there is none; whose : (rows,) for the message on a text that is neither."""
    values = numbers(texts)
    for at in np.flatnonzero(np.isnan(values)).tolist():
        if texts[at].casefold() not in _NO_RATING:
            raise DrexcacheError(f"{source}: {whose[at]}: expected a number, or nothing, found {texts[at]!r}")
    return values
