"""The cost of each step on a large cache, in seconds and memory, at three sizes: a no-op backbone and synthetic rows.

python benchmarks/million.py > benchmarks/results/million.md
python benchmarks/million.py --rows 1000000                  half an hour and 20 GB

Every step runs in a separate process, to measure its own peak memory. Needs about 2 x 2 x 4,224 bytes per row on the
disk of --work. The fusion head is trained in turns, streamed and in memory, on the same rows: chunks from all over the
cache, as many as fit in memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from tabulate import tabulate

from drexcache import open_cache, train_streamed
from drexcache.cache.changes import merge
from drexcache.cache.format import Contents, StoredBlock
from drexcache.cache.rows import CachedRows, rated_rows_of
from drexcache.cache.writer import start_writer
from drexcache.datasets import sha256_of_ids
from drexcache.datasets.matching import Target
from drexcache.datasets.table import ImageFile, ImageTable
from drexcache.fusion.estimator import AttentionFusionRegressor
from drexcache.fusion.plan import CHUNK, WINDOW
from drexcache.recipes import Block, Tap

SHARDS = 4
WIDTHS = {"dino": 384, "resnet": 3840}
BATCH = 256
SLICE = 6 * WINDOW  # rows that the head is trained on, in memory and streamed
TURNS = 3


def table(rows: int) -> ImageTable:
    """A table of ``rows`` rated images without files."""
    ids = tuple(f"{row:07}.jpg" for row in range(rows))
    values = np.random.default_rng(0).random(rows)
    return ImageTable(
        "made-up", ids, (ImageFile(Path("nowhere")),) * rows, {"rating": Target("rating", values, 0, 1)}, {}, ()
    )


def write_shard(folder: Path, rows: int, number: int) -> None:
    """Write what one extraction process with no-op backbones writes."""
    part = table(rows).shard(number, SHARDS)
    blocks = {
        name: StoredBlock(Block(name, "any", (Tap("norm", "cls", "cls"),)), "0" * 64, "none", (width,), "float16")
        for name, width in WIDTHS.items()
    }
    contents = Contents(
        part.dataset,
        part.ids,
        part.targets,
        part.labels,
        blocks,
        part.shard_of,
        part.table_sha256 or sha256_of_ids(part.ids),
    )
    rng = np.random.default_rng(number)
    features = {name: rng.standard_normal((BATCH, width), "f4").astype("f2") for name, width in WIDTHS.items()}
    writer, _ = start_writer(folder / f"shard{number}.h5", contents, [])
    with writer:
        for first in range(0, len(part), BATCH):
            at = np.arange(first, min(first + BATCH, len(part)))
            hashes = np.zeros((len(at), 32), "u1")
            hashes[:, :8] = at[:, None].view("u1")  # each image's own
            writer.put_files(at, hashes, np.ones((len(at), 2), "i8"), [""] * len(at))
            for name, values in features.items():
                writer.put(name, at, values[: len(at)])
            writer.tick()
        writer.finish(folder / f"shard{number}.h5")


def write(folder: Path, rows: int) -> None:
    """Write all shards, one after the other."""
    for number in range(1, SHARDS + 1):
        write_shard(folder, rows, number)


def join(folder: Path, rows: int) -> None:
    """Merge the shards into one cache."""
    merge([folder / f"shard{number}.h5" for number in range(1, SHARDS + 1)], folder / "whole.h5")


def verify(folder: Path, rows: int) -> None:
    """Verify every checksum."""
    assert open_cache(folder / "whole.h5").verify() == []


def open_and_tell(folder: Path, rows: int) -> None:
    """Open the cache and summarise it."""
    assert open_cache(folder / "whole.h5").info()["images"] == rows


def sample(folder: Path, rows: int) -> None:
    """Read 100 random batches of 256 rows."""
    cache, rng = open_cache(folder / "whole.h5"), np.random.default_rng(0)
    for _ in range(100):
        pick = np.sort(rng.integers(0, rows, BATCH))
        assert sum(cache.features(name, pick).shape[1] for name in WIDTHS) == sum(WIDTHS.values())


def ridge(folder: Path, rows: int) -> None:
    """Ridge in one pass, 13 penalties by 5 folds."""
    train_streamed("ridge", open_cache(folder / "whole.h5"))


def stream(folder: Path, rows: int) -> None:
    """Train an epoch over all rows, with a head so small that reading dominates."""
    part = rated_rows_of(open_cache(folder / "whole.h5"))
    head = AttentionFusionRegressor(part.blocks, width=16, batch_size=BATCH, epochs=1)
    head.fit_stream(part)


def spread(folder: Path, rows: int) -> CachedRows:
    """Up to SLICE rows, in chunks evenly spread over the cache."""
    every = max(1, rows // SLICE)
    return rated_rows_of(open_cache(folder / "whole.h5")).rows(np.flatnonzero(np.arange(rows) // CHUNK % every == 0))


def train(X: np.ndarray | CachedRows, y: np.ndarray) -> float:
    """Seconds per 1,000 steps of the paper's head, after a short warm-up."""
    head = AttentionFusionRegressor({"dino": (0, 384), "resnet": (384, 4224)}, epochs=1)
    head.fit(np.random.default_rng(0).standard_normal((64, 4224), "f4"), np.linspace(0, 1, 64))
    began = time.perf_counter()
    head.fit_stream(X) if isinstance(X, CachedRows) else head.fit(X, y)
    return 1000 * (time.perf_counter() - began) / -(-len(y) // head.batch_size)


def train_in_memory(folder: Path, rows: int) -> float:
    """Train in memory; loading is not counted, and leaves these rows in the page cache."""
    part = spread(folder, rows)
    return train(part.read(np.arange(len(part))), part.y)


def train_streaming(folder: Path, rows: int) -> float:
    """Train on the same rows, read during training."""
    part = spread(folder, rows)
    return train(part, part.y)


STEPS: dict[str, Callable[[Path, int], float | None]] = {
    "write 4 shards": write,
    "merge them": join,
    "verify": verify,
    "open, info": open_and_tell,
    "100 random batches of 256": sample,
    "ridge, streamed": ridge,
    "an epoch streamed, small head": stream,
}
TRAINING: dict[str, Callable[[Path, int], float | None]] = {
    "fusion, 1,000 steps in memory": train_in_memory,
    "fusion, 1,000 steps streamed": train_streaming,
}


def _child(step: str, folder: Path, rows: int, pipe: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    seconds = (STEPS | TRAINING)[step](folder, rows) or time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send((seconds, (peak - before) / 1024))


def measured(step: str, folder: Path, rows: int) -> tuple[float, float]:
    """The seconds of a step, and the MB by which the process's peak memory grew after importing."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(step, folder, rows, theirs))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step} at {rows} rows failed")
    return mine.recv()  # type: ignore[no-any-return]


def training(folder: Path, rows: int) -> tuple[np.ndarray, float]:
    """Median seconds and memory of each step of TRAINING (2, 2), taken in turns, and the median of the turns' ratio."""
    turns = np.array([[measured(step, folder, rows) for step in TRAINING] for _ in range(TURNS)])
    return np.median(turns, axis=0), float(np.median(turns[:, 1, 0] / turns[:, 0, 0]))


def main() -> None:
    """Run every step at every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--work", type=Path, help="folder for the files [default: the system's, for temporary files]")
    arguments = parser.parse_args()
    columns: dict[str, list[str]] = {step: [step] for step in STEPS | TRAINING}
    ratios = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            for step in STEPS:
                seconds, memory = measured(step, Path(folder), rows)
                columns[step] += [f"{seconds:,.2f} s", f"{memory:,.0f} MB"]
                if step == "merge them":
                    for shard in Path(folder).glob("shard*.h5"):
                        shard.unlink()
            medians, ratio = training(Path(folder), rows)
            for step, (seconds, memory) in zip(TRAINING, medians.tolist(), strict=True):
                columns[step] += [f"{seconds:,.2f} s", f"{memory:,.0f} MB"]
            ratios.append(f"{ratio:.2f} at {rows:,} rows")
    heads = ["step", *(head for rows in arguments.rows for head in (f"{rows:,} rows", "memory"))]
    print("# Large caches\n\n```\n" + describe() + "\n```\n")
    print(f"{sum(WIDTHS.values()):,} columns of float16; memory is the peak beyond what importing takes.\n")
    print(tabulate(list(columns.values()), heads, tablefmt="github", colalign=("left", *["right"] * (len(heads) - 1))))
    print(
        f"\nThe head is the paper's, trained on up to {SLICE:,} rows from all over the cache, {TURNS} times in turns "
        f"(medians).\nStreamed it takes, of the time in memory: {', '.join(ratios)}."
    )


if __name__ == "__main__":
    main()
