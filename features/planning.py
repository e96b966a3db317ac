"""Planning an extraction: the contents of the finished cache, the rows to compute, and conflicts to refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache import DONE, CacheWriter, Contents, FeatureCache, StoredBlock, differences
from drexcache.datasets import ImageTable, Target, sha256_of_ids
from drexcache.errors import DrexcacheError, several
from drexcache.features.pipeline import Extractor, in_memory, read_image
from drexcache.progress import step_bar

# how far a recomputed row may be from the stored one, as a share of its largest value
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
PROBED = 8  # rows, spread over the images: a version may change only some, as Pillow 13 does tall ones


def stored_blocks(extractors: Mapping[str, Extractor], store: str = "float32") -> dict[str, StoredBlock]:
    """The cache's descriptions of the blocks that these extractors compute."""
    return {
        name: StoredBlock(one.block, one.weights_sha256, one.weights_source, dims=one.dims, dtype=store)
        for name, one in extractors.items()
    }


def provenance_entry(extractor: Extractor) -> dict[str, Any]:
    """The entry in a block's provenance for rows that this run computes."""
    packages = ["drexcache", "torch", "timm", "pillow", "numpy"] + ["openvino"] * (extractor.mode == "openvino")
    return {"device": extractor.where, "mode": extractor.mode, **{package: version(package) for package in packages}}


def missing_rows(
    table: ImageTable, blocks: Mapping[str, StoredBlock], sources: Sequence[FeatureCache], hashes: np.ndarray
) -> dict[str, np.ndarray]:
    """Block name -> bool (n,): rows for which no source has intact features of the same file, recipe and weights.

    hashes : SHA-256 (n, 32) of the files, from `current_files`.
    """
    missing = {name: np.ones(len(table.ids), bool) for name in blocks}
    rows = {image: row for row, image in enumerate(table.ids)}
    for cache in sources:
        place = np.array([rows.get(image, -1) for image in cache.ids], dtype=np.int64)
        fits = (place >= 0) & (hashes[place] == cache.hashes()).all(axis=1)
        for name, block in blocks.items():
            if name in cache.blocks and cache.blocks[name].fingerprint == block.fingerprint:
                done = np.flatnonzero(cache.status(name) == DONE)
                missing[name][place[done[fits[done] & cache.intact(name)]]] = False
    return missing


def wanted_contents(
    table: ImageTable, wanted: Mapping[str, StoredBlock], entries: Mapping[str, dict[str, Any]],
    sources: Sequence[FeatureCache],
) -> Contents:  # fmt: skip
    """The contents of the finished file: the wanted blocks, and any other blocks that the cache already has.

    entries : block name -> what this run adds to its provenance, for blocks of which it computes rows.
    """
    blocks = dict(wanted)
    for name, block in wanted.items():
        same = [s.blocks[name] for s in sources if name in s.blocks and s.blocks[name].fingerprint == block.fingerprint]
        every = [entry for old in same for entry in old.provenance] + ([entries[name]] if name in entries else [])
        unique = [entry for at, entry in enumerate(every) if entry not in every[:at]]
        blocks[name] = replace(block, provenance=tuple(unique), dtype=same[0].dtype if same else block.dtype)
    for cache in sources:
        for name, block in cache.blocks.items():
            blocks.setdefault(name, block)
    targets, labels = _carried(table, sources)
    return Contents(
        table.dataset, table.ids, targets, labels, dict(sorted(blocks.items())),
        images=table.root, shard=table.shard_of, table_sha256=table.table_sha256 or sha256_of_ids(table.ids),
    )  # fmt: skip


def _carried(
    table: ImageTable, sources: Sequence[FeatureCache]
) -> tuple[dict[str, Target], dict[str, tuple[str, ...]]]:
    """The table's ratings and labels, and those under other names that the cache already has."""
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


def refuse_conflicts(
    table: ImageTable, wanted: Mapping[str, StoredBlock], sources: Sequence[FeatureCache], out: Path, prune: bool
) -> None:
    """Refuse sources whose blocks were computed differently, and dropping rows without ``prune``."""
    for cache in sources:
        for name, block in wanted.items():
            old = cache.blocks.get(name)
            if old is not None and old.fingerprint != block.fingerprint:
                raise DrexcacheError(
                    f"{cache.path}: block {name} was computed otherwise: {'; '.join(differences(old, block))}. "
                    "Write to another file, or give the block a name of its own with --as OLD=NEW"
                )
        removed = sorted(set(cache.ids) - set(table.ids))
        if removed and not prune:
            raise DrexcacheError(
                f"{cache.path}: holds {several(len(removed), 'image that is', 'images that are')} not among these "
                f"images (first: {', '.join(removed[:3])}); give --prune to drop their rows, or write to another file"
            )
    if out.exists() and not sources:
        raise DrexcacheError(f"{out}: exists and is not a drexcache cache; choose another name")


def current_files(
    table: ImageTable, sources: Sequence[FeatureCache], rehash: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """SHA-256 (n, 32) and state (n, 2, see `ImageFile.stat`) of the files that a source has, zeros for the others.

    A file whose state has not changed since it was hashed is not read again, unless ``rehash``.
    """
    n = len(table.ids)
    hashes, stats = np.zeros((n, 32), "u1"), np.zeros((n, 2), "<i8")
    rows = {image: row for row, image in enumerate(table.ids)}
    for cache in sources:
        old_hashes, old_stats = cache.hashes(), cache.stats()
        with step_bar("look through the files", "file") as show:
            for at, image in enumerate(cache.ids):
                show(at, len(cache), "")
                row = rows.get(image)
                if row is None or hashes[row].any() or not old_hashes[at].any():
                    continue
                try:
                    now = table.files[row].stat()
                except OSError:
                    continue  # will be reported when it is read
                if now == tuple(old_stats[at]) and not rehash:
                    hashes[row], stats[row] = old_hashes[at], now
                else:
                    read = read_image(table, row, ())
                    hashes[row], stats[row] = np.frombuffer(read.sha256, "u1"), read.stat
    return hashes, stats


def probe(
    table: ImageTable, writer: CacheWriter, extractors: Mapping[str, Extractor], contents: Contents,
    entries: Mapping[str, dict[str, Any]], say: Callable[[str], None],
) -> None:  # fmt: skip
    """If kept rows were computed with another version, device or engine, recompute a few of them and compare.

    entries : block name -> this run's provenance entry, for blocks of which it computes rows.

    Raises
    ------
    DrexcacheError : the numbers differ by more than rounding (says what changed).
    """
    for name, new in entries.items():
        block, done = contents.blocks[name], np.flatnonzero(writer.done(name))
        others = [entry for entry in block.provenance if entry != new]
        if not others or not len(done):
            continue
        errors: dict[int, float] = {}
        for row in done[np.unique(np.linspace(0, len(done) - 1, PROBED).astype(int))].tolist():
            image = read_image(table, row, [extractors[name]])
            if not image.failure:
                again = in_memory(extractors[name]([image.inputs[name]]))[0]
                kept = writer.cache.features(name, np.array([row]))[0].astype(np.float32)
                errors[row] = float(np.abs(again - kept).max() / (np.abs(kept).max() + 1e-12))
        if not errors:
            continue
        row, error = max(errors.items(), key=lambda one: one[1])
        old = others[-1]
        changed = "; ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in new if old.get(key) != new.get(key))
        if error > TOLERANCE[block.definition.precision]:
            raise DrexcacheError(
                f"{writer.path}: block {name}: {table.ids[row]} computed again differs by {error:.2g} of its "
                f"scale ({changed}); write to another file, or use the versions that made the cache"
            )
        agree = f"{several(len(errors), 'row agrees', 'rows agree')} to {error:.1e}"
        say(f"block {name}: rows of another setting kept ({changed}); computed again, {agree}")
