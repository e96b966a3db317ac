"""A disk that loses its power: every change that a run makes is recorded, and any state that a cut may leave is built.

Recorded are the calls of the module os by which files change. What a completed sync covered is on the disk; of what
came later any part may be: each sector, or a part of one, for itself, older or newer, written or not; names are there
or not yet; room that was taken for a new file holds what stood there before until the file is synced.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PIECES = (8, 64, 512)  # bytes that reach the disk together; a disk promises 512


@dataclass
class Disk:
    """One file's bytes: ``safe`` is on the disk, ``later`` are writes (offset, data) that may be there or not."""

    safe: bytes = b""
    later: list[tuple[int, bytes]] = field(default_factory=list)
    new: bool = False  # never synced: what is not written holds anything

    def copy(self) -> Disk:
        return Disk(self.safe, list(self.later), self.new)

    def now(self) -> bytes:
        data = bytearray(self.safe)
        for offset, piece in self.later:
            data.extend(bytes(max(0, offset + len(piece) - len(data))))
            data[offset : offset + len(piece)] = piece
        return bytes(data)

    def after_a_cut(self, rng: random.Random) -> bytes:
        """One of the contents that the file may have when the power comes back."""
        if not self.later:
            return self.safe
        size = max([len(self.safe), *(offset + len(piece) for offset, piece in self.later)])
        if self.new and rng.random() < 0.3:
            size = rng.randrange(size + 1)  # not even its length was written down
        data = bytearray(rng.randbytes(size) if self.new and rng.random() < 0.5 else bytes(size))
        data[: len(self.safe)] = self.safe[:size]
        kept, step = rng.random(), rng.choice(PIECES)
        image = bytearray(self.safe.ljust(max([size, *(o + len(p) for o, p in self.later)]), b"\0"))
        versions: dict[int, list[bytes]] = {}
        for offset, piece in self.later:
            image[offset : offset + len(piece)] = piece
            for at in range(offset // step * step, offset + len(piece), step):
                versions.setdefault(at, []).append(bytes(image[at : at + step]))
        for at, contents in versions.items():
            if rng.random() < kept:
                content = contents[-1] if rng.random() < 0.7 else rng.choice(contents)
                data[at : at + len(content)] = content
        return bytes(data[:size])


@dataclass
class Moment:
    """The disk between two calls: files by inode, the names that are safe, and the changes of names that came later."""

    files: dict[int, Disk]
    names: dict[str, int]
    renames: list[tuple[str | None, str | None, int]]  # (old name, new name, inode)
    synced: int  # calls of sync so far

    def after_a_cut(self, rng: random.Random) -> dict[str, bytes]:
        """Name -> contents, of one of the states that a cut at this moment may leave."""
        names = dict(self.names)
        count = rng.randrange(len(self.renames) + 1) if self.renames else 0
        for old, new, inode in self.renames[:count]:
            if old is not None:
                names.pop(old, None)
            if new is not None:
                names[new] = inode
        return {name: self.files[inode].after_a_cut(rng) for name, inode in sorted(names.items())}

    def after_a_kill(self) -> dict[str, bytes]:
        """Name -> contents where the process ends here and the disk keeps its power."""
        names = dict(self.names)
        for old, new, inode in self.renames:
            names.pop(old or "", None)
            if new is not None:
                names[new] = inode
        return {name: self.files[inode].now() for name, inode in sorted(names.items())}


class Recorder:
    """Watches the files of a folder whose name begins with ``prefix``; ``moments`` holds the disk after each change."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder.resolve(), prefix
        self.files: dict[int, Disk] = {}
        self.names: dict[str, int] = {}
        self.renames: list[tuple[str | None, str | None, int]] = []
        self.moments: list[Moment] = []
        self.synced = 0
        for path in self.folder.iterdir():
            if self.watched(path) and path.is_file():
                self.names[path.name] = path.stat().st_ino
                self.files[path.stat().st_ino] = Disk(path.read_bytes())
        self.moment()

    def watched(self, path: str | os.PathLike[str]) -> bool:
        path = Path(path)
        aside = path.suffix in (".lock", ".writer")
        return path.name.startswith(self.prefix) and not aside and path.parent.resolve() == self.folder

    def moment(self) -> None:
        files = {inode: disk.copy() for inode, disk in self.files.items()}
        self.moments.append(Moment(files, dict(self.names), list(self.renames), self.synced))

    def disk(self, descriptor: int) -> Disk | None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_ino not in self.files:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not self.watched(path):
                return None
            # made by the HDF5 library, whose writes are not seen: all of them as one, before this call
            self.files[status.st_ino] = Disk(b"", [(0, path.read_bytes())], new=True)
            self.renames.append((None, path.name, status.st_ino))
            self.moment()
        return self.files[status.st_ino]

    def pwrite(self, real: Callable[..., int], descriptor: int, data: Any, offset: int) -> int:
        disk = self.disk(descriptor)
        written = real(descriptor, data, offset)
        if disk is not None:
            disk.later.append((offset, bytes(data)[:written]))
            self.moment()
        return written

    def sync(self, real: Callable[..., None], descriptor: int) -> None:
        disk = self.disk(descriptor)
        real(descriptor)
        if disk is not None:
            disk.safe, disk.later, disk.new = disk.now(), [], False
        elif Path(f"/proc/self/fd/{descriptor}").readlink() == self.folder:
            for old, new, inode in self.renames:
                self.names.pop(old or "", None)
                if new is not None:
                    self.names[new] = inode
            self.renames = []
        self.synced += 1
        self.moment()

    def retire(self, path: Any) -> None:
        """The file of this name goes, and its inode's number may be another file's soon."""
        inode = Path(path).stat().st_ino if Path(path).exists() else -1
        if inode in self.files:
            gone = min(0, *self.files) - 1
            self.files[gone] = self.files.pop(inode)
            self.names = {name: gone if at == inode else at for name, at in self.names.items()}
            self.renames = [(old, new, gone if at == inode else at) for old, new, at in self.renames]

    def rename(self, real: Callable[..., None], old: Any, new: Any, **options: Any) -> None:
        inode = Path(old).stat().st_ino
        self.retire(new)
        real(old, new, **options)
        if self.watched(old) or self.watched(new):
            self.renames.append((Path(old).name, Path(new).name, inode))
            self.moment()

    def unlink(self, real: Callable[..., None], path: Any, **options: Any) -> None:
        self.retire(path)
        real(path, **options)
        if self.watched(path):
            self.renames.append((Path(path).name, None, 0))
            self.moment()

    def truncate(self, real: Callable[..., None], descriptor: int, size: int) -> None:
        disk = self.disk(descriptor)
        real(descriptor, size)
        if disk is not None:
            before = len(disk.now())
            assert size >= before, "no file of ours ever shrinks"
            disk.later.append((before, bytes(size - before)))
            self.moment()


@contextlib.contextmanager
def recorded(folder: Path, prefix: str) -> Iterator[Recorder]:
    """Record what happens to the files ``prefix``* of a folder."""
    recorder = Recorder(folder, prefix)
    calls = {
        "pwrite": recorder.pwrite, "fsync": recorder.sync, "fdatasync": recorder.sync, "replace": recorder.rename,
        "rename": recorder.rename, "unlink": recorder.unlink, "ftruncate": recorder.truncate,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, watcher in calls.items():
            real = getattr(os, name)
            patch.setattr(os, name, lambda *args, real=real, watcher=watcher, **kw: watcher(real, *args, **kw))
        yield recorder


def states(recorder: Recorder, count: int, seed: int) -> Iterator[tuple[Moment, dict[str, bytes]]]:
    """That many different states that a cut somewhere in the run may leave, with the moment before the cut."""
    rng, seen, tries = random.Random(seed), set(), 0
    while len(seen) < count and tries < 30 * count:
        tries += 1
        moment = rng.choice(recorder.moments)
        state = moment.after_a_cut(rng)
        key = hash(tuple(state.items()))
        if key not in seen:
            seen.add(key)
            yield moment, state


def restore(folder: Path, prefix: str, state: dict[str, bytes]) -> None:
    """Put these files there, and no others of that name."""
    for path in folder.glob(f"{prefix}*"):
        if path.is_file():
            path.unlink()
    for name, data in state.items():
        (folder / name).write_bytes(data)
