"""Reading the outline of a cache file without the HDF5 library, so that an untrusted file never reaches it.

It reads what FORMAT.md allows, in the form that the HDF5 library (1.10 and later) writes, and refuses everything else.
Every structure must lie inside the file, match its checksum and overlap no other. Names are those of the HDF5 File
Format Specification 3.0.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache.fields import Fields, FileBytes, lookup3
from drexcache.cache.heap import Heap, tree_records
from drexcache.errors import DrexcacheError
from drexcache.files import kind_of_file

MAX_OBJECTS, MAX_DEPTH = 10_000, 4
MAX_ATTRIBUTES, MAX_TEXT_BYTES = 64, 1 << 20
NO_ADDRESS = (1 << 64) - 1
SIGNATURE = b"\x89HDF\r\n\x1a\n"

DATASPACE, LINK_INFO, DATATYPE, FILL, LINK, EXTERNAL, LAYOUT, GROUP_INFO = 1, 2, 3, 5, 6, 7, 8, 10
FILTERS, ATTRIBUTE, CONTINUATION, MODIFIED, ATTRIBUTE_INFO = 11, 12, 16, 18, 21
OF_A_GROUP = {0, LINK_INFO, LINK, GROUP_INFO, ATTRIBUTE, MODIFIED, ATTRIBUTE_INFO}
OF_A_DATASET = {0, DATASPACE, DATATYPE, FILL, LAYOUT, MODIFIED, ATTRIBUTE, ATTRIBUTE_INFO}

# size -> the bits of a little-endian IEEE float: flags, offset, precision, positions and sizes of exponent and mantissa
FLOATS = {
    2: (0x0F20, 0, 16, 10, 5, 0, 10, 15), 4: (0x1F20, 0, 32, 23, 8, 0, 23, 127), 8: (0x3F20, 0, 64, 52, 11, 0, 52, 1023)
}  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """The location of a dataset: ``shape`` values of ``dtype`` from byte ``offset`` of the file, in C order."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Size in bytes of one entry along the first axis."""
        return int(self.dtype.itemsize * math.prod(self.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Size in bytes of the whole dataset."""
        return self.row_bytes * self.shape[0]


@dataclass(frozen=True)
class Outline:
    """What a file contains: attributes by group path, extents by dataset path."""

    attributes: dict[str, dict[str, Any]]
    datasets: dict[str, Extent]


def read_outline(descriptor: int, path: Path) -> Outline:
    """Find where everything is in an open, untrusted file, without reading any values.

    Raises
    ------
    DrexcacheError : not HDF5, damaged, or with anything that FORMAT.md forbids: links other than one hard link to
        each object, external storage, virtual datasets, filters, chunks, other types, oversized attributes, values
        beyond the end of the file or overlapping.
    """
    if os.fstat(descriptor).st_size == 0:
        raise DrexcacheError(f"{path}: the file is empty")
    if (kind := kind_of_file(path)) != "a cache":
        raise DrexcacheError(f"{path}: not a drexcache cache, but {kind}; drexcache extract makes caches")
    try:
        walk = _Walk(FileBytes(descriptor))
        walk.node(walk.root(), "/")
        if "/" not in walk.attributes:
            raise ValueError("its root is a dataset")
        walk.file.check_overlaps()
    except ForbiddenError as error:
        raise DrexcacheError(f"{path}: {error}, which a drexcache file never holds; refused") from error
    except (ValueError, LookupError, struct.error, OverflowError, OSError) as error:
        raise DrexcacheError(f"{path}: not a drexcache cache, or a damaged one ({error})") from error
    return Outline(walk.attributes, walk.datasets)


class ForbiddenError(ValueError):
    """The file has something that FORMAT.md forbids; the message begins with its name."""


class _Walk:
    """One walk over a file's objects."""

    def __init__(self, file: FileBytes) -> None:
        self.file, self.objects = file, 0
        self.attributes: dict[str, dict[str, Any]] = {}
        self.datasets: dict[str, Extent] = {}

    def root(self) -> int:
        """The address of the root group, from the superblock."""
        self.file.claim(0, 48)
        fields = self.file.peek(0, 48)
        if fields.take(8) != SIGNATURE:
            raise ValueError("no HDF5 file")
        fields.expect(2, 3, what="a superblock of version")
        if fields.take(11) != struct.pack("<BBBQ", 8, 8, 0, 0) or fields.number(8) != NO_ADDRESS:
            raise ValueError("a superblock with other sizes, flags, base or extension")
        if fields.number(8) > self.file.size:
            raise ValueError("the file was cut off")
        root = fields.number(8)
        if lookup3(fields.data[:44]) != fields.number(4):
            raise ValueError("the superblock does not match its checksum")
        return root

    def node(self, address: int, name: str) -> None:
        """Visit a group and everything below it, or a dataset."""
        self.objects += 1
        if self.objects > MAX_OBJECTS or name.count("/") > MAX_DEPTH:
            raise ForbiddenError(f"{name} is one of more than {MAX_OBJECTS} objects, or nested too deep")
        messages = self.messages(address)
        kinds = {kind for kind, _ in messages}
        if LAYOUT in kinds:
            self.datasets[name] = self.extent(messages, kinds, name)
        elif LINK_INFO in kinds and kinds <= OF_A_GROUP:
            self.attributes[name] = self.all_attributes(messages, name)
            children = list(self.links(messages, name))
            if len(dict(children)) < len(children):
                raise ValueError(f"{name} has two links of one name")
            for leaf, child in children:
                self.node(child, f"{name.rstrip('/')}/{leaf}")
        else:
            raise ForbiddenError(f"{name} is neither a plain group nor a plain dataset, or has a second link")

    def messages(self, address: int) -> list[tuple[int, Fields]]:
        """The (type, body) of an object's header messages."""
        start = self.file.peek(address, 34)
        start.take(4)
        start.expect(2, what="an object header of version")
        flags = start.number(1)
        start.take((16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0))
        length = start.number(1 << (flags & 3))
        fields = self.file.checked(address, start.at + length + 4, b"OHDR")
        fields.take(start.at - 4)
        parts, found = [fields], []
        for part in parts:
            while part.left >= (6 if flags & 4 else 4):
                kind, size, special = part.number(1), part.number(2), part.number(1)
                part.take(2 if flags & 4 else 0)
                body = Fields(part.take(size))
                if special & 2:
                    raise ValueError("a shared header message")
                if kind == CONTINUATION:
                    parts.append(self.file.checked(body.number(8), body.number(8), b"OCHK"))
                else:
                    found.append((kind, body))
        return found

    def links(self, messages: list[tuple[int, Fields]], name: str) -> Iterator[tuple[str, int]]:
        """The (name, address) of a group's hard links."""
        bodies = [body for kind, body in messages if kind == LINK]
        for body in bodies + self.stored_apart(messages, LINK_INFO, order_bytes=8, record=(5, 11, 4, 7)):
            body.expect(1, what="a link of version")
            flags = body.number(1)
            kind = body.number(1) if flags & 8 else 0
            body.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
            leaf = body.take(body.number(1 << (flags & 3))).decode()
            if kind:
                raise ForbiddenError(f"{name.rstrip('/')}/{leaf} is a soft or external link")
            yield leaf, body.number(8)

    def all_attributes(self, messages: list[tuple[int, Fields]], name: str) -> dict[str, Any]:
        bodies = [body for kind, body in messages if kind == ATTRIBUTE]
        bodies += self.stored_apart(messages, ATTRIBUTE_INFO, order_bytes=2, record=(8, 17, 0, 8))
        if len(bodies) > MAX_ATTRIBUTES:
            raise ForbiddenError(f"{name} is a group with {len(bodies)} attributes")
        found = dict(attribute(body, name) for body in bodies)
        if len(found) < len(bodies):
            raise ValueError(f"{name} has two attributes of one name")
        return found

    def stored_apart(
        self, messages: list[tuple[int, Fields]], info: int, order_bytes: int, record: tuple[int, int, int, int]
    ) -> list[Fields]:
        """Messages stored in a fractal heap, because there are many or large ones, and found through a B-tree.

        record : the B-tree's type and record size, and the start and length of the heap id in a record.
        """
        for body in (body for kind, body in messages if kind == info):
            body.expect(0, what="a message of version")
            flags = body.number(1)
            body.take(order_bytes if flags & 1 else 0)
            heap, tree = body.number(8), body.number(8)
            if heap == NO_ADDRESS:
                return []
            kind, size, start, length = record
            objects, records = Heap(self.file, heap, length), tree_records(self.file, tree, kind, size)
            return [Fields(objects.get(record[start : start + length])) for record in records]
        return []

    def extent(self, messages: list[tuple[int, Fields]], kinds: set[int], name: str) -> Extent:
        if kinds & {EXTERNAL, FILTERS}:
            raise ForbiddenError(f"{name} is a dataset with external storage or filters")
        if not kinds <= OF_A_DATASET or not {DATASPACE, DATATYPE} <= kinds:
            raise ForbiddenError(f"{name} is not a plain dataset")
        fields = dict(messages)
        layout, space = fields[LAYOUT], fields[DATASPACE]
        if layout.number(1) not in (3, 4) or layout.number(1) != 1:
            raise ForbiddenError(f"{name} is a chunked, compact or virtual dataset")
        dtype, shape = datatype(fields[DATATYPE], name), dataspace(space, name)
        extent = Extent(layout.number(8), shape, dtype)
        if not 1 <= len(shape) <= 2:
            raise ForbiddenError(f"{name} is a dataset that is not a vector or a matrix")
        nbytes = dtype.itemsize * math.prod(shape)
        if extent.offset + nbytes > self.file.size or layout.number(8) != nbytes:
            raise ForbiddenError(f"{name} is a dataset of shape {shape} that reaches beyond the end of the file")
        self.file.claim(extent.offset, nbytes)
        return extent


def attribute(body: Fields, name: str) -> tuple[str, Any]:
    """Parse an attribute's name and value from its message."""
    body.expect(3, what="an attribute of version")
    body.expect(0, what="a shared attribute")
    name_size, type_size, space_size = (body.number(2) for _ in range(3))
    body.take(1)
    key = body.take(name_size).rstrip(b"\0").decode()
    where = f"{name}@{key}"
    dtype = datatype(Fields(body.take(type_size)), where)
    shape = dataspace(Fields(body.take(space_size)), where)
    if shape != ():
        raise ForbiddenError(f"{where} is an attribute of shape {shape}")
    value = np.frombuffer(body.take(dtype.itemsize), dtype)[0].item()
    return key, value.decode() if dtype.kind == "S" else value


def datatype(body: Fields, name: str) -> np.dtype:
    """Parse a type: an integer, a float or fixed-length text."""
    kind = body.number(1)
    flags, size = body.number(3), body.number(4)
    if kind >> 4 in (1, 3) and 0 < size <= MAX_TEXT_BYTES:
        if (
            kind & 15 == 0
            and size in (1, 2, 4, 8)
            and flags in (0, 8)
            and body.take(4) == struct.pack("<HH", 0, 8 * size)
        ):
            return np.dtype(f"<{'i' if flags else 'u'}{size}")
        if kind & 15 == 1 and size in FLOATS and (flags, *struct.unpack("<HHBBBBI", body.take(12))) == FLOATS[size]:
            return np.dtype(f"<f{size}")
        if kind & 15 == 3 and flags in (0, 1, 16, 17):
            return np.dtype(f"S{size}")
    raise ForbiddenError(f"{name} is of another type than little-endian whole numbers, floats or fixed-length text")


def dataspace(body: Fields, name: str) -> tuple[int, ...]:
    """Parse a shape; () for a scalar."""
    version, rank, flags, kind = (body.number(1) for _ in range(4))
    shape = tuple(body.number(8) for _ in range(rank))
    largest = tuple(body.number(8) for _ in range(rank)) if flags & 1 else shape
    if version != 2 or flags & ~1 or kind != (1 if rank else 0) or largest != shape:
        raise ForbiddenError(f"{name} has an empty or growing shape")
    return shape
