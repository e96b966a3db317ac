"""What a cache is to hold after this run: which blocks, whose rows, and what may not be mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drexcache.cache import FeatureCache
from drexcache.errors import DrexcacheError
from drexcache.features.backbones import Backbone
from drexcache.features.reading import read_image
from drexcache.images import ImageTable
from drexcache.layout import Contents, StoredBlock, differences, sha256_of_ids
from drexcache.matching import Target
from drexcache.recipes import Block, Recipe


def stored_blocks(
    blocks: Sequence[Block], backbones: Mapping[str, Backbone], device: torch.device, store: str = "float32"
) -> dict[str, StoredBlock]:
    """How the cache describes what these backbones compute."""
    found = {}
    for block in blocks:
        backbone = backbones.get(block.name)
        found[block.name] = StoredBlock(
            block,
            backbone.weights.sha256 if backbone else "",
            backbone.weights.source if backbone else "none, hand-made cues",
            dims=backbone.dims if backbone else (1,) * len(block.taps),
            dtype=store,
            provenance=(_provenance(device),),
        )
    return found


def _provenance(device: torch.device) -> dict[str, Any]:
    packages = ("drexcache", "torch", "timm", "pillow", "numpy")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": where, "mode": "eager", **{package: version(package) for package in packages}}


def wanted_contents(
    table: ImageTable, recipe: Recipe, backbones: Mapping[str, Backbone], sources: Sequence[FeatureCache],
    device: torch.device, store: str,
) -> Contents:  # fmt: skip
    """What the finished file is to hold: the recipe's blocks, and the other blocks that the cache already has."""
    blocks = stored_blocks(recipe.blocks, backbones, device, store)
    for name, block in blocks.items():
        same = [s.blocks[name] for s in sources if name in s.blocks and s.blocks[name].fingerprint == block.fingerprint]
        entries = [entry for old in same for entry in old.provenance] + list(block.provenance)
        unique = [entry for at, entry in enumerate(entries) if entry not in entries[:at]]
        blocks[name] = replace(block, provenance=tuple(unique), dtype=same[0].dtype if same else store)
    for cache in sources:
        for name, block in cache.blocks.items():
            blocks.setdefault(name, block)
    targets, labels = _carried(table, sources)
    return Contents(
        table.dataset, table.ids, targets, labels, dict(sorted(blocks.items())),
        shard=table.shard_of, table_sha256=table.table_sha256 or sha256_of_ids(table.ids),
    )  # fmt: skip


def _carried(
    table: ImageTable, sources: Sequence[FeatureCache]
) -> tuple[dict[str, Target], dict[str, tuple[str, ...]]]:
    """The table's ratings and labels, and those of other names that the cache already had."""
    targets, labels = dict(table.targets), dict(table.labels)
    for cache in sources:
        row = {image: at for at, image in enumerate(cache.ids)}
        at = [row.get(image) for image in table.ids]
        for name, target in cache.targets.items():
            values = np.array([np.nan if i is None else target.values[i] for i in at])
            targets.setdefault(name, replace(target, values=values))
        for name, column in cache.labels.items():
            labels.setdefault(name, tuple("" if i is None else column[i] for i in at))
    return dict(sorted(targets.items())), dict(sorted(labels.items()))


def refuse_conflicts(contents: Contents, sources: Sequence[FeatureCache], out: Path, prune: bool) -> None:
    """Raise where a block was computed otherwise, or where rows would be dropped without ``prune``."""
    for cache in sources:
        for name, block in contents.blocks.items():
            old = cache.blocks.get(name)
            if old is not None and old.fingerprint != block.fingerprint:
                raise DrexcacheError(
                    f"{cache.path}: block {name} was computed otherwise: {'; '.join(differences(old, block))}. "
                    "Write to another file, or give the block a name of its own with --as OLD=NEW"
                )
        removed = sorted(set(cache.ids) - set(contents.ids))
        if removed and not prune:
            raise DrexcacheError(
                f"{cache.path}: holds {len(removed)} images that are not among these images (first: "
                f"{', '.join(removed[:3])}); give --prune to drop their rows, or write to another file"
            )
    if out.exists() and not sources:
        raise DrexcacheError(f"{out}: exists and is not a drexcache cache; choose another name")


def current_files(table: ImageTable, sources: Sequence[FeatureCache]) -> tuple[np.ndarray, np.ndarray]:
    """SHA-256 (n, 32) and size and mtime (n, 2) of the files that a source knows, zeros for the others.

    A file whose size and modification time are as they were when it was hashed is not read again.
    """
    n = len(table.ids)
    hashes, stats = np.zeros((n, 32), "u1"), np.zeros((n, 2), "<i8")
    rows = {image: row for row, image in enumerate(table.ids)}
    for cache in sources:
        old_hashes, old_stats = cache.hashes(), cache.stats()
        for at, image in enumerate(cache.ids):
            row = rows.get(image)
            if row is None or hashes[row].any() or not old_hashes[at].any():
                continue
            try:
                now = table.files[row].stat()
            except OSError:
                continue  # met again, and reported, when it is read
            if now == tuple(old_stats[at]):
                hashes[row] = old_hashes[at]
            else:
                hashes[row] = np.frombuffer(read_image(table.files[row], row, ()).sha256, "u1")
            stats[row] = now
    return hashes, stats
