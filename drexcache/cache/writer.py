"""Writing a cache so that a crash at any moment loses nothing that was committed.

A cache is filled as ``NAME.partial-K`` beside its final place and renamed when complete. The partial file's HDF5
metadata and its size are written once, at creation; afterwards rows are written at fixed offsets. A row counts only if
its seal holds: a checksum over the image's id and file hash, the features' checksum and the row's status, written
after all of them are on the disk. No seal matches a mixture of old and new that a power cut may leave.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drexcache.cache.beside import no_space, partial_paths
from drexcache.cache.checks import SEALED_OF_IMAGE, sealed_of_block, seals
from drexcache.cache.format import DONE, FAILED, FAILURE_BYTES, MISSING, VERSION, Contents
from drexcache.cache.reader import FeatureCache
from drexcache.cache.storage import create
from drexcache.errors import DrexcacheError
from drexcache.files import sync_folder
from drexcache.progress import step_bar

COMMIT_SECONDS, COMMIT_ROWS = 2.0, 1 << 15
COPY_BYTES = 8 << 20


class CacheWriter:
    """Fills one partial file; use `start_writer` to get one.

    ``done(block)`` tells which rows are committed; ``put`` writes rows, ``commit`` makes them count, ``finish``
    publishes the file. Features are written at once, the few other bytes of each row with the next commit.
    """

    def __init__(self, partial: Path) -> None:
        self.cache = FeatureCache(partial, writable=True)
        self.path = partial
        self._storage = self.cache.storage
        self._waiting: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # dataset -> rows, values
        self._synced, self._uncommitted = time.monotonic(), 0

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or not issubclass(kind, OSError):
                self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; rows that were not committed do not count."""
        self._storage.close()

    def done(self, block: str) -> np.ndarray:
        """Whether each row is committed: bool (n,)."""
        return self.cache.status(block) == DONE

    def put(self, block: str, rows: np.ndarray, features: np.ndarray) -> None:
        """Write features (k, d) of these rows; they count after the next `commit` (see `tick`)."""
        values = np.ascontiguousarray(features, dtype=self._storage.extents[f"/blocks/{block}/features"].dtype)
        checks = np.fromiter((zlib.crc32(row) for row in values), dtype="<u4", count=len(values))
        self._storage.write_rows(f"/blocks/{block}/features", rows, values)
        self._later(f"/blocks/{block}/crc32", rows, checks)
        self._later(f"/blocks/{block}/status", rows, np.full(len(rows), DONE, "u1"))
        self._uncommitted += len(rows)

    def put_files(self, rows: np.ndarray, hashes: np.ndarray, stats: np.ndarray, failures: Sequence[str]) -> None:
        """Record these images' files: SHA-256 (k, 32), size and state (k, 2), and the reason of failure or "".

        Call it before `put`: if a file has changed, its rows become missing in every block.
        """
        texts = [reason.encode()[:FAILURE_BYTES].decode(errors="ignore").encode() for reason in failures]
        before, hashes = self._storage.gather("/images/sha256", rows), np.asarray(hashes, "u1")
        changed = rows[(before != hashes).any(axis=1) & before.any(axis=1)]
        known = rows[hashes.any(axis=1) & ~before.any(axis=1)]  # hashed for the first time: imported features stay
        for block in self.cache.blocks:
            self.forget(block, changed)
            kept = known[self._storage.gather(f"/blocks/{block}/status", known) == DONE]
            self._later(f"/blocks/{block}/status", kept, np.full(len(kept), DONE, "u1"))
        self._later("/images/sha256", rows, hashes)
        self._later("/images/bytes", rows, np.asarray(stats[:, 0], "<i8"))
        self._later("/images/mtime_ns", rows, np.asarray(stats[:, 1], "<i8"))
        self._later("/images/failure", rows, np.array(texts, dtype=f"S{FAILURE_BYTES}"))

    def put_failed(self, block: str, rows: np.ndarray) -> None:
        """Mark these rows as failed in the block; a later run tries them again."""
        self._later(f"/blocks/{block}/status", rows, np.full(len(rows), FAILED, "u1"))

    def forget(self, block: str, rows: np.ndarray) -> None:
        """Mark these rows (k,) as missing in the block."""
        self._later(f"/blocks/{block}/status", rows, np.full(len(rows), MISSING, "u1"))

    def tick(self) -> None:
        """Commit if the last commit is more than `COMMIT_SECONDS` or `COMMIT_ROWS` ago."""
        if time.monotonic() - self._synced > COMMIT_SECONDS or self._uncommitted > COMMIT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Make every row written so far count; when this returns, they survive even a power cut."""
        touched = {
            name: np.unique(np.concatenate([rows for rows, _ in parts])) for name, parts in self._waiting.items()
        }
        for name, parts in self._waiting.items():
            rows, values = (np.concatenate(side) for side in zip(*parts, strict=True))
            self._storage.write_rows(name, rows, values)
        self._waiting.clear()
        if touched:
            self._storage.sync()  # if it fails, the run ends before any seal covers what was lost
            self._seal("/images/seal", SEALED_OF_IMAGE, touched.get("/images/sha256"))
            for block in self.cache.blocks:
                self._seal(f"/blocks/{block}/seal", sealed_of_block(block), touched.get(f"/blocks/{block}/status"))
            self._storage.sync()
        self._synced, self._uncommitted = time.monotonic(), 0

    def _later(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        self._waiting.setdefault(name, []).append((rows, values))

    def _seal(self, name: str, columns: Sequence[str], rows: np.ndarray | None) -> None:
        if rows is not None and len(rows):
            self._storage.write_rows(name, rows, seals([self._storage.gather(column, rows) for column in columns]))

    def finish(self, final: Path) -> None:
        """Write the checksums, mark the file complete and rename it to its final name, replacing an older one."""
        self.commit()
        for block in self.cache.blocks:
            self._write_checksum(f"/blocks/{block}/checksum", self.cache.block_checksum(block))
        self._write_checksum("/images/checksum", self.cache.image_checksum())
        self._storage.sync()
        self._storage.write("/complete", np.ones(1, "u1"))
        self._storage.sync()
        real = final.resolve()  # so that a link stays a link
        self.path.replace(real)
        sync_folder(real.parent)

    def reopen(self) -> None:
        """Clear the complete mark, which is set if a run was stopped just before the rename."""
        if self.cache.complete:
            self._storage.write("/complete", np.zeros(1, "u1"))
            self._storage.sync()
            self.cache.complete = False

    def _write_checksum(self, name: str, digest: bytes) -> None:
        self._storage.write(name, np.frombuffer(digest, "u1"))


def start_writer(
    final: Path,
    contents: Contents,
    sources: Sequence[FeatureCache],
    files: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[CacheWriter, dict[Path, int]]:
    """The writer for these contents, already filled with every usable row of ``sources``. Call it under `writer_lock`.

    If an interrupted run wanted the same contents, its partial file is continued in place. From other sources, rows are
    copied if image id, file hash and block fingerprint agree and the checksum holds.

    Parameters
    ----------
    sources : the caches of `open_sources`, or others to take rows from.
    files : SHA-256 (n, 32) and size and state (n, 2) of the current files, for every image that a source has; None
        trusts the sources.

    Returns
    -------
    The writer, and for each source the number of its rows that failed their checksum.
    """
    partials = [cache for cache in sources if cache.path in partial_paths(final)]
    wanted = contents.attributes(), contents.datasets()
    same = [c for c in partials if (c.contents.attributes(), c.contents.datasets()) == wanted]
    fitting = [cache for cache in same if cache.version == VERSION]
    writer = CacheWriter(fitting[-1].path if fitting else _new_partial(final, contents))
    damaged = {}
    try:
        if fitting:
            damaged[writer.path] = _keep_fit(writer, files)
        for source in sources:
            if source.path != writer.path:
                damaged[source.path] = take_rows(writer, source, files)
        writer.commit()
    except BaseException:
        writer.close()
        raise
    for cache in partials:
        if cache.path != writer.path:
            cache.path.unlink(missing_ok=True)
    return writer, {path: count for path, count in damaged.items() if count}


def open_sources(final: Path) -> tuple[list[FeatureCache], list[str]]:
    """Open the finished cache, if there is one, and the partial files of interrupted extractions, oldest first.

    A partial file that cannot be read is moved aside; the second value has a sentence on each.
    """
    found, notes = ([FeatureCache(final)] if final.exists() else []), []
    for path in partial_paths(final):
        try:
            _restore_length(path)
            found.append(FeatureCache(path))
        except DrexcacheError as error:
            aside = path.with_name(f"{path.name.replace('.partial-', '.damaged-')}")
            path.replace(aside)
            notes.append(f"{error}; moved to {aside.name}, its rows are computed again")
    return found, notes


def take_rows(writer: CacheWriter, source: FeatureCache, files: tuple[np.ndarray, np.ndarray] | None) -> int:
    """Copy every row of ``source`` that the writer needs; returns the number of damaged ones."""
    rows = {image: row for row, image in enumerate(writer.cache.ids)}
    place = np.array([rows.get(image, -1) for image in source.ids], dtype=np.int64)
    theirs, stats, fits, damaged = source.hashes(), source.stats(), place >= 0, 0
    if files is not None:
        fits &= (files[0][place] == theirs).all(axis=1) | ~theirs.any(axis=1)  # no hash: imported without the files
        theirs, stats = files[0][place], files[1][place]
    for name, block in source.blocks.items():
        mine = writer.cache.blocks.get(name)
        if mine is None or mine.fingerprint != block.fingerprint or mine.dtype != block.dtype:
            continue
        wanted = np.flatnonzero(fits & (source.status(name) == DONE) & ~writer.done(name)[place])
        step, stored = max(1, COPY_BYTES // (block.dim * np.dtype(block.dtype).itemsize)), source.crc32(name)
        with step_bar(f"copy {name} of {source.path.name}", "row") as show:
            for start in range(0, len(wanted), step):
                piece = wanted[start : start + step]
                values = _read_rows(source, name, piece)
                good = np.fromiter((zlib.crc32(row) for row in values), "<u4", len(piece)) == stored[piece]
                damaged += int((~good).sum())
                kept = piece[good]
                writer.put_files(place[kept], theirs[kept], stats[kept], [""] * len(kept))
                writer.put(name, place[kept], values[good])
                writer.tick()
                show(start + len(piece), len(wanted), "")
    return damaged


def _read_rows(source: FeatureCache, block: str, rows: np.ndarray) -> np.ndarray:
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first == len(rows):
        return source.features(block, slice(first, last))
    return source.features(block, rows)


def _keep_fit(writer: CacheWriter, files: tuple[np.ndarray, np.ndarray] | None) -> int:
    """Forget the rows of an interrupted run that are incomplete, damaged, or computed from files that have changed.

    Returns the number of rows that were sealed but do not match their checksum.
    """
    writer.reopen()
    cache = writer.cache
    hashes, kept, damaged = cache.hashes(), np.zeros(len(cache), bool), 0
    now = (hashes, cache.stats()) if files is None else files
    stale = (now[0] != hashes).any(axis=1)
    for name in cache.blocks:
        status = cache.status(name)
        done = np.flatnonzero(status == DONE)
        bad = done[~cache.intact(name)]
        good = (status == DONE) & ~stale
        good[bad] = False
        kept |= good
        damaged += len(bad)
        writer.forget(name, np.flatnonzero(~good & (~cache.sealed(name) | (status == DONE))))
    cut = ~cache.sealed()
    again = np.flatnonzero(kept & (cut | (cache.stats() != now[1]).any(axis=1)))
    writer.put_files(again, hashes[again], now[1][again], [""] * len(again))
    unknown = np.flatnonzero(~kept & cut & hashes.any(axis=1))
    writer.put_files(unknown, np.zeros((len(unknown), 32)), np.zeros((len(unknown), 2)), [""] * len(unknown))
    writer.commit()
    return damaged


def _new_partial(final: Path, contents: Contents) -> Path:
    taken = [int(path.name.rpartition("-")[2]) for path in partial_paths(final)]
    real = final.resolve()
    path = real.with_name(f"{real.name}.partial-{max(taken, default=0) + 1}")
    fresh = path.with_name(path.name + ".new")
    create_empty(fresh, contents, final)
    fresh.replace(path)
    sync_folder(path.parent)
    return path


def create_empty(path: Path, contents: Contents, final: Path) -> None:
    """Write a file with room for all of ``final`` that already holds the ids, ratings and labels.

    Raises
    ------
    DrexcacheError : not enough space for the whole file, or the folder cannot be written to.
    """
    path.unlink(missing_ok=True)
    try:
        create(path, contents.stored_attributes(), contents.datasets())
        storage = FeatureCache(path, writable=True).storage
        for name, values in contents.values().items():
            storage.write(name, values)
        storage.sync()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise no_space(error, final, _bytes_of(contents)) from error


def _restore_length(path: Path) -> None:
    """Extend a truncated partial file to its full length; the lost rows then fail their checksums."""
    with path.open("r+b") as file:
        head = file.read(48)
        if len(head) == 48 and head[:8] == b"\x89HDF\r\n\x1a\n" and head[8] in (2, 3):
            end = int.from_bytes(head[28:36], "little")  # the superblock's end-of-file address
            if os.fstat(file.fileno()).st_size < end < 1 << 50:
                os.ftruncate(file.fileno(), end)


def _bytes_of(contents: Contents) -> int:
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in contents.datasets().values())
