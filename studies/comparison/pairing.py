"""The same images, in the same order, for all regressors that are to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError
from drexcache.studies.evaluation import Predictions, Run, constant_in_folds

MIN_IMAGES = 10


@dataclass
class Paired:
    """One cell, its n images in one order.

    rated : (n,); predicted : regressor -> (runs, n); seeds : regressor -> those of its runs; constant :
    regressor -> whether any run says the same of all images; groups : (n,) names, or empty.
    """

    cell: tuple[str, str, str]
    rated: Floats
    predicted: dict[str, Floats]
    seeds: dict[str, list[int]]
    constant: dict[str, bool]
    groups: list[str]
    notes: list[str] = field(default_factory=list)


def paired(predictions: Predictions, regressors: Sequence[str] | None, match: bool) -> list[Paired]:
    """Every cell with two regressors or more.

    Raises
    ------
    DrexcacheError : see `drexcache.studies.comparison.verdicts.compare`.
    """
    missing = [name for name in regressors or () if name not in predictions.regressors]
    if missing:
        raise DrexcacheError(f"no predictions of {', '.join(missing)}; there are: {', '.join(predictions.regressors)}")
    cells = []
    for cell in predictions.cells:
        runs: dict[str, list[Run]] = {}
        for run in predictions.runs:
            if run.cell == cell and (regressors is None or run.regressor in regressors):
                runs.setdefault(run.regressor, []).append(run)
        if len(runs) > 1:
            cells.append(_cell(cell, runs, match))
    if not cells:
        found = ", ".join(predictions.regressors) or "none"
        raise DrexcacheError(f"nothing to compare: no two regressors predict the same test set; regressors: {found}")
    return cells


def _cell(cell: tuple[str, str, str], runs: dict[str, list[Run]], match: bool) -> Paired:
    everything = [run for own in runs.values() for run in own]
    images, notes = _common(cell, everything, match)
    first, order = everything[0], {}
    for run in everything:
        place = {image: row for row, image in enumerate(run.ids)}
        order[id(run)] = [place[image] for image in images]
        differs = np.flatnonzero(np.abs(run.rated[order[id(run)]] - first.rated[order[id(first)]]) > 1e-9)
        if len(differs):
            a, b = (one.rated[order[id(one)]][differs[0]] for one in (first, run))
            raise DrexcacheError(
                f"{cell[2]}: image {images[differs[0]]} is rated {a:g} for {first.regressor} and {b:g} for "
                f"{run.regressor} ({len(differs)} images differ); these are not the same ratings"
            )
    return Paired(
        cell,
        first.rated[order[id(first)]],
        {name: np.stack([run.predicted[order[id(run)]] for run in own]) for name, own in runs.items()},
        {name: [run.seed for run in own] for name, own in runs.items()},
        {name: any(constant_in_folds(run) for run in own) for name, own in runs.items()},
        [first.group[row] for row in order[id(first)]] if first.group else [],
        notes,
    )


def _common(cell: tuple[str, str, str], runs: Sequence[Run], match: bool) -> tuple[list[str], list[str]]:
    """The images that all runs predicted, sorted, and a note where some had to be left out."""
    common = set(runs[0].ids).intersection(*(run.ids for run in runs))
    counts = {run.regressor: len(run.ids) for run in runs}
    kind, train, test = cell
    where = f"{train} → {test}" if train != test else f"{test} ({kind})"
    found = f"{len(common)} images match of " + ", ".join(f"{n} ({name})" for name, n in counts.items())
    if len(common) < MIN_IMAGES:
        raise DrexcacheError(f"{where}: a comparison needs {MIN_IMAGES} images in common; {found}")
    if all(n == len(common) for n in counts.values()):
        return sorted(common), []
    if not match:
        advice = "ask to compare only those that match (--match), or evaluate on the same images"
        raise DrexcacheError(f"{where}: {found}; {advice}")
    return sorted(common), [f"{where}: {found}; only those are compared"]
