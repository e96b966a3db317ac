"""What a cache survives: killed processes, power cuts, altered bytes; how often each was tried and what went wrong.

PYTHONPATH=tests python benchmarks/faults.py > benchmarks/results/faults.md
PYTHONPATH=tests python benchmarks/faults.py --states 100 --mutations 1000 --kills 10           shorter; 0 leaves out

This uses the tests' own machinery.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pytest
import test_crash
import test_mutations
import test_power_loss
from conftest import draw
from machine import describe

from drexcache.cache.reader import FeatureCache


def killed(count: int) -> None:
    """Kill extractions at random moments, restarting each until it is finished."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = draw(folder / "pictures", 24)
        done = test_crash.kill_until_done(images, folder / "c.h5", folder / "log", count, seed=1)
    print(f"| processes killed at random moments | {done:,} | 0 committed rows computed again |", flush=True)


def cut(scenario: str, count: int, seals: bool = True) -> tuple[int, int]:
    """The number of states that a power cut may leave, and of those in which the same command ends differently."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        work = test_power_loss.workplace(Path(name), patch)
        if not seals:
            patch.setattr(FeatureCache, "sealed", lambda self, block=None: np.ones(len(self), bool))
        tried, wrong = test_power_loss.cut(work, scenario, count, seed=2)
    return tried, len(wrong)


def power_cuts(count: int) -> None:
    """Every scenario, and one of them with the format's protection switched off."""
    for scenario in test_power_loss.SCENARIOS:
        tried, wrong = cut(scenario, count)
        print(f"| power cut: {scenario} | {tried:,} | {wrong} other ends |", flush=True)
    tried, wrong = cut("changed image", min(count, 300), seals=False)
    print(f"| the same with the seals left unread: changed image | {tried:,} | {wrong} other ends |", flush=True)


def altered(name: str, count: int) -> None:
    """Alter the bytes of a cache and correct HDF5's own checksums."""
    with pytest.MonkeyPatch.context() as patch:
        source = test_mutations.original(name, patch)
    wrong = test_mutations.damage(source, count, seed=3, covered=name == "cache-v2.h5")
    print(f"| {name} altered | {count:,} | {len(wrong)} tracebacks, hangs or other contents |", flush=True)


def main() -> None:
    """Try everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=1500, help="of each scenario")
    parser.add_argument("--mutations", type=int, default=34_000, help="of each file")
    parser.add_argument("--kills", type=int, default=200)
    arguments = parser.parse_args()
    print("# What a cache survives\n\n```\n" + describe() + "\n```\n", flush=True)
    print("| fault | tried | wrong |\n|---|---|---|", flush=True)
    if arguments.kills:
        killed(arguments.kills)
    if arguments.states:
        power_cuts(arguments.states)
    for name in ("cache-v1.h5", "cache-v2.h5", "release-0.1-cache.h5") if arguments.mutations else ():
        altered(name, arguments.mutations)


if __name__ == "__main__":
    main()
