"""What each setting of the regressor ``fusion`` is worth on a few hundred images, inside each cache and across caches.

python benchmarks/fusion_settings.py CACHE.h5... [--setting NAME]... > benchmarks/results/fusion-settings.md

The settings were chosen on these images. Predictions are kept in a folder: a second run goes on with the first one's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from sklearn.base import clone
from tabulate import tabulate

from drexcache import AttentionFusionRegressor, open_cache
from drexcache.cache import FeatureMatrix
from drexcache.fusion import PRESETS
from drexcache.regressors import make_regressor
from drexcache.studies.evaluation import hash_folds

FUSION = PRESETS["fusion"]
SETTINGS: dict[str, dict[str, Any]] = {  # the first is what the others are compared with
    "fusion": FUSION,
    "ridge": {},
    "no linear part (linear=0)": {**FUSION, "linear": 0.0},
    "more of it (linear=.7)": {**FUSION, "linear": 0.7},
    "all arms always (arm_dropout=0)": {**FUSION, "arm_dropout": 0.0},
    "small biases first (offset=0)": {**FUSION, "offset": 0.0},
    "32 components": {**FUSION, "components": 32},
    "128 components": {**FUSION, "components": 128},
    "standardised columns": {**FUSION, "standardize": True},
    "batches of 32, half the steps": {**FUSION, "batch_size": 32, "min_steps": 600, "lr": 3e-4},
    "one seed": {**FUSION, "seeds": 1},
    "five seeds": {**FUSION, "seeds": 5},
}
RESAMPLES = 2000
Predicted = list[np.ndarray]


def estimator(setting: str, matrix: FeatureMatrix) -> Any:
    """The unfitted regressor."""
    return make_regressor("ridge", matrix) if setting == "ridge" else AttentionFusionRegressor(
        matrix.blocks, **SETTINGS[setting]
    )  # fmt: skip


def predictions(setting: str, matrices: Sequence[FeatureMatrix]) -> Predicted:
    """Out-of-fold predictions of each cache; then, of each cache, those of every training on another one."""
    inside, across = [], []
    for m in matrices:
        folds, predicted = hash_folds(m.ids, 5), np.empty(len(m))
        model = estimator(setting, m)
        for fold in range(5):
            train, tested = folds != fold, folds == fold
            predicted[tested] = clone(model).fit(m.X[train], m.y[train]).predict(m.X[tested])
        inside.append(predicted)
        fitted = clone(model).fit(m.X, m.y)
        across += [fitted.predict(other.X) for other in matrices if other is not m]
    return [*inside, *across]


def row(
    name: str, matrices: Sequence[FeatureMatrix], predicted: Sequence[np.ndarray], base: Sequence[np.ndarray]
) -> list[str]:
    """r in each cache, their mean, and the mean difference to ``base`` with its 95% interval over the images."""
    rs = [correlation(m.y, p) for m, p in zip(matrices, predicted, strict=True)]
    rng, picks = np.random.default_rng(0), {}
    drawn = np.zeros(RESAMPLES)
    for m, p, b in zip(matrices, predicted, base, strict=True):
        if m.dataset not in picks:  # a cache that is tested twice has the same images drawn
            picks[m.dataset] = rng.integers(len(m), size=(RESAMPLES, len(m)))
        pick = picks[m.dataset]
        drawn += (correlation(m.y[pick], p[pick]) - correlation(m.y[pick], b[pick])) / len(matrices)
    difference = np.mean(rs) - np.mean([correlation(m.y, b) for m, b in zip(matrices, base, strict=True)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    interval = "" if predicted is base else f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    return [name, *(f"{r:.3f}" for r in rs), f"{np.mean(rs):.3f}", interval]


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def kept(setting: str, matrices: Sequence[FeatureMatrix], work: Path) -> tuple[Predicted, float]:
    """The predictions of that setting and the seconds they took, from the folder where they are there."""
    path = work / (setting.replace(" ", "_").replace("/", "_") + ".npz")
    if not path.is_file():
        started = time.perf_counter()
        found = predictions(setting, matrices)
        np.savez(path, *found, seconds=time.perf_counter() - started)
    with np.load(path) as data:
        return [data[name] for name in data.files if name != "seconds"], float(data["seconds"])


def main() -> None:
    """A line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+")
    parser.add_argument("--work", type=Path, default=Path("fusion-settings"))
    parser.add_argument("--setting", action="append", choices=SETTINGS)
    arguments = parser.parse_args()
    arguments.work.mkdir(exist_ok=True)
    matrices = [open_cache(path).matrix() for path in arguments.caches]
    targets = [other for m in matrices for other in matrices if other is not m]
    lines, base, n = [], None, len(matrices)
    for setting in arguments.setting or SETTINGS:
        predicted, seconds = kept(setting, matrices, arguments.work)
        base = base or predicted
        inside = row(setting, matrices, predicted[:n], base[:n])
        across = row(setting, targets, predicted[n:], base[n:])
        differences = ("", "") if predicted is base else (inside[-1], across[-1])
        lines.append([setting, inside[-2], differences[0], across[-2], differences[1], f"{seconds:.0f}"])
        print(lines[-1], file=sys.stderr, flush=True)
    print("# Settings of the fusion head: five folds inside each category, and from each to each other\n")
    print("```\n" + describe() + "\n```\n")
    headers = ["setting", "inside, mean r", "difference [95%]", "across, mean r", "difference [95%]", "seconds"]
    print(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
