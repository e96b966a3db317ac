"""Outputs that are old or new, never half-written: written under another name, synced, then renamed into place."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from drexcache.errors import DrexcacheError

if sys.platform != "win32":
    import fcntl

Content = str | bytes | Callable[[BinaryIO], object]  # a function writes the content into the file it is given

_FIRST_BYTES = {
    b"\x89HDF\r\n\x1a\n": "a cache", b"\x89PNG": "an image", b"\xff\xd8\xff": "an image",
    b"PK\3\4": "a zip or a workbook",
}  # fmt: skip
_NOT_TEXT = {*range(9), *range(14, 32)}


def write_file(path: str | Path | BinaryIO, content: Content) -> None:
    """Write one file completely, or leave the old one untouched; text is UTF-8, missing folders are created.

    A file that `write_files` has opened is written to as it is: what writes a file by itself may be a content there.

    Raises
    ------
    DrexcacheError : the file cannot be written (says why).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/a/scores.csv", "id,score\\n")
    ...     write_file(f"{folder}/a/scores.csv", lambda file: file.write(b"id\\n"))
    ...     [(path.name, path.read_text()) for path in Path(folder, "a").iterdir()]
    [('scores.csv', 'id\\n')]
    """
    if isinstance(path, str | Path):
        write_files({path: content})
    else:
        _put(path, content)


def write_files(contents: Mapping[str | Path, Content]) -> None:
    """Write files that belong together: all are on the disk before the first is renamed.

    A process killed between two renames still leaves new files beside old ones. Files that must not be mixed should
    therefore all hold the same `run_id`, for their reader to compare.

    Raises
    ------
    DrexcacheError : a file cannot be written; then none is replaced, unless it was the renaming that failed.
    """
    with ExitStack() as stack:
        opened = [(path, stack.enter_context(_opened(Path(path)))) for path in contents]
        for path, (file, _) in opened:
            with naming(path):
                _fill(file, contents[path])
        renamed = [(path, Path(file.name), final) for path, (file, final) in opened if final]
        for path, fresh, final in renamed:
            with naming(path):
                fresh.replace(final)
        for folder in {final.parent for _, _, final in renamed}:
            with naming(folder):
                sync_folder(folder)


def refuse_output(path: object) -> None:
    """Raise DrexcacheError for a name on the Hub, which would become a local folder called "hf:"."""
    if str(path).startswith(("hf:/", "hf:\\")):
        raise DrexcacheError(f"{path}: names on the Hub are only read; write a file here, then drexcache push")


def run_id(*contents: bytes) -> str:
    """A short digest of what one run wrote; equal contents give equal digests.

    >>> run_id(b"scores", b"predictions")
    '1b9c82b49144'
    """
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()[:12]


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A context that turns an OSError into the sentence that this path cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be written ({error.strerror or error})") from error


def require_file(path: Path, what: str = "file") -> None:
    """Raise DrexcacheError unless there is a regular file of that name."""
    if not path.is_file():
        found = "a folder, " if path.is_dir() else ""
        raise DrexcacheError(f"{path}: {f'{found}not a regular file' if path.exists() else f'no such {what}'}")


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read it; a pipe, socket or device raises OSError at once instead of blocking."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("not a regular file")
    return file


def read_regular(path: str | Path) -> bytes:
    """Read a whole regular file; OSError as in `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def sync_folder(folder: str | Path) -> None:
    """Make the renames in this folder last through a power cut."""
    if sys.platform == "win32":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(file: BinaryIO, content: Content) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def _fill(file: BinaryIO, content: Content) -> None:
    _put(file, content)
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fsync(file.fileno())


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Path | None]]:
    """Open NAME.new beside ``path``, removed at the end unless it was renamed; yields it and its final name.

    A killed process leaves NAME.new behind, and the next one that writes NAME overwrites it. A device or a pipe is
    opened itself, with None for the final name.
    """
    refuse_output(path)
    if path.exists() and not path.is_file():
        with naming(path), path.open("wb") as device:
            yield device, None
        return
    final = path.resolve()  # so that a link stays a link
    with naming(path):
        final.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(final.with_name(f"{final.name}.new"), path)
    try:
        if final.exists():
            with naming(path):
                Path(file.name).chmod(stat.S_IMODE(final.stat().st_mode))
        yield file, final
    finally:
        if _is(file, Path(file.name)):
            Path(file.name).unlink()
        with suppress(OSError):  # what a full disk has not taken, and would refuse again without the file's name
            file.close()


def _locked(fresh: Path, path: Path) -> BinaryIO:
    """Open an empty file of that name, locked against other processes."""
    while True:
        file = open(fresh, "r+b", opener=_create)  # noqa: SIM115
        try:
            lock(file.fileno(), wait=False)
        except BlockingIOError as error:
            file.close()
            raise DrexcacheError(f"{path}: another process is writing it; wait for it and run again") from error
        if _is(file, fresh):
            file.truncate()
            return file
        file.close()  # the process that held the lock has just renamed it


def _create(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether the open file still has that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def size_text(size: float) -> str:
    """Format a number of bytes for people.

    >>> size_text(400), size_text(25_000), size_text(3_400_000), size_text(12e9)
    ('400 bytes', '25 kB', '3.4 MB', '12,000.0 MB')
    """
    if size < 1e6:
        return f"{size / 1e3:.0f} kB" if size >= 1e3 else f"{size:.0f} bytes"
    return f"{size / 1e6:,.1f} MB"


def kind_of_file(path: str | Path) -> str:
    """What a file is by its first bytes: "a cache" (or another HDF5 file), "a model", "an image", "a zip",
    "a text" or "binary"; "" for none, or an empty one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "scores.csv").write_text("id,score")
    ...     kind_of_file(f"{folder}/scores.csv"), kind_of_file(folder), kind_of_file(f"{folder}/no.csv")
    ('a text', 'a folder', '')
    """
    path = Path(path)
    if path.is_dir():
        return "a folder"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:].startswith(b'{"__metadata__":{"drexcache":'):
        return "a model"
    if not head:
        return ""
    other = "binary" if _NOT_TEXT.intersection(head) else "a text"
    return next((kind for start, kind in _FIRST_BYTES.items() if head.startswith(start)), other)


def utf8_name(name: str, where: object = None) -> str:
    """A file's name as text, also where the locale of this process knows ASCII alone.

    Raises
    ------
    DrexcacheError : the name is not UTF-8; without ``where`` it was found, what is no text becomes a question mark.
    """
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        text = os.fsencode(name).decode(errors="replace")
    if where is not None and "\ufffd" in text:
        raise DrexcacheError(f"{where}: the file name {name!r} is not UTF-8; rename the file")
    return text


def lock(descriptor: int, wait: bool = True) -> bool:
    """Keep out every other process that locks this open file, until it is closed; False where there are no locks.

    Raises
    ------
    BlockingIOError : another process has locked it, and ``wait`` is False.
    """
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return sys.platform != "win32"
    except BlockingIOError:
        raise
    except OSError:
        return False


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` to an open file, starting at byte ``offset``."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sync(descriptor: int) -> None:
    """Wait until what was written to an open file is on the disk."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Allocate ``size`` bytes for a file now, if the file system can."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
