"""What a cache holds, in short and as plain JSON types, and whether it is what was written."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from drexcache.cache.format import DONE, FAILED, MISSING, StoredBlock, children
from drexcache.cache.reader import FeatureCache
from drexcache.datasets import Target, sha256_of_ids


def info(cache: FeatureCache) -> dict[str, Any]:
    """The fields that ``drexcache cache info --json`` prints."""
    return {
        "path": str(cache.path), "dataset": cache.dataset, "images": len(cache), "bytes": cache.path.stat().st_size,
        "complete": cache.complete, "shard": cache.shard,
        "blocks": {name: _of_block(block, cache.status(name)) for name, block in cache.blocks.items()},
        "targets": {name: _of_target(target) for name, target in cache.targets.items()},
        "labels": {name: _of_label(cache, name) for name in children(cache._attributes, "/labels")},
        "failures": cache.failures(),
    }  # fmt: skip


def verify(cache: FeatureCache) -> list[str]:
    """Read everything and say what does not match its checksum; an empty list means that all does."""
    problems = []
    if sha256_of_ids(cache.ids) != cache._attributes["/images"].get("ids_sha256"):
        problems.append("/images/id: the ids do not match their checksum")
    if cache.complete and cache.image_checksum() != cache._read("/images/checksum").tobytes():
        problems.append("/images: hashes or failures do not match their checksum")
    for name, target in cache.targets.items():
        digest = hashlib.sha256(np.asarray(target.values, "<f8").tobytes()).hexdigest()
        if digest != cache._attributes[f"/targets/{name}"].get("sha256"):
            problems.append(f"/targets/{name}: the ratings do not match their checksum")
    for name, column in cache.labels.items():
        if sha256_of_ids(column) != cache._attributes[f"/labels/{name}"].get("sha256"):
            problems.append(f"/labels/{name}: the labels do not match their checksum")
    for name in cache.blocks:
        bad = np.flatnonzero(cache.status(name) == DONE)[~cache.intact(name)]
        if len(bad):
            first = ", ".join(cache.ids[row] for row in bad[:3])
            problems.append(f"/blocks/{name}: {len(bad)} rows do not match their checksum (first: {first})")
        if cache.complete and cache.block_checksum(name) != cache._read(f"/blocks/{name}/checksum").tobytes():
            problems.append(f"/blocks/{name}: row checksums or status do not match the block's checksum")
    return problems


def _of_label(cache: FeatureCache, label: str) -> dict[str, int]:
    """Text -> how many images have it, without decoding a million texts."""
    counts = Counter(cache._read(f"/labels/{label}/value").tolist())
    texts = cache._decoded(f"/labels/{label}/value", np.array(list(counts), dtype="S"))
    return dict(sorted(zip(texts, counts.values(), strict=True)))


def _of_block(block: StoredBlock, status: np.ndarray) -> dict[str, Any]:
    return {
        "backbone": block.definition.backbone, "tag": block.definition.tag, "dim": block.dim, "dtype": block.dtype,
        "taps": {tap: cols.stop - cols.start for tap, cols in block.taps.items()},
        "done": int((status == DONE).sum()), "failed": int((status == FAILED).sum()),
        "missing": int((status == MISSING).sum()), "weights": block.weights_source,
        "fingerprint": block.fingerprint, "fields": block.fields(), "provenance": list(block.provenance),
    }  # fmt: skip


def _of_target(target: Target) -> dict[str, Any]:
    rated = target.values[np.isfinite(target.values)]
    return {
        "rated": len(rated), "low": target.low, "high": target.high, "higher_is": target.higher_is,
        "declared": target.declared, "mean": float(rated.mean()) if len(rated) else None,
        "std": float(rated.std()) if len(rated) else None, "reliability": target.reliability,
        "reliability_from": target.reliability_from,
    }  # fmt: skip
