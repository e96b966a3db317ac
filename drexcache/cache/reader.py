"""FeatureCache: reading one dataset's features, ratings and splits from a cache file."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache.format import (
    DONE,
    FORMAT,
    VERSION,
    Contents,
    StoredBlock,
    block_from_attributes,
    check_shapes,
    children,
    target_from_attributes,
)
from drexcache.cache.matrix import FeatureMatrix
from drexcache.cache.storage import read_outline
from drexcache.datasets import Target
from drexcache.errors import DrexcacheError

READ_BYTES = 4 << 20  # rows are copied into a matrix in pieces that stay in the processor's cache


def open_cache(path: str | Path) -> FeatureCache:
    """Open a finished cache for reading.

    What is read is the file as it stood when opened: a writer that replaces it meanwhile is not seen.

    Raises
    ------
    DrexcacheError : no such file, not HDF5, not a drexcache cache, of a newer version, damaged, or never finished.
    """
    path = Path(path)
    if not path.exists() and (partial := sorted(path.parent.glob(path.name + ".partial-*"))):
        raise DrexcacheError(
            f"{path}: the extraction has not finished yet ({partial[-1].name} stands beside it); "
            "run the same extract command again to go on"
        )
    cache = FeatureCache(path)
    if not cache.complete:
        raise DrexcacheError(
            f"{path}: this is an unfinished extraction; run the same extract command again to finish it"
        )
    return cache


class FeatureCache:
    """One dataset's rows, blocks, targets and labels; use `open_cache` to get one.

    Attributes
    ----------
    path : the file. ``contents``: everything but the computed values (ids, targets, labels, blocks).
    complete : whether the extraction that wrote the file came to its end.

    Safe to use from several threads, after a fork, and to send to spawned processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        outline = read_outline(self.path)
        self._fd = os.open(self.path, os.O_RDONLY)
        self._extents = outline.datasets
        root = outline.attributes["/"]
        if root.get("format") != FORMAT or root.get("type") != "cache":
            raise DrexcacheError(f"{path}: an HDF5 file, but not a drexcache cache (no format 'drexcache' on its root)")
        if root.get("version") != VERSION:
            raise DrexcacheError(
                f"{path}: cache format version {root.get('version')}, this drexcache reads version {VERSION}; "
                "install a newer drexcache"
            )
        self._attributes = outline.attributes
        check_shapes(outline, self.path)
        self.complete = bool(self._read("/complete")[0])
        try:
            self._read("/images/id").tobytes().decode()
        except UnicodeDecodeError as error:
            raise DrexcacheError(f"{path}: /images/id: not valid UTF-8 ({error})") from error

    def __del__(self) -> None:
        if (descriptor := getattr(self, "_fd", None)) is not None:
            os.close(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._identity())

    def __len__(self) -> int:
        return self._extents["/images/id"].shape[0]

    def __repr__(self) -> str:
        blocks = ", ".join(f"{block.name} {block.dim}-d" for block in self.blocks.values())
        return f"<FeatureCache {self.path.name}: {len(self)} images, {blocks}>"

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return str(self._attributes["/"].get("dataset", ""))

    @property
    def shard(self) -> str:
        """ "i/n" when the file is one shard of a larger table, else empty."""
        return str(self._attributes["/"].get("shard", ""))

    @property
    def table_sha256(self) -> str:
        """Hash of the ids of the whole table, equal in all its shards."""
        return str(self._attributes["/"].get("table_sha256", ""))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids, in the rows' order."""
        return self._texts("/images/id")

    @cached_property
    def blocks(self) -> dict[str, StoredBlock]:
        """Block name -> what computed it, in alphabetical order."""
        found = {}
        for name in self._children("/blocks"):
            here = f"/blocks/{name}"
            dtype = self._extents[f"{here}/features"].dtype.name
            found[name] = block_from_attributes(self._attributes[here], dtype, f"{self.path}: {here}")
            if found[name].dim != self._extents[f"{here}/features"].shape[1] or found[name].name != name:
                raise DrexcacheError(f"{self.path}: {here}: the stored definition does not fit the stored features")
        return found

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Target name -> its values (n,) in its own range, NaN where an image has none."""
        found = {}
        for name in self._children("/targets"):
            here = f"/targets/{name}"
            values = self._read(f"{here}/value")
            found[name] = target_from_attributes(name, values, self._attributes[here], f"{self.path}: {here}")
        return found

    @cached_property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Label column, such as a split -> (n,) texts."""
        return {name: self._texts(f"/labels/{name}/value") for name in self._children("/labels")}

    @property
    def contents(self) -> Contents:
        """Everything in the file except the computed values."""
        return Contents(self.dataset, self.ids, self.targets, self.labels, self.blocks, self.shard, self.table_sha256)

    def status(self, block: str) -> np.ndarray:
        """uint8 (n,): 0 missing, 1 done, 2 failed."""
        return self._read(f"/blocks/{self._known(block)}/status")

    def hashes(self) -> np.ndarray:
        """uint8 (n, 32): SHA-256 of each image file's bytes; zeros where it was never read."""
        return self._read("/images/sha256")

    def stats(self) -> np.ndarray:
        """int64 (n, 2): size in bytes and modification time in ns of each file when it was last hashed."""
        return np.stack([self._read("/images/bytes"), self._read("/images/mtime_ns")], axis=1)

    def failures(self) -> dict[str, str]:
        """Image id -> why it could not be read."""
        reasons = self._read("/images/failure")
        failed = np.flatnonzero(reasons != b"")
        if not len(failed):
            return {}  # without decoding a million ids
        texts = self._decoded("/images/failure", reasons[failed])
        return {self.ids[row]: text for row, text in zip(failed.tolist(), texts, strict=True)}

    def features(self, block: str, rows: slice | Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Features of one block, (n, d) or those rows, in the stored dtype; rows without features are zeros."""
        extent = self._extents[f"/blocks/{self._known(block)}/features"]
        if rows is None or isinstance(rows, slice):
            start, stop, step = (rows or slice(None)).indices(len(self))
            if step != 1:
                raise ValueError(f"rows must be taken with step 1, found {step}")
            out = np.empty((max(0, stop - start), *extent.shape[1:]), extent.dtype)
            self._fill(out, extent.offset + start * extent.row_bytes)
            return out
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row {rows.max()} of {len(self)}")
        out = np.empty((len(rows), *extent.shape[1:]), extent.dtype)
        width = extent.row_bytes
        for target, row in zip(out, rows.tolist(), strict=True):
            if os.preadv(self._fd, [target], extent.offset + row * width) != width:
                self._fill(target, extent.offset + row * width)  # a read cut short: the rest, or the error
        return out

    def crc32(self, block: str) -> np.ndarray:
        """uint32 (n,): CRC-32 of each stored row's bytes."""
        return self._read(f"/blocks/{self._known(block)}/crc32")

    def matrix(self, blocks: Sequence[str] | None = None, target: str | None = None) -> FeatureMatrix:
        """The features of all images that have them in every chosen block, with their ratings.

        Parameters
        ----------
        blocks : block or "block/tap" names; default: all blocks.
        target : default: the only target there is, or no ratings (NaN) where there is none.

        Raises
        ------
        DrexcacheError : an unknown block, tap or target, or no image that has all the blocks.
        """
        chosen = list(blocks) if blocks else list(self.blocks)
        needed = list(dict.fromkeys(self._known(name.split("/")[0]) for name in chosen))
        done = np.all([self.status(name) == DONE for name in needed], axis=0)
        if not done.any():
            raise DrexcacheError(f"{self.path}: no image has features in {', '.join(needed)}")
        columns, start = {}, 0
        for name in needed:
            columns[name] = slice(start, start + self.blocks[name].dim)
            start += self.blocks[name].dim
        X = np.empty((int(done.sum()), start), dtype=np.float32)
        for name in needed:
            self._load(name, done, X[:, columns[name]])
        matrix = self._with_ratings(X, columns, done, self.target(target))
        return matrix if chosen == needed else matrix.select(chosen)

    def _with_ratings(
        self, X: np.ndarray, columns: dict[str, slice], done: np.ndarray, target: Target | None
    ) -> FeatureMatrix:
        rows = np.flatnonzero(done).tolist()
        y = target.unit()[done] if target else np.full(len(rows), np.nan)
        hashes = [row.tobytes().hex() for row in self.hashes()[done]]
        taps = {
            f"{name}/{tap}": slice(columns[name].start + part.start, columns[name].start + part.stop)
            for name in columns
            for tap, part in self.blocks[name].taps.items()
        }
        scale = (target.name, target.low, target.high, target.higher_is) if target else ("", 0.0, 1.0, "more")
        return FeatureMatrix(
            X, y, [self.ids[row] for row in rows], columns, taps, self.dataset, *scale,
            declared=target.declared if target else True,
            fingerprints={name: self.blocks[name].fingerprint for name in columns},
            hashes=hashes,
            labels={name: [column[row] for row in rows] for name, column in self.labels.items()},
            noise=target.noise() if target else None,
        )  # fmt: skip

    def _load(self, block: str, done: np.ndarray, out: np.ndarray) -> None:
        """Copy the done rows of one block into ``out`` (rows, d), reading forwards in small pieces."""
        extent = self._extents[f"/blocks/{block}/features"]
        step = max(1, READ_BYTES // extent.row_bytes)
        filled = 0
        for start in range(0, len(self), step):
            keep = done[start : start + step]
            count = int(keep.sum())
            if not count:
                continue
            piece = self.features(block, slice(start, start + len(keep)))
            out[filled : filled + count] = piece if count == len(keep) else piece[keep]
            filled += count

    def verify(self) -> list[str]:
        """Read everything and say what does not match its checksum; an empty list means that all does."""
        from drexcache.cache.info import verify  # which needs this class

        return verify(self)

    def intact(self, block: str) -> np.ndarray:
        """bool (k,): for each of the k done rows, whether its bytes match its CRC-32."""
        done, stored = np.flatnonzero(self.status(block) == DONE), self.crc32(block)
        step = max(1, READ_BYTES // self._extents[f"/blocks/{block}/features"].row_bytes)
        good = np.zeros(len(self), dtype=bool)
        for start in range(0, len(self), step):
            for row, values in enumerate(self.features(block, slice(start, start + step)), start):
                good[row] = zlib.crc32(values) == stored[row]
        return good[done]

    def image_checksum(self) -> bytes:
        """SHA-256 over the file hashes and the failures, as FORMAT.md defines it."""
        return self._sha256("/images/sha256", "/images/failure")

    def block_checksum(self, block: str) -> bytes:
        """SHA-256 over a block's row checksums and status, as FORMAT.md defines it."""
        return self._sha256(f"/blocks/{block}/crc32", f"/blocks/{block}/status")

    def _sha256(self, *names: str) -> bytes:
        digest = hashlib.sha256()
        for extent in (self._extents[name] for name in names):
            for start in range(0, extent.nbytes, READ_BYTES):  # in pieces: a million failures' room is 96 MB
                piece = np.empty(min(READ_BYTES, extent.nbytes - start), "u1")
                self._fill(piece, extent.offset + start)
                digest.update(piece.data)
        return digest.digest()

    def info(self) -> dict[str, Any]:
        """What the cache holds, as plain JSON types."""
        from drexcache.cache.info import info  # which needs this class

        return info(self)

    def target(self, name: str | None = None) -> Target | None:
        """The target of that name; without a name the only one there is, or None."""
        if name is None:
            if len(self.targets) > 1:
                raise DrexcacheError(
                    f"{self.path}: several targets ({', '.join(self.targets)}); choose one with --target"
                )
            return next(iter(self.targets.values()), None)
        if name not in self.targets:
            raise DrexcacheError(f"{self.path}: no target named {name}; it has: {', '.join(self.targets) or 'none'}")
        return self.targets[name]

    def _known(self, block: str) -> str:
        if block not in self.blocks:
            raise DrexcacheError(f"{self.path}: no block named {block}; it has: {', '.join(self.blocks) or 'none'}")
        return block

    def _children(self, group: str) -> list[str]:
        return children(self._attributes, group)

    def _read(self, name: str) -> np.ndarray:
        extent = self._extents[name]
        out = np.empty(extent.shape, extent.dtype)
        self._fill(out, extent.offset)
        return out

    def _fill(self, out: np.ndarray, offset: int) -> None:
        view = memoryview(out.data).cast("B") if out.size else memoryview(b"")
        while len(view):
            got = os.preadv(self._fd, [view], offset)
            if got <= 0:
                raise DrexcacheError(f"{self.path}: the file ends before byte {offset + len(view)}; it was cut off")
            view, offset = view[got:], offset + got

    def _texts(self, name: str) -> tuple[str, ...]:
        return self._decoded(name, self._read(name))

    def _decoded(self, name: str, values: np.ndarray) -> tuple[str, ...]:
        try:
            return tuple(value.decode() for value in values.tolist())
        except UnicodeDecodeError as error:
            raise DrexcacheError(f"{self.path}: {name}: not valid UTF-8 ({error})") from error

    def replaced(self) -> bool:
        """Whether a writer has put another file under this name since the cache was opened."""
        return not self.path.exists() or _identity(self.path.stat()) != self._identity()

    def _identity(self) -> tuple[int, int, int]:
        return _identity(os.fstat(self._fd))


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _reopen(path: Path, identity: tuple[int, int, int]) -> FeatureCache:
    cache = FeatureCache(path)
    if cache._identity() != identity:
        raise DrexcacheError(f"{path}: the cache was rewritten after it was opened; open it again")
    return cache
