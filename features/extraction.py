"""Stage 1: from a table of images and a recipe to a cache file, computing only what is missing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from drexcache import writer as cache_writer
from drexcache.cache import FeatureCache
from drexcache.features.backbones import Backbone, resolve_device
from drexcache.features.memory import keep_freed_memory
from drexcache.features.planning import current_files, refuse_conflicts, wanted_contents
from drexcache.features.probe import probe
from drexcache.features.reading import ReadImage, read_ahead
from drexcache.features.weights import check_weights, licence_notice
from drexcache.images import ImageTable
from drexcache.layout import DONE, Contents
from drexcache.recipes import Block, Recipe
from drexcache.writer import CacheWriter


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
    if where.type == "cpu":
        keep_freed_memory()
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
        contents = wanted_contents(table, recipe, backbones, sources, where, store)
        refuse_conflicts(contents, sources, out, prune)
        threads = workers or min(16, os.cpu_count() or 1)
        job = _Job(table, list(recipe.blocks), backbones, batch_size, threads, say)
        try:
            computed, final = _fill(job, contents, sources, current_files(table, sources), out)
        except OSError as error:
            raise cache_writer.no_space(error, out) from error
    n = len(table.ids)
    return Summary(out, n, computed, n - computed, time.monotonic() - started, final.failures())


def load_backbones(
    blocks: Sequence[Block],
    source: str,
    device: torch.device,
    say: Callable[[str], None],
    known: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Backbone]:
    """Block name -> its loaded model, where it has one; says which weights, and their licence at first use."""
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


@dataclass(frozen=True)
class _Job:
    """What one run computes and how: ``blocks`` are the recipe's."""

    table: ImageTable
    blocks: list[Block]
    backbones: dict[str, Backbone]
    batch_size: int
    workers: int
    say: Callable[[str], None]


def _fill(
    job: _Job, contents: Contents, sources: list[FeatureCache], files: tuple[np.ndarray, np.ndarray], out: Path
) -> tuple[int, FeatureCache]:
    """Take over what is there, compute the rest, publish; the number of images computed, and the finished cache."""
    if len(sources) == 1 and sources[0].path == out and _up_to_date(sources[0], contents, files):
        return 0, sources[0]
    writer, damaged = cache_writer.start(out, contents, sources, files)
    with writer:
        for path, count in damaged.items():
            job.say(f"{path}: {count} rows did not match their checksum and are computed again")
        probe(job.table, writer, job.backbones, contents, job.say)
        missing = {block.name: ~writer.done(block.name) for block in job.blocks}
        rows = np.flatnonzero(np.any(list(missing.values()), axis=0))
        for batch in _batches(job, rows, writer):
            _compute(job, batch, writer, missing)
            writer.tick()
        writer.finish(out)
    return len(rows), FeatureCache(out)


def _up_to_date(cache: FeatureCache, contents: Contents, files: tuple[np.ndarray, np.ndarray]) -> bool:
    if not cache.complete or cache.contents.attributes() != contents.attributes():
        return False
    whole = all((cache.status(name) == DONE).all() and cache.intact(name).all() for name in cache.blocks)
    return whole and bool((cache.hashes() == files[0]).all())


def _batches(job: _Job, rows: np.ndarray, writer: CacheWriter) -> Iterator[list[ReadImage]]:
    """Readable images in batches, with a progress bar; unreadable ones are written down as failed."""
    ahead = 2 * job.batch_size + job.workers
    images = read_ahead(job.table.files, rows.tolist(), job.blocks, job.workers, ahead)
    batch: list[ReadImage] = []
    failed = 0
    with tqdm(total=len(rows), unit="image", desc="extract", disable=None, dynamic_ncols=True) as bar:
        for image in images:
            if image.failure:
                failed += 1
                _put_failure(job, image, writer)
                bar.set_postfix(failed=failed)
                bar.update()
                continue
            batch.append(image)
            if len(batch) == job.batch_size:
                yield batch
                bar.update(len(batch))
                batch = []
        if batch:
            yield batch
            bar.update(len(batch))


def _put_failure(job: _Job, image: ReadImage, writer: CacheWriter) -> None:
    row = np.array([image.row])
    writer.put_files(row, np.frombuffer(image.sha256, "u1")[None], np.array([image.stat]), [image.failure])
    for block in job.blocks:
        writer.put_failed(block.name, row)


def _compute(job: _Job, batch: list[ReadImage], writer: CacheWriter, missing: dict[str, np.ndarray]) -> None:
    """Run every block over one batch and write its rows; a block leaves rows alone that it already has."""
    rows = np.array([image.row for image in batch])
    hashes = np.frombuffer(b"".join(image.sha256 for image in batch), "u1").reshape(len(batch), 32)
    writer.put_files(rows, hashes, np.array([image.stat for image in batch]), [""] * len(batch))
    for block in job.blocks:
        wanted = np.flatnonzero(missing[block.name][rows])
        if len(wanted):
            inputs = torch.stack([batch[at].inputs[block.name] for at in wanted])
            features = inputs.numpy() if block.is_classic else job.backbones[block.name](inputs)
            writer.put(block.name, rows[wanted], features)
