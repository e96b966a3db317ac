"""The files beside a cache while it is written: the lock, a note on who holds it, and the partial files."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from drexcache.errors import DrexcacheError
from drexcache.files import lock as lock_file
from drexcache.files import refuse_output, require_file

if TYPE_CHECKING:
    from filelock import BaseFileLock


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """A context that holds the exclusive right to write ``path``, even if it is reached through a link.

    A process that dies releases the lock. On a file system without locks, a file that exists while the cache is written
    serves as the lock; if a process on another machine dies and leaves it behind, it has to be removed by hand, as the
    message says.

    Raises
    ------
    DrexcacheError : another process is writing (names it), or the folder cannot be written to.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    refuse_output(path)
    if path.exists():
        require_file(path)
    real = path.resolve()
    note = Path(f"{real}.writer")
    lock: BaseFileLock | None = None
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLock(f"{real}.softlock") if _without_locks(real.parent) else FileLock(f"{real}.lock")
        lock.acquire(blocking=False)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        note.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}\n", encoding="utf-8")
    except Timeout as error:
        holder = note.read_text(encoding="utf-8").strip() if note.is_file() else "another process"
        soft = f" (if that process is dead, remove {lock.lock_file})" if isinstance(lock, SoftFileLock) else ""
        raise DrexcacheError(
            f"{path}: being written by {holder}; wait for it, or stop it, and run again{soft}"
        ) from error
    except OSError as error:
        with suppress(OSError):  # if it cannot be removed, it could not be written either
            note.unlink()
        if lock is not None:
            lock.release()
        raise no_space(error, path) from error
    try:
        _remove_half_written(real)  # by a process that was killed
        yield
    finally:
        with suppress(OSError):  # of a disk that has just failed; the next writer tries again
            _remove_half_written(real)
        note.unlink(missing_ok=True)
        lock.release()


def _remove_half_written(real: Path) -> None:
    for left in (Path(f"{real}.rewrite"), *partial_paths(real, ".new")):
        left.unlink(missing_ok=True)


def _without_locks(folder: Path) -> bool:
    with tempfile.TemporaryFile(dir=folder) as probe:  # also fails if no file can be created in the folder
        return sys.platform != "win32" and not lock_file(probe.fileno(), wait=False)


def partial_paths(final: Path, ending: str = "") -> list[Path]:
    """The partial files of a cache, oldest first; or those with this ending, which are not yet whole."""
    real = final.resolve()
    numbered = re.compile(re.escape(real.name) + r"\.partial-([1-9][0-9]{0,8})" + re.escape(ending))
    found = ((numbered.fullmatch(path.name), path) for path in real.parent.glob("*.partial-*"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def no_space(error: OSError, final: Path, needed: int | None = None) -> DrexcacheError:
    """The error for a write that failed, mostly for lack of space."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error):
        size = f" (the whole cache takes {max(needed / 1e6, 0.1):,.1f} MB)" if needed else ""
        what = f"no space left on the disk{size}; free some"
    else:
        what = (
            f"writing failed ({error.strerror or error}) in {final.absolute().parent}; check the disk or choose another"
        )
    return DrexcacheError(f"{final}: {what} and run the same command again, rows already committed are kept")
