"""Regressors on several datasets, inside each by five folds and from each to each other, with intervals.

python benchmarks/accuracy.py CACHE.h5... [--regressor NAME]... [--seed N]... > benchmarks/results/accuracy.md

The published table is of SAVOIAS's Scenes, Objects and Advertisement with recipe offline. The settings of fusion were
chosen on these three categories.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import describe
from tabulate import tabulate

from drexcache import open_cache
from drexcache.metrics import pearson
from drexcache.studies import evaluate
from drexcache.studies.evaluation.predictions import Run

REGRESSORS = ("ridge", "pls", "svr", "gaussian-process", "fusion-paper", "fusion")
RESAMPLES = 2000


def interval_of_mean(runs: list[Run]) -> str:
    """Mean r of the runs and its 95% bootstrap interval over images: runs on one test set share the images drawn."""
    rng = np.random.default_rng(0)
    by_set: dict[str, list[Run]] = {}
    for run in runs:
        order = np.argsort(run.ids)  # folds of another training come in another order
        by_set.setdefault(run.test, []).append(replace(run, rated=run.rated[order], predicted=run.predicted[order]))
    draws = np.zeros(RESAMPLES)
    for i in range(RESAMPLES):
        for own in by_set.values():
            pick = rng.integers(0, len(own[0].rated), len(own[0].rated))
            draws[i] += sum(np.corrcoef(run.rated[pick], run.predicted[pick])[0, 1] for run in own) / len(runs)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{np.mean([pearson(run.rated, run.predicted) for run in runs]):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Evaluate, one regressor after the other, and print a line of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+", type=Path)
    parser.add_argument("--regressor", action="append")
    parser.add_argument("--seed", action="append", type=int)
    args = parser.parse_args()
    matrices = [open_cache(path).matrix() for path in args.caches]
    names, lines, attention = [matrix.dataset for matrix in matrices], [], []
    for regressor in args.regressor or REGRESSORS:
        seeds = args.seed or [42, 43]
        runs = evaluate(matrices, [regressor], seeds=seeds if regressor.startswith("fusion") else seeds[:1])[1].runs
        inside = [run for run in runs if run.kind == "in-domain"]
        across = [run for run in runs if run.kind != "in-domain"]
        by_set = [[pearson(run.rated, run.predicted) for run in inside if run.test == name] for name in names]
        lines.append(
            [regressor, interval_of_mean(inside)]
            + [" ".join(f"{r:.3f}" for r in own) for own in by_set]
            + [interval_of_mean(across), f"{sum(r.seconds for r in runs):.0f}"]
        )
        for name in names:
            weights = [next(iter(run.attention.values())) for run in inside if run.test == name and run.attention]
            if len(weights) > 1:
                spread, same = np.std(weights, axis=1).mean(), np.corrcoef(weights)[0, 1]
                attention.append([regressor, name, f"{np.mean(weights):.2f}", f"{spread:.2f}", f"{same:.2f}"])
        print(lines[-1], file=sys.stderr, flush=True)
    print(f"# Accuracy of single regressors\n\n```\n{describe()}\n```\n")
    headers = ["regressor", "inside, mean r", *(f"{name}, each seed" for name in names), "across, mean r", "seconds"]
    print(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))
    print("\nThe first arm's attention inside the datasets: mean, deviation over images, correlation between seeds.\n")
    print(tabulate(attention, ["regressor", "dataset", "mean", "over images", "r of seeds"], tablefmt="github"))


if __name__ == "__main__":
    main()
