"""A search's folder that somebody sent, or that a disk has damaged: a sentence, or the same search."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator
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
    return journal(tmp_path_factory.mktemp("sent") / "found")


def journal(folder: Path) -> Path:
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


def journal_faults(sent: Path, folder: Path, seeds: Iterable[int]) -> dict[int, str]:
    """What else came of mutated journals than a sentence, or a search that goes on."""
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
    return faults


def test_mutated_journals(sent: Path, tmp_path: Path) -> None:
    seeds = [*range(80), 889, 1043, 21063]  # the last three: no block, a last line cut, a number beyond 64 bits
    assert journal_faults(sent, tmp_path / "found", seeds) == {}


@pytest.mark.thorough
def test_many_mutated_journals(sent: Path, tmp_path: Path) -> None:
    assert journal_faults(sent, tmp_path / "found", range(150, 15_000)) == {}


def said(folder: Path, **options: Any) -> str:
    """The one sentence of a search that is refused."""
    with pytest.raises(DrexcacheError) as caught:
        search(toy(), ["svr"], folder, **{"total_trials": TRIALS} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_journal_says_where_it_is_damaged_and_runs_no_pickle(sent: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sent, tmp_path / "found"))
    lines = (folder / JOURNAL).read_text().splitlines()
    (folder / JOURNAL).write_text("\n".join([*lines[:5], "{", *lines[6:]]) + "\n")
    assert f"{JOURNAL}: damaged, or not what a search writes, after line 5" in said(folder)
    (folder / JOURNAL).write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    assert "damaged, or not what a search writes, after line 0" in said(folder)
    assert not Path("ran").exists()


def test_a_trial_far_in_the_future_is_not_waited_for(sent: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sent, tmp_path / "found"))
    with (folder / JOURNAL).open("a") as journal:
        for line in (
            {"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": "2999-01-01T00:00:00+00:00"},
            {"op_code": 8, "worker_id": "w", "trial_id": TRIALS, "user_attr": {"worker": "elsewhere:1"}},
            {"op_code": 8, "worker_id": "w", "trial_id": TRIALS, "user_attr": {"last sign of life": 1e11}},
        ):
            journal.write(json.dumps(line) + "\n")
    assert search(toy(), ["svr"], folder, total_trials=TRIALS + 1).finished == TRIALS + 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"0",
        lambda data: b"\x80\x04N." + data,
        lambda data: data.replace(b"(1, 60)", b"(9, 60)"),
        lambda data: data.replace(b"(1, 60)", b"(10**20,)"),
        lambda data: data.replace(b"<f4", b"|O4"),
        lambda data: data[:-4] + np.float32("nan").tobytes(),
    ],
)
def test_damaged_predictions(sent: Path, tmp_path: Path, damage: Any) -> None:
    folder = Path(shutil.copytree(sent, tmp_path / "found"))
    path = next((folder / "predictions").iterdir())
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path.name}: not the predictions that this search wrote (" in said(folder)


def test_a_folder_keeps_one_search(sent: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sent, tmp_path / "found"))
    before = (folder / "best.json").read_bytes()
    assert said(folder, study="other") == f"{folder}: holds the search toy; give other another folder"
    assert "holds the search toy" in said(folder, study="other", storage=f"sqlite:///{tmp_path}/trials.db")
    assert (folder / "best.json").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(sent: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sent, tmp_path / "found"))
    folder.chmod(0o500)
    assert "cannot be written" in said(folder)
