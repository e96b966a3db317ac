"""Every regressor at its default settings: score, time to train and predict, size of the model.

python benchmarks/regressors.py                synthetic data, 600 x 4,224: the time of `drexcache evaluate` for all
python benchmarks/regressors.py CACHE.h5...    before that, five folds within each cache
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from machine import describe
from tabulate import tabulate

from drexcache import FeatureMatrix, open_cache, regressors
from drexcache.regressors.named import make_regressor
from drexcache.regressors.saving import dump_estimator
from drexcache.studies import evaluate


def made_up(n: int = 600, d: int = 4224) -> FeatureMatrix:
    """Synthetic features of 128 directions and noise, in two arms, and ratings that depend on some of them."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 128)) / np.sqrt(np.arange(1, 129))
    X = np.maximum(z @ rng.normal(size=(128, d)), 0) + 0.5 * rng.normal(size=(n, d))
    signal = z[:, 0] + np.tanh(2 * z[:, 1]) + 0.5 * np.abs(z[:, 4])
    y = 1 / (1 + np.exp(-signal - 0.3 * rng.normal(size=n)))
    arms = {"dino": slice(0, 384), "resnet": slice(384, d)}
    return FeatureMatrix(X.astype(np.float32), y, [f"{i}.png" for i in range(n)], arms, dataset="made-up")


def measure(name: str, matrices: list[FeatureMatrix]) -> tuple[list[str], float]:
    """One line of the table, and the seconds taken by the evaluation."""
    started = time.perf_counter()
    scored = [evaluate([matrix], [name]) for matrix in matrices]
    took = time.perf_counter() - started
    rows = [table.select(metric="pearson").rows[0] for table, _ in scored]
    folds = sum(run.fold.max() + 1 for _, predictions in scored for run in predictions.runs)
    training = sum(run.seconds for _, predictions in scored for run in predictions.runs) / folds
    matrix = matrices[0]
    rated = matrix.rows(np.isfinite(matrix.y))
    model = make_regressor(name, rated).fit(rated.X, rated.y)
    many = np.resize(matrix.X, (1000, matrix.X.shape[1]))
    model.predict(many)
    started = time.perf_counter()
    model.predict(many)
    predicting = time.perf_counter() - started
    defined = all(row.low is not None for row in rows)  # the mean's predictions hardly vary: no correlation
    scores = [f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" if defined else "undefined" for row in rows]
    mean = f"{np.mean([row.value for row in rows]):.3f}" if defined else "undefined"
    size = len(dump_estimator(model)) / 1e6
    return [name, mean, *scores, f"{training:.2f}", f"{predicting:.3f}", f"{size:.2f}"], took


def table(matrices: list[FeatureMatrix], names: list[str]) -> None:
    """Measure and print."""
    measured = []
    for name in names:
        measured.append(measure(name, matrices))
        print(f"{name}: {measured[-1][1]:.1f} s", file=sys.stderr, flush=True)
    lines, seconds = [line for line, _ in measured], sum(took for _, took in measured)
    datasets = [f"{m.dataset} ({len(m)} x {m.X.shape[1]})" for m in matrices]
    headers = ["regressor", "mean r", *datasets, "s per training", "s per 1,000 predictions", "MB"]
    print(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))
    print(f"\nevaluating them all by five folds: {seconds:.0f} s", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="*", type=Path)
    parser.add_argument("-r", "--regressor", action="append")
    arguments = parser.parse_args()
    names = arguments.regressor or list(regressors())
    print(f"# Regressors at their defaults\n\n```\n{describe()}\n```\n")
    if arguments.caches:
        table([open_cache(path).matrix() for path in arguments.caches], names)
        print()
    table([made_up()], names)


if __name__ == "__main__":
    main()
