"""Pairwise choices become scores: which of two images has more of what is asked, by Bradley and Terry's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drexcache.datasets.columns import plain_name
from drexcache.datasets.formats import TextTable, read_tables
from drexcache.datasets.matching import Match, Target
from drexcache.datasets.names import NameMatch, match_names
from drexcache.datasets.numerals import Floats, decimal_sign, numbers
from drexcache.datasets.raters import ceiling
from drexcache.datasets.table import ImageTable
from drexcache.errors import DrexcacheError, counted, several, some

if TYPE_CHECKING:
    from pandas import DataFrame
    from scipy.sparse import csr_array

Places = NDArray[np.intp]

COLUMNS = {
    "winner": ("winner", "better", "preferred", "chosen", "more"),
    "loser": ("loser", "worse", "rejected", "other", "less"),
    "left": ("left", "left_image", "image_left", "image_a", "image_1", "image1", "img1", "first", "a"),
    "right": ("right", "right_image", "image_right", "image_b", "image_2", "image2", "img2", "second", "b"),
    "choice": ("choice", "answer", "response", "result", "preference", "choose"),
    "tie": ("tie", "draw", "equal"),
    "rater": ("rater", "rater_id", "worker", "worker_id", "annotator", "user", "user_id", "participant", "subject"),
    "weight": ("weight", "count", "votes", "n"),
}
FORMS = {"winner", "loser", "left", "right", "choice"}
LEFT, RIGHT = ("left", "l", "a", "1", "first", "image_a"), ("right", "r", "b", "2", "second", "image_b")
TIE = ("tie", "draw", "equal", "both", "same", "neither", "0.5", "0")
YES, NO = ("1", "true", "yes", "y", "tie", "1.0"), ("", "0", "false", "no", "n", "0.0")
DENSE = 4000  # images up to which errors come from the whole inverse; above from random probes
PROBES = 200
MOST_WEIGHT = 1e9  # beyond which sums lose the other comparisons
FEW_AGREEMENTS = 20  # comparisons of one rater, fewer of which say nothing about the rater


@dataclass(frozen=True)
class Comparisons:
    """k comparisons of two images each.

    left, right : (k,) names. won : (k,) what the left one won: 1, 0, or 0.5 of a tie. weight : (k,) above 0.
    rater : (k,) names, or empty. notes : which columns were taken.
    """

    source: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    won: Floats
    weight: Floats
    rater: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_comparisons(source: str | PathLike[str] | DataFrame) -> Comparisons:
    """Read a table of comparisons: columns winner and loser (and tie), or left, right and choice; rater and weight.

    A choice is "left", "right", "tie", or the name of one of the two images.

    Raises
    ------
    DrexcacheError : no such columns, an image compared with itself, a choice or a weight that cannot be understood.
    """
    table, found = max(
        ((table.without_blank_rows(), _columns(table.header)) for table in read_tables(source)),
        key=lambda sheet: len(FORMS & {what for what, at in sheet[1].items() if at is not None}),
    )
    texts = {what: table.texts(at) for what, at in found.items() if at is not None}
    if {"winner", "loser"} <= set(texts):
        kinds = ("winner", "loser", "tie")
        left, right = texts["winner"], texts["loser"]
        won = _ties(table, texts["tie"]) if "tie" in texts else np.ones(len(left))
    elif {"left", "right", "choice"} <= set(texts):
        kinds = ("left", "right", "choice")
        left, right = texts["left"], texts["right"]
        won = _choices(table, left, right, texts["choice"])
    else:
        raise DrexcacheError(
            f"{table.source}: expected columns winner and loser, or left, right and choice; the header row has: "
            f"{', '.join(table.header)}"
        )
    itself = [f"{one} in line {row + 2}" for row, (one, two) in enumerate(zip(left, right, strict=True)) if one == two]
    if itself:
        raise DrexcacheError(f"{table.source}: images compared with themselves: {counted(itself)}")
    weight = _weights(table, texts["weight"]) if "weight" in texts else np.ones(len(left))
    taken = [f"{what} from column {table.header[found[what] or 0]!r}" for what in (*kinds, "rater", "weight")
             if what in texts]  # fmt: skip
    notes = (*table.notes, f"{table.source}: took {', '.join(taken)}")
    return Comparisons(table.source, left, right, won, weight, texts.get("rater", ()), notes)


def _columns(header: Sequence[str]) -> dict[str, int | None]:
    """What a column holds -> its place, None without such a column."""
    return {
        what: next((at for name in known for at, cell in enumerate(header) if plain_name(cell) == name), None)
        for what, known in COLUMNS.items()
    }


def _ties(table: TextTable, texts: Sequence[str]) -> Floats:
    if bad := [text for text in texts if text.casefold() not in YES + NO]:
        raise DrexcacheError(f"{table.source}: ties must be yes or no; found {counted(bad)}")
    return np.array([0.5 if text.casefold() in YES else 1.0 for text in texts])


def _choices(table: TextTable, left: Sequence[str], right: Sequence[str], texts: Sequence[str]) -> Floats:
    won = np.full(len(texts), np.nan)
    for row, (one, two, text) in enumerate(zip(left, right, texts, strict=True)):
        plain = plain_name(text)
        if text in (one, two):
            won[row] = float(text == one)
        elif plain in LEFT + RIGHT:
            won[row] = float(plain in LEFT)
        elif plain in TIE:
            won[row] = 0.5
    if bad := [f"{texts[row]!r} in line {row + 2}" for row in np.flatnonzero(np.isnan(won)).tolist()]:
        raise DrexcacheError(
            f"{table.source}: choices that are neither left, right, tie nor one of the two images: {counted(bad)}"
        )
    return won


def _weights(table: TextTable, texts: Sequence[str]) -> Floats:
    weight = numbers(texts, decimal_sign(texts)[0])
    wrong = np.flatnonzero(~((weight > 0) & (weight <= MOST_WEIGHT))).tolist()
    if bad := [f"{texts[row]!r} in line {row + 2}" for row in wrong]:
        most = f"{MOST_WEIGHT:g}"
        raise DrexcacheError(f"{table.source}: weights must be numbers above 0, up to {most}; found {counted(bad)}")
    return weight


def with_comparisons(
    table: ImageTable, source: str | PathLike[str] | DataFrame, *, target: str = "rating", higher_is: str = "more",
    allow_unmatched: bool = False,
) -> ImageTable:  # fmt: skip
    """The table of images with scores from comparisons as a target; errors as in `match_comparisons`."""
    match = match_comparisons(
        table.ids, read_comparisons(source), target=target, higher_is=higher_is, allow_unmatched=allow_unmatched
    )
    return replace(table, targets={**table.targets, target: match.target}, notes=table.notes + match.notes)


def match_comparisons(
    ids: Sequence[str], comparisons: Comparisons, *, target: str = "rating", higher_is: str = "more",
    allow_unmatched: bool = False,
) -> Match:  # fmt: skip
    """Scores of n images from comparisons, with the reliability that their standard errors give.

    Names find their images by the rules of ratings. Scores are log-odds: of images whose scores differ by 1 the higher
    wins 73% of the comparisons; their mean is 0.

    Raises
    ------
    DrexcacheError : comparisons that fall into groups which nothing connects (named); that do not tell the images
        apart; and, unless allow_unmatched, comparisons of images that are not there, or images without a comparison.

    >>> pairs = Comparisons("p.csv", ("a", "b", "a"), ("b", "c", "c"), np.ones(3), np.ones(3))
    >>> match_comparisons(["a.jpg", "b.jpg", "c.jpg"], pairs).target.values.argsort().tolist()
    [2, 1, 0]
    """
    source, names = comparisons.source, list(dict.fromkeys((*comparisons.left, *comparisons.right)))
    found = match_names(ids, names)
    image = {names[row]: at for at, row in enumerate(found.row.tolist()) if row >= 0}
    used = np.array([a in image and b in image for a, b in zip(comparisons.left, comparisons.right, strict=True)], bool)
    compared = {image[name] for a, b, use in zip(comparisons.left, comparisons.right, used, strict=True) if use
                for name in (a, b)}  # fmt: skip
    without = [ids[at] for at in range(len(ids)) if at not in compared]
    notes = _refuse(found, source, ids, names, without, allow_unmatched)
    rows = np.flatnonzero(used)
    if not len(rows):
        raise DrexcacheError(f"{source}: no comparison is of two images that are there; images: {some(ids)}")
    first = np.array([image[comparisons.left[row]] for row in rows.tolist()])
    second = np.array([image[comparisons.right[row]] for row in rows.tolist()])
    places, at = np.unique(np.concatenate([first, second]), return_inverse=True)
    first, second = at[: len(rows)], at[len(rows) :]
    _refuse_pieces(source, first, second, [ids[place] for place in places.tolist()])
    won, weight = comparisons.won[rows], comparisons.weight[rows]
    scores, errors = bradley_terry(first, second, won, weight, len(places))
    if np.ptp(scores) < 1e-6:
        raise DrexcacheError(f"{source}: the comparisons do not tell the images apart: each wins as often as it loses")
    values = np.full(len(ids), np.nan)
    values[places] = scores
    variance = float(np.var(scores, ddof=1))
    reliability = variance / (variance + float((errors**2).mean()))
    told = Target(
        target, values, low=float(scores.min()), high=float(scores.max()), higher_is=higher_is, declared=False,
        reliability=reliability, reliability_from="standard errors of scores from comparisons",
    )  # fmt: skip
    notes += [
        f"{several(len(rows), 'comparison')} of {several(len(places), 'image')}; scores are log-odds of winning from "
        f"{scores.min():.2f} to {scores.max():.2f}, standard errors {errors.min():.2f} to {errors.max():.2f}",
        f"reliability {reliability:.3f} ({told.reliability_from}): predictions cannot be expected to correlate above "
        f"{ceiling(reliability):.3f}",
        *_agreement(comparisons, rows, first, second, scores),
    ]
    return Match(told, {}, (*comparisons.notes, *(f"{source}: {note}" for note in notes)))


def _refuse(
    found: NameMatch, source: str, ids: Sequence[str], names: Sequence[str], without: list[str], allowed: bool
) -> list[str]:
    """Notes on what does not match, where that is allowed."""
    if (found.row < 0).all():
        raise DrexcacheError(
            f"{source}: none of the compared images is there; compared: {some(names)}; images: {some(ids)}"
        )
    never = {"names that fit several images": found.ambiguous, "images under several names": found.twice}
    may = {"comparisons of images that are not there": found.without, "images without a comparison": without}
    wrong = [f"{what}: {counted(which)}" for what, which in never.items() if which]
    open_ = [f"{what}: {counted(which)}" for what, which in may.items() if which]
    if wrong or (open_ and not allowed):
        advice = "correct the file" if wrong else "correct the file, or leave them out with --allow-unmatched"
        raise DrexcacheError(f"{source}: {'; '.join([*wrong, *([] if allowed else open_)])}; {advice}")
    return [f"{line}, as allowed" for line in open_]


def _refuse_pieces(source: str, first: Places, second: Places, ids: Sequence[str]) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(ids), len(ids)))
    count, piece = connected_components(graph, directed=False)
    if count > 1:
        largest = np.argsort(-np.bincount(piece), kind="stable")[:4]
        pieces = [[name for name, at in zip(ids, piece == which, strict=True) if at] for which in largest]
        groups = [f"{some(names)} ({several(len(names), 'image')})" for names in pieces]
        more = f" | and {count - 4} more" if count > 4 else ""
        raise DrexcacheError(
            f"{source}: the comparisons fall into {count} groups that are never compared with each other, so that "
            f"they have no common scale: {' | '.join(groups)}{more}; compare images across the groups, or keep one"
        )


def bradley_terry(first: Places, second: Places, won: Floats, weight: Floats, n: int) -> tuple[Floats, Floats]:
    """Scores (n,) and their standard errors (n,) from k comparisons.

    The first of two images wins with probability 1 / (1 + exp(second's score - first's)) (Bradley & Terry 1952,
    Biometrika 39, 324-345); a tie is half a win for each. Scores are normally distributed about 0, so that an image
    which always won has a score, too, with the variance under which the comparisons are most likely. Scores are the
    most probable ones, and errors follow from the curvature there (Laplace's approximation, in both steps).

    first, second : (k,) places of the images, from 0 to n - 1, connected by the comparisons. won : (k,) what the first
    one won, 0 to 1. weight : (k,) how often.

    >>> scores, errors = bradley_terry(np.array([0, 1, 0]), np.array([1, 2, 2]), np.ones(3), np.full(3, 9.0), 3)
    >>> bool(scores[0] > scores[1] > scores[2])
    True
    """
    from scipy.optimize import minimize_scalar

    pairs = _Pairs(first, second, won, weight, n)
    best = minimize_scalar(pairs.unlikeliness, bounds=(-4, 5), method="bounded", options={"xatol": 0.01})
    variance = float(np.exp(best.x))
    scores = pairs.scores(variance)
    spread = pairs.inverse_diagonal(scores, variance) - variance / n  # about their mean, which nothing tells
    return scores - scores.mean(), np.sqrt(spread.clip(0))


class _Pairs:
    """The likelihood of k comparisons of n images; parameters as in `bradley_terry`."""

    def __init__(self, first: Places, second: Places, won: Floats, weight: Floats, n: int) -> None:
        self.first, self.second, self.won, self.weight, self.n = first, second, won, weight, n
        self.start = np.zeros(n)

    def scores(self, variance: float) -> Floats:
        """The most probable scores (n,): a convex problem."""
        from scipy.optimize import minimize

        def curve(s: Floats, v: Floats) -> Floats:
            pull = self._pull(s) * (v[self.first] - v[self.second])
            return self._gathered(pull) + v / variance

        found = minimize(lambda s: self._loss(s, variance), self.start, jac=True, hessp=curve, method="trust-ncg",
                         options={"gtol": 1e-7})  # fmt: skip
        self.start = found.x
        return found.x

    def unlikeliness(self, log_variance: float) -> float:
        """Minus the logarithm of the comparisons' probability under that variance of the scores."""
        variance = float(np.exp(log_variance))
        scores = self.scores(variance)
        curvature = self._curvature(scores, variance)
        # of many images without the rest of the matrix, which hardly depends on the variance
        many = self.n > DENSE
        size = np.log(curvature.diagonal()).sum() if many else np.linalg.slogdet(curvature.toarray())[1]
        return float(self._loss(scores, variance)[0] + (size + self.n * log_variance) / 2)

    def inverse_diagonal(self, scores: Floats, variance: float) -> Floats:
        """The diagonal (n,) of the inverse of the curvature.

        Of many images by random probes (Bekas, Kokiopoulou & Saad 2007, Appl. Numer. Math. 57, 1214-1229).
        """
        from scipy.sparse import diags_array
        from scipy.sparse.linalg import cg

        curvature = self._curvature(scores, variance)
        if self.n <= DENSE:
            return np.linalg.inv(curvature.toarray()).diagonal().copy()
        rng, jacobi = np.random.default_rng(0), diags_array(1 / curvature.diagonal())
        probes = rng.choice([-1.0, 1.0], (PROBES, self.n))
        return np.mean([z * cg(curvature, z, rtol=1e-3, M=jacobi)[0] for z in probes], axis=0)

    def _loss(self, s: Floats, variance: float) -> tuple[float, Floats]:
        gap = s[self.first] - s[self.second]
        value = (self.weight * (np.logaddexp(0, gap) - self.won * gap)).sum() + (s**2).sum() / (2 * variance)
        return value, self._gathered(self.weight * (1 / (1 + np.exp(-gap)) - self.won)) + s / variance

    def _gathered(self, values: Floats) -> Floats:
        """(k,) -> (n,): what each image has as the first less what it has as the second."""
        return np.bincount(self.first, values, self.n) - np.bincount(self.second, values, self.n)  # type: ignore[return-value]

    def _pull(self, s: Floats) -> Floats:
        p = 1 / (1 + np.exp(s[self.second] - s[self.first]))
        return self.weight * p * (1 - p)

    def _curvature(self, s: Floats, variance: float) -> csr_array:
        from scipy.sparse import coo_array, diags_array

        ends = np.concatenate([self.first, self.second]), np.concatenate([self.second, self.first])
        off = coo_array((np.tile(self._pull(s), 2), ends), shape=(self.n, self.n)).tocsr()
        return (diags_array(np.asarray(off.sum(axis=1)).ravel() + 1 / variance) - off).tocsr()


def _agreement(comparisons: Comparisons, rows: Places, first: Places, second: Places, scores: Floats) -> list[str]:
    """How often judgements of the same pair agree, and which raters judge otherwise than the scores."""
    import pandas as pd

    ahead = np.where(first < second, comparisons.won[rows], 1 - comparisons.won[rows])
    frame = pd.DataFrame({"low": np.minimum(first, second), "high": np.maximum(first, second), "won": ahead})
    sides = frame[frame["won"] != 0.5]
    counts = sides.groupby(["low", "high"])["won"].agg(["size", "sum"])
    repeated = counts[counts["size"] > 1]
    notes = []
    if len(repeated):
        size, wins = repeated["size"], repeated["sum"]
        agree = (wins * (wins - 1) + (size - wins) * (size - wins - 1)).sum() / (size * (size - 1)).sum()
        notes.append(
            f"two judgements of one pair agree in {agree:.0%} ({several(len(repeated), 'pair was', 'pairs were')} "
            "judged more than once)"
        )
    if comparisons.rater:
        said = np.sign(comparisons.won[rows] - 0.5) * np.sign(scores[first] - scores[second])
        who = pd.DataFrame(
            {"rater": [comparisons.rater[row] for row in rows.tolist()], "agrees": said > 0, "tie": said == 0}
        )
        each = who[~who["tie"]].groupby("rater")["agrees"].agg(["mean", "size"])
        notes.append(
            f"{several(len(each), 'rater agrees', 'raters agree')} with the scores in {each['mean'].min():.0%} to "
            f"{each['mean'].max():.0%}"
        )
        odd = each[(each["mean"] < 0.55) & (each["size"] >= FEW_AGREEMENTS)].sort_values("mean")
        if len(odd):
            named = [f"{name} ({row['mean']:.0%} of {row['size']:.0f})" for name, row in odd.iterrows()]
            notes.append(f"raters that judge as if by chance, or the other way round: {counted(named)}")
    return notes
