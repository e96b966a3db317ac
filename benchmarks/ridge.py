"""Ridge: 13 penalties, ours by leave-one-out beside scikit-learn's RidgeCV, at IC9600's size; or in a stream.

python benchmarks/ridge.py                     some minutes on two cores
python benchmarks/ridge.py --stream 1000000    ours alone, on rows made up as they are read; the memory it takes
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from machine import describe
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from drexcache.regressors.ridge import PENALTIES, GramRidge

REPEATS = 3


def made_up(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with a decaying spectrum, float32, and noisy ratings that depend on them."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 256)) / np.sqrt(np.arange(1, 257))
    X = z @ rng.normal(size=(256, d)) + 0.5 * rng.normal(size=(n, d))
    return X.astype(np.float32), 0.5 + 0.1 * (z[:, 0] + np.tanh(2 * z[:, 1]) + rng.normal(size=n))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How many seconds the work takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def compare(X: np.ndarray, y: np.ndarray) -> None:
    """Ours and scikit-learn's leave-one-out in turn, and their ratio by the medians."""
    ours, theirs = GramRidge(device="cpu"), make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    wide = X.astype(np.float64)
    times = [(seconds(lambda: ours.fit(X, y))[0], seconds(lambda: theirs.fit(wide, y))[0]) for _ in range(REPEATS)]
    mine, its = np.median(times, axis=0)
    apart = abs(ours.errors_.min() / -theirs[-1].best_score_ - 1)
    print(f"GramRidge {mine:.1f} s, RidgeCV behind a StandardScaler {its:.1f} s (medians of {REPEATS}), ", end="")
    print(f"ratio {its / mine:.1f}; penalties {ours.alpha_:g} and {theirs[-1].alpha_:g}, errors differ by {apart:.0e}")


def bounds(X: np.ndarray) -> None:
    """What leave-one-out takes, by its two largest parts."""
    wide = X.astype(np.float64)
    gram_time, gram = seconds(lambda: wide.T @ wide)
    eigen_time, _ = seconds(lambda: np.linalg.eigh(gram))
    print(f"columns' products {gram_time:.1f} s; their eigenvectors {eigen_time:.1f} s", flush=True)


class MadeUp:
    """Rows that are made up as they are read, the same ones at every pass."""

    def __init__(self, rows: int, d: int) -> None:
        self.shape = rows, d

    def __len__(self) -> int:
        return self.shape[0]

    def pieces(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (m, d) and ratings (m,)."""
        rng = np.random.default_rng(0)
        weights = rng.normal(size=self.shape[1]) / self.shape[1]
        for start in range(0, len(self), size):
            X = rng.standard_normal((min(size, len(self) - start), self.shape[1]), dtype=np.float32)
            yield X, X @ weights


def stream(rows: int, d: int) -> None:
    """Fit on rows that are made up as they are read, and say what memory that took."""
    took, ridge = seconds(lambda: GramRidge(device="cpu").fit_stream(MadeUp(rows, d)))  # type: ignore[arg-type]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"stream of {rows:,} x {d}: {took:.0f} s, at most {peak:.2f} GiB of memory, penalty {ridge.alpha_:g}")


def main() -> None:
    """Print the comparison, or the stream's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6720)
    parser.add_argument("--columns", type=int, default=4224)
    parser.add_argument("--stream", type=int, metavar="ROWS")
    arguments = parser.parse_args()
    print(describe())
    if arguments.stream:
        stream(arguments.stream, arguments.columns)
        return
    X, y = made_up(arguments.rows, arguments.columns)
    print(f"{X.shape[0]} x {X.shape[1]} float32, 13 penalties, standardised columns")
    compare(X, y)
    bounds(X)


if __name__ == "__main__":
    main()
