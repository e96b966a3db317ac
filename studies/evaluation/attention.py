"""What each arm was to the predictions of a cell: its attention weights, and what it contributed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np

from drexcache.bootstrap import Floats
from drexcache.scores import Table, number, train_to_test
from drexcache.studies.evaluation.predictions import Predictions, Run

SAME = 0.01  # standard deviation over images below which a weight counts as constant


def attention_table(predictions: Predictions) -> list[Table]:
    """A table with a line per regressor and cell and a column per arm: mean ± standard deviation over the images.

    Runs (seeds, repeats) are first averaged image by image. Further columns tell how far the weights can be trusted:
    their deviation over seeds and the correlation between two seeds (both need several seeds), and the share of their
    variance that lies between folds, whose heads had other training images. Empty if no regressor has attention. Each
    image's weights are in the CSV of predictions, in a column ``attention_ARM`` per arm.
    """
    cells = _cells(run for run in predictions.runs if run.attention)
    if not cells:
        return []
    arms = list(dict.fromkeys(arm for runs in cells.values() for arm in runs[0].attention))
    body = []
    for (name, (kind, train, test)), runs in cells.items():
        weights = _by_seed(runs)  # (seeds, n, n_arms)
        by_arm = dict(zip(runs[0].attention, weights.mean(0).T, strict=True))
        entries = [_mean_and_deviation(by_arm[arm]) if arm in by_arm else "" for arm in arms]
        body.append([name, train_to_test(train, test, kind), *entries, *_steadiness(weights, runs[0].fold)])
    title = "\n\n".join(["**Attention: mean weight ± deviation over the images**", *constant_attention(predictions)])
    return [Table(title, ["regressor", "train → test", *arms, "over seeds", "r of seeds", "between folds"], body)]


def constant_attention(predictions: Predictions) -> list[str]:
    """A sentence that names the regressors and cells whose attention is the same for every image, if there are any."""
    same = []
    for (name, (kind, train, test)), runs in _cells(run for run in predictions.runs if len(run.attention) > 1).items():
        if (_by_seed(runs).mean(0).std(0) < SAME).all():
            same.append(f"{name}, {train_to_test(train, test, kind)}")
    return [f"The attention is the same for every image: {'; '.join(same)}."] if same else []


def contributions_table(predictions: Predictions) -> list[Table]:
    """A line per regressor and cell, a column per arm: how far it moves a prediction, on average, and its share.

    See `drexcache.regressors.contributions`; ratings are on [0, 1]. No table where none were asked for.
    """
    cells = _cells(run for run in predictions.runs if run.contributions)
    if not cells:
        return []
    arms = list(dict.fromkeys(arm for runs in cells.values() for arm in runs[0].contributions))
    body = []
    for (name, (kind, train, test)), runs in cells.items():
        sizes = {arm: float(np.mean([np.abs(run.contributions[arm]) for run in runs])) for arm in runs[0].contributions}
        total = sum(sizes.values()) or 1.0
        entries = [f"{number(sizes[arm])} ({sizes[arm] / total:.0%})" if arm in sizes else "" for arm in arms]
        body.append([name, train_to_test(train, test, kind), *entries])
    title = "**Contributions: how far each arm moves a prediction on [0, 1], mean over the images (share)**"
    return [Table(title, ["regressor", "train → test", *arms], body)]


def _cells(runs: Iterable[Run]) -> dict[tuple[str, tuple[str, str, str]], list[Run]]:
    """The runs of each regressor and cell."""
    cells: dict[tuple[str, tuple[str, str, str]], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.regressor, run.cell), []).append(run)
    return cells


def _by_seed(runs: list[Run]) -> Floats:
    """Weights (seeds, n, n_arms) of the first run's images, the mean over each seed's repeats."""
    found: dict[int, list[Floats]] = {}
    for run in runs:
        place = {image: row for row, image in enumerate(run.ids)}
        order = [place[image] for image in runs[0].ids]
        found.setdefault(run.seed, []).append(np.stack(list(run.attention.values()), axis=1)[order])
    return np.stack([np.mean(own, axis=0) for own in found.values()])


def _mean_and_deviation(weights: Floats) -> str:
    return f"{number(float(weights.mean()))} ± {number(float(weights.std()))}"


def _steadiness(weights: Floats, fold: np.ndarray) -> list[str]:
    """Deviation over seeds, mean correlation of two seeds, and the share of variance between folds."""
    several = len(weights) > 1
    spread = float(weights.std(0, ddof=1).mean()) if several else None
    with np.errstate(invalid="ignore"):  # the same for every image
        both = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in combinations(_centred(weights), 2)]
    alike = float(np.mean(both)) if several and np.isfinite(both).all() else None
    mean = weights.mean(0)
    folds = [mean[fold == one] for one in np.unique(fold)]
    between = sum(len(own) * ((own.mean(0) - mean.mean(0)) ** 2).sum() for own in folds)
    total = ((mean - mean.mean(0)) ** 2).sum()
    share = f"{between / total:.0%}" if len(folds) > 1 and total > 0 else ""
    return [number(spread, missing=""), number(alike, missing=""), share]


def _centred(weights: Floats) -> Floats:
    """Less each arm's mean over the images: arms of uneven weight would seem to agree."""
    return weights - weights.mean(1, keepdims=True)
