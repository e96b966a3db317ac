"""Caches that a stranger altered, in bytes and in structures, with HDF5's own checksums made right again."""

from __future__ import annotations

import os
import random
import resource
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest

from drexcache import DrexcacheError, open_cache
from drexcache.cache.fields import FileBytes, lookup3
from drexcache.cache.parser import read_outline

DATA = Path(__file__).parent / "data"
NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    255,
    4096,
    (1 << 16) - 1,
    1 << 20,
    (1 << 31) - 1,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
]


@dataclass
class Original:
    """A cache's bytes, what it holds, and (start, end, place of the checksum) of each structure of HDF5 in it."""

    data: bytes
    held: tuple[object, ...]
    structures: list[tuple[int, int, int]]


def held(path: Path) -> tuple[object, ...] | None:
    """What a matrix is made of, or None where `verify` finds fault."""
    cache = open_cache(path)
    cache.info()
    problems, matrix = cache.verify(), cache.matrix()
    if problems:
        return None
    return matrix.X.tobytes(), matrix.y.tobytes(), list(matrix.ids), matrix.labels, matrix.taps, cache.failures()


def original(name: str, monkeypatch: pytest.MonkeyPatch) -> Original:
    structures = [(0, 48, 44)]
    claim = FileBytes.claim

    def noted(self: FileBytes, address: int, length: int) -> None:
        claim(self, address, length)
        piece = os.pread(self.descriptor, length, address)
        if piece[:4] == b"FHDB":
            structures.append((address, address + length, address + 17))
        elif piece[:4] in (b"BTLF", b"BTIN"):  # a node has more room than its records
            count = next(c for c in range(length) if lookup3(piece[:c]) == int.from_bytes(piece[c : c + 4], "little"))
            structures.append((address, address + count + 4, address + count))
        elif piece[:4] in (b"OHDR", b"OCHK", b"FRHP", b"FHIB", b"BTHD"):
            structures.append((address, address + length, address + length - 4))

    monkeypatch.setattr(FileBytes, "claim", noted)
    with (DATA / name).open("rb") as file:
        read_outline(file.fileno(), DATA / name)
    monkeypatch.undo()
    found = held(DATA / name)
    assert found is not None and len(structures) > 10
    return Original((DATA / name).read_bytes(), found, structures)


def repair(data: bytearray, structure: tuple[int, int, int]) -> None:
    """Make the checksum right again."""
    start, end, at = structure
    if data[start : start + 4] == b"FHDB":
        data[at : at + 4] = bytes(4)
        checksum = lookup3(bytes(data[start:end]))
    else:
        checksum = lookup3(bytes(data[start:at]))
    data[at : at + 4] = checksum.to_bytes(4, "little")


def mutate(source: Original, rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, numbers, copies of other parts, in a structure (then repaired) or anywhere."""
    data = bytearray(source.data)
    touched = set()
    for _ in range(rng.randint(1, 4)):
        structure = rng.choice(source.structures) if rng.random() < 0.8 else None
        start, end, _ = structure or (0, len(data), 0)
        at = rng.randrange(start, end)
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice((*NUMBERS, len(data), rng.choice(source.structures)[0], rng.randrange(len(data))))
            data[at : at + size] = struct.pack("<Q", number)[:size]
        elif kind == 3:
            other, size = rng.randrange(len(data)), rng.choice((1, 4, 8, 24, 100))
            data[at : at + size] = data[other : other + size]
        else:
            size = rng.choice((1, 2, 8))
            data[at : at + size] = rng.randbytes(size)
        del data[len(source.data) :]
        touched.add(structure)
    for structure in touched - {None}:
        repair(data, structure)
    if rng.random() < 0.02:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def damage(source: Original, count: int, seed: int, covered: bool) -> list[str]:
    """What went wrong with that many mutations; ``covered``: checksums of ours stand over the attributes, too."""
    rng, wrong, file = random.Random(seed), [], os.memfd_create("cache")
    path = Path(f"/proc/self/fd/{file}")
    for number in range(count):
        data = mutate(source, rng)
        os.ftruncate(file, 0)
        os.pwrite(file, data, 0)
        began = time.thread_time()
        try:
            found = held(path)
            if found is not None and found != source.held and covered:
                wrong.append(f"{number}: accepted with other contents")
        except DrexcacheError as error:
            if "\n" in str(error):
                wrong.append(f"{number}: {error}")
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}")
        if time.thread_time() - began > 2:
            wrong.append(f"{number}: took {time.thread_time() - began:.1f} s")
    os.close(file)
    return wrong


@pytest.mark.parametrize("count", [1000, pytest.param(34_000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("name", ["cache-v1.h5", "cache-v2.h5", "release-0.1-cache.h5"])
def test_altered_caches(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert damage(original(name, monkeypatch), count, seed=count, covered=name == "cache-v2.h5") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


@pytest.mark.parametrize("name", ["cache-v1.h5", "cache-v2.h5", "release-0.1-cache.h5"])
def test_flips_without_repair_are_never_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, rng, file = original(name, monkeypatch), random.Random(0), os.memfd_create("cache")
    for _ in range(500):
        data = bytearray(source.data)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= rng.randint(1, 255)
        os.pwrite(file, data, 0)
        try:
            found = held(Path(f"/proc/self/fd/{file}"))
        except DrexcacheError:
            continue
        assert found in (None, source.held)
    os.close(file)


def test_a_root_that_is_a_dataset_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = original("cache-v2.h5", monkeypatch)
    refused = set()
    for start, _, _ in source.structures:
        data = bytearray(source.data)
        data[36:44] = struct.pack("<Q", start)  # the superblock's address of the root
        repair(data, source.structures[0])
        (tmp_path / "root.h5").write_bytes(data)
        try:
            assert held(tmp_path / "root.h5") == source.held
        except DrexcacheError as error:
            refused.add(str(error).partition(": ")[2])
    assert "not a drexcache cache, or a damaged one (its root is a dataset)" in refused


def test_a_name_of_control_characters_is_shown_in_one_line(tmp_path: Path) -> None:
    path = Path(shutil.copy(DATA / "cache-v2.h5", tmp_path / "c.h5"))
    with h5py.File(path, "r+") as file:
        file["images"].attrs["v\n\x1b[2J"] = [1, 2]
    with pytest.raises(DrexcacheError) as caught:
        open_cache(path)
    assert str(caught.value).isprintable()
