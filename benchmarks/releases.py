"""This installation compared with another one, such as the previous release: the same work, using only public names.

    python benchmarks/releases.py OTHER/.venv/bin/python > benchmarks/results/releases.md

Each measurement runs in a separate process, with the median of its repeats; the order of the two alternates. A ratio
below 1 means that this installation is faster. Some five minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate


def drawn(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with a decaying spectrum, float32, and ratings on [0, 1] that depend on them."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(rows, 64)) / np.sqrt(np.arange(1, 65))
    X = hidden @ rng.normal(size=(64, columns)) + 0.5 * rng.normal(size=(rows, columns))
    return X.astype(np.float32), np.clip(0.5 + 0.1 * hidden[:, 0] + 0.05 * rng.normal(size=rows), 0, 1)


def matrix(rows: int, columns: int) -> object:
    """The same in a matrix of two blocks."""
    from drexcache import FeatureMatrix

    X, y = drawn(rows, columns)
    blocks = {"dino": slice(0, columns // 4), "resnet": slice(columns // 4, columns)}
    return FeatureMatrix(X, y, [f"{i:05}.png" for i in range(rows)], blocks, dataset="drawn")


def fusion(work: Path) -> None:
    """Six epochs of the paper's head."""
    from drexcache import AttentionFusionRegressor

    AttentionFusionRegressor(arms={"a": slice(0, 384), "b": slice(384, 4224)}, epochs=6).fit(*drawn(3200, 4224))


def ridge(work: Path) -> None:
    """A ridge on more columns than rows, and one on more rows than columns."""
    from drexcache import regressors

    for shape in ((600, 4224), (6720, 896)):
        regressors()["ridge"].fit(*drawn(*shape))


def evaluation(work: Path) -> None:
    """Five folds of three regressors."""
    from drexcache.studies import evaluate

    evaluate([matrix(600, 896)], ["ridge", "svr", "pls"])


def small_search(work: Path) -> None:
    """Thirty trials of support vectors."""
    from drexcache.studies import search

    search(matrix(300, 256), ["svr"], work / "svr", total_trials=30)


def fusion_search(work: Path) -> None:
    """Eight short trials of the paper's head."""
    from drexcache.studies import search

    narrowed = {"fusion-paper": {"epochs": {"low": 5, "high": 10}}}
    search(matrix(400, 896), ["fusion-paper"], work / "fusion", total_trials=8, folds=3, narrowed=narrowed)


def extraction(work: Path) -> None:
    """Hand-made cues of 120 pictures, written to a cache, and the cache read 50 times."""
    from drexcache import open_cache, read_images, recipe
    from drexcache.features import extract

    table = read_images(work / "pictures", ratings=False)
    extract(table, recipe("classic"), work / "cues.h5", say=lambda line: None)
    for _ in range(50):
        open_cache(work / "cues.h5").features("cues")


WORK: dict[str, Callable[[Path], None]] = {
    work.__name__: work for work in (fusion, ridge, evaluation, small_search, fusion_search, extraction)
}


def pictures(folder: Path) -> None:
    """Blocks of noise, so that every decoder and cue has something to do."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(120):
        noise = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{i:03}.jpg", quality=95)


def in_a_process(python: str, name: str, images: Path) -> float:
    """Seconds of one piece of work, without imports."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pictures").symlink_to(images)
        command = [python, __file__, "--child", name, "--work", folder]
        return float(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]))


def child(name: str, work: Path) -> None:
    """Do the work once to import and warm up everything, then time it."""
    import torch  # noqa: F401

    from drexcache import regressors

    warnings.simplefilter("ignore")
    regressors()["ridge"].fit(*drawn(50, 20))
    started = time.perf_counter()
    WORK[name](work)
    print(json.dumps(time.perf_counter() - started))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", nargs="?", help="the interpreter of the other installation")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=WORK, action="append")
    parser.add_argument("--child", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.work)
    if args.other is None:
        parser.error("name the interpreter of the other installation")
    from machine import describe

    lines = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "pictures"
        pictures(images)
        for name in args.only or WORK:
            times: dict[str, list[float]] = {args.other: [], sys.executable: []}
            for turn in range(args.repeats):
                for python in list(times)[:: 1 if turn % 2 else -1]:
                    times[python].append(in_a_process(python, name, images))
            other, this = (statistics.median(taken) for taken in times.values())
            spread = max(max(taken) / min(taken) - 1 for taken in times.values())
            lines.append([name, f"{other:.2f}", f"{this:.2f}", f"{this / other:.2f}", f"{spread:.0%}"])
    print(f"```\n{describe()}\nmedians of {args.repeats}, in turns\n")
    print(tabulate(lines, ["work", "other (s)", "this (s)", "this / other", "largest spread"]) + "\n```")


if __name__ == "__main__":
    main()
