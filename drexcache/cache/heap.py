"""Fractal heaps and B-trees, in which HDF5 stores links and attributes if there are many or large ones."""

from __future__ import annotations

import struct

from drexcache.cache.fields import Fields, FileBytes, lookup3

LARGE, LARGE_BYTES = 1, 24  # type and record size of the B-tree of objects stored outside a heap


def tree_records(file: FileBytes, address: int, kind: int, size: int) -> list[bytes]:
    """All records, of ``size`` bytes each, of a version 2 B-tree with at most two levels."""
    fields = file.checked(address, 38, b"BTHD")
    fields.expect(0, what="a B-tree of version")
    fields.expect(kind, what="a B-tree of type")
    node_size = fields.number(4)
    fields.expect(size, count=2, what="a B-tree with records of size")
    depth = fields.expect(0, 1, count=2, what="a B-tree of depth")
    fields.take(2)
    root, count = fields.number(8), fields.number(2)
    return _node(file, root, count, kind, size, node_size, depth) if count else []


def _node(file: FileBytes, address: int, count: int, kind: int, size: int, node_size: int, depth: int) -> list[bytes]:
    most = (node_size - 10) // size  # records of a leaf
    pointer = 8 + (most.bit_length() + 7) // 8
    length = 10 + count * size + (depth and (count + 1) * pointer)
    fields = file.checked(address, length, b"BTIN" if depth else b"BTLF", claim=max(length, node_size))
    fields.expect(0, what="a B-tree node of version")
    fields.expect(kind, what="a B-tree node of type")
    records = [fields.take(size) for _ in range(count)]
    for _ in range(count + 1 if depth else 0):
        child = Fields(fields.take(pointer))
        records += _node(file, child.number(8), child.number(pointer - 8), kind, size, node_size, 0)
    return records


class Heap:
    """A fractal heap: `get` returns an object's bytes by its id, which encodes its position in the heap.

    The heap consists of two rows of ``width`` blocks of ``first`` bytes, then rows of blocks twice as large as those
    before; a small heap is just the first block.
    """

    def __init__(self, file: FileBytes, address: int, id_bytes: int) -> None:
        self.file = file
        fields = file.checked(address, 146, b"FRHP")
        fields.expect(0, what="a heap of version")
        fields.expect(id_bytes, count=2, what="a heap with ids of length")
        fields.expect(0, count=2, what="a heap with filters")
        self.with_checksums = fields.number(1) & 2
        fields.take(12)
        self.large_tree = fields.number(8)
        fields.take(80)
        self.width, self.first, most, bits = (fields.number(count) for count in (2, 8, 8, 2))
        fields.take(2)
        root, self.rows = fields.number(8), fields.number(2)
        self.place_bytes = (bits + 7) // 8
        usual = 1 <= self.width <= 16 and 512 <= self.first <= most <= 1 << 16 and bits <= 64 and self.rows <= 16
        if not usual or self.first << max(0, self.rows - 2) > most:
            raise ValueError("a heap of unusual sizes")
        self.table = self._indirect(root) if self.rows else [root]
        self.blocks: dict[int, bytes] = {}
        self.large: dict[bytes, bytes] | None = None

    def _indirect(self, address: int) -> list[int]:
        """The addresses of the blocks, row by row."""
        count = self.width * self.rows
        block = self.file.checked(address, 17 + self.place_bytes + 8 * count, b"FHIB")
        block.take(9 + self.place_bytes)
        return [block.number(8) for _ in range(count)]

    def get(self, id: bytes) -> bytes:
        """An object's bytes."""
        if id[0] == 0x10:
            return self._outside(id[1:].ljust(8, b"\0"))
        if id[0]:
            raise ValueError("an object of an unknown kind in a heap")
        fields = Fields(id[1:])
        place, length = fields.number(self.place_bytes), fields.number(fields.left)
        row = (place // (self.width * self.first)).bit_length() if self.rows else 0
        size = self.first << max(0, row - 1)
        column, inside = divmod(place - (self.width * size if row else 0), size)
        at = row * self.width + column
        if at >= len(self.table):
            raise ValueError("an object outside of its heap")
        if at not in self.blocks:
            self.blocks[at] = self._block(self.table[at], size)
        return self.blocks[at][inside : inside + length]

    def _block(self, address: int, size: int) -> bytes:
        self.file.claim(address, size)
        data = self.file.peek(address, size).data
        if data[:4] != b"FHDB" or len(data) < size:
            raise ValueError(f"no FHDB at {address}")
        at = 13 + self.place_bytes
        stored = int.from_bytes(data[at : at + 4], "little")
        if self.with_checksums and lookup3(data[:at] + bytes(4) + data[at + 4 :]) != stored:
            raise ValueError(f"FHDB at {address} does not match its checksum")
        return data

    def _outside(self, number: bytes) -> bytes:
        """A large object, which is stored outside the heap."""
        if self.large is None:
            records = tree_records(self.file, self.large_tree, LARGE, LARGE_BYTES)
            self.large = {record[16:]: record[:16] for record in records}
        if number not in self.large:
            raise ValueError("a large object that is not there")
        address, length = struct.unpack("<QQ", self.large[number])
        self.file.claim(address, length)
        return self.file.peek(address, length, checked=False).data
