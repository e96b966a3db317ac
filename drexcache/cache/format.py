"""The layout of a cache file, shared by reader and writer and specified in FORMAT.md."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from drexcache.cache.checks import outline_sha256
from drexcache.cache.storage import text_dtype
from drexcache.datasets import Target, sha256_of_ids
from drexcache.errors import DrexcacheError
from drexcache.recipes import NUMERICS, Block, fingerprint_of, recipe_from_dict

FORMAT = "drexcache"
VERSION = 2  # version 1, without seals and without a checksum over the attributes, can still be read
FAILURE_BYTES = 96  # room for the reason why an image failed

MISSING, DONE, FAILED = 0, 1, 2  # a row's status in a block


@dataclass(frozen=True)
class StoredBlock:
    """A block as the cache stores it: its definition, the weights that computed it, its width and its provenance.

    ``provenance`` holds one entry per run that contributed rows: versions, device, compiled or eager, date.
    """

    definition: Block
    weights_sha256: str
    weights_source: str
    dims: tuple[int, ...]  # length of each tap's vector, in the definition's order
    dtype: str = "float32"
    provenance: tuple[dict[str, Any], ...] = ()
    numerics: int = NUMERICS  # of the drexcache that computed it

    @property
    def name(self) -> str:
        """The block's name in the cache."""
        return self.definition.name

    @property
    def dim(self) -> int:
        """The number of columns."""
        return sum(self.dims)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that affects the block's numbers."""
        return fingerprint_of({**self.fields(), "numerics": self.numerics})

    @property
    def taps(self) -> dict[str, slice]:
        """Tap name -> its columns within the block."""
        ends = np.cumsum(self.dims)
        return {
            tap.name: slice(int(end - dim), int(end))
            for tap, dim, end in zip(self.definition.taps, self.dims, ends, strict=True)
        }

    def fields(self) -> dict[str, Any]:
        """The definition's fields and the weights' hash, by which two blocks are compared."""
        return {**self.definition.spec(), "weights_sha256": self.weights_sha256}


@dataclass(frozen=True)
class Contents:
    """Everything in a cache except the values that extraction computes: n images, their ratings, the blocks to fill."""

    dataset: str
    ids: tuple[str, ...]
    targets: dict[str, Target]
    labels: dict[str, tuple[str, ...]]
    blocks: dict[str, StoredBlock]
    shard: str = ""  # "i/n" when the rows are one shard of a larger table
    table_sha256: str = ""  # of the whole table's ids; equal in all shards of a table
    images: str = field(default="", compare=False)  # where the images were: a hint, ignored in comparisons

    def attributes(self) -> dict[str, dict[str, Any]]:
        """HDF5 group path -> its attributes, except those that `stored_attributes` adds."""
        found: dict[str, dict[str, Any]] = {
            "/": {
                "format": FORMAT, "type": "cache", "version": VERSION, "dataset": self.dataset, "shard": self.shard,
                "table_sha256": self.table_sha256 or sha256_of_ids(self.ids),
            },
            "/images": {"type": "images", "version": 1, "ids_sha256": sha256_of_ids(self.ids)},
            "/blocks": {"type": "blocks", "version": 1},
            "/targets": {"type": "targets", "version": 1},
            "/labels": {"type": "labels", "version": 1},
        }  # fmt: skip
        for block in self.blocks.values():
            found[f"/blocks/{block.name}"] = stored_block_attributes(block)
        for name, target in self.targets.items():
            found[f"/targets/{name}"] = target_attributes(target)
        for name, column in self.labels.items():
            found[f"/labels/{name}"] = {"type": "label", "version": 1, "sha256": sha256_of_ids(column)}
        return found

    def stored_attributes(self) -> dict[str, dict[str, Any]]:
        """The attributes as written, including where the images were and the checksum over the outline."""
        found = self.attributes()
        found["/"]["images"] = self.images
        shapes = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in self.datasets().items()}
        found["/"]["outline_sha256"] = outline_sha256(found, shapes)
        return found

    def datasets(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """HDF5 dataset path -> shape and dtype."""
        n = len(self.ids)
        found: dict[str, tuple[tuple[int, ...], Any]] = {
            "/complete": ((1,), "u1"),
            "/images/id": ((n,), text_dtype(self.ids)),
            "/images/sha256": ((n, 32), "u1"),
            "/images/bytes": ((n,), "<i8"),
            "/images/mtime_ns": ((n,), "<i8"),
            "/images/failure": ((n,), f"S{FAILURE_BYTES}"),
            "/images/seal": ((n,), "<u4"),
            "/images/checksum": ((32,), "u1"),
        }
        for block in self.blocks.values():
            here = f"/blocks/{block.name}"
            found[f"{here}/features"] = ((n, block.dim), np.dtype(block.dtype).newbyteorder("<"))
            found[f"{here}/crc32"] = ((n,), "<u4")
            found[f"{here}/status"] = ((n,), "u1")
            found[f"{here}/seal"] = ((n,), "<u4")
            found[f"{here}/checksum"] = ((32,), "u1")
        for name in self.targets:
            found[f"/targets/{name}/value"] = ((n,), "<f8")
        for name, column in self.labels.items():
            found[f"/labels/{name}/value"] = ((n,), text_dtype(column))
        return found

    def values(self) -> dict[str, np.ndarray]:
        """HDF5 dataset path -> values, for the datasets known before anything is computed."""
        found = {f"/targets/{name}/value": np.asarray(target.values, "<f8") for name, target in self.targets.items()}
        texts = {"/images/id": self.ids} | {f"/labels/{name}/value": column for name, column in self.labels.items()}
        for name, column in texts.items():
            found[name] = np.fromiter((value.encode() for value in column), text_dtype(column), len(column))
        return found


def check_name(name: str, what: str) -> str:
    """The name, if it is valid in the file: 1 to 64 letters, digits, '.', '_' or '-'; else DrexcacheError."""
    if not re.fullmatch(r"[\w.\-]{1,64}", name) or name in (".", ".."):
        raise DrexcacheError(f"{what} {name!r}: use 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def target_attributes(target: Target) -> dict[str, Any]:
    """A target's description as plain attributes; `target_from_attributes` reads it back."""
    found = {
        "type": "target", "version": 1, "low": float(target.low), "high": float(target.high),
        "higher_is": target.higher_is, "declared": int(target.declared),
        "sha256": hashlib.sha256(np.asarray(target.values, "<f8").tobytes()).hexdigest(),
    }  # fmt: skip
    if target.reliability is not None:
        found |= {"reliability": float(target.reliability), "reliability_from": target.reliability_from}
    return found


def target_from_attributes(name: str, values: np.ndarray, attributes: Mapping[str, Any], where: str) -> Target:
    """The target with these values (n,) and its group's attributes, each checked.

    Raises
    ------
    DrexcacheError : an attribute is missing or malformed.
    """
    try:
        low, high = float(attributes["low"]), float(attributes["high"])
        target = Target(name, values, low, high, str(attributes["higher_is"]), bool(attributes["declared"]))
        if "reliability" not in attributes:
            return target
        reliability = float(attributes["reliability"])
        if not 0 <= reliability <= 1:
            raise ValueError(f"reliability {reliability:g} is not between 0 and 1")
    except (KeyError, ValueError, TypeError) as error:
        raise DrexcacheError(f"{where}: attribute missing or malformed ({error})") from error
    return replace(target, reliability=reliability, reliability_from=str(attributes.get("reliability_from", "")))


def stored_block_attributes(block: StoredBlock) -> dict[str, Any]:
    """A block's description as plain attributes; `block_from_attributes` reads it back."""
    return {
        "type": "block", "version": 1,
        "definition": json.dumps(block.definition.fields(), sort_keys=True),
        "dims": json.dumps(list(block.dims)),
        "weights_sha256": block.weights_sha256, "weights_source": block.weights_source,
        "fingerprint": block.fingerprint, "numerics": block.numerics,
        "provenance": json.dumps(list(block.provenance), sort_keys=True),
    }  # fmt: skip


def block_from_attributes(attributes: Mapping[str, Any], dtype: str, where: str) -> StoredBlock:
    """The block with these attributes of its group, each checked.

    Raises
    ------
    DrexcacheError : an attribute is missing or malformed, or the fingerprint does not match the definition.
    """
    try:
        definition = json.loads(attributes["definition"])
        dims = tuple(int(dim) for dim in json.loads(attributes["dims"]))
        provenance = tuple(dict(entry) for entry in json.loads(attributes["provenance"]))
        fingerprint = str(attributes["fingerprint"])
        definition["taps"] = [_without_none(tap) for tap in definition["taps"]]
        weights = str(attributes["weights_sha256"]), str(attributes["weights_source"])
        numerics = int(attributes.get("numerics", 1))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DrexcacheError(f"{where}: a block's attributes are missing or malformed ({error})") from error
    block = recipe_from_dict({"name": "stored", "blocks": [definition]}, where).blocks[0]
    stored = StoredBlock(block, *weights, dims=dims, dtype=dtype, provenance=provenance, numerics=numerics)
    if len(dims) != len(block.taps) or min(dims) < 1:
        raise DrexcacheError(f"{where}: {len(block.taps)} taps but {len(dims)} widths: {list(dims)}")
    if stored.fingerprint != fingerprint:
        raise DrexcacheError(
            f"{where}: the stored fingerprint {fingerprint[:12]} is not the one its definition gives "
            f"({stored.fingerprint[:12]}): the file was altered"
        )
    return stored


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def differences(old: StoredBlock, new: StoredBlock) -> list[str]:
    """The fields in which two blocks' fingerprints differ, as ``field: old -> new``."""
    before, after = ({**block.fields(), "numerics": block.numerics} for block in (old, new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {_brief(before.get(key))} -> {_brief(after.get(key))}" for key in keys]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
