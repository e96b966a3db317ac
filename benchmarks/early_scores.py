"""How early a fusion head's score predicts its final score: why a search judges trials by folds and not by epochs.

    python benchmarks/early_scores.py > benchmarks/results/early-scores.md        one minute on two cores

Heads with settings drawn from the search space train on three quarters of 600 synthetic images; their r on the other
quarter is recorded after every epoch.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import optuna
from machine import describe
from scipy.stats import spearmanr
from search import NARROWED, data
from tabulate import tabulate

from drexcache.cache.matrix import FeatureMatrix
from drexcache.fusion.estimator import AttentionFusionRegressor, fit_many
from drexcache.regressors.named import make_regressor
from drexcache.studies.searching.space import make_space

PARTS = (0.25, 0.5, 0.75, 0.9)
TOP = 5  # of the heads, which share of them is called the best


def drawn(matrix: FeatureMatrix, count: int) -> list[AttentionFusionRegressor]:
    """Heads with random settings and blocks that never stop early."""
    space = make_space("fusion", matrix, NARROWED)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    heads = []
    while len(heads) < count:
        params = study.ask(space.distributions).params
        if not space.allows(params):
            continue
        candidate = space.candidate(params)
        named = replace(matrix, blocks={name: matrix.blocks[name] for name in candidate.blocks})
        head = make_regressor("fusion", named, 42, candidate.settings)
        heads.append(head.set_params(early_stopping=10**6, validation_fraction=0.25))
    return heads


def main() -> None:
    """Print how well intermediate scores agree with final ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=40)
    args = parser.parse_args()
    matrix, _ = data(600)
    fitted = fit_many(drawn(matrix, args.heads), matrix.X, matrix.y)
    curves = [[row["validation_r"] for row in head.log_] for head in fitted]
    end = np.array([curve[-1] for curve in curves])
    best = np.argsort(-end)[: args.heads // TOP]
    rows = []
    for part in PARTS:
        then = np.array([curve[max(0, round(part * len(curve)) - 1)] for curve in curves])
        places = (-then).argsort().argsort()[best] + 1
        rows.append([f"{part:.0%}", spearmanr(then, end).statistic, int(places.max())])
    print(f"# Scores on the way\n\n```\n{describe()}\n```\n")
    print(f"{args.heads} fusion heads with settings drawn from the search space, 450 images to train on, r on 150\n")
    headers = ["of the training", "Spearman, with r at the end", f"lowest place of the {len(best)} best at the end"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=("", ".2f", "")))


if __name__ == "__main__":
    main()
