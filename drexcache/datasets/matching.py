"""Ratings and images find each other by name, and whatever does not match is said."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drexcache.datasets.raters import ceiling, from_errors, split_half
from drexcache.datasets.ratings import Ratings
from drexcache.errors import DrexcacheError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


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
    DrexcacheError : an image rated twice; a rating outside of value_range; and, unless allow_unmatched, a
        rating without an image (else dropped), an image without a rating or whose rating is no finite number
        (else NaN).

    >>> ratings = Ratings("r.csv", ("b.JPG", "a"), ("3", "5"), {})
    >>> match_ratings(["a.jpg", "b.jpg"], ratings, value_range=(1, 5)).target.values
    array([5., 3.])
    """
    rows, problems, inexact = _rows_of_images(ids, ratings.names)
    first = {image: found[0] for image, found in rows.items()}
    values = np.array([_number(ratings.scores[first[image]]) if image in first else math.nan for image in ids])
    problems["images without a rating"] = [image for image in ids if image not in first]
    problems["ratings that are no finite number"] = [
        f"{ratings.names[first[image]]} = {ratings.scores[first[image]]!r}"
        for image, value in zip(ids, values, strict=True)
        if image in first and math.isnan(value)
    ]
    twice = [image for image in ids if len(rows.get(image, ())) > 1]
    _refuse(ratings.source, problems, twice, len(ids), allow_unmatched)
    if np.isnan(values).all():
        raise DrexcacheError(
            f"{ratings.source}: no image has a rating; rated: {some(ratings.names)}; images: {some(ids)}"
        )
    rated = _target(target, values, value_range, higher_is, ids=ids, source=ratings.source)
    rated = _with_reliability(rated, ratings, [first[image] for image in ids if image in first])
    labels = {
        name: tuple(column[first[image]] if image in first else "" for image in ids)
        for name, column in ratings.labels.items()
    }
    notes = _notes(rated, {"accepted names in another case, extension or folder": inexact}, problems)
    return Match(rated, labels, (*ratings.notes, *(f"{ratings.source}: {note}" for note in notes)))


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


def _rows_of_images(
    ids: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, list[int]], dict[str, list[str]], list[str]]:
    """Id -> the rows that name it; kind of problem -> names; matches whose names are written otherwise."""
    known = set(ids)
    index = {} if known.issuperset(names) else _index(ids)
    rows: dict[str, list[int]] = {}
    without: list[str] = []
    ambiguous: list[str] = []
    inexact: list[str] = []
    for row, name in enumerate(names):
        found = [name] if name in known else next((index[key] for key in _keys(name) if key in index), [])
        if len(found) == 1:
            rows.setdefault(found[0], []).append(row)
            if found[0] != name:
                inexact.append(f"{name} is {found[0]}")
        elif found:
            ambiguous.append(f"{name}: {' or '.join(found)}")
        else:
            without.append(name)
    return rows, {"ratings without an image": without, "ratings that fit several images": ambiguous}, inexact


def _index(ids: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Key -> the ids that it could mean; see `_keys`."""
    index: dict[tuple[str, str], list[str]] = {}
    for image in ids:
        for key in _spellings(image) + _spellings(image.rpartition("/")[2], "basename "):
            index.setdefault(key, []).append(image)
    return index


def _keys(name: str) -> list[tuple[str, str]]:
    """What a rating's name could mean, the most literal first; only one without folders can be a basename."""
    keys = _spellings(name)
    return keys if "/" in name or "\\" in name else keys + _spellings(name, "basename ")


def _spellings(name: str, kind: str = "") -> list[tuple[str, str]]:
    """A name composed (NFC) with forward slashes; then in lower case; then without an image's extension."""
    composed = unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")
    folded = composed.casefold()
    stem = folded.rpartition(".")[0] if folded.endswith(IMAGE_EXTENSIONS) else folded
    return [(kind + "composed", composed), (kind + "folded", folded), (kind + "stem", stem)]


def _notes(rated: Target, accepted: dict[str, list[str]], problems: dict[str, list[str]]) -> list[str]:
    notes = [f"{what}: {counted(names)}" for what, names in accepted.items() if names]
    notes += [f"{what}, as allowed: {counted(names)}" for what, names in problems.items() if names]
    if rated.reliability_from and rated.reliability is None:
        notes.append("how far ratings agree cannot be told: it takes 10 images with two ratings or an error each")
    if rated.reliability is not None:
        notes.append(
            f"reliability {rated.reliability:.3f} ({rated.reliability_from}): predictions cannot be expected to "
            f"correlate above {ceiling(rated.reliability):.3f}"
        )
    if not rated.declared:
        notes.append(
            f"THE RANGE OF THE RATINGS IS NOT DECLARED, the observed {rated.low:g}..{rated.high:g} stands "
            "for it; declare what the scale allows with --range LOW HIGH"
        )
    return notes


def _number(text: str) -> float:
    """A finite number, or NaN."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _refuse(source: str, problems: dict[str, list[str]], twice: list[str], images: int, allow_unmatched: bool) -> None:
    """One sentence on all that is wrong, unless it is allowed; two ratings of one image never are."""
    hint = " (by several raters? name --rater-column)" if len(twice) > images / 2 else ""
    wrong = [f"images rated more than once{hint}: {counted(twice)}"] if twice else []
    if not allow_unmatched:
        wrong += [f"{what}: {counted(names)}" for what, names in problems.items() if names]
    if wrong:
        advice = "mend the file"
        if len(wrong) > bool(twice):
            advice += f", or go on without {'the others' if twice else 'them'} by --allow-unmatched"
        raise DrexcacheError(f"{source}: {'; '.join(wrong)}; {advice}")


def _with_reliability(target: Target, ratings: Ratings, rows: list[int]) -> Target:
    """The target with the reliability of the rows that found their image, where the file tells it."""
    if ratings.by_rater is not None:
        table = ratings.by_rater[rows]
        outside = np.isfinite(table) & ((table < target.low) | (table > target.high)) & target.declared
        if outside.any():
            row, rater = (int(at) for at in np.argwhere(outside)[0])
            raise DrexcacheError(
                f"{ratings.source}: ratings of single raters outside of the declared range {target.low:g}.."
                f"{target.high:g}: {ratings.names[rows[row]]} = {table[row, rater]:g}"
            )
        return replace(target, reliability=split_half(table), reliability_from=_raters(table))
    if ratings.errors is not None:
        values = np.array([_number(ratings.scores[row]) for row in rows])
        known = from_errors(values, ratings.errors[rows])
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
        raise DrexcacheError(f"{source}: ratings outside of the declared range {low:g}..{high:g}: {counted(outside)}")
    return Target(name, values, low, high, higher_is)
