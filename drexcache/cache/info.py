"""A cache's summary as plain JSON types, and the verification of its checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from drexcache.cache.checks import children
from drexcache.cache.format import DONE, FAILED, MISSING, Contents, StoredBlock, target_attributes
from drexcache.datasets import Target, sha256_of_ids
from drexcache.errors import several

if TYPE_CHECKING:
    from drexcache.cache.reader import FeatureCache


def info(cache: FeatureCache) -> dict[str, Any]:
    """The fields that ``drexcache cache info --json`` prints."""
    return {
        "path": str(cache.path), "dataset": cache.dataset, "images": len(cache), "bytes": cache.path.stat().st_size,
        "complete": cache.complete, "shard": cache.shard,
        "blocks": {name: block_summary(block, cache.status(name)) for name, block in cache.blocks.items()},
        "targets": {name: target_summary(target) for name, target in cache.targets.items()},
        "labels": {name: _label_counts(cache, name) for name in children(cache.storage.attributes, "/labels")},
        "failures": cache.failures(),
    }  # fmt: skip


def verify(cache: FeatureCache) -> list[str]:
    """Read everything and return a sentence for whatever does not match its checksum; empty if all is well."""
    problems = damaged_contents(cache.contents, cache.storage.attributes)
    if cache.complete and cache.image_checksum() != cache.storage.read("/images/checksum").tobytes():
        problems.append("/images: hashes or failures do not match their checksum")
    for name in cache.blocks:
        bad = np.flatnonzero(cache.status(name) == DONE)[~cache.intact(name)]
        if len(bad):
            first = ", ".join(cache.ids[row] for row in bad[:3])
            count = several(len(bad), "row does", "rows do")
            problems.append(f"/blocks/{name}: {count} not match the checksum (first: {first})")
        if cache.complete and cache.block_checksum(name) != cache.storage.read(f"/blocks/{name}/checksum").tobytes():
            problems.append(f"/blocks/{name}: row checksums or status do not match the block's checksum")
    return problems


def _label_counts(cache: FeatureCache, label: str) -> dict[str, int]:
    """Text -> the number of images that have it, without decoding a million texts."""
    counts = Counter(cache.storage.read(f"/labels/{label}/value").tolist())
    texts = cache.decoded(f"/labels/{label}/value", np.array(list(counts), dtype="S"))
    return dict(sorted(zip(texts, counts.values(), strict=True)))


def damaged_contents(contents: Contents, attributes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each of ids, ratings and labels that does not match its checksum in the attributes."""
    problems = []
    if sha256_of_ids(contents.ids) != attributes["/images"].get("ids_sha256"):
        problems.append("/images/id: the ids do not match their checksum")
    for name, target in contents.targets.items():
        if target_attributes(target)["sha256"] != attributes[f"/targets/{name}"].get("sha256"):
            problems.append(f"/targets/{name}: the ratings do not match their checksum")
    for name, column in contents.labels.items():
        if sha256_of_ids(column) != attributes[f"/labels/{name}"].get("sha256"):
            problems.append(f"/labels/{name}: the labels do not match their checksum")
    return problems


def block_summary(block: StoredBlock, status: np.ndarray) -> dict[str, Any]:
    """A block as plain JSON types, with the number of rows in each status (n,)."""
    return {
        "backbone": block.definition.backbone, "tag": block.definition.tag, "dim": block.dim, "dtype": block.dtype,
        "taps": {tap: cols.stop - cols.start for tap, cols in block.taps.items()},
        "done": int((status == DONE).sum()), "failed": int((status == FAILED).sum()),
        "missing": int((status == MISSING).sum()), "weights": block.weights_source,
        "fingerprint": block.fingerprint, "fields": block.fields(), "provenance": list(block.provenance),
    }  # fmt: skip


def target_summary(target: Target) -> dict[str, Any]:
    """A target as plain JSON types: its range and meaning, and the number, mean and spread of its ratings."""
    rated = target.values[np.isfinite(target.values)]
    with np.errstate(over="ignore"):
        mean, std = (float(rated.mean()), float(rated.std())) if len(rated) else (None, None)
    return {
        "rated": len(rated), "low": target.low, "high": target.high, "higher_is": target.higher_is,
        "declared": target.declared, "mean": mean, "std": std, "reliability": target.reliability,
        "reliability_from": target.reliability_from,
    }  # fmt: skip
