"""What each departure from the paper's recipe is worth on a few hundred images: out-of-fold r inside each cache.

    python benchmarks/fusion_settings.py CACHE.h5... > benchmarks/results/fusion-settings.md

The settings of the regressor ``fusion`` were chosen from this table, on these images.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from machine import describe
from tabulate import tabulate

from drexcache import AttentionFusionRegressor, metrics, open_cache
from drexcache.studies.folds import hash_folds

ENOUGH = {"ema_horizon": 0.1, "min_steps": 400}
SETTINGS = {
    "the paper": {},
    "EMA over a tenth of the steps": {"ema_horizon": 0.1},
    "at least 400 steps": {"min_steps": 400},
    "both (fusion)": ENOUGH,
    "both, at least 1,000 steps": {**ENOUGH, "min_steps": 1000},
    "both, standardised columns": {**ENOUGH, "standardize": True},
    "both, batch 32, lr 2e-3": {**ENOUGH, "batch_size": 32, "lr": 2e-3},
    "both, lr 3e-4": {**ENOUGH, "lr": 3e-4},
    "both, dropout 0.3": {**ENOUGH, "dropout": 0.3},
    "both, weight decay 1": {**ENOUGH, "weight_decay": 1.0},
    "both, mean of 5 seeds": {**ENOUGH, "seeds": 5},
}


def main() -> None:
    """Train every setting in every fold and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+")
    arguments = parser.parse_args()
    matrices = [open_cache(path).matrix() for path in arguments.caches]
    rows = []
    for name, settings in SETTINGS.items():
        started, found = time.perf_counter(), []
        for m in matrices:
            folds, predicted = hash_folds(m.ids, 5), np.zeros(len(m))
            for k in range(5):
                head = AttentionFusionRegressor(m.blocks, **settings).fit(m.X[folds != k], m.y[folds != k])
                predicted[folds == k] = head.predict(m.X[folds == k])
            found.append(metrics.pearson(m.y, predicted) or 0.0)
        rows.append([name, *found, np.mean(found), time.perf_counter() - started])
    print("# Settings of the fusion head, 5-fold inside each category\n\n```\n" + describe() + "\n```\n")
    headers = ["setting", *(m.dataset for m in matrices), "mean r", "seconds"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=("", *[".3f"] * (len(matrices) + 1), ".0f")))


if __name__ == "__main__":
    main()
