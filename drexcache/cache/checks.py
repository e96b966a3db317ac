"""What a cache must contain and what its checksums cover: see FORMAT.md."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache.parser import Extent
from drexcache.errors import DrexcacheError

# What an image's seal covers. A seal shows that a row's parts belong together, however a power cut mixes old and new.
SEALED_OF_IMAGE = ("/images/id", "/images/sha256", "/images/bytes", "/images/mtime_ns", "/images/failure")


def sealed_of_block(block: str) -> tuple[str, ...]:
    """The datasets that a block's seal covers: the image's id and file hash, the features' CRC-32, the status."""
    return "/images/id", "/images/sha256", f"/blocks/{block}/crc32", f"/blocks/{block}/status"


def seals(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The seals, uint32 (n,): CRC-32 over row i's bytes of each column, one after the other."""
    n = len(columns[0])
    rows = np.concatenate([np.ascontiguousarray(column).view("u1").reshape(n, -1) for column in columns], axis=1)
    return np.fromiter((zlib.crc32(row) for row in rows), "<u4", n)


def children(attributes: Mapping[str, Any], group: str) -> list[str]:
    """Names of the groups right below a group, sorted."""
    return sorted(path.rpartition("/")[2] for path in attributes if path.rpartition("/")[0] == group)


def outline_sha256(
    attributes: Mapping[str, Mapping[str, Any]], datasets: Mapping[str, tuple[tuple[int, ...], np.dtype]]
) -> str:
    """SHA-256 (hex) over all attributes but this one, and every dataset's shape and type, as FORMAT.md defines it."""
    digest = hashlib.sha256()
    for group, values in sorted(attributes.items()):
        for key, value in sorted(values.items()):
            if (group, key) != ("/", "outline_sha256"):
                data = value.encode() if isinstance(value, str) else np.array(value).astype(_stored(value)).tobytes()
                digest.update(f"{group}@{key}".encode() + b"\0" + data + b"\0")
    for name, (shape, dtype) in sorted(datasets.items()):
        words = [name, f"{dtype.kind}{dtype.itemsize}", *map(str, shape)]
        digest.update(" ".join(words).encode() + b"\0")
    return digest.hexdigest()


def _stored(value: float) -> str:
    return "<i8" if isinstance(value, int) else "<f8"


def check_shapes(datasets: Mapping[str, Extent], attributes: Mapping[str, Any], path: Path, version: int) -> None:
    """Check that every group and dataset of the format exists, with the right number of rows and type.

    Raises
    ------
    DrexcacheError : one is missing or wrong (names the first).
    """
    for name in ("/images", "/blocks", "/targets", "/labels"):
        if name not in attributes:
            raise DrexcacheError(f"{path}: group {name} is missing; the file is damaged or not a cache")
    if "/images/id" not in datasets:
        raise DrexcacheError(f"{path}: /images/id is missing; the file is damaged or not a cache")
    n = datasets["/images/id"].shape[0]
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "/complete": ((1,), "u"), "/images/id": ((n,), "S"), "/images/sha256": ((n, 32), "u"),
        "/images/bytes": ((n,), "i"), "/images/mtime_ns": ((n,), "i"), "/images/failure": ((n,), "S"),
        "/images/checksum": ((32,), "u"),
    }  # fmt: skip
    if version > 1:
        expected |= {f"{group}/seal": ((n,), "u") for group in _sealed_groups(attributes)}
    for block in children(attributes, "/blocks"):
        here = f"/blocks/{block}"
        width = datasets[f"{here}/features"].shape[-1] if f"{here}/features" in datasets else 1
        expected |= {f"{here}/features": ((n, width), "f"), f"{here}/crc32": ((n,), "u")}
        expected |= {f"{here}/status": ((n,), "u"), f"{here}/checksum": ((32,), "u")}
    expected |= {f"/targets/{name}/value": ((n,), "f") for name in children(attributes, "/targets")}
    expected |= {f"/labels/{name}/value": ((n,), "S") for name in children(attributes, "/labels")}
    for name, (shape, kind) in expected.items():
        extent = datasets.get(name)
        if extent is None or extent.shape != shape or extent.dtype.kind != kind:
            found = "nothing" if extent is None else f"{extent.dtype} {extent.shape}"
            raise DrexcacheError(f"{path}: {name}: expected shape {shape} of kind '{kind}', found {found}")


def _sealed_groups(attributes: Mapping[str, Any]) -> list[str]:
    return ["/images", *(f"/blocks/{block}" for block in children(attributes, "/blocks"))]
