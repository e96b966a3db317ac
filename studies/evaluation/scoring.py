"""Computing scores from predictions: every metric of every run with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from drexcache.bootstrap import Floats
from drexcache.cache import FeatureMatrix
from drexcache.datasets import ceiling
from drexcache.metrics import CORRELATIONS, METRICS, MIN_IMAGES, interval
from drexcache.scores import NOTE_ENDS, Score, ScoreTable, number, train_to_test
from drexcache.studies.evaluation.folds import hash_folds
from drexcache.studies.evaluation.predictions import Predictions, Run

ACROSS = ("cross", "leave-one-out")  # the kinds whose train and test ratings are on different scales
CALIBRATION_SEED = 1953  # of the halves; any number that nobody uses for folds
FEW_GROUPS = 10
FAR = 0.1  # how far outside the range, as a share of it, a prediction may be before a note reports it


def score(
    predictions: Predictions,
    notes: Mapping[tuple[str, ...], Sequence[str]] | None = None,
    noise: Mapping[str, float | None] | None = None,
) -> ScoreTable:
    """Compute every metric of every run, with its 95% interval.

    Errors across datasets are given twice: raw, and after linear calibration (see `calibrated`). Correlations do
    not change under linear calibration and are given once. A regressor whose predictions are constant within every
    fold has no correlation, even if the constants differ (they would correlate negatively with the ratings, because
    leaving out high ratings lowers the mean of the rest).

    Runs with groups get a score for all images and one for each group of 3 or more images. With 10 or more groups,
    the pooled interval is a bootstrap over groups; with fewer it is over images, and a note says so.

    notes : cell (kind, train, test), or regressor and cell, -> notes for its rows.
    noise : test set -> variance of the rating errors; rows of Pearson's r then get a noise ceiling (`noise_ceiling`).
    """
    rows: list[Score] = []
    for run in predictions.runs:
        found = notes or {}
        added = [*found.get(run.cell, ()), *found.get((run.regressor, *run.cell), ()), *_group_notes(run)]
        rows += _scores(run, NOTE_ENDS.join(added), (noise or {}).get(run.test))
    return ScoreTable(rows)


def noise_ceiling(rated: Floats, noise: float | None) -> float | None:
    """The highest Pearson's r that predictions of these ratings can be expected to reach.

    This is the square root of their reliability, 1 - noise / variance, because rating errors, whose variance is
    ``noise``, cannot be predicted from an image. The less the ratings of images differ, the lower the ceiling. None if
    the noise is unknown or not below the variance.

    >>> rated = np.linspace(0, 1, 50)
    >>> round(noise_ceiling(rated, 0.19 * np.var(rated, ddof=1)), 6)
    0.9
    """
    variance = float(np.var(rated, ddof=1)) if len(rated) > 1 else 0.0
    if noise is None or noise >= variance:
        return None
    return ceiling(1 - noise / variance)


def calibrated(run: Run) -> Floats:
    """Predictions (n,) calibrated by the least-squares line of rated on predicted, with cross-fitting.

    The images are halved by hash, and each half is mapped by the line fitted on the other half, so that no image is
    scored by a line that has seen its rating. The remaining error is that of a user who rates half as many images of
    the new dataset to learn its scale; the interval does not include the uncertainty of the line.
    """
    half = hash_folds(run.ids, 2, CALIBRATION_SEED)
    out = np.empty(len(run.ids))
    for mine in (0, 1):
        x, y = run.predicted[half != mine], run.rated[half != mine]
        spread = ((x - x.mean()) ** 2).sum()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / spread if spread > 0 else 0.0
        out[half == mine] = y.mean() + slope * (run.predicted[half == mine] - x.mean())
    return out


def _scores(run: Run, note: str, noise: float | None) -> list[Score]:
    """All score rows of one run."""
    variants = [(False, run.predicted, list(METRICS))]
    if run.kind in ACROSS:
        variants.append((True, calibrated(run), [metric for metric in METRICS if metric not in CORRELATIONS]))
    constant = constant_in_folds(run)
    rows = []
    for is_calibrated, predicted, metrics in variants:
        for group, chosen in _subsets(run).items():
            clusters = run.group if not group and len(set(run.group)) >= FEW_GROUPS else None
            for metric in metrics:
                value, low, high = None, None, None
                if not (constant and metric in CORRELATIONS):
                    value = METRICS[metric](run.rated[chosen], predicted[chosen])
                    low, high = interval(metric, run.rated[chosen], predicted[chosen], groups=clusters)
                rows.append(
                    Score(
                        regressor=run.regressor, train=run.train, test=run.test, kind=run.kind, seed=run.seed,
                        repeat=run.repeat, group=group, metric=metric, calibrated=is_calibrated,
                        value=value, low=low, high=high, n=len(chosen), seconds=run.seconds, note=note,
                        ceiling=noise_ceiling(run.rated[chosen], noise) if metric == "pearson" else None,
                    )
                )  # fmt: skip
    return rows


def _subsets(run: Run) -> dict[str, NDArray[np.intp]]:
    """Group -> row numbers: "" for all images, and each group of 3 or more images if there are several groups."""
    subsets = {"": np.arange(len(run.ids))}
    groups = np.asarray(run.group, dtype=str)
    names = np.unique(groups).tolist()
    for name in names if len(names) > 1 else []:
        members = np.flatnonzero(groups == name)
        if len(members) >= 3:
            subsets[name or "(none)"] = members
    return subsets


def constant_in_folds(run: Run) -> bool:
    """Whether the predictions are constant, up to rounding, within every fold of two or more images."""
    parts = [run.predicted[run.fold == k] for k in np.unique(run.fold)]
    parts = [part for part in parts if len(part) > 1]
    return bool(parts) and all(np.ptp(part) <= 1e-12 * np.abs(part).max() for part in parts)


def _group_notes(run: Run) -> list[str]:
    """Caveats about the groups of a run."""
    counts = Counter(sorted(run.group))
    if len(counts) < 2:
        return []
    notes = [
        f"{run.test}: the pooled score mixes {len(counts)} groups; where each was rated on its own scale, "
        "look at the groups' rows"
    ]
    if len(counts) < FEW_GROUPS:
        notes.append(
            f"{run.test}: {len(counts)} groups are too few to draw from, so the pooled interval is about "
            "new images of the same groups, not about new groups"
        )
    small = [f"{name or '(none)'} ({n})" for name, n in counts.items() if n < MIN_IMAGES]
    if small:
        notes.append(f"{run.test}: fewer than {MIN_IMAGES} images in group {', '.join(small[:5])}: hardly a score")
    return notes


def outside_the_range(runs: Sequence[Run], test: FeatureMatrix) -> list[str]:
    """A note on predictions outside the ratings' range by more than a tenth of it, farthest first.

    runs : of one regressor in one cell; if there are several, an image's farthest prediction counts.
    """
    farthest: dict[str, float] = {}
    for run in runs:
        for image, value in zip(run.ids, run.predicted.tolist(), strict=True):
            if abs(value - 0.5) > max(0.5 + FAR, abs(farthest.get(image, 0.5) - 0.5)):
                farthest[image] = value
    if not farthest:
        return []
    worst = sorted(farthest, key=lambda image: -abs(farthest[image] - 0.5))
    shown = ", ".join(f"{image} {number(float(test.raw(np.array(farthest[image]))), 2)}" for image in worst[:3])
    where, lie = train_to_test(runs[0].train, runs[0].test), "lies" if len(worst) == 1 else "lie"
    far = f"{len(worst)} of {len(runs[0].ids)} predictions of {runs[0].regressor} {lie} far outside the ratings' range"
    return [f"{where}: {far}, {test.low:g} to {test.high:g}: {shown}" + (", ..." if len(worst) > 3 else "")]
