"""Ridge: 13 penalties by leave-one-out, compared with scikit-learn's RidgeCV; or streamed.

python benchmarks/ridge.py                     a minute
python benchmarks/ridge.py --stream 1000000    ours alone, on rows generated as they are read; the memory it takes
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
from threadpoolctl import threadpool_limits

from drexcache.regressors.ridge import PENALTIES, GramRidge

REPEATS = 3
SHAPES = ((600, 4224), (3000, 1024), (6720, 896))


def made_up(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with a decaying spectrum, float32, and noisy ratings that depend on them."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 256)) / np.sqrt(np.arange(1, 257))
    X = z @ rng.normal(size=(256, d)) + 0.5 * rng.normal(size=(n, d))
    return X.astype(np.float32), 0.5 + 0.1 * (z[:, 0] + np.tanh(2 * z[:, 1]) + rng.normal(size=n))


def seconds(work: Callable[[], Any]) -> float:
    """The CPU seconds that the work takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(n: int, d: int) -> None:
    """Time ours and scikit-learn's leave-one-out in turns on one thread; print the ratio of the medians."""
    X, y = made_up(n, d)
    ours, theirs = GramRidge(device="cpu"), make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    wide = X.astype(np.float64)
    with threadpool_limits(1):
        times = [(seconds(lambda: ours.fit(X, y)), seconds(lambda: theirs.fit(wide, y))) for _ in range(REPEATS)]
    mine, its = np.median(times, axis=0)
    apart = abs(ours.errors_.min() / -theirs[-1].best_score_ - 1)
    print(
        f"{n} x {d}: GramRidge {mine:.2f} s, RidgeCV behind a StandardScaler {its:.2f} s, ratio {its / mine:.1f}; "
        f"penalties {ours.alpha_:g} and {theirs[-1].alpha_:g}, errors differ by {apart:.0e}",
        flush=True,
    )


class MadeUp:
    """Rows that are generated as they are read, the same ones in every pass."""

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
    """Fit on rows that are generated as they are read, and print the memory that this took."""
    ridge, started = GramRidge(device="cpu"), time.perf_counter()
    ridge.fit_stream(MadeUp(rows, d))  # type: ignore[arg-type]
    took, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"stream of {rows:,} x {d}: {took:.0f} s, at most {peak:.2f} GiB of memory, penalty {ridge.alpha_:g}")


def main() -> None:
    """Print the comparison, or the stream's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", type=int, metavar="ROWS")
    parser.add_argument("--columns", type=int, default=4224, help="of the stream")
    arguments = parser.parse_args()
    print(describe())
    if arguments.stream:
        stream(arguments.stream, arguments.columns)
        return
    print(f"float32, 13 penalties, standardised columns; processor's seconds on one thread, medians of {REPEATS}")
    for n, d in SHAPES:
        compare(n, d)


if __name__ == "__main__":
    main()
