"""FeatureCache: reading one dataset's features, ratings and splits from a cache file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache.beside import partial_paths
from drexcache.cache.checks import SEALED_OF_IMAGE, check_shapes, children, outline_sha256, sealed_of_block, seals
from drexcache.cache.format import (
    DONE,
    FORMAT,
    MISSING,
    VERSION,
    Contents,
    StoredBlock,
    block_from_attributes,
    target_from_attributes,
)
from drexcache.cache.info import info, verify
from drexcache.cache.matrix import FeatureMatrix
from drexcache.cache.shown import ShownCache
from drexcache.cache.storage import READ_BYTES, Storage
from drexcache.datasets import Target
from drexcache.errors import DrexcacheError, listed, nearest
from drexcache.hub import local_file
from drexcache.progress import step_bar


def open_cache(path: str | Path) -> FeatureCache:
    """Open a finished cache for reading.

    It keeps showing the file as it was when opened, even if a writer replaces it meanwhile.

    Raises
    ------
    DrexcacheError : no such file, not HDF5, not a drexcache cache, of a newer version, damaged, or unfinished.
    """
    path = local_file(path)
    if not path.exists() and (partial := partial_paths(path)):
        raise DrexcacheError(
            f"{path}: the extraction has not finished yet ({partial[-1].name} is beside it); "
            "run the same extract command again to continue"
        )
    cache = FeatureCache(path)
    if not cache.complete:
        raise DrexcacheError(
            f"{path}: this is an unfinished extraction; run the same extract command again to finish it"
        )
    return cache


class FeatureCache(ShownCache):
    """One dataset's rows, blocks, targets and labels; use `open_cache` to get one.

    Attributes
    ----------
    path : the file. ``storage``: its open file. ``contents``: everything but the computed values (ids, targets,
        labels, blocks).
    complete : whether the extraction that wrote the file was finished.

    It can be used from several threads and after a fork, and sent to spawned processes.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = Path(path)
        self.storage = Storage(self.path, writable=writable)
        root = self.storage.attributes["/"]
        if root.get("format") != FORMAT or root.get("type") != "cache":
            raise DrexcacheError(f"{path}: an HDF5 file, but not a drexcache cache (no format 'drexcache' on its root)")
        self.version: int = root.get("version", 0)
        if self.version not in range(1, VERSION + 1):
            raise DrexcacheError(
                f"{path}: cache format version {self.version}, this drexcache reads up to version {VERSION}; "
                "install a newer drexcache"
            )
        check_shapes(self.storage.extents, self.storage.attributes, self.path, self.version)
        shapes = {name: (extent.shape, extent.dtype) for name, extent in self.storage.extents.items()}
        if self.version > 1 and root.get("outline_sha256") != outline_sha256(self.storage.attributes, shapes):
            raise DrexcacheError(f"{path}: its description does not match its checksum: the file was altered")
        self.complete = bool(self.storage.read("/complete")[0])
        try:
            self.storage.read("/images/id").tobytes().decode()
        except UnicodeDecodeError as error:
            raise DrexcacheError(f"{path}: /images/id: not valid UTF-8 ({error})") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.storage.identity)

    def __len__(self) -> int:
        return self.storage.extents["/images/id"].shape[0]

    def __repr__(self) -> str:
        blocks = ", ".join(f"{block.name} {block.dim}-d" for block in self.blocks.values())
        return f"<FeatureCache {self.path.name}: {len(self)} images, {blocks}>"

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return str(self.storage.attributes["/"].get("dataset", ""))

    @property
    def images(self) -> str:
        """The folder, zip or URL of the images when the file was made, "" if unknown."""
        return str(self.storage.attributes["/"].get("images", ""))

    @property
    def shard(self) -> str:
        """ "i/n" if the file is one shard of a larger table, else ""."""
        return str(self.storage.attributes["/"].get("shard", ""))

    @property
    def table_sha256(self) -> str:
        """SHA-256 (hex) of the ids of the whole table, equal in all its shards."""
        return str(self.storage.attributes["/"].get("table_sha256", ""))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids, in row order."""
        return self._texts("/images/id")

    @cached_property
    def blocks(self) -> dict[str, StoredBlock]:
        """Block name -> its description, in alphabetical order."""
        found = {}
        for name in children(self.storage.attributes, "/blocks"):
            here = f"/blocks/{name}"
            features = self.storage.extents[f"{here}/features"]
            attributes, where = self.storage.attributes[here], f"{self.path}: {here}"
            found[name] = block_from_attributes(attributes, features.dtype.name, where)
            if found[name].dim != features.shape[1] or found[name].name != name:
                raise DrexcacheError(f"{self.path}: {here}: the stored definition does not fit the stored features")
        return found

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Target name -> its values (n,) in its own range, NaN where an image has no rating."""
        found = {}
        for name in children(self.storage.attributes, "/targets"):
            here = f"/targets/{name}"
            values = self.storage.read(f"{here}/value")
            found[name] = target_from_attributes(name, values, self.storage.attributes[here], f"{self.path}: {here}")
        return found

    @cached_property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Label column (such as a split) -> (n,) texts."""
        return {name: self._texts(f"/labels/{name}/value") for name in children(self.storage.attributes, "/labels")}

    @property
    def contents(self) -> Contents:
        """Everything in the file except the computed values."""
        return Contents(
            dataset=self.dataset, ids=self.ids, targets=self.targets, labels=self.labels, blocks=self.blocks,
            shard=self.shard, table_sha256=self.table_sha256, images=self.images,
        )  # fmt: skip

    def status(self, block: str) -> np.ndarray:
        """Each row's status, uint8 (n,): 0 missing, 1 done, 2 failed."""
        status = self.storage.read(f"/blocks/{self._known(block)}/status")
        return status if self._vouched else np.where(self.sealed(block), status, np.uint8(MISSING))

    @property
    def _vouched(self) -> bool:
        """Whether the file's checksums cover all rows, so that their seals need not be checked."""
        return self.complete or self.version == 1

    def sealed(self, block: str | None = None) -> np.ndarray:
        """For each row of a block, or of the image metadata if None, whether its seal holds (FORMAT.md): bool (n,)."""
        names = SEALED_OF_IMAGE if block is None else sealed_of_block(block)
        stored, good = self.storage.read("/images/seal" if block is None else f"/blocks/{block}/seal"), []
        step = max(1, READ_BYTES // sum(self.storage.extents[name].row_bytes for name in names))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            good.append(seals([self.storage.read_rows(name, start, stop) for name in names]) == stored[start:stop])
        return np.concatenate(good)

    def hashes(self) -> np.ndarray:
        """SHA-256 of each image file's bytes, uint8 (n, 32); zeros if the file was never read."""
        return self.storage.read("/images/sha256")

    def stats(self) -> np.ndarray:
        """Size in bytes and state (`ImageFile.stat`) of each file when it was last hashed, int64 (n, 2), or zeros."""
        stats = np.stack([self.storage.read("/images/bytes"), self.storage.read("/images/mtime_ns")], axis=1)
        return stats if self._vouched else np.where(self.sealed()[:, None], stats, 0)

    def failures(self) -> dict[str, str]:
        """Image id -> why it could not be read."""
        reasons = self.storage.read("/images/failure")
        failed = np.flatnonzero((reasons != b"") & (self._vouched or self.sealed()))
        if not len(failed):
            return {}  # without decoding a million ids
        texts = self.decoded("/images/failure", reasons[failed])
        return {self.ids[row]: text for row, text in zip(failed.tolist(), texts, strict=True)}

    def features(self, block: str, rows: slice | Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Features of one block, (n, d) or the given rows, in the stored dtype; rows without features are zeros."""
        name = f"/blocks/{self._known(block)}/features"
        if rows is None or isinstance(rows, slice):
            start, stop, step = (rows or slice(None)).indices(len(self))
            if step != 1:
                raise ValueError(f"rows must be taken with step 1, found {step}")
            return self.storage.read_rows(name, start, stop)
        return self.storage.pick_rows(name, np.asarray(rows, dtype=np.int64))

    def crc32(self, block: str) -> np.ndarray:
        """CRC-32 of each stored row's bytes, uint32 (n,)."""
        return self.storage.read(f"/blocks/{self._known(block)}/crc32")

    def matrix(self, blocks: Sequence[str] | None = None, target: str | None = None) -> FeatureMatrix:
        """The features of all images that have them in every chosen block, with their ratings.

        Parameters
        ----------
        blocks : block or "block/tap" names; default: all blocks.
        target : name of the ratings; default: the only target, or NaN for all images if there is none.

        Raises
        ------
        DrexcacheError : an unknown block, tap or target, several targets without a choice, or no image with all blocks.
        """
        chosen = listed(blocks or self.blocks, "blocks")
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
        ids = [self.ids[row] for row in rows]
        files = zip(ids, self.hashes()[done], strict=True)
        hashes = [sha.tobytes().hex() if sha.any() else f"{self.dataset}/{image}" for image, sha in files]
        taps = {
            f"{name}/{tap}": slice(columns[name].start + part.start, columns[name].start + part.stop)
            for name in columns
            for tap, part in self.blocks[name].taps.items()
        }
        known = target or Target("", y, 0.0, 1.0)
        return FeatureMatrix(
            X=X, y=y, ids=ids, blocks=columns, taps=taps, dataset=self.dataset,
            target=known.name, low=known.low, high=known.high, higher_is=known.higher_is, declared=known.declared,
            fingerprints={name: self.blocks[name].fingerprint for name in columns},
            hashes=hashes,
            labels={name: [column[row] for row in rows] for name, column in self.labels.items()},
            noise=target.noise() if target else None,
            images=self.images,
        )  # fmt: skip

    def _load(self, block: str, done: np.ndarray, out: np.ndarray) -> None:
        """Copy the done rows of one block into ``out`` (rows, d), reading sequentially in small pieces."""
        step = self._rows_at_once(block)
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
        """Read everything and return a sentence for whatever does not match its checksum; empty if all is well."""
        return verify(self)

    def intact(self, block: str) -> np.ndarray:
        """For each of the k done rows, whether its bytes match its CRC-32 and its seal holds: bool (k,)."""
        done, stored = np.flatnonzero(self.status(block) == DONE), self.crc32(block)
        step = self._rows_at_once(block)
        good = np.zeros(len(self), dtype=bool)
        with step_bar(f"check {block}", "row") as show:
            for start in range(0, len(self), step):
                for row, values in enumerate(self.features(block, slice(start, start + step)), start):
                    good[row] = zlib.crc32(values) == stored[row]
                show(min(start + step, len(self)), len(self), "")
        if self.version > 1:
            good &= self.sealed(block)
        return good[done]

    def image_checksum(self) -> bytes:
        """SHA-256 over the image metadata, as FORMAT.md defines it."""
        if self.version == 1:
            return self.storage.sha256("/images/sha256", "/images/failure")
        return self.storage.sha256(*SEALED_OF_IMAGE[1:], "/images/seal")

    def block_checksum(self, block: str) -> bytes:
        """SHA-256 over a block's row checksums and status, as FORMAT.md defines it."""
        columns = ("crc32", "status") if self.version == 1 else ("crc32", "status", "seal")
        return self.storage.sha256(*(f"/blocks/{block}/{column}" for column in columns))

    def info(self) -> dict[str, Any]:
        """A summary as plain JSON types, as ``drexcache cache info --json`` prints it."""
        return info(self)

    def target(self, name: str | None = None) -> Target | None:
        """The target of that name; without a name the only target, or None."""
        if name is None:
            if len(self.targets) > 1:
                raise DrexcacheError(
                    f"{self.path}: several targets ({', '.join(self.targets)}); choose one with --target"
                )
            return next(iter(self.targets.values()), None)
        if name not in self.targets:
            raise DrexcacheError(f"{self.path}: no target named {name}; {nearest(name, self.targets) or 'it has none'}")
        return self.targets[name]

    def _known(self, block: str) -> str:
        if block not in self.blocks:
            raise DrexcacheError(f"{self.path}: no block named {block}; {nearest(block, self.blocks) or 'it has none'}")
        return block

    def _rows_at_once(self, block: str) -> int:
        return max(1, READ_BYTES // self.storage.extents[f"/blocks/{block}/features"].row_bytes)

    def _texts(self, name: str) -> tuple[str, ...]:
        return self.decoded(name, self.storage.read(name))

    def decoded(self, name: str, values: np.ndarray) -> tuple[str, ...]:
        """Decode some stored texts (k,) of that dataset."""
        try:
            return tuple(value.decode() for value in values.tolist())
        except UnicodeDecodeError as error:
            raise DrexcacheError(f"{self.path}: {name}: not valid UTF-8 ({error})") from error

    def replaced(self) -> bool:
        """Whether a writer has replaced the file since the cache was opened."""
        return self.storage.replaced()


def _reopen(path: Path, identity: tuple[int, int, int]) -> FeatureCache:
    cache = FeatureCache(path)
    if cache.storage.identity != identity:
        raise DrexcacheError(f"{path}: the cache was rewritten after it was opened; open it again")
    return cache
