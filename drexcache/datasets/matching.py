"""Matching ratings to images by name, and reporting whatever does not match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from drexcache.datasets.names import NameMatch, match_names
from drexcache.datasets.numerals import Floats, holds_number, numbers, stray
from drexcache.datasets.raters import ceiling, centred, described, from_errors, split_half
from drexcache.datasets.ratings import Ratings
from drexcache.datasets.splits import folders_of_splits
from drexcache.errors import DrexcacheError, counted, some, with_guesses

OUT_OF_RANGE = ("refuse", "clip", "drop", "widen")
_DONE = {"clip": "clipped to it", "drop": "dropped", "widen": "the range is widened to hold them"}


@dataclass(frozen=True)
class Target:
    """People's ratings of n images.

    values : float64 (n,), NaN where an image has no rating.
    low, high : the range of the rating scale; if declared is False, only the lowest and highest rating seen.
    higher_is : whether a higher rating means "more" or "less" of what is rated.
    reliability : of the values, 0 to 1 (see `drexcache.datasets.raters`), None if unknown.
    reliability_from : how it was estimated, such as "split halves of 12 raters".
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
        """The values scaled from the range to [0, 1], where 1 is the most of what is rated; NaN without a rating.

        >>> Target("ease", np.array([1.0, 5.0]), 1.0, 5.0, higher_is="less").unit()
        array([1., 0.])
        """
        unit = (np.asarray(self.values, dtype=np.float64) - self.low) / (self.high - self.low)
        return unit if self.higher_is == "more" else 1.0 - unit

    def noise(self) -> float | None:
        """The variance of the rating errors, on the scale of `unit`; None if the reliability is unknown.

        >>> Target("ease", np.array([1.0, 5.0]), 1.0, 5.0, reliability=0.75).noise()
        0.125
        """
        rated = self.unit()[np.isfinite(self.values)]
        return None if self.reliability is None else float((1 - self.reliability) * np.var(rated, ddof=1))


@dataclass(frozen=True)
class Match:
    """Ratings and labels in the order of the images, and notes on the matching, a sentence each."""

    target: Target
    labels: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def match_ratings(
    ids: Sequence[str], ratings: Ratings, *, target: str = "rating", value_range: tuple[float, float] | None = None,
    higher_is: str = "more", allow_unmatched: bool = False, out_of_range: str = "refuse", centre_raters: bool = False,
) -> Match:  # fmt: skip
    """Match ratings to n images and put them into the images' order.

    A name that is not an id may still match exactly one, by the rules in docs/any-folder.md: ignoring case, the
    extension, its folders, or a folder that all names share. A note counts such matches.

    Parameters
    ----------
    centre_raters : whether to move each rater's ratings so that all raters have the same mean.
    out_of_range : what to do with a rating outside value_range: "refuse" the table, "clip" it to the nearer end,
        "drop" it (the image is then unrated), or "widen" the range to include it.

    Raises
    ------
    DrexcacheError : an image rated twice; a rating outside value_range; and, unless allow_unmatched, a rating
        without an image (otherwise dropped), or an image without a rating or whose rating is not a finite number
        (otherwise NaN). The message lists everything that is wrong.

    >>> ratings = Ratings("r.csv", ("b.JPG", "a"), ("3", "5"), {})
    >>> match_ratings(["a.jpg", "b.jpg"], ratings, value_range=(1, 5)).target.values
    array([5., 3.])
    """
    _check_options(value_range, higher_is, out_of_range)
    names = match_names(ids, ratings.names)
    rated = np.flatnonzero(names.row >= 0)
    rows = names.row[rated]
    # (images, raters), or a single column of mean ratings
    table = (numbers(ratings.scores, ratings.decimal)[:, None] if ratings.by_rater is None else ratings.by_rater)[rows]
    problems = _unmatched(ids, ratings, names, rows[np.isnan(table).all(axis=1)])
    outside = _outside(value_range, table, [ratings.names[row] for row in rows.tolist()]) if value_range else ""
    _refuse(
        ratings, problems, names.twice, outside if out_of_range == "refuse" else "", images=len(ids),
        allow_unmatched=allow_unmatched,
    )  # fmt: skip
    if value_range and outside:
        table, value_range = _brought_inside(table, value_range, out_of_range)
    if centre_raters:
        if ratings.by_rater is None:
            raise DrexcacheError(f"{ratings.source}: --centre-raters needs the ratings of single raters")
        table = np.clip(centred(table), *(value_range or (-math.inf, math.inf)))
    values = np.full(len(ids), np.nan)
    values[rated] = _means(table)
    if np.isnan(values).all():
        found = f"no image has a rating; rated: {some(ratings.names)}; images: {some(ids)}"
        raise DrexcacheError(with_guesses(f"{ratings.source}: {found}", ratings.notes))
    rating = _target(target, values, value_range, higher_is, ratings.source)
    rating = _with_reliability(rating, ratings, rated, rows, table)
    labels = {name: tuple(column[at] if at >= 0 else "" for at in names.row) for name, column in ratings.labels.items()}
    notes = _notes(rating, names.inexact, problems)
    if "split" not in labels and (folders := folders_of_splits(ids)):
        notes.append(
            f"the folders {' and '.join(map(repr, folders))} are not used as splits; a column of splits would be"
        )
    if outside:
        notes.append(f"{outside}; as asked: {_DONE[out_of_range]}")
    return Match(rating, labels, (*ratings.notes, *(f"{ratings.source}: {note}" for note in notes)))


def _check_options(value_range: tuple[float, float] | None, higher_is: str, out_of_range: str) -> None:
    if higher_is not in ("more", "less"):
        raise DrexcacheError(f"higher_is is more or less, not {higher_is!r}")
    if out_of_range not in OUT_OF_RANGE:
        raise DrexcacheError(f"out_of_range is one of {', '.join(OUT_OF_RANGE)}, not {out_of_range!r}")
    if value_range is not None:
        try:
            low, high = map(float, value_range)
        except (TypeError, ValueError) as error:
            raise DrexcacheError(f"the range of the ratings is two numbers; found {value_range!r}") from error
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise DrexcacheError(
                f"the range of the ratings is {low:g}..{high:g}; expected two numbers, the lower first"
            )


def _unmatched(ids: Sequence[str], ratings: Ratings, names: NameMatch, unrated: np.ndarray) -> dict[str, list[str]]:
    """What --allow-unmatched permits -> the names concerned. unrated : rows of the ratings without a number."""
    return {
        "ratings without an image": names.without,
        "ratings that fit several images": names.ambiguous,
        "images without a rating": [ids[at] for at in np.flatnonzero(names.row < 0).tolist()],
        "ratings that are no finite number": [
            f"{ratings.names[row]} = {ratings.scores[row]!r}"
            for row in unrated.tolist()
            if not holds_number(ratings.scores[row])  # these are among the ratings' own problems
        ],
    }


def _outside(value_range: tuple[float, float], table: Floats, names: Sequence[str]) -> str:
    """A phrase on the ratings, (images, raters), that are outside the range; "" if there are none."""
    low, high = value_range
    outside = np.argwhere((table < low) | (table > high)).tolist()
    listed = counted([f"{names[at]} = {table[at, rater]:g}" for at, rater in outside])
    return f"ratings outside the declared range {low:g}..{high:g}: {listed}" if outside else ""


def _brought_inside(
    table: Floats, value_range: tuple[float, float], out_of_range: str
) -> tuple[Floats, tuple[float, float]]:
    """The ratings and their range, after those outside it are clipped or dropped, or it is widened to hold them."""
    low, high = value_range
    if out_of_range == "widen":
        return table, (min(low, float(np.nanmin(table))), max(high, float(np.nanmax(table))))
    if out_of_range == "clip":
        return np.clip(table, low, high), value_range
    return np.where((table < low) | (table > high), np.nan, table), value_range


def _means(table: Floats) -> Floats:
    """Means over the raters present, (n, raters) -> (n,), NaN where there are none."""
    counts = np.isfinite(table).sum(axis=1)
    return np.divide(np.nansum(table, axis=1), counts, out=np.full(len(table), np.nan), where=counts > 0)


def _refuse(
    ratings: Ratings, problems: dict[str, list[str]], twice: list[str], outside: str, *, images: int,
    allow_unmatched: bool,
) -> None:  # fmt: skip
    """Raise one error that lists everything wrong, except what allow_unmatched permits.

    outside : a description of ratings outside the range, "" if there are none or they are not refused.
    """
    hint = " (by several raters? name their column with --rater-column)" if len(twice) > images / 2 else ""
    never = [f"images rated more than once{hint}: {counted(twice)}"] if twice else []
    never += [*ratings.problems, *([outside] if outside else [])]
    may = [] if allow_unmatched else [f"{what}: {counted(names)}" for what, names in problems.items() if names]
    if not never and not may:
        return
    advice = "correct the file"
    if may:
        advice += f", or leave {'the others' if never else 'them'} out with --allow-unmatched"
    if outside:
        advice += ", or clip or drop ratings or widen the range with --out-of-range"
    raise DrexcacheError(with_guesses(f"{ratings.source}: {'; '.join([*never, *may])}; {advice}", ratings.notes))


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
        notes += stray(target.values[np.isfinite(target.values)])
        notes.append(
            f"THE RANGE OF THE RATINGS IS NOT DECLARED, the observed {target.low:g}..{target.high:g} stands "
            "for it; declare what the scale allows with --range LOW HIGH"
        )
    return notes


def _with_reliability(target: Target, ratings: Ratings, rated: np.ndarray, rows: np.ndarray, table: Floats) -> Target:
    """The target with its reliability, if it can be computed. table : (rated, raters), of these rows."""
    if ratings.by_rater is not None:
        return replace(target, reliability=split_half(table), reliability_from=described(table))
    if ratings.errors is not None:
        known = from_errors(target.values[rated], ratings.errors[rows])
        return replace(target, reliability=known, reliability_from="standard errors of the ratings")
    return target


def _target(name: str, values: Floats, value_range: tuple[float, float] | None, higher_is: str, source: str) -> Target:
    """The target with its declared range or, without one, the observed range."""
    if value_range is not None:
        low, high = map(float, value_range)
        return Target(name, values, low=low, high=high, higher_is=higher_is)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low == high:
        raise DrexcacheError(
            f"{source}: all ratings are {low:g}; declare the range of the ratings with --range LOW HIGH"
        )
    return Target(name, values, low=low, high=high, higher_is=higher_is, declared=False)
