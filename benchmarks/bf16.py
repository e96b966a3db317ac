"""The effect of bf16 arithmetic on the features of the offline recipe's backbones, and on ridge's r.

python benchmarks/bf16.py savoias/Images/Scenes              both arms
python benchmarks/bf16.py photos --ratings photos.csv
python benchmarks/bf16.py savoias/Images/Scenes --block dino       where bf16 is emulated, convolutions take minutes
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from extract import cosine
from machine import describe
from sklearn.model_selection import KFold, cross_val_predict

from drexcache import open_cache, read_images, recipe
from drexcache.datasets.table import ImageTable
from drexcache.features import extract
from drexcache.recipes import Recipe
from drexcache.regressors.named import regressors


def compare(table: ImageTable, chosen: Recipe, work: Path) -> None:
    """Extract in fp32 and in bf16 and print how much they differ."""
    matrices = []
    for precision in ("fp32", "bf16"):
        extract(table, chosen.with_options(precision=precision), work / f"{precision}.h5")
        matrices.append(open_cache(work / f"{precision}.h5").matrix())
    for block, columns in matrices[0].blocks.items():
        print(f"bf16 against fp32, block {block}: cosine {cosine(*(m.X[:, columns] for m in matrices))}")
    folds = KFold(5, shuffle=True, random_state=42)
    found = [cross_val_predict(regressors()["ridge"], m.X, m.y, cv=folds) for m in matrices]
    r = [np.corrcoef(scores, m.y)[0, 1] for scores, m in zip(found, matrices, strict=True)]
    print(f"ridge, 5-fold, {len(matrices[0])} pictures: r {r[0]:.4f} with fp32, {r[1]:.4f} with bf16")


def main() -> None:
    """Print the header and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--ratings", type=Path)
    parser.add_argument("--block", help="only this block of the recipe")
    args = parser.parse_args()
    whole = recipe("offline")
    chosen = replace(whole, blocks=tuple(block for block in whole.blocks if args.block in (None, block.name)))
    table = read_images(args.images, args.ratings, allow_unmatched=True)
    print(f"{describe()}\n{table.dataset}, recipe offline, blocks {', '.join(block.name for block in chosen.blocks)}")
    with tempfile.TemporaryDirectory() as folder:
        compare(table, chosen, Path(folder))


if __name__ == "__main__":
    main()
