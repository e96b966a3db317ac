"""What each departure from the paper's recipe is worth on a few hundred images: out-of-fold r inside each cache.

    python benchmarks/fusion_settings.py CACHE.h5... > benchmarks/results/fusion-settings.md

The settings of the regressor ``fusion`` were chosen from this table, on these images.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from machine import describe
from tabulate import tabulate

from drexcache import AttentionFusionRegressor, open_cache
from drexcache.cache.matrix import FeatureMatrix
from drexcache.fusion.estimator import PRESETS, fit_many
from drexcache.studies.evaluation.folds import hash_folds

FUSION = PRESETS["fusion"]
SETTINGS: dict[str, dict[str, Any]] = {  # the first is what the others are compared with
    "fusion: both of the next two": FUSION,
    "EMA over a tenth of the steps": {"ema_horizon": 0.1},
    "at least 400 steps": {"min_steps": 400},
    "the paper": {},
    "fusion, another seed": {**FUSION, "random_state": 43},
    "fusion, early stopping after 10": {**FUSION, "early_stopping": 10},
    "fusion, standardised columns": {**FUSION, "standardize": True},
    "fusion, batch 32, lr 2e-3": {**FUSION, "batch_size": 32, "lr": 2e-3},
    "fusion, lr 3e-4": {**FUSION, "lr": 3e-4},
    "fusion, dropout 0.3": {**FUSION, "dropout": 0.3},
    "fusion, weight decay 1": {**FUSION, "weight_decay": 1.0},
    "fusion, mean of 3 seeds": {**FUSION, "seeds": 3},
}
RESAMPLES = 2000


def out_of_fold(matrix: FeatureMatrix, settings: Mapping[str, Any]) -> np.ndarray:
    """Predictions (n,) of every image by the head that was not trained on it."""
    folds, predicted = hash_folds(matrix.ids, 5), np.zeros(len(matrix))
    rows = [np.flatnonzero(folds != k) for k in range(5)]
    heads = [AttentionFusionRegressor(matrix.blocks, **settings) for _ in rows]
    for k, head in enumerate(fit_many(heads, matrix.X, matrix.y, rows)):
        predicted[folds == k] = head.predict(matrix.X[folds == k])
    return predicted


def row(
    name: str, matrices: Sequence[FeatureMatrix], predicted: Sequence[np.ndarray], base: Sequence[np.ndarray]
) -> list[str]:
    """r in each cache, their mean, and the mean difference to ``base`` with its 95% interval over the images."""
    rs = [correlation(m.y, p) for m, p in zip(matrices, predicted, strict=True)]
    rng, drawn = np.random.default_rng(0), np.zeros(RESAMPLES)
    for m, p, b in zip(matrices, predicted, base, strict=True):
        pick = rng.integers(len(m), size=(RESAMPLES, len(m)))
        drawn += (correlation(m.y[pick], p[pick]) - correlation(m.y[pick], b[pick])) / len(matrices)
    difference = np.mean(rs) - np.mean([correlation(m.y, b) for m, b in zip(matrices, base, strict=True)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    interval = "" if predicted is base else f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    return [name, *(f"{r:.3f}" for r in rs), f"{np.mean(rs):.3f}", interval]


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def main() -> None:
    """Train every setting in every fold and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+")
    arguments = parser.parse_args()
    matrices = [open_cache(path).matrix() for path in arguments.caches]
    headers = ["setting", *(m.dataset for m in matrices), "mean r", "difference to the first [95%]", "seconds"]
    print("# Settings of the fusion head, 5-fold inside each category\n\n```\n" + describe() + "\n```\n")
    rows, base = [], None
    for name, settings in SETTINGS.items():
        started = time.perf_counter()
        predicted = [out_of_fold(matrix, settings) for matrix in matrices]
        base = base or predicted
        rows.append([*row(name, matrices, predicted, base), f"{time.perf_counter() - started:.0f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
