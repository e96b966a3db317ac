"""How many ratings lie inside of the intervals that were asked for: inside a dataset, and on the others.

python benchmarks/intervals.py CACHE.h5...   [--regressor ridge] [--repeats 10]

Half of a dataset's images, drawn again for each repeat, train a model with intervals; the others, and all other
datasets, are predicted.
"""

from __future__ import annotations

import argparse

import numpy as np
from machine import describe
from tabulate import tabulate

from drexcache import FeatureMatrix, open_cache
from drexcache.regressors import make_regressor
from drexcache.regressors.intervals import OutOfFold, cross_fitted, outputs

LEVELS = (0.8, 0.9, 0.95)


def trained(matrix: FeatureMatrix, regressor: str) -> OutOfFold:
    """What intervals are made of, of a model of these rows."""

    def fit(kept: np.ndarray) -> object:
        part = matrix.rows(kept)
        return make_regressor(regressor, part, 42).fit(part.X, part.y)

    return cross_fitted(matrix.X, matrix.y, matrix.hashes, fit)


def inside(model: OutOfFold, matrix: FeatureMatrix, level: float) -> tuple[float, float]:
    """The share of ratings inside of the intervals, and their mean width on [0, 1]."""
    low, high = model.bounds(matrix.X, level, lambda one, X: outputs(one, X)[0])
    return float(np.mean((low <= matrix.y) & (matrix.y <= high))), float(np.mean(high - low))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("caches", nargs="+")
    parser.add_argument("--regressor", default="ridge")
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    matrices = [open_cache(path).matrix() for path in given.caches]
    matrices = [matrix.rows(np.isfinite(matrix.y)) for matrix in matrices]
    lines = []
    for matrix in matrices:
        found: dict[tuple[str, float], list[tuple[float, float]]] = {}
        for repeat in range(given.repeats):
            order = np.random.default_rng(repeat).permutation(len(matrix))
            model = trained(matrix.rows(order[: len(order) // 2]), given.regressor)
            rest = matrix.rows(order[len(order) // 2 :])
            for other in [rest, *(one for one in matrices if one is not matrix)]:
                where = "the other half" if other is rest else other.dataset
                for level in LEVELS:
                    found.setdefault((where, level), []).append(inside(model, other, level))
        for where in dict.fromkeys(where for where, _ in found):
            means = [np.mean(found[where, level], axis=0) for level in LEVELS]
            lines.append([matrix.dataset, where, *(f"{share:.3f} ({width:.2f})" for share, width in means)])
    print(f"# Coverage of intervals: {given.regressor}, {given.repeats} repeats\n")
    print("Share of ratings inside of the interval, and its mean width on [0, 1].\n")
    print(tabulate(lines, ["trained on half of", "predicted", *(f"{level:g}" for level in LEVELS)], tablefmt="github"))
    print(f"\n{describe()}")


if __name__ == "__main__":
    main()
