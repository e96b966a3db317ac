"""Reading the bytes of an untrusted file: fields in sequence, structures that lie in the file and do not overlap."""

from __future__ import annotations

import itertools
import os
import struct

MAX_READ = 4 << 20  # bytes of structures with checksums (about a second of work), or four times as many without


class Fields:
    """A structure's fields, read one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("a structure is cut off")
        return self.data[self.at - count : self.at]

    def number(self, count: int) -> int:
        end = self.at + count
        if end > len(self.data):
            raise ValueError("a structure is cut off")
        found = int.from_bytes(self.data[self.at : end], "little")
        self.at = end
        return found

    def expect(self, *values: int, count: int = 1, what: str) -> int:
        found = self.number(count)
        if found not in values:
            raise ValueError(f"{what} {found} is not supported")
        return found

    @property
    def left(self) -> int:
        return len(self.data) - self.at


class FileBytes:
    """The bytes of a file, where each byte may belong to only one structure."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.size, self.left = descriptor, os.fstat(descriptor).st_size, MAX_READ
        self.claims: list[tuple[int, int]] = []

    def claim(self, address: int, length: int) -> None:
        if address + length > self.size:
            raise ValueError(f"{length} bytes at {address} reach beyond the end of the file")
        self.claims.append((address, address + length))

    def peek(self, address: int, length: int, *, checked: bool = True) -> Fields:
        self.left -= length if checked else length // 4
        if self.left < 0:
            raise ValueError("too much metadata")
        return Fields(os.pread(self.descriptor, length, min(address, self.size)))

    def checked(self, address: int, length: int, signature: bytes, claim: int = 0) -> Fields:
        """The fields between a structure's signature and its checksum."""
        self.claim(address, claim or length)
        data = self.peek(address, length).data
        if data[:4] != signature or len(data) < length:
            raise ValueError(f"no {signature.decode()} at {address}")
        if lookup3(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise ValueError(f"{signature.decode()} at {address} does not match its checksum")
        return Fields(data[4:-4])

    def check_overlaps(self) -> None:
        for (_, end), (start, _) in itertools.pairwise(sorted(self.claims)):
            if start < end:
                raise ValueError(f"two structures overlap at {start}")


def lookup3(data: bytes) -> int:
    """Bob Jenkins's hash, which HDF5 uses as the checksum of its metadata.

    >>> hex(lookup3(b"Four score and seven years ago"))
    '0x17770551'
    """
    M = 0xFFFFFFFF
    a = b = c = 0xDEADBEEF + len(data) & M
    if not data:
        return c
    whole = (len(data) - 1) // 12
    words = struct.unpack(f"<{3 * whole + 3}I", data.ljust(12 * whole + 12, b"\0"))
    for i in range(0, 3 * whole, 3):
        a, b, c = a + words[i] & M, b + words[i + 1] & M, c + words[i + 2] & M
        a = (a - c & M) ^ (c << 4 & M | c >> 28)
        c = c + b & M
        b = (b - a & M) ^ (a << 6 & M | a >> 26)
        a = a + c & M
        c = (c - b & M) ^ (b << 8 & M | b >> 24)
        b = b + a & M
        a = (a - c & M) ^ (c << 16 & M | c >> 16)
        c = c + b & M
        b = (b - a & M) ^ (a << 19 & M | a >> 13)
        a = a + c & M
        c = (c - b & M) ^ (b << 4 & M | b >> 28)
        b = b + a & M
    a, b, c = a + words[-3] & M, b + words[-2] & M, c + words[-1] & M
    c = (c ^ b) - (b << 14 & M | b >> 18) & M
    a = (a ^ c) - (c << 11 & M | c >> 21) & M
    b = (b ^ a) - (a << 25 & M | a >> 7) & M
    c = (c ^ b) - (b << 16 & M | b >> 16) & M
    a = (a ^ c) - (c << 4 & M | c >> 28) & M
    b = (b ^ a) - (a << 14 & M | a >> 18) & M
    return (c ^ b) - (b << 24 & M | b >> 8) & M
