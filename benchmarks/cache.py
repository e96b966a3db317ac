"""The speed of the cache, each figure compared with a plain way to do the same, in one run.

python benchmarks/cache.py > benchmarks/results/cache.md
python benchmarks/cache.py --rows 100000                     smaller
python benchmarks/cache.py --savoias DIR                     and the effect of float16 on scores, for caches in DIR

Needs about twice --rows x --columns x 2 bytes on the disk of --work.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from machine import describe

from drexcache import open_cache
from drexcache.cache.format import Contents, StoredBlock
from drexcache.cache.writer import start_writer
from drexcache.datasets.matching import Target
from drexcache.recipes import Block, Tap

RNG = np.random.default_rng(0)


def contents(rows: int, widths: dict[str, int], dtype: str) -> Contents:
    """``rows`` rated images with a split, and a block of each width."""
    blocks = {
        name: StoredBlock(Block(name, "any", (Tap("norm", "cls", "cls"),)), "0" * 64, "none", (width,), dtype)
        for name, width in widths.items()
    }
    ids = tuple(f"{row:07}.jpg" for row in range(rows))
    split = tuple("test" if row % 5 == 0 else "train" for row in range(rows))
    return Contents("made-up", ids, {"rating": Target("rating", RNG.random(rows), 0.0, 1.0)}, {"split": split}, blocks)


def write_cache(path: Path, wanted: Contents, batch: int) -> float:
    """Write what an extraction with a no-op backbone writes; returns the seconds until the final rename."""
    rows = len(wanted.ids)
    features = {n: RNG.standard_normal((batch, b.dim), "f4").astype(b.dtype) for n, b in wanted.blocks.items()}
    hashes, stats = RNG.integers(0, 255, (batch, 32), "u1"), np.ones((batch, 2), "i8")
    began = time.perf_counter()
    writer, _ = start_writer(path, wanted, [])
    with writer:
        for first in range(0, rows, batch):
            at = np.arange(first, min(first + batch, rows))
            writer.put_files(at, hashes[: len(at)], stats[: len(at)], [""] * len(at))
            for name, values in features.items():
                writer.put(name, at, values[: len(at)])
            writer.tick()
        writer.finish(path)
    return time.perf_counter() - began


def write_plain(path: Path, size: int) -> float:
    """Write the same number of bytes in one stream of 8 MiB pieces and sync; returns the seconds."""
    piece = RNG.bytes(8 << 20)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for offset in range(0, size, len(piece)):
            file.write(piece[: size - offset])
        os.fsync(file.fileno())
    return time.perf_counter() - began


def best(*works: Callable[[], object], times: int = 7) -> list[float]:
    """Seconds of each work, the best of several alternating turns."""
    found = [float("inf")] * len(works)
    for _ in range(times):
        for at, work in enumerate(works):
            began = time.perf_counter()
            work()
            found[at] = min(found[at], time.perf_counter() - began)
    return found


def loading(work: Path) -> None:
    """Load 10,000 x 4,224 float32 into a matrix, including opening the cache."""
    cache, plain = work / "load.h5", work / "load.raw"
    write_cache(cache, contents(10_000, {"dino": 384, "resnet": 3840}, "float32"), 64)
    open_cache(cache).matrix().X.tofile(plain)
    ours, theirs = best(lambda: open_cache(cache).matrix(), lambda: np.fromfile(plain, "f4").reshape(10_000, 4224))
    print(f"load 10,000 x 4,224 float32 into a matrix: {ours:.3f} s; numpy.fromfile {theirs:.3f} s; "
          f"ratio {ours / theirs:.2f} (goal <= 1.5)", flush=True)  # fmt: skip
    cache.unlink()
    plain.unlink()


def memory_of_writing(work: Path, rows: int, widths: dict[str, int]) -> float:
    """MB by which a process's peak memory grows while it writes so many rows."""
    wanted, pipe = contents(rows, widths, "float16"), multiprocessing.Pipe()

    def child() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        write_cache(work / "memory.h5", wanted, 64)
        pipe[1].send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    (work / "memory.h5").unlink()
    return float(pipe[0].recv())


def writing(work: Path, path: Path, rows: int, widths: dict[str, int]) -> None:
    """Compare an extraction's writes with one stream of the same bytes."""
    for batch in (8, 64):
        ours = write_cache(path, contents(rows, widths, "float16"), batch)
        size = path.stat().st_size
        plain = write_plain(work / "plain.raw", size)
        (work / "plain.raw").unlink()
        path.unlink()
        print(f"write {rows:,} x {sum(widths.values()):,} float16 in batches of {batch}, no-op backbone: {ours:.1f} s, "
              f"{size / ours / 1e6:.0f} MB/s; plain sequential write with fsync {plain:.1f} s, "
              f"{size / plain / 1e6:.0f} MB/s; speed {plain / ours:.2f} of it (goal >= 0.5)", flush=True)  # fmt: skip


def reading(path: Path, naive: Path, rows: int, batches: int) -> None:
    """Read random batches of 256 rows, from the file system's cache as far as possible."""
    cache = open_cache(path)
    picks = [np.sort(RNG.choice(rows, 256, replace=False)) for _ in range(batches)]
    with h5py.File(naive, "w") as file:
        out = file.create_dataset("features", (rows, sum(b.dim for b in cache.blocks.values())), "f2", chunks=True)
        step = out.chunks[0]
        for at in range(0, rows, step):
            piece = [cache.features(name, slice(at, min(at + step, rows))) for name in cache.blocks]
            out[at : at + step] = np.hstack(piece)
        chunks, out_columns = out.chunks, out.shape[1]
    with h5py.File(naive) as file:

        def theirs() -> list[np.ndarray]:
            return [file["features"][pick] for pick in picks[: max(1, batches // 10)]]

        def ours() -> list[np.ndarray]:
            return [np.hstack([cache.features(name, pick) for name in cache.blocks]) for pick in picks]

        assert np.array_equal(ours()[0], theirs()[0])
        fast = best(ours, times=3)[0] / batches
        slow = best(theirs, times=1)[0] / max(1, batches // 10)
    print(f"random batches of 256 of {rows:,} rows x {out_columns:,} float16: {1e3 * fast:.1f} ms; h5py fancy indexing "
          f"on its own chunks {chunks}: {1e3 * slow:.1f} ms; {slow / fast:.0f} times faster (goal >= 10)",
          flush=True)  # fmt: skip


def opening(path: Path, rows: int) -> None:
    """Time to open a cache, and to open it and summarise it."""
    opened, informed = best(lambda: open_cache(path), lambda: open_cache(path).info(), times=5)
    print(f"open {rows:,} rows: {1e3 * opened:.0f} ms; open and info: {1e3 * informed:.0f} ms (goal < 1000 each)")


def halving(folder: Path) -> None:
    """Ridge's Pearson's r over 5 folds, with features as stored and with features rounded to float16."""
    from sklearn.model_selection import KFold, cross_val_predict

    from drexcache.regressors.named import make_regressor

    for path in sorted(folder.glob("*.h5")):
        matrix = open_cache(path).matrix()
        matrix = matrix.rows(np.isfinite(matrix.y))
        r = []
        for X in (matrix.X, matrix.X.astype("f2").astype("f4")):
            guess = cross_val_predict(
                make_regressor("ridge", matrix), X, matrix.y, cv=KFold(5, shuffle=True, random_state=0)
            )
            r.append(np.corrcoef(guess, matrix.y)[0, 1])
        print(f"float16 on {path.stem}, {len(matrix)} images: ridge's r {r[0]:.5f} -> {r[1]:.5f} ({r[1] - r[0]:+.5f}), "
              "features at half the bytes", flush=True)  # fmt: skip


def main() -> None:
    """Run every part and print its ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=1056, help="of the cache of --rows")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--work", type=Path, help="folder for the files [default: the system's, for temporary files]")
    parser.add_argument("--savoias", type=Path, help="folder of caches for the effect of float16")
    arguments = parser.parse_args()
    rows, widths = (
        arguments.rows,
        {"dino": arguments.columns // 11, "resnet": arguments.columns - arguments.columns // 11},
    )
    print("# The cache's speed\n\n```\n" + describe() + f"\nload: {os.getloadavg()[0]:.1f}\n```\n\n```", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work, path = Path(folder), Path(folder) / "big.h5"
        loading(work)
        writing(work, path, min(rows, 200_000), {"dino": 384, "resnet": 3840})
        write_cache(path, contents(rows, widths, "float16"), 256)
        opening(path, rows)
        reading(path, work / "naive.h5", rows, arguments.batches)
        (work / "naive.h5").unlink()
        path.unlink()
        small, large = (memory_of_writing(work, n, {"dino": 64}) for n in (10_000, rows))
        print(f"memory that writing adds: {small:.0f} MB for 10,000 rows, {large:.0f} MB for {rows:,}")
    if arguments.savoias:
        halving(arguments.savoias)
    print("```")


if __name__ == "__main__":
    main()
