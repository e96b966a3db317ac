"""Training on several caches at once, with or without a scale and an offset per cache: r on the one left out.

python benchmarks/fusion_mixed.py CACHE.h5... > benchmarks/results/fusion-mixed.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from fusion_settings import FUSION, row
from machine import describe
from tabulate import tabulate

from drexcache import AttentionFusionRegressor, open_cache
from drexcache.cache.matrix import FeatureMatrix


def from_the_others(matrices: Sequence[FeatureMatrix], test: FeatureMatrix, mixed: bool) -> np.ndarray:
    """Predictions (n,) for one cache by a head trained on all others; mixed: with a scale and an offset for each."""
    others = [matrix for matrix in matrices if matrix is not test]
    labels = [matrix.dataset for matrix in others for _ in matrix.ids]
    X, y = np.concatenate([matrix.X for matrix in others]), np.concatenate([matrix.y for matrix in others])
    head = AttentionFusionRegressor(test.blocks, **FUSION).fit(X, y, datasets=labels if mixed else None)
    return head.predict(test.X)


def main() -> None:
    """Leave out each cache in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+", help="three or more")
    matrices = [open_cache(path).matrix() for path in parser.parse_args().caches]
    pooled = [from_the_others(matrices, matrix, mixed=False) for matrix in matrices]
    mixed = [from_the_others(matrices, matrix, mixed=True) for matrix in matrices]
    named = {"ratings as they are": pooled, "a scale and an offset for each dataset": mixed}
    rows = [row(name, matrices, predicted, pooled) for name, predicted in named.items()]
    headers = ["trained on all others", *(m.dataset for m in matrices), "mean r", "difference [95%]"]
    print("# Mixed training, tested on the dataset left out\n\n```\n" + describe() + "\n```\n")
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
