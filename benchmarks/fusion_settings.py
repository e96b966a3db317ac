"""The effect of each setting of the regressor ``fusion`` on a few hundred images: out-of-fold r within each cache.

python benchmarks/fusion_settings.py CACHE.h5... > benchmarks/results/fusion-settings.md

The settings were chosen on these images and on the first division into folds; the others are a check of that choice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from machine import describe
from sklearn.base import clone
from tabulate import tabulate

from drexcache import AttentionFusionRegressor, open_cache
from drexcache.cache import FeatureMatrix
from drexcache.fusion import PRESETS
from drexcache.regressors import make_regressor
from drexcache.studies.evaluation.folds import hash_folds

FUSION = PRESETS["fusion"]
SETTINGS: dict[str, dict[str, Any]] = {  # the others are compared with the first
    "fusion": FUSION,
    "without a line (linear=0)": {**FUSION, "linear": 0.0},
    "all arms always (arm_dropout=0)": {**FUSION, "arm_dropout": 0.0},
    "small biases first (offset=0)": {**FUSION, "offset": 0.0},
    "neither of the last two": {**FUSION, "offset": 0.0, "arm_dropout": 0.0},
    "raw features (no components, line, dropped arms)": {
        **FUSION, "components": None, "offset": 0.0, "arm_dropout": 0.0, "linear": 0.0
    },
    "32 components": {**FUSION, "components": 32},
    "standardised columns": {**FUSION, "standardize": True},
    "lr 1e-3, 400 steps": {**FUSION, "lr": 1e-3, "min_steps": 400},
    "dropout 0.1": {**FUSION, "dropout": 0.1},
    "weight decay 3": {**FUSION, "weight_decay": 3.0},
    "one seed": {**FUSION, "seeds": 1},
}  # fmt: skip
OTHERS = ("ridge", "pls", "svr", "gaussian-process")
DIVISIONS = (0, 1, 2)
RESAMPLES = 2000


def out_of_fold(matrix: FeatureMatrix, estimator: Any, division: int) -> np.ndarray:
    """Out-of-fold predictions (n,)."""
    folds, predicted = hash_folds(matrix.ids, 5, division), np.zeros(len(matrix))
    for k in range(5):
        rest, out = folds != k, folds == k
        predicted[out] = clone(estimator).fit(matrix.X[rest], matrix.y[rest]).predict(matrix.X[out])
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


def settings_table(matrices: Sequence[FeatureMatrix]) -> None:
    """The table of every setting, on the first division into folds."""
    headers = ["setting", *(m.dataset for m in matrices), "mean r", "difference to the first [95%]", "seconds"]
    rows, base = [], None
    for name, settings in SETTINGS.items():
        started = time.perf_counter()
        predicted = [out_of_fold(m, AttentionFusionRegressor(m.blocks, **settings), 0) for m in matrices]
        base = base or predicted
        rows.append([*row(name, matrices, predicted, base), f"{time.perf_counter() - started:.0f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def divisions_table(matrices: Sequence[FeatureMatrix]) -> None:
    """fusion compared with other regressors: the mean r on every division."""
    rows = []
    for name in ("fusion", *OTHERS):
        means = [
            np.mean([correlation(m.y, out_of_fold(m, make_regressor(name, m), division)) for m in matrices])
            for division in DIVISIONS
        ]
        rows.append([name, *(f"{r:.3f}" for r in means)])
        print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, ["regressor", *(f"division {d}" for d in DIVISIONS)], "github", disable_numparse=True))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+")
    arguments = parser.parse_args()
    matrices = [open_cache(path).matrix() for path in arguments.caches]
    print("# Settings of the fusion head, 5-fold inside each category\n\n```\n" + describe() + "\n```\n")
    settings_table(matrices)
    print("\nOther divisions into folds, mean r over the categories\n")
    divisions_table(matrices)


if __name__ == "__main__":
    main()
