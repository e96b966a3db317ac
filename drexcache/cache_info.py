"""What a cache holds, in short: counts, ranges and origins as plain JSON types, without reading a feature."""

from __future__ import annotations

from typing import Any

import numpy as np

from drexcache.cache import FeatureCache
from drexcache.layout import DONE, FAILED, MISSING, StoredBlock, children
from drexcache.matching import Target


def info(cache: FeatureCache) -> dict[str, Any]:
    """The fields that ``drexcache cache info --json`` prints."""
    return {
        "path": str(cache.path), "dataset": cache.dataset, "images": len(cache), "bytes": cache.path.stat().st_size,
        "complete": cache.complete, "shard": cache.shard,
        "blocks": {name: _of_block(block, cache.status(name)) for name, block in cache.blocks.items()},
        "targets": {name: _of_target(target) for name, target in cache.targets.items()},
        "labels": {name: cache.label_counts(name) for name in children(cache._attributes, "/labels")},
        "failures": cache.failures(),
    }  # fmt: skip


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
        "std": float(rated.std()) if len(rated) else None,
    }  # fmt: skip
