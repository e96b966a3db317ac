"""Filling a cache: takes over existing rows, computes what is missing, and publishes the finished file.

The extractors that compute the blocks come from a loader that is passed in; `drexcache.features.loading` has the one
that makes them from a recipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drexcache.cache import Contents, FeatureCache, StoredBlock, no_space, open_sources, start_writer, writer_lock
from drexcache.datasets import ImageTable
from drexcache.errors import several
from drexcache.features import planning
from drexcache.features.pipeline import Extractor, Job, compute_rows, default_workers
from drexcache.features.renamed import follow_renamed

Loader = Callable[[frozenset[str]], Mapping[str, Extractor]]  # called with the names of blocks already in the cache


@dataclass(frozen=True)
class Summary:
    """What a run of `extract` did.

    Attributes
    ----------
    images, computed, reused : counts. seconds : of the whole run. failures : id -> why an image could not be read.
    computing : seconds from the first image read to the last row written.
    shares : how that time divides into waiting for decoded images ("decode"), models ("model") and writing
        ("write"). bytes : size of the cache.
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


def fill_cache(
    table: ImageTable, load: Loader, out: Path, *, batch_size: int | None = None, workers: int | None = None,
    store: str = "float32", prune: bool = False, also: Sequence[str | Path] = (),
    rehash: bool = False, say: Callable[[str], None],
) -> Summary:  # fmt: skip
    """Fill the cache ``out`` with every extractor's features of every image in the table.

    load : returns block name -> extractor; called once the cache is locked for writing.
    The other parameters, and the errors raised, are those of `extract`.
    """
    started = time.monotonic()
    with writer_lock(out):
        own, notes = open_sources(out)
        for note in notes:
            say(note)
        extractors = load(frozenset(name for cache in own for name in cache.blocks))
        batch = batch_size or max(extractor.batch for extractor in extractors.values())
        job = Job(table, extractors, batch, workers or default_workers(), say)
        wanted = planning.stored_blocks(extractors, store)
        planning.refuse_conflicts(table, wanted, own, out, prune)
        try:
            computed, final = _fill(job, wanted, own + [FeatureCache(Path(path)) for path in also], out, rehash)
        except OSError as error:
            raise no_space(error, out) from error
    return Summary(
        path=final.path, images=len(table), computed=computed, reused=len(table) - computed,
        seconds=time.monotonic() - started, failures=final.failures(), computing=job.meter.elapsed,
        shares=job.meter.shares(), bytes=final.path.stat().st_size,
    )  # fmt: skip


def _fill(
    job: Job, wanted: Mapping[str, StoredBlock], stored: list[FeatureCache], out: Path, rehash: bool
) -> tuple[int, FeatureCache]:
    """Compute and write what is missing; returns the number of images computed, and the finished cache."""
    sources = follow_renamed(job.table, stored)
    files = planning.current_files(job.table, sources, rehash)
    missing = planning.missing_rows(job.table, wanted, sources, files[0])
    for name, extractor in job.extractors.items():
        extractor.get_ready(int(missing[name].sum()))
    entries = {name: planning.provenance_entry(job.extractors[name]) for name in wanted if missing[name].any()}
    contents = planning.wanted_contents(job.table, wanted, entries, sources)
    if not entries and sources == stored[:1] and sources[0].path == out and _as_wanted(sources[0], contents, files):
        return 0, sources[0]
    writer, damaged = start_writer(out, contents, sources, files)
    with writer:
        for path, count in damaged.items():
            job.say(f"{path}: {several(count, 'row')} did not match the checksum: computed again")
        planning.probe(job.table, writer, job.extractors, contents, entries, job.say)
        computed = compute_rows(job, writer)
        writer.finish(out)
    return computed, FeatureCache(out)


def _as_wanted(cache: FeatureCache, contents: Contents, files: tuple[np.ndarray, np.ndarray]) -> bool:
    same = cache.complete and cache.contents.attributes() == contents.attributes()
    return same and bool((cache.hashes() == files[0]).all())
