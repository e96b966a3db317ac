"""Ridge: 13 penalties by five folds, ours beside scikit-learn's GridSearchCV, at IC9600's size; or in a stream.

python benchmarks/ridge.py                     both on float32 and float64; some minutes on two cores
python benchmarks/ridge.py --loo               leave-one-out, too
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
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

from drexcache.regressors.ridge import PENALTIES, GramRidge, fit_ridge_stream
from drexcache.regressors.ridge_moments import eigenvectors
from drexcache.regressors.ridge_shifts import shifted_solutions


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


def compare(X: np.ndarray, y: np.ndarray, repeats: int) -> None:
    """Ours several times, the grid search once in between, and their ratio by the median."""
    ours = GramRidge(cv=5, standardize=False, device="cpu")
    search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, cv=5, scoring="neg_mean_squared_error", refit=True)
    times = [seconds(lambda: ours.fit(X, y))[0] for _ in range(repeats)]
    theirs, _ = seconds(lambda: search.fit(X, y))
    times += [seconds(lambda: ours.fit(X, y))[0] for _ in range(repeats)]
    mine = float(np.median(times))
    apart = np.abs(ours.errors_ / -search.cv_results_["mean_test_score"] - 1).max()
    print(
        f"{X.dtype}: GridSearchCV {theirs:.1f} s, ours {mine:.1f} s (median of {len(times)}), "
        f"ratio {theirs / mine:.1f}; errors differ by {apart:.0e}; best penalty {ours.alpha_:g} and "
        f"{search.best_params_['alpha']:g}",
        flush=True,
    )


def bounds(X: np.ndarray, y: np.ndarray) -> None:
    """What each way to all penalties costs here, by its largest part."""
    wide = X.astype(np.float64)
    gram_time, gram = seconds(lambda: wide.T @ wide)
    gram[np.diag_indices_from(gram)] += 1
    xy = wide.T @ y
    one, _ = seconds(lambda: shifted_solutions(gram.copy(), xy, np.ones(1)))
    band, _ = seconds(lambda: shifted_solutions(gram.copy(), xy, np.asarray(PENALTIES)))
    eigen, _ = seconds(lambda: eigenvectors(gram))
    print(f"columns' products {gram_time:.1f} s; one Cholesky solution {one:.1f} s, so 65 of them {65 * one:.0f} s;")
    print(f"one reduction to a band with 13 solutions {band:.1f} s, so 5 of them {5 * band:.0f} s;")
    print(f"one eigendecomposition {eigen:.1f} s, so 5 of them {5 * eigen:.0f} s")
    print(f"floor of ours, products and five reductions: {gram_time + 5 * band:.0f} s", flush=True)


def stream(rows: int, d: int) -> None:
    """Fit on rows that are made up as they are read, and say what memory that took."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=d) / d

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, rows, 8192):
            X = rng.standard_normal((min(8192, rows - start), d), dtype=np.float32)
            yield X, X @ weights

    took, ridge = seconds(lambda: fit_ridge_stream(chunks(), GramRidge(device="cpu")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"stream of {rows:,} x {d}: {took:.0f} s, at most {peak:.2f} GiB of memory, penalty {ridge.alpha_:g}")


def main() -> None:
    """Print the comparison, or the stream's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6720)
    parser.add_argument("--columns", type=int, default=4224)
    parser.add_argument("--repeats", type=int, default=1, help="fits of ours before and after the grid search")
    parser.add_argument("--loo", action="store_true", help="time leave-one-out, too")
    parser.add_argument("--stream", type=int, metavar="ROWS")
    arguments = parser.parse_args()
    print(describe())
    if arguments.stream:
        stream(arguments.stream, arguments.columns)
        return
    X, y = made_up(arguments.rows, arguments.columns)
    print(f"{X.shape[0]} x {X.shape[1]}, 13 penalties, 5 folds: 65 fits")
    compare(X, y, arguments.repeats)
    compare(X.astype(np.float64), y, arguments.repeats)
    if arguments.loo:
        took, ridge = seconds(lambda: GramRidge(device="cpu").fit(X, y))
        print(f"leave-one-out of all 13: {took:.1f} s, penalty {ridge.alpha_:g}")
    bounds(X, y)


if __name__ == "__main__":
    main()
