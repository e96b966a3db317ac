"""What stands beside a cache is found whatever the cache is called, and one file has one lock."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

import pytest
from conftest import draw

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache.beside import partial_paths, writer_lock
from drexcache.cache.writer import CacheWriter
from drexcache.features import extract


def stopped(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extraction that ends after the first commit."""

    def stop(self: CacheWriter) -> None:
        self.commit()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "tick", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(read_images(images), recipe("classic"), out, batch_size=2, say=len)


@pytest.mark.parametrize("name", ["photos[2024].h5", "c[1].h5", "w*.h5", "a b?.h5"])
def test_an_extraction_goes_on_whatever_the_cache_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    images, out = draw(tmp_path / "pictures", 4), tmp_path / name
    stopped(images, out, monkeypatch)
    assert [path.name for path in partial_paths(out)] == [f"{name}.partial-1"]
    with pytest.raises(DrexcacheError, match="the extraction has not finished yet"):
        open_cache(out)
    assert extract(read_images(images), recipe("classic"), out, say=len).reused == 2
    assert partial_paths(out) == []


def test_the_partial_files_of_another_cache_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw(tmp_path / "pictures", 4)
    stopped(images, tmp_path / "c1.h5", monkeypatch)
    extract(read_images(images), recipe("classic"), tmp_path / "c[1].h5", say=len)
    assert len(partial_paths(tmp_path / "c1.h5")) == 1


def test_copies_of_partial_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, out = draw(tmp_path / "pictures", 4), tmp_path / "c.h5"
    stopped(images, out, monkeypatch)
    for ending in (".bak", "~", " (copy)", ".new"):
        (tmp_path / f"c.h5.partial-1{ending}").write_text("a copy")
    assert extract(read_images(images), recipe("classic"), out, say=len).reused == 2
    assert (tmp_path / "c.h5.partial-1.bak").read_text() == "a copy"


def test_a_link_and_what_it_leads_to_have_one_lock(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "c.h5", tmp_path / "c.h5"
    real.parent.mkdir()
    link.symlink_to(real)
    again = f"being written by process {os.getpid()} on "
    with writer_lock(real), pytest.raises(DrexcacheError, match=again), writer_lock(link):
        pass
    images = draw(tmp_path / "pictures", 2)
    extract(read_images(images), recipe("classic"), link, say=len)
    assert link.is_symlink() and len(open_cache(real)) == 2
    assert extract(read_images(images), recipe("classic"), link, say=len).computed == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_another_kind_of_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    out = tmp_path / "c.h5"
    again = r"if that process is dead, remove .*c\.h5\.softlock"
    with writer_lock(out), pytest.raises(DrexcacheError, match=again), writer_lock(out):
        pass
    extract(read_images(draw(tmp_path / "pictures", 2)), recipe("classic"), out, say=len)
    assert [path.name for path in tmp_path.glob("c.h5*")] == ["c.h5"]
    (tmp_path / "c.h5.softlock").write_text(f"999999999\n{socket.gethostname()}\n")  # of a process that was killed
    with writer_lock(out):
        pass
