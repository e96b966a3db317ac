"""What files survive: killed processes, power cuts, full disks, altered bytes; how often tried, what went wrong.

for part in head kills power machine outputs caches models texts packed journals; do
    PYTHONPATH=tests python benchmarks/faults.py $part
done > benchmarks/results/faults.md
PYTHONPATH=tests python benchmarks/faults.py caches --count 1000 --seed 7       another number, another seed

The lines of several seeds stand below each other. A part takes up to ten minutes. It is the tests' own machinery that
does it. The last column is what the same kind of trial found when it was first made, before the causes were mended.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_cache_machine
import test_crash
import test_model_files
import test_mutated_packed
import test_mutated_texts
import test_mutations
import test_outputs
import test_power_loss
import test_search_strangers
from conftest import draw
from hypothesis import seed as hypothesis_seed
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from machine import describe

from drexcache.cache.reader import FeatureCache

FIRST = {
    "changed image": "87 wrong rows of 1,044",
    "added block to half": "19 lost rows of 432",
    "caches": "23 crashes, 5 tracebacks of 27,100",
    "models": "6 crashes, 454 tracebacks, 431 NaN of 7,775",
    "texts": "112 tracebacks of 17,100",
    "packed": "tracebacks, bombs, and pyarrow ended the process",
    "journals": "6,130 tracebacks of 14,500",
    "outputs": "half files, or files mixed, after export, evaluate, compare, predict, train and search",
}


def row(what: str, seed: int, tried: int, wrong: str, first: str = "") -> None:
    """One line of the table."""
    print(f"| {what} | {seed} | {tried:,} | {wrong} | {first} |", flush=True)


def head(count: int, seed: int) -> None:
    """Machine, versions and the table's header."""
    print("# What files survive\n\n```\n" + describe() + "\n```\n")
    print("| fault | seed | tried | wrong | when first tried |\n|---|---|---|---|---|", flush=True)


def kills(count: int, seed: int) -> None:
    """Extractions killed at random moments, each started again until it is through."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = draw(folder / "pictures", 24)
        done = test_crash.kill_until_done(images, folder / "c.h5", folder / "log", count, seed=seed)
    row("process killed at a random moment", seed, done, "0 committed rows computed again")


def power(count: int, seed: int) -> None:
    """Every scenario, and one of them with the checks switched off that the format has for it."""
    for scenario in test_power_loss.SCENARIOS:
        tried, wrong = cut(scenario, count, seed)
        row(f"power cut: {scenario}", seed, tried, f"{wrong} other ends", FIRST.get(scenario, ""))
    tried, wrong = cut("changed image", min(count, 300), seed, seals=False)
    row("the same with the seals left unread: changed image", seed, tried, f"{wrong} other ends")


def cut(scenario: str, count: int, seed: int, seals: bool = True) -> tuple[int, int]:
    """States that a power cut leaves, and in how many of them the same command ends otherwise."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        work = test_power_loss.workplace(Path(name), patch)
        if not seals:
            patch.setattr(FeatureCache, "sealed", lambda self, block=None: np.ones(len(self), bool))
        tried, wrong = test_power_loss.cut(work, scenario, count, seed=seed)
    return tried, len(wrong)


def machine(count: int, seed: int) -> None:
    """Random sequences of everything that can happen to a cache, beside a plain dictionary."""
    steps: collections.Counter[str] = collections.Counter()
    run = test_cache_machine.Machine.run

    def counted(self: test_cache_machine.Machine, command: Callable[[], object], *rest: object) -> None:
        steps[str(rest[1])] += 1
        run(self, command, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_cache_machine.Machine, "run", counted)
        chosen = settings(test_cache_machine.SETTINGS, max_examples=count)
        run_state_machine_as_test(hypothesis_seed(seed)(test_cache_machine.Machine), settings=chosen)
    for how, tried in sorted(steps.items()):
        row(f"commands in random sequences: {how}", seed, tried, "0 differ from a dictionary")


def outputs(count: int, seed: int) -> None:
    """Every command that writes, killed, cut off and on a full disk."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        test_outputs.furnish(Path(name), patch)
        for command, what in test_outputs.WRITING.items():
            test_outputs.clean()
            states = test_outputs.cut_off(what)
            test_outputs.clean()
            full = test_outputs.fill_up(what, count)
            first = FIRST["outputs"] if command == "evaluate" else ""
            row(f"`{command}` killed or without power", seed, states, "0 halves, 0 mixtures read", first)
            row(f"`{command}` on a full disk", seed, full, "0 halves, 0 without a sentence that names the file")


def caches(count: int, seed: int) -> None:
    """Caches whose bytes are altered, HDF5's own checksums made right again."""
    for name in ("cache-v1.h5", "cache-v2.h5", "release-0.1-cache.h5"):
        with pytest.MonkeyPatch.context() as patch:
            source = test_mutations.original(name, patch)
        wrong = test_mutations.damage(source, count, seed=seed, covered=name == "cache-v2.h5")
        print(*wrong[:20], sep="\n", file=sys.stderr)
        row(f"{name} altered", seed, count, f"{len(wrong)} tracebacks, hangs or other contents", FIRST["caches"])


def models(count: int, seed: int) -> None:
    """A model of every regressor, altered, in a process of its own."""
    script = Path(test_model_files.__file__).parent / "mutate_models.py"
    with tempfile.TemporaryDirectory() as name:
        paths = test_model_files.models_of_all(Path(name))
        command = [sys.executable, script, *paths.values(), "--mutations", count, "--seed", seed]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        row("models altered", seed, count * len(paths), "ended the process", FIRST["models"])
        return
    counts = json.loads(done.stdout)["counts"]
    wrong = {what: number for what, number in counts.items() if what not in ("refused", "predicts")}
    print(*list(wrong)[:20], sep="\n", file=sys.stderr)
    row("models altered", seed, sum(counts.values()), f"{len(wrong)} crashes, tracebacks or NaN", FIRST["models"])


def texts(count: int, seed: int) -> None:
    """Settings, spaces, recipes, scores, predictions, ledgers and ratings."""
    with tempfile.TemporaryDirectory() as name:
        tried, wrong = test_mutated_texts.faults(Path(name), range(seed * count, seed * count + count))
    print(*wrong[:20], sep="\n", file=sys.stderr)
    row("texts altered", seed, tried, f"{len(wrong)} tracebacks", FIRST["texts"])


def packed(count: int, seed: int) -> None:
    """Features of other tools, and tars and Parquet tables of images."""
    with tempfile.TemporaryDirectory() as name:
        tried, wrong = test_mutated_packed.faults(Path(name), range(seed * count, seed * count + count))
    print(*wrong[:20], sep="\n", file=sys.stderr)
    row("imported features and packed images altered", seed, tried, f"{len(wrong)} tracebacks", FIRST["packed"])


def journals(count: int, seed: int) -> None:
    """A search's journal, on which a search goes on."""
    with tempfile.TemporaryDirectory() as name:
        sent = test_search_strangers.journal(Path(name) / "sent")
        wrong = test_search_strangers.journal_faults(
            sent, Path(name) / "found", range(seed * count, (seed + 1) * count)
        )
    print(*list(wrong.items())[:20], sep="\n", file=sys.stderr)
    row("journals of a search altered", seed, count, f"{len(wrong)} tracebacks", FIRST["journals"])


PARTS = {
    head: 0, kills: 200, power: 1500, machine: 1000, outputs: 1000, caches: 12_000, models: 500, texts: 1700,
    packed: 150, journals: 5000,
}  # fmt: skip


def main() -> None:
    """Try one part and print its lines of the table."""
    names = {part.__name__: part for part in PARTS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=names)
    parser.add_argument("--count", type=int, help="of each")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    part = names[arguments.part]
    part(arguments.count or PARTS[part], arguments.seed)


if __name__ == "__main__":
    main()
