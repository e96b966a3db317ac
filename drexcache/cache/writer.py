"""Writing a cache so that a crash at any moment loses nothing that was committed.

A cache is filled as ``NAME.partial-K`` beside its final place and renamed when it is whole. The partial file's HDF5
metadata and its size are written once, at creation; afterwards rows are written into fixed places, and a row counts
only when its status byte says so, which is written after the row's values and checksum are on the disk.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from drexcache.cache import storage
from drexcache.cache.format import DONE, FAILED, FAILURE_BYTES, Contents
from drexcache.cache.reader import FeatureCache
from drexcache.errors import DrexcacheError

COMMIT_SECONDS, COMMIT_ROWS = 2.0, 1 << 15
COPY_BYTES = 8 << 20


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


class CacheWriter:
    """Fills one partial file; use `start_writer` to get one.

    ``done(block)`` tells which rows are committed; ``put`` writes rows, ``commit`` makes them count, ``finish``
    publishes the file. Features go to the file at once, the few bytes a row beside them with the next commit.
    """

    def __init__(self, partial: Path) -> None:
        self.cache = FeatureCache(partial)
        self.path = partial
        self._fd = os.open(partial, os.O_RDWR)
        self._waiting: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # dataset -> rows, values
        self._status: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # written when all else is on the disk
        self._synced, self._uncommitted = time.monotonic(), 0

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or not issubclass(kind, OSError):
                self.commit()
        finally:
            os.close(self._fd)

    def done(self, block: str) -> np.ndarray:
        """bool (n,): rows that are committed."""
        return self.cache.status(block) == DONE

    def put(self, block: str, rows: np.ndarray, features: np.ndarray) -> None:
        """Write features (k, d) of these rows; they count after the next `commit`, which comes by itself in time."""
        values = np.ascontiguousarray(features, dtype=self.cache._extents[f"/blocks/{block}/features"].dtype)
        checks = np.fromiter((zlib.crc32(row) for row in values), dtype="<u4", count=len(values))
        self._write_rows(f"/blocks/{block}/features", rows, values)
        self._waiting.setdefault(f"/blocks/{block}/crc32", []).append((rows, checks))
        self._status.setdefault(f"/blocks/{block}/status", []).append((rows, np.full(len(rows), DONE, "u1")))
        self._uncommitted += len(rows)

    def put_files(self, rows: np.ndarray, hashes: np.ndarray, stats: np.ndarray, failures: Sequence[str]) -> None:
        """Write what is known of these images' files: SHA-256 (k, 32), size and mtime (k, 2), "" or why unreadable."""
        texts = [reason.encode()[:FAILURE_BYTES].decode(errors="ignore").encode() for reason in failures]
        known = {
            "sha256": np.asarray(hashes, "u1"), "bytes": np.asarray(stats[:, 0], "<i8"),
            "mtime_ns": np.asarray(stats[:, 1], "<i8"), "failure": np.array(texts, dtype=f"S{FAILURE_BYTES}"),
        }  # fmt: skip
        for name, values in known.items():
            self._waiting.setdefault(f"/images/{name}", []).append((rows, values))

    def put_failed(self, block: str, rows: np.ndarray) -> None:
        """Mark these rows as failed in the block; a later run tries them again."""
        self._status.setdefault(f"/blocks/{block}/status", []).append((rows, np.full(len(rows), FAILED, "u1")))

    def tick(self) -> None:
        """Commit when the last commit is some time, or very many rows, ago."""
        if time.monotonic() - self._synced > COMMIT_SECONDS or self._uncommitted > COMMIT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Make every row written so far count: the values reach the disk before the status that vouches for them."""
        self._write_waiting(self._waiting)
        if self._status:
            _sync(self._fd)
            self._write_waiting(self._status)
        self._synced, self._uncommitted = time.monotonic(), 0

    def _write_waiting(self, waiting: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> None:
        for name, parts in waiting.items():
            rows, values = (np.concatenate(side) for side in zip(*parts, strict=True))
            self._write_rows(name, rows, values)
        waiting.clear()

    def finish(self, final: Path) -> None:
        """Write the checksums, mark the file complete and put it under its final name, replacing an older one."""
        self.commit()
        for block in self.cache.blocks:
            self._write(f"/blocks/{block}/checksum", self.cache.block_checksum(block))
        self._write("/images/checksum", self.cache.image_checksum())
        _sync(self._fd)
        self._write("/complete", b"\1")
        os.fsync(self._fd)
        self.path.replace(final)
        sync_folder(final.parent)

    def _write_rows(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        extent = self.cache._extents[name]
        for start, stop in _runs(rows):
            self._pwrite(values[start:stop], extent.offset + int(rows[start]) * extent.row_bytes)

    def _write(self, name: str, data: bytes | np.ndarray) -> None:
        self._pwrite(data, self.cache._extents[name].offset)

    def _pwrite(self, data: bytes | np.ndarray, offset: int) -> None:
        view = memoryview(data.reshape(-1).view("u1").data if isinstance(data, np.ndarray) else data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written


def start_writer(
    final: Path,
    contents: Contents,
    sources: Sequence[FeatureCache],
    files: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[CacheWriter, dict[Path, int]]:
    """The writer to fill for these contents, holding every row that ``sources`` can give. Call it under `writer_lock`.

    Goes on in place where an interrupted run wanted the same contents; otherwise takes its rows over: those whose
    image id, file hash and block fingerprint agree and whose checksum holds.

    Parameters
    ----------
    sources : the caches of `open_sources`, or others whose rows are wanted.
    files : SHA-256 (n, 32) and size and mtime (n, 2) of the files as they are now, for every image that a source
        knows; None takes the sources' word for them.

    Returns
    -------
    The writer, and for each source the number of its rows whose checksum did not hold.
    """
    partials = [cache for cache in sources if cache.path in partial_paths(final)]
    wanted = contents.attributes(), contents.datasets()
    fitting = [cache for cache in partials if (cache.contents.attributes(), cache.contents.datasets()) == wanted]
    writer = CacheWriter(fitting[-1].path if fitting else _new_partial(final, contents))
    damaged = {}
    try:
        if fitting:
            damaged[writer.path] = _drop_unfit(writer, files)
        for source in sources:
            if source.path != writer.path:
                damaged[source.path] = take_rows(writer, source, files)
        writer.commit()
    except BaseException:
        os.close(writer._fd)
        raise
    for cache in partials:
        if cache.path != writer.path:
            cache.path.unlink(missing_ok=True)
    return writer, {path: count for path, count in damaged.items() if count}


def open_sources(final: Path) -> tuple[list[FeatureCache], list[str]]:
    """The finished cache, if there is one, and the partial files of interrupted extractions, oldest first.

    A partial file that cannot be read is moved aside; the second value says so, a sentence for each.
    """
    found, notes = ([FeatureCache(final)] if final.exists() else []), []
    for path in partial_paths(final):
        try:
            _mend_length(path)
            found.append(FeatureCache(path))
        except DrexcacheError as error:
            aside = path.with_name(f"{path.name.replace('.partial-', '.damaged-')}")
            path.replace(aside)
            notes.append(f"{error}; moved to {aside.name}, its rows are computed again")
    return found, notes


def partial_paths(final: Path) -> list[Path]:
    """The partial files of a cache, oldest first."""
    found = final.parent.glob(f"{final.name}.partial-*")
    return sorted((p for p in found if p.suffix != ".new"), key=lambda p: int(p.name.rpartition("-")[2]))


def take_rows(writer: CacheWriter, source: FeatureCache, files: tuple[np.ndarray, np.ndarray] | None) -> int:
    """Copy every row of ``source`` that the writer lacks and that belongs to it; the number that were damaged."""
    rows = {image: row for row, image in enumerate(writer.cache.ids)}
    place = np.array([rows.get(image, -1) for image in source.ids], dtype=np.int64)
    theirs, stats, fits, damaged = source.hashes(), source.stats(), place >= 0, 0
    if files is not None:
        fits &= (files[0][place] == theirs).all(axis=1)
        stats = files[1][place]
    for name, block in source.blocks.items():
        mine = writer.cache.blocks.get(name)
        if mine is None or mine.fingerprint != block.fingerprint or mine.dtype != block.dtype:
            continue
        wanted = np.flatnonzero(fits & (source.status(name) == DONE) & ~writer.done(name)[place])
        step, stored = max(1, COPY_BYTES // (block.dim * np.dtype(block.dtype).itemsize)), source.crc32(name)
        for piece in (wanted[i : i + step] for i in range(0, len(wanted), step)):
            values = _read_rows(source, name, piece)
            good = np.array([zlib.crc32(row) == stored[at] for row, at in zip(values, piece, strict=True)], dtype=bool)
            damaged += int((~good).sum())
            kept = piece[good]
            writer.put(name, place[kept], values[good])
            writer.put_files(place[kept], theirs[kept], stats[kept], [""] * len(kept))
            writer.tick()
    return damaged


def _read_rows(source: FeatureCache, block: str, rows: np.ndarray) -> np.ndarray:
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first == len(rows):
        return source.features(block, slice(first, last))
    return source.features(block, rows)


def _drop_unfit(writer: CacheWriter, files: tuple[np.ndarray, np.ndarray] | None) -> int:
    """Forget committed rows of an interrupted run whose checksum or file hash does not hold; the number damaged."""
    damaged = 0
    for name in writer.cache.blocks:
        done = np.flatnonzero(writer.done(name))
        bad = done[~writer.cache.intact(name)]
        damaged += len(bad)
        stale = done[(files[0][done] != writer.cache.hashes()[done]).any(axis=1)] if files is not None else done[:0]
        unfit = np.union1d(bad, stale)
        writer._write_rows(f"/blocks/{name}/status", unfit, np.zeros(len(unfit), "u1"))
    return damaged


def _new_partial(final: Path, contents: Contents) -> Path:
    taken = [int(path.name.rpartition("-")[2]) for path in partial_paths(final)]
    path = final.with_name(f"{final.name}.partial-{max(taken, default=0) + 1}")
    fresh = path.with_name(path.name + ".new")
    create_empty(fresh, contents, final)
    fresh.replace(path)
    sync_folder(path.parent)
    return path


def create_empty(path: Path, contents: Contents, final: Path) -> None:
    """Write a file with room for all of ``final``, in which ids, ratings and labels, known from the start, stand.

    Raises
    ------
    DrexcacheError : no space for the whole of it, or the folder cannot be written to.
    """
    path.unlink(missing_ok=True)
    try:
        storage.create(path, contents.attributes(), contents.datasets())
        _write_known(path, contents)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise no_space(error, final, _bytes_of(contents)) from error


def _write_known(path: Path, contents: Contents) -> None:
    with CacheWriter(path) as writer:
        texts = {"/images/id": contents.ids} | {f"/labels/{name}/value": c for name, c in contents.labels.items()}
        for name, column in texts.items():
            dtype = writer.cache._extents[name].dtype
            writer._write(name, np.fromiter((value.encode() for value in column), dtype, len(column)))
        for name, target in contents.targets.items():
            writer._write(f"/targets/{name}/value", np.ascontiguousarray(target.values, "<f8"))
        os.fsync(writer._fd)


def _mend_length(path: Path) -> None:
    """Give a partial file that was cut off its full length back: the lost rows then fail their checksums."""
    with path.open("r+b") as file:
        head = file.read(48)
        if len(head) == 48 and head[:8] == b"\x89HDF\r\n\x1a\n" and head[8] in (2, 3):
            end = int.from_bytes(head[28:36], "little")  # the superblock's end-of-file address
            if os.fstat(file.fileno()).st_size < end < 1 << 50:
                file.truncate(end)


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Positions (start, stop) of stretches of consecutive row numbers."""
    cuts = np.flatnonzero(rows[1:] - rows[:-1] != 1) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    yield from ((a, b) for a, b in itertools.pairwise(edges) if b > a)


def _bytes_of(contents: Contents) -> int:
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in contents.datasets().values())


def no_space(error: OSError, final: Path, needed: int | None = None) -> DrexcacheError:
    """The sentence for a write that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error):
        size = f" (the whole cache takes {max(needed / 1e6, 0.1):,.1f} MB)" if needed else ""
        what = f"no space left on the disk{size}; free some"
    else:
        what = f"writing failed ({error.strerror or error}) in {final.absolute().parent}; mend the disk or take another"
    return DrexcacheError(f"{final}: {what} and run the same command again, rows already committed are kept")


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
