"""Outputs are old or new, never half."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from drexcache import DrexcacheError, files
from drexcache.files import write_file, write_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    write_files({a: "old a", b: b"old b"})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(DrexcacheError, match=r"a\.csv: cannot be written \(No space left on device\)"):
            write_files({a: "new a", b: "new b"})
    assert names(tmp_path) == ["a.csv", "b.csv"]
    assert (a.read_text(), b.read_text()) == ("old a", "old b")


def test_a_content_that_fails_leaves_the_old_files(tmp_path: Path) -> None:
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    write_file(a, "old")

    def half(file: files.BinaryIO) -> None:
        file.write(b"hal")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_files({a: "new", b: half})
    assert names(tmp_path) == ["a.csv"] and a.read_text() == "old"


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.csv.new").write_text("half of a long content")
    write_file(tmp_path / "a.csv", "new")
    assert names(tmp_path) == ["a.csv"] and (tmp_path / "a.csv").read_text() == "new"


def test_two_processes_never_write_into_one_file(tmp_path: Path) -> None:
    with (tmp_path / "a.csv.new").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DrexcacheError, match=r"a\.csv: another process is writing it"):
            write_file(tmp_path / "a.csv", "new")
    assert names(tmp_path) == ["a.csv.new"]


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    write_file(link, "new")
    assert link.is_symlink() and real.read_text() == "new" and real.stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_itself(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, "content")
    assert os.read(end, 100) == b"content" and names(tmp_path) == ["pipe"]
    os.close(end)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DrexcacheError, match=r"file/a\.csv: cannot be written \(File exists\)"):
        write_file(tmp_path / "file" / "a.csv", "new")
    with pytest.raises(DrexcacheError, match=r"cannot be written \(Is a directory\)"):
        write_file(tmp_path, "new")
