"""Stage 1: from a table of images and a recipe to a cache file, computing only what is missing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from drexcache import writer as cache_writer
from drexcache.cache import FeatureCache
from drexcache.errors import DrexcacheError
from drexcache.features.backbones import Backbone, resolve_device
from drexcache.features.reading import ReadImage, read_ahead, read_image
from drexcache.features.weights import check_weights, licence_notice
from drexcache.images import ImageTable
from drexcache.matching import Target
from drexcache.layout import DONE, Contents, StoredBlock, differences, sha256_of_ids
from drexcache.recipes import Block, Recipe
from drexcache.writer import CacheWriter

# Rows from an earlier run under other library versions are kept when a row computed again agrees this well.
PROBE_TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}


@dataclass(frozen=True)
class Summary:
    """What a run of `extract` did: image counts, seconds, and why images failed (id -> reason)."""

    path: Path
    images: int
    computed: int
    reused: int
    seconds: float
    failures: dict[str, str]


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


def extract(
    table: ImageTable,
    recipe: Recipe,
    out: str | Path,
    *,
    weights: str | None = None,
    device: str = "auto",
    batch_size: int = 8,
    workers: int | None = None,
    store: str = "float32",
    prune: bool = False,
    say: Callable[[str], None] = _stderr,
) -> Summary:
    """Fill the cache ``out`` with the recipe's features of every image in the table.

    Rows that the cache, or an interrupted run, already holds are kept: only missing or changed images and missing
    blocks are computed. An image that cannot be read is a row marked as failed; the next run tries it again.

    Parameters
    ----------
    weights : "hub", "packaged", "random" (for tests) or a path; default: what the recipe says.
    device : "auto" (CUDA, then MPS, then CPU) or a torch device.
    batch_size, workers : images per forward pass; decoding threads (default: one per core, at most 16).
    store : "float32" or "float16", the dtype on disk.
    prune : drop rows whose image is no longer in the table; without it they are an error.
    say : receives one line for each thing a user should know.

    Raises
    ------
    DrexcacheError : unreachable weights, another recipe under the same block name, removed images, a cache that
        somebody else is writing, no space. What was committed stays.
    """
    started, out = time.monotonic(), Path(out)
    where = resolve_device(device)
    source = weights or recipe.weights
    for block in recipe.blocks:
        if not block.is_classic:
            check_weights(block.backbone, block.tag, source)
    with cache_writer.writer_lock(out):
        sources, notes = cache_writer.open_sources(out)
        for note in notes:
            say(note)
        backbones = load_backbones(recipe.blocks, source, where, say, known={b for s in sources for b in s.blocks})
        say(f"device: {where}" + (f" ({torch.cuda.get_device_name(where)})" if where.type == "cuda" else ""))
        contents = _contents(table, recipe, backbones, sources, where, store)
        _refuse_conflicts(contents, sources, out, prune)
        files = current_files(table, sources)
        try:
            computed, reused, final = _fill(table, contents, sources, files, backbones, out, batch_size, workers, say)
        except OSError as error:
            raise cache_writer.no_space(error, out) from error
    return Summary(out, len(table.ids), computed, reused, time.monotonic() - started, final.failures())


def load_backbones(
    blocks: Sequence[Block], source: str, device: torch.device, say: Callable[[str], None], known: set[str] = frozenset()
) -> dict[str, Backbone]:
    """Block name -> its loaded model, for every block that has one; says which weights, and their licence at first use."""
    found = {}
    for block in blocks:
        if block.is_classic:
            continue
        notice = licence_notice(block.backbone, block.tag)
        if notice and source != "random" and block.name not in known:
            say(notice)
        backbone = found[block.name] = Backbone(block, source, device)
        say(f"block {block.name}: {block.backbone} with weights from {backbone.weights.source}")
        if source == "random":
            say(f"block {block.name}: RANDOM WEIGHTS, the features mean nothing; this is for tests only")
    return found


def stored_blocks(
    blocks: Sequence[Block], backbones: dict[str, Backbone], device: torch.device, store: str = "float32"
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


def _contents(
    table: ImageTable, recipe: Recipe, backbones: dict[str, Backbone], sources: list[FeatureCache],
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


def _carried(table: ImageTable, sources: list[FeatureCache]) -> tuple[dict[str, Target], dict[str, tuple[str, ...]]]:
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


def _refuse_conflicts(contents: Contents, sources: list[FeatureCache], out: Path, prune: bool) -> None:
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


def _fill(
    table: ImageTable, contents: Contents, sources: list[FeatureCache], files: tuple[np.ndarray, np.ndarray],
    backbones: dict[str, Backbone], out: Path, batch_size: int, workers: int | None, say: Callable[[str], None],
) -> tuple[int, int, FeatureCache]:  # fmt: skip
    """Take over what is there, compute the rest, publish; images computed, images reused, the finished cache."""
    if len(sources) == 1 and sources[0].path == out and _up_to_date(sources[0], contents, files):
        return 0, len(table.ids), sources[0]
    writer, damaged = cache_writer.start(out, contents, sources, files)
    blocks = [contents.blocks[name].definition for name in contents.blocks if name in _asked(contents, backbones)]
    with writer:
        for path, count in damaged.items():
            say(f"{path}: {count} rows did not match their checksum and are computed again")
        _probe(table, writer, backbones, contents, say)
        pending = ~np.all([writer.done(block.name) for block in blocks], axis=0)
        rows = np.flatnonzero(pending)
        for batch in _batches(table, rows, blocks, writer, batch_size, workers):
            _compute(batch, blocks, backbones, writer)
            writer.tick()
        writer.finish(out)
    return len(rows), len(table.ids) - len(rows), FeatureCache(out)


def _asked(contents: Contents, backbones: dict[str, Backbone]) -> set[str]:
    return {name for name, block in contents.blocks.items() if name in backbones or block.definition.is_classic}


def _up_to_date(cache: FeatureCache, contents: Contents, files: tuple[np.ndarray, np.ndarray]) -> bool:
    if not cache.complete or cache.contents.attributes() != contents.attributes():
        return False
    whole = all((cache.status(name) == DONE).all() and cache.intact(name).all() for name in cache.blocks)
    return whole and bool((cache.hashes() == files[0]).all())


def _batches(
    table: ImageTable, rows: np.ndarray, blocks: list[Block], writer: CacheWriter, batch_size: int, workers: int | None
) -> Iterator[list[ReadImage]]:
    """Readable images in batches, with a progress bar; unreadable ones are written down as failed."""
    threads = workers or min(16, os.cpu_count() or 1)
    images = read_ahead(table.files, rows.tolist(), blocks, threads, ahead=2 * batch_size + threads)
    batch: list[ReadImage] = []
    failed = 0
    with tqdm(total=len(rows), unit="image", desc="extract", disable=None, dynamic_ncols=True) as bar:
        for image in images:
            if image.failure:
                failed += 1
                _put_failure(writer, image, blocks)
                bar.set_postfix(failed=failed)
                bar.update()
                continue
            batch.append(image)
            if len(batch) == batch_size:
                yield batch
                bar.update(len(batch))
                batch = []
        if batch:
            yield batch
            bar.update(len(batch))


def _put_failure(writer: CacheWriter, image: ReadImage, blocks: list[Block]) -> None:
    row = np.array([image.row])
    writer.put_files(row, np.frombuffer(image.sha256, "u1")[None], np.array([image.stat]), [image.failure])
    for block in blocks:
        writer.put_failed(block.name, row)


def _compute(batch: list[ReadImage], blocks: list[Block], backbones: dict[str, Backbone], writer: CacheWriter) -> None:
    """Run every block over one batch and write its rows; a block leaves rows alone that it already has."""
    rows = np.array([image.row for image in batch])
    hashes = np.frombuffer(b"".join(image.sha256 for image in batch), "u1").reshape(len(batch), 32)
    writer.put_files(rows, hashes, np.array([image.stat for image in batch]), [""] * len(batch))
    for block in blocks:
        missing = np.flatnonzero(~writer.done(block.name)[rows])
        if len(missing):
            inputs = torch.stack([batch[at].inputs[block.name] for at in missing])
            features = inputs.numpy() if block.is_classic else backbones[block.name](inputs)
            writer.put(block.name, rows[missing], features)


def _probe(
    table: ImageTable, writer: CacheWriter, backbones: dict[str, Backbone], contents: Contents, say: Callable[[str], None]
) -> None:
    """Where rows were computed by other versions or on another device, compute one again and compare.

    Raises
    ------
    DrexcacheError : the numbers differ by more than rounding; the message names what changed.
    """
    for name, block in contents.blocks.items():
        done = np.flatnonzero(writer.done(name))
        if len(block.provenance) < 2 or name not in _asked(contents, backbones) or not len(done):
            continue
        image = read_image(table.files[done[0]], int(done[0]), [block.definition])
        if image.failure:
            continue
        fresh = image.inputs[name][None]
        again = fresh.numpy()[0] if block.definition.is_classic else backbones[name](fresh)[0]
        kept = writer.cache.features(name, done[:1])[0].astype(np.float32)
        error = float(np.abs(again - kept).max() / (np.abs(kept).max() + 1e-12))
        old, new = block.provenance[-2], block.provenance[-1]
        changed = "; ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in new if old.get(key) != new.get(key))
        if error > PROBE_TOLERANCE[block.definition.precision]:
            raise DrexcacheError(
                f"{writer.path}: block {name}: {table.ids[done[0]]} computed again differs by {error:.2g} of its scale "
                f"({changed}); write to another file, or use the versions that made the cache"
            )
        say(f"block {name}: rows from another setting kept ({changed}); one row computed again agrees to {error:.1e}")
