"""A search's folder that somebody sent, or a disk has damaged: a sentence, or the same search; never code, never more."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_search import toy

from drexcache.errors import DrexcacheError
from drexcache.studies.searching.storage import JOURNAL
from drexcache.studies.searching.study import search

TRIALS = 12
ODD: list[Any] = [
    None, True, -1, 0, 5, 7, 1e400, float("nan"), 10**30, "", "x", "\n", [], {}, [[]], {"a": {}}, [1, 2], "0" * 64,
    "1900-01-01", "{}", "[1]", "null",
]  # fmt: skip


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search."""
    folder = tmp_path_factory.mktemp("sent") / "found"
    search(toy(), ["svr"], folder, total_trials=TRIALS)
    return folder


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from places(inner)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A journal with one fault: a value, a key, a line, or bytes."""
    lines = data.splitlines(keepends=True)
    at, kind = rng.randrange(len(lines)), rng.randrange(8)
    if kind < 5:
        log = json.loads(lines[at])
        holder, key = rng.choice(list(places(log)))
        if isinstance(holder[key], str) and holder[key].startswith("{") and rng.random() < 0.7:  # JSON inside of JSON
            inner = json.loads(holder[key])
            deeper, name = rng.choice(list(places(inner)))
            deeper[name] = rng.choice(ODD)
            holder[key] = json.dumps(inner)
        elif kind < 4 or isinstance(holder, list):
            holder[key] = rng.choice(ODD)
        else:
            holder[rng.choice(["x", "", "op_code"])] = holder.pop(key)
        lines[at] = json.dumps(log).encode() + b"\n"
    elif kind == 5:
        lines[at : at + 1] = rng.choice([[], [lines[at]] * 2, [rng.choice(lines)], [b"\n"], [b"[]\n"], [b"{}\n"]])
    elif kind == 6:
        lines[at] = lines[at][: rng.randrange(len(lines[at]))] + bytes(rng.choices(range(256), k=rng.randrange(4)))
    else:
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    return b"".join(lines)


def check_journals(sent: Path, folder: Path, seeds: range) -> None:
    """Each mutated journal is refused by one sentence, or searched on."""
    shutil.copytree(sent, folder, dirs_exist_ok=True)
    data = (sent / JOURNAL).read_bytes()
    faults = {}
    for seed in seeds:
        (folder / JOURNAL).write_bytes(mutated(data, random.Random(seed)))
        try:
            search(toy(), ["svr"], folder, total_trials=TRIALS)
        except DrexcacheError as error:
            if "\n" in str(error):
                faults[seed] = str(error)
        except Exception as error:  # what must not happen
            faults[seed] = f"{type(error).__name__}: {error}"
    assert faults == {}, f"{len(faults)}: {list(faults.items())[:12]}"


def test_mutated_journals(sent: Path, tmp_path: Path) -> None:
    check_journals(sent, tmp_path / "found", range(150))


@pytest.mark.thorough
def test_many_mutated_journals(sent: Path, tmp_path: Path) -> None:
    check_journals(sent, tmp_path / "found", range(150, 15_000))
