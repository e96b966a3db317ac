"""Seconds that a command takes from the shell's prompt and back, each in a process of its own.

python benchmarks/startup.py SAVOIAS > benchmarks/results/startup.txt

SAVOIAS: the dataset's folder. 40 of its scenes are extracted with recipe offline, whose weights come in packages, and
models of several kinds are trained on them; with that the backbones are converted and kept on the disk. Then the
commands run in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

from drexcache import open_cache, read_images, recipe
from drexcache.features import extract
from drexcache.regressors import train_model

MODELS = ("ridge", "svr", "boosting", "fusion")
TURNS = 5
SHARDS = 5  # of the 200 scenes, the first


def prepared(savoias: Path, work: Path) -> dict[str, list[str]]:
    """What is timed: its name and Python's arguments."""
    scenes = savoias / "Images" / "Scenes"
    table = read_images(scenes).shard(1, SHARDS)
    extract(table, recipe("offline"), work / "scenes.h5", weights="packaged", engine_cpu="openvino")
    cache = open_cache(work / "scenes.h5")
    for name in MODELS:
        train_model(name, cache.matrix(), cache, tuple(cache.blocks), seed=0).save(work / f"{name}.drex")
    command = ["-m", "drexcache.cli"]
    evaluate = [*command, "-q", "evaluate", str(cache.path), "-r", "ridge", "-r", "svr", "-o", str(work / "scores.csv")]
    subprocess.run([sys.executable, *evaluate], check=True, capture_output=True)
    image = next(str(scenes / name) for name in table.ids)
    return {
        "python -c pass": ["-c", "pass"],
        "drexcache --help": [*command, "--help"],
        "drexcache cache info": [*command, "cache", "info", str(cache.path)],
        "drexcache compare": [*command, "compare", str(work / "scores.csv")],
    } | {
        f"drexcache predict, one image, {name}": [
            *command, "predict", str(work / f"{name}.drex"), image, "-o", str(work / "predictions.csv"),
        ]
        for name in MODELS
    }  # fmt: skip


def timed(arguments: list[str]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor."""
    before, started = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    seconds, after = time.perf_counter() - started, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    """Run all commands in turns; print the least and the median time of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("savoias", type=Path)
    with tempfile.TemporaryDirectory() as work:
        commands = prepared(parser.parse_args().savoias, Path(work))
        turns = [{name: timed(arguments) for name, arguments in commands.items()} for _ in range(TURNS)]
    print(
        f"{describe()}\nload {os.getloadavg()[0]:.1f}; {TURNS} turns; seconds on the clock, and the processor's least\n"
    )
    print(f"| {'command':39} | {'min':>6} | median | processor |\n|{'-' * 41}|{'-' * 8}|{'-' * 8}|{'-' * 11}|")
    for name in commands:
        clock, processor = zip(*(turn[name] for turn in turns), strict=True)
        print(f"| {name:39} | {min(clock):6.2f} | {statistics.median(clock):6.2f} | {min(processor):9.2f} |")


if __name__ == "__main__":
    main()
