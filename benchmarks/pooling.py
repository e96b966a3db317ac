"""What several datasets at once are worth to a regressor: out-of-fold r inside each, and r on the one left out.

python benchmarks/pooling.py CACHE.h5... [--recipe NAME]... [-r REGRESSOR]... > benchmarks/results/pooling.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from fusion_settings import row
from machine import describe
from sklearn.base import clone
from tabulate import tabulate

from drexcache import open_cache, recipe
from drexcache.cache import FeatureMatrix
from drexcache.regressors import DATASET, PooledRegressor, joined, make_regressor
from drexcache.studies.evaluation import hash_folds

REGRESSORS = ("ridge", "pls", "svr", "gaussian-process", "fusion")
INSIDE = ("its own images alone", "all datasets' (shared part)", "half of each (--with)")
OUTSIDE = ("ratings as they are", "on one mean and spread")
Predicted = dict[str, np.ndarray]


def inside(name: str, matrix: FeatureMatrix, others: list[FeatureMatrix]) -> Predicted:
    """Out-of-fold predictions (n,) of one dataset, by what the training had."""
    mixed, n = joined([matrix, *others], matrix.dataset), len(matrix)
    labels, folds = np.asarray(mixed.labels[DATASET]), hash_folds(matrix.ids, 5)
    found = {how: np.empty(n) for how in INSIDE}
    for fold in range(5):
        rows, tested = np.r_[np.flatnonzero(folds != fold), np.arange(n, len(mixed))], folds == fold
        regressor = make_regressor(name, matrix.rows(~tested))
        pooled = PooledRegressor(regressor, own=matrix.dataset).fit(mixed.X[rows], mixed.y[rows], labels[rows])
        for how, model in zip(INSIDE, (pooled.own_, pooled.shared_, pooled), strict=True):
            found[how][tested] = np.ravel(model.predict(matrix.X[tested]))
    return found


def outside(name: str, matrix: FeatureMatrix, others: list[FeatureMatrix]) -> Predicted:
    """Predictions (n,) of one dataset by a training on the others."""
    mixed = joined(others, "others")
    regressor = make_regressor(name, mixed)
    fitted = (
        clone(regressor).fit(mixed.X, mixed.y),
        PooledRegressor(regressor).fit(mixed.X, mixed.y, mixed.labels[DATASET]),
    )
    return {how: np.ravel(model.predict(matrix.X)) for how, model in zip(OUTSIDE, fitted, strict=True)}


def main() -> None:
    """Print the tables of each recipe, a line per regressor and way to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+", help="three or more")
    parser.add_argument("--recipe", action="append")
    parser.add_argument("-r", "--regressor", action="append")
    arguments = parser.parse_args()
    print("# Several datasets at once\n\n```\n" + describe() + "\n```")
    for name in arguments.recipe or ["offline"]:
        blocks = [block.name for block in recipe(name).blocks]
        matrices = [open_cache(path).matrix(blocks) for path in arguments.caches]
        print_tables(name, matrices, arguments.regressor or REGRESSORS)


def print_tables(chosen: str, matrices: list[FeatureMatrix], regressors: Sequence[str]) -> None:
    """A table of each kind, for one recipe."""
    titles = {"inside each dataset, five folds": inside, "on the dataset that is left out": outside}
    for title, predict in titles.items():
        lines = []
        for name in regressors:
            found = [predict(name, m, [other for other in matrices if other is not m]) for m in matrices]
            base = [own[next(iter(own))] for own in found]
            for how in found[0]:
                predicted = base if how == next(iter(found[0])) else [own[how] for own in found]
                lines.append([name, *row(how, matrices, predicted, base)])
                print(lines[-1], file=sys.stderr, flush=True)
        headers = ["regressor", "trained on", *(m.dataset for m in matrices), "mean r", "difference [95%]"]
        shown = tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)
        print(f"\nRecipe {chosen}, {title}\n\n{shown}")


if __name__ == "__main__":
    main()
