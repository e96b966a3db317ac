"""Disks that fill up or fail, and processes killed at every single write: one sentence, and nothing committed is lost.

Every call by which drexcache changes a disk is counted; the n-th fails, or the process dies in it, for each n there is.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import subprocess
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image
from test_crash import FORKS, assert_equal, committed

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache import writer
from drexcache.cache.changes import merge, rate
from drexcache.cache.writer import CacheWriter
from drexcache.datasets import Columns
from drexcache.features import cues, extract

CALLS = ("pwrite", "fdatasync", "fsync", "posix_fallocate", "replace")


def cheap_cues(block: cues.Cues, rgb: Image.Image) -> torch.Tensor:
    """Stands in for the real cues, which take longer than all that is tested here."""
    return torch.from_numpy(np.sqrt(np.arange(1, 1 + len(block.dims)) * np.asarray(rgb).mean()).astype("f4"))


def run(images: Path, out: Path, shard: tuple[int, int] = (1, 1)) -> None:
    table = read_images(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cues.Cues, "prepare", cheap_cues)
        extract(
            table.shard(*shard) if shard[1] > 1 else table, recipe("classic"), out, batch_size=2, workers=1, say=len
        )


@contextmanager
def instead_of(at: int, fault: Callable[[str], None], persists: bool = False) -> Iterator[list[str]]:
    """Call ``fault`` instead of the ``at``-th call that changes the disk, or of all from then on; the calls made."""
    made: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*args: object) -> object:
            made.append(name)
            if len(made) == at or (persists and len(made) > at):
                fault(name)
            return real(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "COMMIT_SECONDS", 0.0)
        for name in CALLS:
            if hasattr(os, name):
                patch.setattr(os, name, counted(name))
        yield made


def failing(number: int) -> Callable[[str], None]:
    def fault(name: str) -> None:
        raise OSError(number, os.strerror(number))

    return fault


def leftovers(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.glob(f"{out.name}*"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows handed to the writer, in order."""
    rows: list[int] = []
    put = CacheWriter.put

    def counted(self: CacheWriter, block: str, at: np.ndarray, features: np.ndarray) -> None:
        rows.extend(at.tolist())
        put(self, block, at, features)

    monkeypatch.setattr(CacheWriter, "put", counted)
    return rows


@pytest.mark.parametrize(
    ("number", "persists", "sentence"),
    [(errno.ENOSPC, True, "no space left on the disk"), (errno.EIO, False, "writing failed (Input/output error)")],
)
def test_every_single_write_may_fail(
    tmp_path: Path, computed: list[int], number: int, persists: bool, sentence: str
) -> None:
    images, undisturbed, out = draw(tmp_path / "pictures", 4), tmp_path / "undisturbed.h5", tmp_path / "c.h5"
    with instead_of(0, failing(number)) as calls:
        run(images, undisturbed)
    assert set(calls) >= {"pwrite", "fsync", "replace"}
    for at in range(1, len(calls) + 1):
        with instead_of(at, failing(number), persists), pytest.raises(DrexcacheError) as caught:
            run(images, out)
        assert sentence in str(caught.value) and str(out) in str(caught.value) and "\n" not in str(caught.value)
        kept = committed(out).get("cues", set()) if not out.exists() else set(range(4))
        computed.clear()
        run(images, out)
        assert sorted(computed) == sorted(set(range(4)) - kept), f"call {at} ({calls[at - 1]})"
        assert_equal(out, undisturbed)
        assert leftovers(out) == ["c.h5", "c.h5.lock"]
        out.unlink()


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, real = draw(tmp_path / "pictures", 4), os.pwrite
    run(images, tmp_path / "whole.h5")
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[: max(1, len(data) // 2)], offset))
    run(images, tmp_path / "c.h5")
    assert_equal(tmp_path / "c.h5", tmp_path / "whole.h5")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.check_call(["umount", str(folder)])


def test_a_disk_that_is_really_full(disk: Path, tmp_path: Path) -> None:
    images, fill, out = draw(tmp_path / "pictures", 4), disk / "fill", disk / "c.h5"
    refused = 0
    for free in range(0, 32 << 10, 4 << 10):
        fill.write_bytes(bytes((64 << 10) - free))
        try:
            run(images, out)
            out.unlink()
        except DrexcacheError as error:
            refused += 1
            assert f"{out}: no space left on the disk" in str(error)
            assert [name for name in leftovers(out) if "lock" not in name] == []
        for path in disk.iterdir():
            path.unlink()
    assert 2 <= refused < 8
    run(images, out)
    run(images, tmp_path / "whole.h5")
    assert_equal(out, tmp_path / "whole.h5")


def die(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(command: Callable[[], object], at: int) -> bool:
    """Run it in a process that dies in its ``at``-th change of the disk; False where it came to its end before."""
    child = os.fork()
    if not child:
        try:
            with instead_of(at, die):
                command()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


def kills(job: Callable[..., object], *args: object) -> Iterator[int]:
    """Kill the job in its 1st, 2nd, ... call that changes the disk; ends with the first run that was not killed."""
    for at in range(1, 200):
        if not killed(lambda: job(*args), at):
            return
        yield at


def test_extraction_killed_in_every_single_write_goes_on(tmp_path: Path) -> None:
    """Without a run in between: each start gets one write further, down to the last rename."""
    images, out = draw(tmp_path / "pictures", 4), tmp_path / "c.h5"
    run(images, tmp_path / "undisturbed.h5")
    before: set[int] = set()
    for at in kills(run, images, out):
        if out.exists():  # killed after the rename, while the folder was synced
            break
        now = committed(out).get("cues", set())
        assert now >= before, f"killed in call {at}: lost {before - now}"
        before = now
    assert before == set(range(4))
    run(images, out)
    assert_equal(out, tmp_path / "undisturbed.h5")
    assert leftovers(out) == ["c.h5", "c.h5.lock"]


def add_beauty(path: Path, ratings: Path) -> None:
    rate(path, ratings, "beauty", value_range=(0, 10), columns=Columns(rating="beauty"))


def test_rating_killed_in_every_single_write_leaves_the_cache_untouched(tmp_path: Path) -> None:
    images, out = draw(tmp_path / "pictures", 4), tmp_path / "c.h5"
    run(images, out)
    before, ratings = out.read_bytes(), tmp_path / "beauty.csv"
    ratings.write_text("file,beauty\n" + "".join(f"{i:03}.png,{i}\n" for i in range(4)))
    count = 0
    for at in kills(add_beauty, out, ratings):
        count = at
        if out.read_bytes() != before:
            break  # killed after the rename
        assert leftovers(out) in (["c.h5", "c.h5.lock", "c.h5.rewrite", "c.h5.writer"], ["c.h5", "c.h5.lock"])
    assert count > 10
    assert open_cache(out).verify() == [] and list(open_cache(out).targets) == ["beauty", "rating"]
    run(images, out)
    assert list(open_cache(out).targets) == ["beauty", "rating"]


def halves(images: Path, folder: Path) -> list[Path]:
    paths = [folder / f"{i}.h5" for i in (1, 2)]
    for i, path in enumerate(paths, 1):
        run(images, path, (i, 2))
    return paths


def test_merging_killed_in_every_single_write_leaves_nothing_half(tmp_path: Path) -> None:
    images, out = draw(tmp_path / "pictures", 4), tmp_path / "c.h5"
    shards = halves(images, tmp_path)
    run(images, tmp_path / "whole.h5")
    count = 0
    for at in kills(merge, shards, out):
        count = at
        if out.exists():
            break  # killed after the rename
    assert count > 10
    out.unlink()
    merge(shards, out)
    assert_equal(out, tmp_path / "whole.h5")


def test_merging_onto_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    images, out = draw(tmp_path / "pictures", 4), tmp_path / "c.h5"
    shards = halves(images, tmp_path)
    with instead_of(0, failing(errno.ENOSPC)) as calls:
        merge(shards, out)
    out.unlink()
    for at in range(1, len(calls)):
        with (
            instead_of(at, failing(errno.ENOSPC), persists=True),
            pytest.raises(DrexcacheError, match="no space left on the disk"),
        ):
            merge(shards, out)
        assert leftovers(out) == ["c.h5.lock"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose data are a few bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def extract_within(images: Path, out: Path, megabytes: int) -> None:
    """In a process of its own: fails if its memory grows by more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(images, out)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < megabytes, f"{grown:.0f} MB"


def test_absurd_pictures_are_failed_rows_and_take_no_memory(tmp_path: Path) -> None:
    images, out = draw(tmp_path / "pictures", 6), tmp_path / "c.h5"
    (images / "001.png").write_bytes(png(60_000, 60_000))
    (images / "002.png").write_bytes(png(2**31 - 1, 2**31 - 1))
    (images / "003.png").write_bytes(png(0, 10))
    process = FORKS.Process(target=extract_within, args=(images, out, 100))
    process.start()
    process.join()
    assert process.exitcode == 0
    cache = open_cache(out)
    assert list(cache.failures()) == ["001.png", "002.png", "003.png"]
    assert cache.failures()["001.png"] == "60000x60000 pixels, more than 500 megapixels"
    assert cache.status("cues").tolist() == [1, 2, 2, 2, 1, 1] and cache.verify() == []
