"""The README's walk-through on SAVOIAS: extract three categories, then print the cross-dataset score table.

    python benchmarks/savoias.py PATH/TO/savoias [--work DIR] > benchmarks/results/savoias.md

The folder is the dataset's own: Images/<category>/ and "Ground truth/xlsx/". Features are kept in the work folder, so
a second run computes none.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from machine import describe

CATEGORIES = ("Advertisement", "Objects", "Scenes")


def run(savoias: Path, work: Path, *arguments: str) -> None:
    """Run a command and print it with its output, without this machine's paths."""

    def plain(text: str) -> str:
        return text.replace(f"{work}/", "").replace(str(savoias), "savoias").rstrip()

    print("$ drexcache " + plain(" ".join(arguments)), flush=True)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "drexcache.cli", *arguments], capture_output=True, text=True, check=False
    )
    print(plain(done.stderr))
    print(plain(done.stdout))
    print(f"({time.monotonic() - started:.1f} s)\n", flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)


def main() -> None:
    """Extract the three categories, evaluate, compare; print every command with its output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("savoias", type=Path)
    parser.add_argument("--work", type=Path, default=Path("savoias-work"))
    parser.add_argument("--regressor", action="append")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    print("# SAVOIAS, recipe offline\n\n```\n" + describe() + "\n```\n\n```")
    here = (arguments.savoias, arguments.work)
    caches = [str(arguments.work / f"{category.lower()}.h5") for category in CATEGORIES]
    for category, cache in zip(CATEGORIES, caches, strict=True):
        allow = ["--allow-unmatched"] if category == "Advertisement" else []  # two of its pictures are missing
        folder = str(arguments.savoias / "Images" / category)
        run(*here, "extract", folder, "--recipe", "offline", *allow, "-o", cache)
    names = arguments.regressor or ["ridge", "fusion-paper", "fusion"]
    regressors = [part for name in names for part in ("-r", name)]
    run(*here, "evaluate", *caches, *regressors, "-o", str(arguments.work / "scores.csv"))
    run(*here, "compare", str(arguments.work / "scores.csv"))
    print("```")


if __name__ == "__main__":
    main()
