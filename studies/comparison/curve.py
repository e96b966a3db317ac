"""curve: how the score grows with rated images, or with ratings of each; its law; how many more it would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from drexcache.bootstrap import Floats, resample_weights, resampled
from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError, several
from drexcache.metrics import interval, pearson
from drexcache.regressors import make_regressor
from drexcache.scores import read_records, write_records
from drexcache.studies.comparison.raters import fewer_ratings
from drexcache.studies.evaluation import Progress, comparable, hash_folds, kept_together

if TYPE_CHECKING:
    import pandas as pd

SMALLEST = 10  # images of the first step
BOOTSTRAPS = 300
FAR = 10  # times as many as there are: no law is believed beyond
COLUMNS: dict[str, type] = {
    "regressor": str, "dataset": str, "of": str, "kind": str, "size": int, "value": float, "low": float, "high": float,
}  # fmt: skip
COUNTED = {"images": ("image", "images"), "ratings": ("rating an image", "ratings an image")}  # one, and more


@dataclass(frozen=True)
class Law:
    """r(n) = limit - drop * n ** -rate, the inverse power law of learning curves (Cortes et al. 1993, NIPS 6)."""

    limit: float
    drop: float
    rate: float

    def at(self, sizes: Floats) -> Floats:
        """The expected r after training on so many."""
        return self.limit - self.drop * np.asarray(sizes, dtype=np.float64) ** -self.rate

    def size_for(self, r: float) -> float:
        """How many it takes to reach r; infinity where the law never does.

        >>> round(Law(0.95, 1.0, 0.5).size_for(0.85))
        100
        """
        return (self.drop / (self.limit - r)) ** (1 / self.rate) if r < self.limit else math.inf


@dataclass(frozen=True)
class Curve:
    """One regressor's learning curve on one dataset.

    sizes : (k,) training images of each step, or ratings of each image. value, low, high : (k,) Pearson's r with its
    95% interval. law : None where the scores do not grow. laws : of resampled images, for the band. of : "images" or
    "ratings".
    """

    regressor: str
    dataset: str
    sizes: Sequence[int]
    value: Floats
    low: Floats
    high: Floats
    law: Law | None = None
    laws: Sequence[Law] = ()
    of: str = "images"

    def band(self, sizes: Floats) -> tuple[Floats, Floats]:
        """The 95% band of the law at so many."""
        drawn = np.stack([law.at(sizes) for law in self.laws])
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return low, high

    def outlook(self, aim: float | None = None) -> str:
        """About how many more it takes to reach r = ``aim``, by default the next 0.05, with its 95% interval."""
        last = float(self.value[-1])
        aim = aim if aim is not None else min(0.99, math.floor(last / 0.05 + 1.0001) * 0.05)
        here = f"{self.regressor} on {self.dataset}: r = {last:.3f} after {several(self.sizes[-1], *COUNTED[self.of])}"
        if last >= aim:
            return f"{here}, which is r = {aim:.2f} already"
        if self.law is None:
            return f"{here}; the scores do not grow with the {self.of}, so nothing can be said of more"
        more = [self._more(law, aim) for law in (self.law, *self.laws)]
        low, high = np.quantile(more[1:], [0.025, 0.975], method="nearest")
        reached = float(np.mean(np.isfinite(more[1:])))
        share = f"reached within ten times the {self.of} in {reached:.0%} of the resamples"
        if not math.isfinite(more[0]):
            return f"{here}; ten times as many would not be enough for r = {aim:.2f} ({share})"
        needed = f"about {_count(more[0])} more {COUNTED[self.of][1]}"
        return f"{here}; {needed} for r = {aim:.2f} (95%: {_count(low)} to {_count(high)}; {share})"

    def _more(self, law: Law, aim: float) -> float:
        needed = law.size_for(aim)
        return max(0.0, needed - self.sizes[-1]) if needed <= FAR * self.sizes[-1] else math.inf


def _count(more: float) -> str:
    """A number to two digits, rounded up, as an extrapolation deserves."""
    if not math.isfinite(more):
        return "more than ten times as many"
    digits = max(0, len(str(math.ceil(more))) - 2)
    return f"{round(math.ceil(more), -digits):,}"


def curve(
    matrix: FeatureMatrix, regressors: Sequence[str], *, steps: int = 8, folds: int = 5, repeats: int = 5,
    seed: int = 42, ratings: Floats | None = None, progress: Progress | None = None,
) -> list[Curve]:  # fmt: skip
    """Score regressors after training on more and more of a dataset's images, or on more and more ratings of each.

    Each fold's images are predicted by a training on 10, ..., all of the others, the larger sets holding the smaller
    ones; copies stay in one fold. r is of all images' predictions, averaged over the repeats (other folds and orders).
    Intervals, and the band of the fitted law, are about other images of the same kind.

    ratings : (n, raters) from `drexcache.studies.comparison.with_raters`, NaN where missing. Then each training is on
    all the images of a fold with 1, ..., all ratings of each, up to the number that half of the images have. r is
    always with the mean of all ratings.

    Raises
    ------
    DrexcacheError : fewer images or ratings than the curve has steps, or as `drexcache.studies.evaluate`.
    """
    (matrix,) = comparable([matrix])
    most = len(matrix) * (folds - 1) // folds
    sizes = _image_steps(matrix, most, steps) if ratings is None else _rating_steps(matrix, ratings, steps)
    same, _ = kept_together(matrix)
    return [
        _curve(
            matrix, name, sizes, ratings, same, folds, repeats, seed, progress, at * repeats, len(regressors) * repeats
        )
        for at, name in enumerate(regressors)
    ]


def _image_steps(matrix: FeatureMatrix, most: int, steps: int) -> list[int]:
    """Numbers of images, each about the same factor larger."""
    if steps < 4 or most - SMALLEST + 1 < steps:
        raise DrexcacheError(
            f"{matrix.dataset}: a curve takes at least 4 steps, and at least as many images beyond the first "
            f"{SMALLEST}; found {steps} steps and {most} images to train on"
        )
    return [round(size) for size in np.geomspace(SMALLEST, most, steps)]


def _rating_steps(matrix: FeatureMatrix, ratings: Floats, steps: int) -> list[int]:
    """Numbers of ratings from 1 on, each about the same factor larger, without those that come twice."""
    if len(ratings) != len(matrix):
        raise DrexcacheError(f"{matrix.dataset}: expected ratings of {len(matrix)} images, found {len(ratings)}")
    most = int(np.median(np.isfinite(ratings).sum(axis=1)))
    if steps < 4 or most < 4:
        raise DrexcacheError(
            f"{matrix.dataset}: a curve over ratings takes at least 4 steps, and 4 ratings of most images; found "
            f"{steps} steps and a median of {most} ratings an image"
        )
    return sorted({round(size) for size in np.geomspace(1, most, steps)} | {1, 2, 3, most})


def _curve(
    matrix: FeatureMatrix, name: str, sizes: Sequence[int], ratings: Floats | None, same: Sequence[str], folds: int,
    repeats: int, seed: int, progress: Progress | None, done: int, total: int,
) -> Curve:  # fmt: skip
    predicted, of = np.empty((repeats, len(sizes), len(matrix))), "images" if ratings is None else "ratings"
    for repeat in range(repeats):
        if progress:
            progress(done + repeat, total, f"{name}, {matrix.dataset}")
        fold = hash_folds(matrix.ids, folds, repeat, same or matrix.hashes)
        rng = np.random.default_rng((seed, repeat))
        order = rng.permutation(len(matrix))
        rated = None if ratings is None else fewer_ratings(ratings, sizes, rng)  # (steps, n)
        for k in range(folds):
            tested, others = np.flatnonzero(fold == k), order[fold[order] != k]
            for step, size in enumerate(sizes):
                rows = others[:size] if rated is None else others
                y = (matrix.y if rated is None else rated[step])[rows]
                fitted = _fitted(name, replace(matrix.rows(rows), y=y), seed, several(size, *COUNTED[of]))
                predicted[repeat, step, tested] = np.asarray(fitted.predict(matrix.X[tested])).reshape(-1)
    found = [[_score(matrix.y, predicted[repeat, step]) for step in range(len(sizes))] for repeat in range(repeats)]
    value, low, high = np.mean(found, axis=0).T
    weights = np.concatenate(list(resample_weights(len(matrix), BOOTSTRAPS)))
    drawn = np.mean([[resampled("pearson", matrix.y, one, weights) for one in run] for run in predicted], axis=0)
    # drawn : (steps, resamples)
    spread = np.nanstd(drawn, axis=1).clip(1e-3)
    law = fit_law(sizes, value, spread)
    laws = [one for r in drawn.T if law is not None and (one := fit_law(sizes, r, spread))]
    return Curve(name, matrix.dataset, sizes, value, low, high, law if laws else None, laws, of)


def _fitted(name: str, train: FeatureMatrix, seed: int, on: str) -> Any:
    try:
        with threadpool_limits(1):
            return make_regressor(name, train, seed).fit(train.X, train.y)
    except ValueError as error:
        raise DrexcacheError(f"{name} cannot be trained on {on}: {str(error).splitlines()[0]}") from error


def _score(rated: Floats, predicted: Floats) -> tuple[float, float, float]:
    """Pearson's r with its interval; 0 of predictions that are constant."""
    r = pearson(rated, predicted)
    if r is None:
        return 0.0, 0.0, 0.0
    low, high = interval("pearson", rated, predicted)
    return r, r if low is None else low, r if high is None else high


def fit_law(sizes: Sequence[int], r: Floats, spread: Floats) -> Law | None:
    """The law that fits best, each step weighed by its spread (k,); None where none fits.

    >>> sizes = [10, 20, 40, 80, 160, 320]
    >>> law = fit_law(sizes, Law(0.9, 1.5, 0.6).at(sizes), np.full(6, 0.01))
    >>> round(law.limit, 3), round(law.drop, 2), round(law.rate, 2)
    (0.9, 1.5, 0.6)
    """
    from scipy.optimize import curve_fit

    def at(n: Floats, limit: float, drop: float, rate: float) -> Floats:
        return limit - drop * n**-rate

    if not np.isfinite(r).all():
        return None
    start = (min(0.99, float(np.max(r)) + 0.02), 1.0, 0.5)
    try:
        found, _ = curve_fit(
            at, np.asarray(sizes, float), r, p0=start, sigma=spread, bounds=([0, 0, 0.05], [1, 50, 3]), max_nfev=5000
        )
    except (RuntimeError, ValueError):
        return None
    law = Law(*(float(one) for one in found))
    return law if law.drop > 1e-6 else None


def save_curves(curves: Sequence[Curve], path: str | Path) -> None:
    """Write measured and fitted points as CSV: regressor, dataset, of, kind, size, value, low, high.

    of is "images" or "ratings", which size counts. kind is "measured", or "fitted" for the law with its band, up to ten
    times as many; `read_curves` reads it.
    """
    records: list[tuple] = []
    for one in curves:
        about = (one.regressor, one.dataset, one.of)
        rows = zip(one.sizes, one.value.tolist(), one.low.tolist(), one.high.tolist(), strict=True)
        records += [(*about, "measured", *row) for row in rows]
        if one.law is not None:
            sizes = np.unique(np.geomspace(one.sizes[0], FAR * one.sizes[-1], 40).round().astype(int))
            low, high = one.band(sizes)
            fitted = zip(sizes.tolist(), one.law.at(sizes).tolist(), low.tolist(), high.tolist(), strict=True)
            records += [(*about, "fitted", *row) for row in fitted]
    write_records(path, list(COLUMNS), records)


@dataclass(frozen=True)
class CurveTable:
    """What a file says of one curve: data frames with the columns size, value, low, high. of : as in `Curve`."""

    regressor: str
    dataset: str
    of: str
    measured: pd.DataFrame
    fitted: pd.DataFrame


def read_curves(path: str | Path) -> list[CurveTable]:
    """The curves that `save_curves` wrote.

    Raises
    ------
    DrexcacheError : no such file, a missing column, a cell that is not what its column holds, or no measured point.
    """
    frame = read_records(path, COLUMNS)
    found = []
    for (regressor, dataset, of), own in frame.groupby(["regressor", "dataset", "of"], sort=False):
        parts = [own[own["kind"] == kind].sort_values("size") for kind in ("measured", "fitted")]
        if of not in COUNTED:
            raise DrexcacheError(f"{path}: a curve of {of}; expected of {' or '.join(COUNTED)}")
        if parts[0].empty:
            raise DrexcacheError(f"{path}: no measured points of {regressor} on {dataset}")
        found.append(CurveTable(str(regressor), str(dataset), str(of), *parts))
    return found
