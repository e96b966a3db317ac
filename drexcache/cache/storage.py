"""HDF5 as drexcache uses it: metadata written once, data in fixed places, files from strangers read as data.

Every dataset of ours is contiguous, unfiltered and allocated when the file is made. So a value's place in the file
never changes: rows are written and read with plain positioned I/O, and after creation the HDF5 metadata is never
touched again, which is why a crash cannot break it.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from drexcache.errors import DrexcacheError

MAX_OBJECTS = 10_000
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_BYTES = 1 << 20
ALIGNMENT = 4096


@dataclass(frozen=True)
class Extent:
    """Where a dataset's values lie: ``shape`` values of ``dtype`` from byte ``offset`` of the file, in C order."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry along the first axis."""
        return int(self.dtype.itemsize * math.prod(self.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole dataset."""
        return self.row_bytes * self.shape[0]


@dataclass(frozen=True)
class Outline:
    """What an HDF5 file holds: attributes by group path, extents by dataset path."""

    attributes: dict[str, dict[str, Any]]
    datasets: dict[str, Extent]


def text_dtype(values: Iterable[str]) -> np.dtype:
    """The fixed-length UTF-8 dtype that holds the longest of these."""
    return np.dtype(f"S{max(1, max((len(value.encode()) for value in values), default=1))}")


def create(
    path: Path,
    attributes: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, tuple[tuple[int, ...], Any]],
) -> None:
    """Write and sync a file with these groups (path -> attributes) and datasets (path -> shape, dtype) of zeros.

    Text attributes are stored as fixed-length UTF-8. The file's full size is reserved, so that a disk too small for
    it says so now.

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
    except RuntimeError as error:  # what h5py makes of a write that fails while it closes the file
        number = re.search(r"errno = (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error
    with path.open("r+b") as raw:
        _reserve(raw.fileno(), os.fstat(raw.fileno()).st_size)
        os.fsync(raw.fileno())


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
    layout.set_obj_track_times(False)  # the same contents give the same bytes
    if dtype.kind == "S":
        kind = h5py.h5t.py_create(h5py.string_dtype("utf-8", dtype.itemsize), logical=True)
    else:
        kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(parent.id, leaf.encode(), kind, h5py.h5s.create_simple(shape), dcpl=layout)


def _reserve(descriptor: int, size: int) -> None:
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # this file system cannot reserve
            raise


def read_outline(path: Path) -> Outline:
    """Walk a file that may come from a stranger and say where everything lies, without reading any values.

    Raises
    ------
    DrexcacheError : not HDF5, damaged, or holding anything that FORMAT.md forbids: links other than hard ones,
        cycles, storage outside the file, virtual datasets, filters, chunks, references, variable-length values,
        oversized attributes, extents beyond the file's end.
    """
    if not path.is_file():
        raise DrexcacheError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DrexcacheError(f"{path}: the file is empty, not an HDF5 file")
    try:
        with h5py.File(path, "r", locking=False) as file:
            walk = _Walk(path)
            walk.group(h5py.h5g.open(file.id, b"/"), "/")
    except DrexcacheError:
        raise
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        MemoryError,
        OverflowError,
        UnicodeError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DrexcacheError(f"{path}: not a readable HDF5 file ({reason})") from error
    return Outline(walk.attributes, walk.datasets)


class _Walk:
    """One walk over a file's objects, refusing what is not plain data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file_bytes = path.stat().st_size
        self.seen: set[int] = set()
        self.attributes: dict[str, dict[str, Any]] = {}
        self.datasets: dict[str, Extent] = {}

    def refuse(self, name: str, what: str) -> DrexcacheError:
        return DrexcacheError(f"{self.path}: {name} is {what}, which a drexcache file never holds; refused")

    def group(self, group: h5py.h5g.GroupID, name: str) -> None:
        self.visit(group, name)
        self.attributes[name] = self.read_attributes(group, name)
        for raw in group:
            child = f"{name.rstrip('/')}/{raw.decode()}"
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise self.refuse(child, "a soft or external link")
            node = h5py.h5o.open(group, raw)
            if isinstance(node, h5py.h5g.GroupID):
                self.group(node, child)
            elif isinstance(node, h5py.h5d.DatasetID):
                self.visit(node, child)
                self.datasets[child] = self.extent(node, child)
            else:
                raise self.refuse(child, "a named datatype")

    def visit(self, node: Any, name: str) -> None:
        address = h5py.h5o.get_info(node).addr
        if address in self.seen:
            raise self.refuse(name, "a second link to the same object")
        self.seen.add(address)
        if len(self.seen) > MAX_OBJECTS or name.count("/") > 4:
            raise self.refuse(name, f"one of more than {MAX_OBJECTS} objects, or nested too deep")

    def extent(self, dataset: h5py.h5d.DatasetID, name: str) -> Extent:
        layout = dataset.get_create_plist()
        if layout.get_layout() != h5py.h5d.CONTIGUOUS:
            raise self.refuse(name, "a chunked, compact or virtual dataset")
        if layout.get_external_count() or layout.get_nfilters():
            raise self.refuse(name, "a dataset with external storage or filters")
        kind = dataset.get_type()
        if not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID | h5py.h5t.TypeStringID) or (
            isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
        ):
            raise self.refuse(name, "a dataset of another type than whole numbers, floats or fixed-length text")
        extent = Extent(dataset.get_offset() or -1, tuple(dataset.shape), kind.dtype)
        if not 1 <= len(extent.shape) <= 2 or extent.dtype.byteorder == ">":
            raise self.refuse(name, "a dataset that is not a little-endian vector or matrix")
        if extent.offset < 0 or extent.offset + extent.nbytes > self.file_bytes:
            raise self.refuse(name, f"a dataset of shape {extent.shape} that reaches beyond the end of the file")
        return extent

    def read_attributes(self, node: h5py.h5g.GroupID, name: str) -> dict[str, Any]:
        count = h5py.h5a.get_num_attrs(node)
        if count > MAX_ATTRIBUTES:
            raise self.refuse(name, f"a group with {count} attributes")
        found: dict[str, Any] = {}
        for index in range(count):
            attribute = h5py.h5a.open(node, index=index)
            key, kind = attribute.name.decode(), attribute.get_type()
            plain = isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID | h5py.h5t.TypeStringID)
            if not plain or (isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()):
                raise self.refuse(f"{name}@{key}", "an attribute that is not a plain number or fixed-length text")
            if attribute.shape != () or attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES:
                raise self.refuse(f"{name}@{key}", f"an attribute of shape {attribute.shape} or above 1 MiB")
            value = np.empty((), dtype=attribute.dtype)
            attribute.read(value)
            found[key] = value.item().decode() if value.dtype.kind == "S" else value.item()
        return found
