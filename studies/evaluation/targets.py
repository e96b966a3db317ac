"""Several ratings of the same images in one evaluation, and how they go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError, several
from drexcache.metrics import interval, pearson
from drexcache.scores import Entry, ScoreTable, Table, score_entry
from drexcache.studies.evaluation.fitting import evaluate
from drexcache.studies.evaluation.predictions import Predictions


def evaluate_targets(
    matrices: Mapping[str, Sequence[FeatureMatrix]], regressors: Sequence[str], *, train: Sequence[str] | None = None,
    test: Sequence[str] | None = None, pictures: Mapping[tuple[str, str], Any] | None = None, **options: Any,
) -> tuple[ScoreTable, Predictions]:  # fmt: skip
    """Score regressors for each of several targets; their datasets are then called "NAME:TARGET".

    matrices : target -> one matrix per dataset. The other parameters are those of `evaluate`, with the datasets' own
    names.

    Raises
    ------
    DrexcacheError : as `evaluate`.
    """
    table, predictions = ScoreTable(), Predictions()
    for target, own in matrices.items():
        renamed = [replace(matrix, dataset=f"{matrix.dataset}:{target}") for matrix in own]
        files = {(f"{name}:{target}", image): file for (name, image), file in (pictures or {}).items()}
        scores, found = evaluate(
            renamed, regressors, train=[f"{name}:{target}" for name in train] if train else None,
            test=[f"{name}:{target}" for name in test] if test else None, pictures=files or None, **options,
        )  # fmt: skip
        table.rows += scores.rows
        predictions.runs += found.runs
    return table, predictions


def correlation_table(matrices: Mapping[str, Sequence[FeatureMatrix]]) -> Table:
    """How far each two targets agree on the images that both rate, for each dataset: Pearson's r with its interval.

    Raises
    ------
    DrexcacheError : fewer than 3 images have both ratings.
    """
    body: list[list[Entry | str]] = []
    for one, other in combinations(matrices, 2):
        for a, b in zip(matrices[one], matrices[other], strict=True):
            rating = dict(zip(b.ids, b.y.tolist(), strict=True))
            pairs = np.array([(y, rating.get(image, np.nan)) for image, y in zip(a.ids, a.y.tolist(), strict=True)])
            pairs = pairs[np.isfinite(pairs).all(axis=1)]
            if len(pairs) < 3:
                count = several(len(pairs), "image has", "images have")
                raise DrexcacheError(f"{a.dataset}: only {count} both {one} and {other}")
            r, limits = pearson(*pairs.T), interval("pearson", *pairs.T)
            body.append([a.dataset, f"{one}, {other}", score_entry(r, *limits), str(len(pairs))])
    return Table("**Correlation between the targets**", ["dataset", "targets", "r [95% interval]", "images"], body)
