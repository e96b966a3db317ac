"""HDF5 as drexcache uses it: metadata written once, data at fixed offsets, untrusted files read as mere data.

Every dataset of ours is contiguous, unfiltered and allocated when the file is created. So a value's position in the
file never changes: rows are written and read with plain positioned I/O, and the HDF5 metadata is never touched again
after creation, so that a crash cannot break it.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from drexcache.cache.parser import read_outline
from drexcache.errors import DrexcacheError
from drexcache.files import require_file, reserve, sync, write_at

ALIGNMENT = 4096
FREE_BYTES, MAX_SPARSENESS = 16 << 20, 64  # above this size, the length may be at most so many times the stored bytes
READ_BYTES = 4 << 20  # read at a time, to stay in the processor's cache


class Storage:
    """An open cache file: the location of its datasets, and their values read and written by position.

    The outline is read from the same descriptor as the values, so a file that replaces this one meanwhile is never
    mixed up with it. It can be used from several threads and after a fork.

    Attributes
    ----------
    path : its name when it was opened. attributes : group path -> attributes. extents : dataset path -> its location.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        require_file(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self._refuse_bombs()
        outline = read_outline(self._descriptor, path)
        self.attributes, self.extents = outline.attributes, outline.datasets

    def _refuse_bombs(self) -> None:
        """Refuse a sparse file that takes next to nothing on the disk but its whole length in memory."""
        size, stored = os.fstat(self._descriptor).st_size, os.fstat(self._descriptor).st_blocks * 512
        if size <= FREE_BYTES or size <= MAX_SPARSENESS * stored:
            return
        end = 0
        while end < size and hasattr(os, "SEEK_DATA"):
            try:
                start = os.lseek(self._descriptor, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # only a hole from here on
            end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            stored += end - start
        if size > MAX_SPARSENESS * stored:
            sizes = f"{size / 1e6:,.0f} MB of which only {stored / 1e6:,.1f} MB are stored"
            raise DrexcacheError(f"{self.path}: {sizes}, which is no cache of ours; refused")

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            os.close(descriptor)

    def read(self, name: str) -> np.ndarray:
        """Read all values of a dataset."""
        return self.read_rows(name, 0, self.extents[name].shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read rows ``start`` up to ``stop`` of a dataset."""
        extent = self.extents[name]
        out = np.empty((max(0, stop - start), *extent.shape[1:]), extent.dtype)
        self._fill(out, extent.offset + start * extent.row_bytes)
        return out

    def pick_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Read the rows with these numbers (k,), in that order."""
        extent = self.extents[name]
        if len(rows) and (rows.min() < 0 or rows.max() >= extent.shape[0]):
            raise IndexError(f"row {rows.max()} of {extent.shape[0]}")
        out = np.empty((len(rows), *extent.shape[1:]), extent.dtype)
        width = extent.row_bytes
        for target, row in zip(out, rows.tolist(), strict=True):
            if os.preadv(self._descriptor, [target], extent.offset + row * width) != width:
                self._fill(target, extent.offset + row * width)  # a short read: read again, or raise the error
        return out

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Read the rows with these numbers (k,), in a single read if they are close together."""
        if not len(rows):
            return self.read_rows(name, 0, 0)
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first > 4 * len(rows):
            return self.pick_rows(name, rows)
        return self.read_rows(name, first, last)[rows - first]

    def sha256(self, *names: str) -> bytes:
        """SHA-256 over the bytes of these datasets, one after the other."""
        digest = hashlib.sha256()
        for name in names:
            extent = self.extents[name]
            step = max(1, READ_BYTES // extent.row_bytes)  # in pieces: for a million images the failures take 96 MB
            for start in range(0, extent.shape[0], step):
                digest.update(self.read_rows(name, start, min(start + step, extent.shape[0])).data)
        return digest.digest()

    def write(self, name: str, values: np.ndarray) -> None:
        """Write all values of a dataset; `sync` makes sure they are on the disk."""
        self.write_rows(name, np.arange(len(values)), values)

    def write_rows(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write the values of the rows with these numbers (k,); `sync` makes sure they are on the disk."""
        extent = self.extents[name]
        values = np.ascontiguousarray(values, extent.dtype)
        cuts = np.flatnonzero(rows[1:] - rows[:-1] != 1) + 1
        for start, stop in itertools.pairwise([0, *cuts.tolist(), len(rows)]):
            if stop > start:
                data = values[start:stop].reshape(-1).view("u1").data
                write_at(self._descriptor, data, extent.offset + int(rows[start]) * extent.row_bytes)

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        sync(self._descriptor)

    @property
    def identity(self) -> tuple[int, int, int]:
        """Inode, size and modification time, which differ for another file under the same name."""
        stat = os.fstat(self._descriptor)
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def replaced(self) -> bool:
        """Whether the file has been replaced since it was opened."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return True
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) != self.identity

    def _fill(self, out: np.ndarray, offset: int) -> None:
        view = memoryview(out.data).cast("B") if out.size else memoryview(b"")
        while len(view):
            got = os.preadv(self._descriptor, [view], offset)
            if got <= 0:
                raise DrexcacheError(f"{self.path}: the file ends before byte {offset + len(view)}; it was cut off")
            view, offset = view[got:], offset + got


def text_dtype(values: Iterable[str]) -> np.dtype:
    """The fixed-length UTF-8 dtype that fits the longest of these texts."""
    return np.dtype(f"S{max(1, max((len(value.encode()) for value in values), default=1))}")


def create(
    path: Path,
    attributes: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, tuple[tuple[int, ...], Any]],
) -> None:
    """Write and sync a file with these groups (path -> attributes) and datasets (path -> shape, dtype) of zeros.

    Text attributes are stored as fixed-length UTF-8. The file's full size is allocated, so that a disk that is too
    small is noticed now.

    Raises
    ------
    OSError : the disk is full, or not writable.
    """
    try:
        with h5py.File(
            path, "x", libver=("v110", "v110"), alignment_threshold=ALIGNMENT, alignment_interval=ALIGNMENT
        ) as file:
            for group, values in attributes.items():
                node = file.require_group(group)
                for key, value in values.items():
                    _write_attribute(node, key, value)
            for name, (shape, dtype) in datasets.items():
                _create_contiguous(file, name, shape, np.dtype(dtype))
    except RuntimeError as error:  # h5py raises it if a write fails while the file is closed
        number = re.search(r"errno = (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error
    with path.open("r+b") as raw:
        reserve(raw.fileno(), os.fstat(raw.fileno()).st_size)
        sync(raw.fileno())


def _write_attribute(node: h5py.Group, key: str, value: Any) -> None:
    if isinstance(value, str):
        data = value.encode()
        node.attrs.create(key, data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
    else:
        node.attrs[key] = value


def _create_contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    group, _, leaf = name.rpartition("/")
    parent = file.require_group(group or "/")
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # the file system's own zeros, at no cost
    layout.set_obj_track_times(False)  # so that the same contents give the same bytes
    if dtype.kind == "S":
        kind = h5py.h5t.py_create(h5py.string_dtype("utf-8", dtype.itemsize), logical=True)
    else:
        kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(parent.id, leaf.encode(), kind, h5py.h5s.create_simple(shape), dcpl=layout)
