"""Odd surroundings: a locale that knows ASCII only, names that are not UTF-8, no home, no room for temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import draw

from drexcache import open_cache

LINES = (
    "extract é --ratings é/ratings.csv --range 0 100 --recipe classic -o é.h5",
    "cache info é.h5",
    "train é.h5 -r ridge -o m.drex",
    "evaluate é.h5 -r ridge -r svr -o s.csv",
    "report s.csv --images é -o page.html",
    "search é.h5 -r ridge -o found --total-trials 2 --split none",
    "predict m.drex é -o p.csv",
)
SURROUNDINGS: dict[str, Mapping[str, str | None]] = {
    "locale C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "no home": {"HOME": None, "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None},
    "a home that is not there": {"HOME": "/proc/nobody", "XDG_CACHE_HOME": None},
    "no folder for temporary files": {"TMPDIR": "/proc/none", "TEMP": "/proc/none", "TMP": "/proc/none"},
}


def run(folder: Path, line: str, changes: Mapping[str, str | None] | None = None) -> tuple[int, str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, value in (changes or {}).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    done = subprocess.run(
        [sys.executable, "-m", "drexcache.cli", *line.split()], cwd=folder, env=environment, capture_output=True,
        text=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_everything_works(tmp_path: Path, what: str) -> None:
    draw(tmp_path / "é", 12)
    for line in LINES:
        status, said = run(tmp_path, line, SURROUNDINGS[what])
        assert status == 0, (line, said)
    assert open_cache(tmp_path / "é.h5").verify() == []


def test_a_name_that_is_not_utf8_is_one_sentence_or_works(tmp_path: Path) -> None:
    images = draw(tmp_path / "pictures", 4)
    os.rename(images / "003.png", os.fsencode(images) + b"/\xff.png")  # noqa: PTH104
    (images / "ratings.csv").unlink()
    status, said = run(tmp_path, "extract pictures --recipe classic -o c.h5")
    assert status == 1 and said.count("\n") <= 2 and "UTF-8" in said, said
    assert not list(tmp_path.glob("c.h5*")) or not (tmp_path / "c.h5").exists()


def test_a_file_whose_own_name_is_not_utf8(tmp_path: Path) -> None:
    draw(tmp_path / "pictures", 3)
    name = os.fsdecode(b"\xff.h5")
    status, said = run(tmp_path, f"extract pictures --range 0 100 --recipe classic -o {name}")
    assert status == 0, said
    assert run(tmp_path, f"cache verify {name}")[0] == 0


def test_an_extraction_beside_a_merge_of_the_same_cache(tmp_path: Path) -> None:
    """One of them writes; the other is told who."""
    draw(tmp_path / "pictures", 40)
    for part in (1, 2):
        line = f"extract pictures --range 0 100 --recipe classic --shard {part}/2 -o part{part}.h5"
        assert run(tmp_path, line)[0] == 0
    found: dict[str, tuple[int, str]] = {}
    lines = {
        "extract": "extract pictures --range 0 100 --recipe classic -o c.h5",
        "merge": "cache merge part1.h5 part2.h5 -o c.h5",
    }

    def at_once(name: str) -> None:
        found[name] = run(tmp_path, lines[name])

    threads = [threading.Thread(target=at_once, args=(name,)) for name in lines]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert any(status == 0 for status, _ in found.values()), found
    for status, said in found.values():
        assert status == 0 or "being written by" in said or "exists; merge writes a new file" in said, said
    assert run(tmp_path, "cache verify c.h5")[0] == 0 and len(open_cache(tmp_path / "c.h5")) == 40


def test_no_room_for_temporary_files(tmp_path: Path) -> None:
    """TMPDIR is a file system of its own that is full."""
    full = tmp_path / "full"
    full.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(full)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    try:
        (full / "fill").write_bytes(bytes(8 << 10))
        draw(tmp_path / "é", 12)
        for line in LINES:
            status, said = run(tmp_path, line, {"TMPDIR": str(full)})
            assert status == 0 or "o space left" in said, (line, said)
    finally:
        subprocess.check_call(["umount", str(full)])
