"""Aligning predictions: the same images in the same order for all regressors to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError, nearest, several
from drexcache.metrics import MIN_IMAGES
from drexcache.scores import train_to_test
from drexcache.studies.evaluation import Predictions, Run, constant_in_folds


@dataclass(frozen=True)
class Paired:
    """One cell with its n images in one order.

    rated : (n,); predicted : regressor -> (runs, n); seeds : regressor -> the seeds of its runs; constant :
    regressor -> whether any run predicts the same value for all images; groups : (n,) names, or empty.
    """

    kind: str
    train: str
    test: str
    rated: Floats
    predicted: dict[str, Floats]
    seeds: dict[str, list[int]]
    constant: dict[str, bool]
    groups: list[str]
    notes: list[str]


def paired(
    predictions: Predictions, regressors: Sequence[str] | None = None, kind: str | None = None, match: bool = False
) -> list[Paired]:
    """Every cell with two or more regressors, of the given kind if there is one.

    Raises
    ------
    DrexcacheError : see `drexcache.studies.comparison.verdicts.compare`.
    """
    missing = [name for name in regressors or () if name not in predictions.regressors]
    if missing:
        raise DrexcacheError(f"no predictions of {', '.join(missing)}; {nearest(missing[0], predictions.regressors)}")
    kinds = list(dict.fromkeys(run.kind for run in predictions.runs))
    if kind is not None and kind not in kinds:
        raise DrexcacheError(f"no predictions of kind {kind}; {nearest(kind, kinds)}")
    cells: dict[tuple[str, str, str], dict[str, list[Run]]] = {}
    for run in predictions.runs:
        if kind in (None, run.kind) and (regressors is None or run.regressor in regressors):
            cells.setdefault(run.cell, {}).setdefault(run.regressor, []).append(run)
    found = [_paired(runs, match) for runs in cells.values() if len(runs) > 1]
    if not found:
        names = ", ".join(predictions.regressors) or "none"
        raise DrexcacheError(f"nothing to compare: no two regressors predict the same test set; regressors: {names}")
    return found


def _paired(runs: dict[str, list[Run]], match: bool) -> Paired:
    everything = [run for own in runs.values() for run in own]
    first = everything[0]
    images, notes = _common(everything, match)
    orders = {id(run): _order(run, images) for run in everything}
    rated = first.rated[orders[id(first)]]
    for run in everything:
        differs = np.flatnonzero(np.abs(run.rated[orders[id(run)]] - rated) > 1e-9)
        if len(differs):
            here, there = rated[differs[0]], run.rated[orders[id(run)]][differs[0]]
            raise DrexcacheError(
                f"{first.test}: image {images[differs[0]]} is rated {here:g} for {first.regressor} and {there:g} for "
                f"{run.regressor} ({several(len(differs), 'image differs', 'images differ')}); these are not the same "
                "ratings"
            )
    return Paired(
        kind=first.kind, train=first.train, test=first.test, rated=rated,
        predicted={name: np.stack([run.predicted[orders[id(run)]] for run in own]) for name, own in runs.items()},
        seeds={name: [run.seed for run in own] for name, own in runs.items()},
        constant={name: any(constant_in_folds(run) for run in own) for name, own in runs.items()},
        groups=[first.group[row] for row in orders[id(first)]] if first.group else [],
        notes=notes,
    )  # fmt: skip


def _order(run: Run, images: Sequence[str]) -> list[int]:
    """The run's row numbers in the order of the images."""
    place = {image: row for row, image in enumerate(run.ids)}
    return [place[image] for image in images]


def _common(runs: Sequence[Run], match: bool) -> tuple[list[str], list[str]]:
    """The images that all runs predicted, sorted, and a note if some had to be left out."""
    common = set(runs[0].ids).intersection(*(run.ids for run in runs))
    counts = {run.regressor: len(run.ids) for run in runs}
    where = train_to_test(runs[0].train, runs[0].test, runs[0].kind)
    found = (
        several(len(common), "image matches", "images match")
        + " of "
        + ", ".join(f"{n} ({name})" for name, n in counts.items())
    )
    if len(common) < MIN_IMAGES:
        raise DrexcacheError(f"{where}: a comparison needs {MIN_IMAGES} images in common; {found}")
    if all(n == len(common) for n in counts.values()):
        return sorted(common), []
    if not match:
        advice = "ask to compare only those that match (--match), or evaluate on the same images"
        raise DrexcacheError(f"{where}: {found}; {advice}")
    return sorted(common), [f"{where}: {found}; only those are compared"]
