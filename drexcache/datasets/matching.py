"""Ratings and images find each other by name, and whatever does not match is said."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drexcache.datasets.files import IMAGE_EXTENSIONS
from drexcache.datasets.formats import numbers
from drexcache.datasets.raters import ceiling, from_errors, split_half
from drexcache.datasets.ratings import Ratings
from drexcache.errors import DrexcacheError


@dataclass(frozen=True)
class Target:
    """What people said of n images.

    values : float64 (n,), NaN where an image has no rating.
    low, high : the range that ratings can take; where declared is False, only the lowest and highest seen.
    higher_is : "more" or "less" of what is rated.
    reliability : of the values, 0 to 1 (see `drexcache.datasets.raters`), None where it is not known.
    reliability_from : how it was found, such as "split halves of 12 raters".
    """

    name: str
    values: np.ndarray
    low: float
    high: float
    higher_is: str = "more"
    declared: bool = True
    reliability: float | None = None
    reliability_from: str = ""

    def unit(self) -> np.ndarray:
        """The values on [0, 1] by the range, 1 the most of what is rated; NaN where an image has no rating.

        >>> Target("ease", np.array([1.0, 5.0]), 1.0, 5.0, higher_is="less").unit()
        array([1., 0.])
        """
        unit = (np.asarray(self.values, dtype=np.float64) - self.low) / (self.high - self.low)
        return unit if self.higher_is == "more" else 1.0 - unit

    def noise(self) -> float | None:
        """Variance of the errors of rating, in the unit of `unit`; None where the reliability is not known.

        >>> Target("ease", np.array([1.0, 5.0]), 1.0, 5.0, reliability=0.75).noise()
        0.125
        """
        rated = self.unit()[np.isfinite(self.values)]
        return None if self.reliability is None else float((1 - self.reliability) * np.var(rated, ddof=1))


@dataclass(frozen=True)
class Match:
    """Ratings and labels in the order of the images, and notes, a sentence each, on the matching."""

    target: Target
    labels: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def match_ratings(
    ids: Sequence[str],
    ratings: Ratings,
    *,
    target: str = "rating",
    value_range: tuple[float, float] | None = None,
    higher_is: str = "more",
    allow_unmatched: bool = False,
) -> Match:
    """Bring ratings into the order of n images.

    A name that is no id may still fit exactly one: in another case, with another extension or none, or
    without its folders. A note says how often that was so.

    Raises
    ------
    DrexcacheError : an image rated twice; a rating outside value_range; and, unless allow_unmatched, a
        rating without an image (else dropped), an image without a rating or whose rating is no finite number
        (else NaN).

    >>> ratings = Ratings("r.csv", ("b.JPG", "a"), ("3", "5"), {})
    >>> match_ratings(["a.jpg", "b.jpg"], ratings, value_range=(1, 5)).target.values
    array([5., 3.])
    """
    names = _match_names(ids, ratings.names)
    rated = np.flatnonzero(names.row >= 0)
    rows = names.row[rated]
    values = np.full(len(ids), np.nan)
    values[rated] = numbers(ratings.scores)[rows]
    problems = {
        "ratings without an image": names.without,
        "ratings that fit several images": names.ambiguous,
        "images without a rating": [ids[at] for at in np.flatnonzero(names.row < 0).tolist()],
        "ratings that are no finite number": [
            f"{ratings.names[names.row[at]]} = {ratings.scores[names.row[at]]!r}"
            for at in rated[np.isnan(values[rated])]
        ],
    }
    _refuse(ratings.source, problems, names.twice, len(ids), allow_unmatched)
    if np.isnan(values).all():
        raise DrexcacheError(
            f"{ratings.source}: no image has a rating; rated: {some(ratings.names)}; images: {some(ids)}"
        )
    found = _target(target, values, value_range, higher_is, ids=ids, source=ratings.source)
    found = _with_reliability(found, ratings, rated, rows)
    labels = {name: tuple(column[at] if at >= 0 else "" for at in names.row) for name, column in ratings.labels.items()}
    notes = _notes(found, names.inexact, problems)
    return Match(found, labels, (*ratings.notes, *(f"{ratings.source}: {note}" for note in notes)))


def some(names: Iterable[str]) -> str:
    """The first three, and dots where there are more.

    >>> some("abcd")
    'a, b, c, ...'
    """
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


def counted(names: Sequence[str]) -> str:
    """How many, and the first three.

    >>> counted(["a.jpg", "b.jpg"])
    '2 (a.jpg, b.jpg)'
    """
    return f"{len(names)} ({some(names)})"


@dataclass(frozen=True)
class _Names:
    """Which row names which image: row (n,), -1 where none does; inexact: names written otherwise than the id."""

    row: np.ndarray
    twice: list[str]
    without: list[str]
    ambiguous: list[str]
    inexact: list[str]


def _match_names(ids: Sequence[str], names: Sequence[str]) -> _Names:
    """For each name, the images of its most literal meaning, which have to be one."""
    images: list[list[int]] = [[] for _ in names]
    left = list(range(len(names)))
    for of_id, of_name in _MEANINGS:
        index: dict[str, list[int]] = {}
        for at, image in enumerate(ids if left else ()):
            index.setdefault(of_id(image), []).append(at)
        for row in left:
            images[row] = index.get(of_name(names[row]), [])
        left = [row for row in left if not images[row]]
    row_of = np.full(len(ids), -1)
    twice: dict[str, None] = {}
    for row, found in enumerate(images):
        if len(found) == 1 and row_of[found[0]] < 0:
            row_of[found[0]] = row
        elif len(found) == 1:
            twice[ids[found[0]]] = None
    return _Names(
        row_of,
        twice=sorted(twice),
        without=[names[row] for row in left],
        ambiguous=[
            f"{names[row]}: {' or '.join(ids[at] for at in found)}"
            for row, found in enumerate(images)
            if len(found) > 1
        ],
        inexact=[
            f"{names[row]} is {ids[found[0]]}"
            for row, found in enumerate(images)
            if len(found) == 1 and names[row] != ids[found[0]]
        ],
    )


def _composed(name: str) -> str:
    """With forward slashes, and letters with accents as one character (NFC)."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _stem(name: str) -> str:
    folded = _folded(name)
    return folded.rpartition(".")[0] if folded.endswith(IMAGE_EXTENSIONS) else folded


def _without_folders(spelling: Callable[[str], str]) -> Callable[[str], str]:
    return lambda image: spelling(image.rpartition("/")[2])


def _if_without_folders(spelling: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: spelling(name) if "/" not in name and "\\" not in name else "/"  # which no id is


# What a name could mean, the most literal first: how an id and how a name are written to be compared.
_MEANINGS: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (str, str),
    *((spelling, spelling) for spelling in (_composed, _folded, _stem)),
    *((_without_folders(spelling), _if_without_folders(spelling)) for spelling in (_composed, _folded, _stem)),
)


def _notes(target: Target, inexact: list[str], problems: dict[str, list[str]]) -> list[str]:
    notes = [f"accepted names in another case, extension or folder: {counted(inexact)}"] if inexact else []
    notes += [f"{what}, as allowed: {counted(names)}" for what, names in problems.items() if names]
    if target.reliability_from and target.reliability is None:
        notes.append("how far ratings agree cannot be told: it takes 10 images with two ratings or an error each")
    if target.reliability is not None:
        notes.append(
            f"reliability {target.reliability:.3f} ({target.reliability_from}): predictions cannot be expected to "
            f"correlate above {ceiling(target.reliability):.3f}"
        )
    if not target.declared:
        notes.append(
            f"THE RANGE OF THE RATINGS IS NOT DECLARED, the observed {target.low:g}..{target.high:g} stands "
            "for it; declare what the scale allows with --range LOW HIGH"
        )
    return notes


def _refuse(source: str, problems: dict[str, list[str]], twice: list[str], images: int, allow_unmatched: bool) -> None:
    """One sentence on all that is wrong, unless it is allowed; two ratings of one image never are."""
    hint = " (by several raters? name their column with --rater-column)" if len(twice) > images / 2 else ""
    wrong = [f"images rated more than once{hint}: {counted(twice)}"] if twice else []
    if not allow_unmatched:
        wrong += [f"{what}: {counted(names)}" for what, names in problems.items() if names]
    if wrong:
        advice = "correct the file"
        if len(wrong) > bool(twice):
            advice += f", or leave {'the others' if twice else 'them'} out with --allow-unmatched"
        raise DrexcacheError(f"{source}: {'; '.join(wrong)}; {advice}")


def _with_reliability(target: Target, ratings: Ratings, rated: np.ndarray, rows: np.ndarray) -> Target:
    """The target with the reliability of the images ``rated`` by these rows, where the table tells it."""
    if ratings.by_rater is not None:
        by_rater = ratings.by_rater[rows]
        outside = np.isfinite(by_rater) & ((by_rater < target.low) | (by_rater > target.high)) & target.declared
        if outside.any():
            row, rater = (int(at) for at in np.argwhere(outside)[0])
            raise DrexcacheError(
                f"{ratings.source}: ratings of single raters outside the declared range {target.low:g}.."
                f"{target.high:g}: {ratings.names[rows[row]]} = {by_rater[row, rater]:g}"
            )
        return replace(target, reliability=split_half(by_rater), reliability_from=_raters(by_rater))
    if ratings.errors is not None:
        known = from_errors(target.values[rated], ratings.errors[rows])
        return replace(target, reliability=known, reliability_from="standard errors of the ratings")
    return target


def _raters(table: np.ndarray) -> str:
    """How many raters a table (n, raters) has."""
    counts = np.isfinite(table).sum(1)
    each = f"{counts.min()} to {counts.max()} for each image" if counts.min() < table.shape[1] else "all rated all"
    return f"split halves of {table.shape[1]} raters, {each}"


def _target(
    name: str,
    values: np.ndarray,
    value_range: tuple[float, float] | None,
    higher_is: str,
    *,
    ids: Sequence[str],
    source: str,
) -> Target:
    """The target, its range checked or, where none is declared, observed."""
    if higher_is not in ("more", "less"):
        raise DrexcacheError(f"higher_is is more or less, not {higher_is!r}")
    if value_range is None:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if low == high:
            raise DrexcacheError(
                f"{source}: all ratings are {low:g}; declare the range of the ratings with --range LOW HIGH"
            )
        return Target(name, values, low, high, higher_is, declared=False)
    low, high = map(float, value_range)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise DrexcacheError(f"the range of the ratings is {low:g}..{high:g}; expected two numbers, the lower first")
    outside = [f"{ids[at]} = {values[at]:g}" for at in map(int, np.flatnonzero((values < low) | (values > high)))]
    if outside:
        raise DrexcacheError(f"{source}: ratings outside the declared range {low:g}..{high:g}: {counted(outside)}")
    return Target(name, values, low, high, higher_is)
