"""Stage 1: from a table of images and a recipe to a cache file, computing only what is missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from drexcache.cache import Contents, FeatureCache, StoredBlock, no_space, open_sources, start_writer, writer_lock
from drexcache.datasets import ImageTable
from drexcache.errors import DrexcacheError
from drexcache.features.backbone import Backbone, bf16_is_slow, resolve_device
from drexcache.features.engines import CHOICES, settle
from drexcache.features.memory import keep_freed_memory
from drexcache.features.meter import Meter
from drexcache.features.pipeline import Job, compute_rows
from drexcache.features.planning import (
    current_files,
    missing_rows,
    refuse_conflicts,
    setting,
    stored_blocks,
    wanted_contents,
)  # fmt: skip
from drexcache.features.probe import probe
from drexcache.features.reading import default_workers
from drexcache.features.weights import check_weights, licence_notice
from drexcache.recipes import Block, Recipe


@dataclass(frozen=True)
class Summary:
    """What a run of `extract` did.

    Attributes
    ----------
    images, computed, reused : counts. seconds : of the whole run; failures : id -> why an image could not be read.
    computing : seconds from the first image read to the last row written.
    shares : stage -> share of that time, see `drexcache.features.meter.Meter`. bytes : the cache's size.
    """

    path: Path
    images: int
    computed: int
    reused: int
    seconds: float
    failures: dict[str, str]
    computing: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    bytes: int = 0


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


def extract(
    table: ImageTable,
    recipe: Recipe,
    out: str | Path,
    *,
    weights: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    store: str = "float32",
    compile: str = "auto",
    prune: bool = False,
    also: Sequence[str | Path] = (),
    backbones: Mapping[str, Backbone] | None = None,
    say: Callable[[str], None] = _stderr,
) -> Summary:
    """Fill the cache ``out`` with the recipe's features of every image in the table.

    Rows that the cache, or an interrupted run, already holds are kept: only missing or changed images and missing
    blocks are computed. An image that cannot be read is a row marked as failed; the next run tries it again.

    Parameters
    ----------
    weights : "hub", "packaged", "random" (for tests) or a path; default: what the recipe says.
    device : "auto" (CUDA, then MPS, then CPU) or a torch device.
    batch_size, workers : images per forward pass (default: 8 on a CPU, 64 on a GPU); decoding threads (default: one
        per core, at most 16).
    store : "float32" or "float16", the dtype on disk.
    compile : compile the backbones "always", "never", or, with "auto", when the number of images pays for it.
    prune : drop rows whose image is no longer in the table; without it they are an error.
    also : other caches, such as shards, whose rows are taken over where image, recipe and weights agree.
    backbones : what `load_backbones` gave for the same recipe, weights, device and batch size, to be used again.
    say : receives one line for each thing a user should know.

    Raises
    ------
    DrexcacheError : unreachable weights, another recipe under the same block name, removed images, a cache that
        somebody else is writing, no space. What was committed stays.
    """
    started, where, source = time.monotonic(), resolve_device(device), weights or recipe.weights
    if compile not in CHOICES:
        raise DrexcacheError(f"compile is one of {', '.join(CHOICES)}, not {compile!r}")
    if where.type == "cpu":
        keep_freed_memory()
    if backbones is None:
        check_reach(recipe.blocks, source)
    with writer_lock(Path(out)):
        own, notes = open_sources(Path(out))
        for note in notes:
            say(note)
        if backbones is None:
            known = {name for cache in own for name in cache.blocks}
            backbones = load_backbones(recipe.blocks, source, where, say, known, batch_size)
        batch = batch_size or max((backbone.batch for backbone in backbones.values()), default=8)
        job = Job(table, recipe.blocks, backbones, batch, workers or default_workers(), where, say, Meter())
        wanted = stored_blocks(recipe.blocks, backbones, store)
        refuse_conflicts(table, wanted, own, Path(out), prune)
        try:
            computed, final = _fill(job, wanted, own + [FeatureCache(Path(path)) for path in also], compile, Path(out))
        except OSError as error:
            raise no_space(error, Path(out)) from error
    return _summary(job, final, computed, time.monotonic() - started)


def check_reach(blocks: Sequence[Block], source: str) -> None:
    """Raise DrexcacheError if any block's weights cannot be had, before the first are loaded."""
    for block in blocks:
        if not block.is_classic:
            check_weights(block.backbone, block.tag, source)


def load_backbones(
    blocks: Sequence[Block], source: str, device: torch.device, say: Callable[[str], None],
    known: frozenset[str] | set[str] = frozenset(), batch: int | None = None,
) -> dict[str, Backbone]:  # fmt: skip
    """Block name -> its loaded model, where it has one; says which weights, and their licence at first use."""
    found = {}
    for block in blocks:
        if block.is_classic:
            continue
        notice = licence_notice(block.backbone, block.tag)
        if notice and source != "random" and block.name not in known:
            say(notice)
        backbone = found[block.name] = Backbone(block, source, device, batch, say)
        say(f"block {block.name}: {block.backbone} with weights from {backbone.weights.source}")
        if block.precision == "bf16" and bf16_is_slow(device):
            say(f"block {block.name}: bf16 IS SLOW HERE, this processor has no arithmetic for it; fp32 is faster")
        if source == "random":
            say(f"block {block.name}: RANDOM WEIGHTS, the features mean nothing; this is for tests only")
    say(f"device: {device}" + (f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""))
    return found


def _fill(
    job: Job, wanted: Mapping[str, StoredBlock], sources: Sequence[FeatureCache], compile: str, out: Path
) -> tuple[int, FeatureCache]:
    """Take over what is there, compute the rest, publish; the number of images computed, and the finished cache."""
    files = current_files(job.table, sources)
    missing = missing_rows(job.table, wanted, sources, files[0])
    for name, backbone in job.backbones.items():
        settle(backbone, int(missing[name].sum()), compile, job.say)
    settings = {name: setting(job.device, job.backbones.get(name)) for name in wanted if missing[name].any()}
    contents = wanted_contents(job.table, wanted, settings, sources)
    if not settings and len(sources) == 1 and sources[0].path == out and _as_wanted(sources[0], contents, files):
        return 0, sources[0]
    writer, damaged = start_writer(out, contents, sources, files)
    with writer:
        for path, count in damaged.items():
            job.say(f"{path}: {count} rows did not match their checksum and are computed again")
        probe(job.table, writer, job.backbones, contents, settings, job.say)
        computed = compute_rows(job, writer)
        writer.finish(out)
    return computed, FeatureCache(out)


def _as_wanted(cache: FeatureCache, contents: Contents, files: tuple[np.ndarray, np.ndarray]) -> bool:
    same = cache.complete and cache.contents.attributes() == contents.attributes()
    return same and bool((cache.hashes() == files[0]).all())


def _summary(job: Job, final: FeatureCache, computed: int, seconds: float) -> Summary:
    n = len(job.table)
    return Summary(
        final.path, n, computed, n - computed, seconds, final.failures(),
        computing=job.meter.elapsed, shares=job.meter.shares(), bytes=final.path.stat().st_size,
    )  # fmt: skip
