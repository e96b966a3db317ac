"""The right to write a cache: one process at a time, by a lock beside the file."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from drexcache.errors import DrexcacheError


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the right to write ``path``; a lock left by a dead process holds nobody up.

    Raises
    ------
    DrexcacheError : another process is writing, which the message names; the folder cannot be written to.
    """
    lock, note = FileLock(f"{path}.lock", blocking=False), Path(f"{path}.writer")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder in which no file can be made, such as one of /proc, looks to FileLock like a lock that is held.
        tempfile.TemporaryFile(dir=path.parent).close()
        lock.acquire()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        note.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}\n", encoding="utf-8")
    except Timeout as error:
        holder = note.read_text(encoding="utf-8").strip() if note.is_file() else "another process"
        raise DrexcacheError(f"{path}: being written by {holder}; wait for it, or stop it, and run again") from error
    except OSError as error:
        with suppress(OSError):  # where it cannot be removed it could not be written
            note.unlink()
        lock.release()
        raise no_space(error, path) from error
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def no_space(error: OSError, final: Path, needed: int | None = None) -> DrexcacheError:
    """The sentence for a write that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error):
        size = f" (the whole cache takes {max(needed / 1e6, 0.1):,.1f} MB)" if needed else ""
        what = f"no space left on the disk{size}; free some"
    else:
        what = f"writing failed ({error.strerror or error}) in {final.absolute().parent}; mend the disk or take another"
    return DrexcacheError(f"{final}: {what} and run the same command again, rows already committed are kept")
