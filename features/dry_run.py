"""Forecasting an extraction: what it would do, how long it would take and how large the cache would be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drexcache.cache import FeatureCache, StoredBlock, partial_paths
from drexcache.datasets import ImageFile, ImageTable
from drexcache.devices import resolve_device
from drexcache.errors import DrexcacheError, several
from drexcache.features.loading import check_reach, load_extractors
from drexcache.features.pipeline import Extractor, default_workers, in_memory, read_ahead
from drexcache.features.planning import (
    current_files,
    missing_rows,
    provenance_entry,
    refuse_conflicts,
    stored_blocks,
    wanted_contents,
)
from drexcache.features.renamed import follow_renamed
from drexcache.files import size_text
from drexcache.recipes import Block, Recipe

SAMPLE = 9  # images that are timed


@dataclass(frozen=True)
class Forecast:
    """What `extract` would do.

    Attributes
    ----------
    images : in the table. missing : block -> rows to compute. bytes : size of the finished cache.
    seconds : estimate from timing a few images of all sizes; None if nothing is missing or no image could be read.
    trouble : reasons why the run would fail, a sentence each: weights out of reach, another recipe, removed images.
    unchecked : blocks of the cache that could not be compared, because their weights are not on this machine.
    """

    images: int
    missing: dict[str, int]
    bytes: int
    seconds: float | None
    trouble: tuple[str, ...]
    unchecked: tuple[str, ...]

    def lines(self) -> list[str]:
        """The forecast as lines of text."""
        found = [f"dry run, nothing is written: {several(self.images, 'image')}"]
        found += [f"block {name}: {count} of {self.images} rows to compute" for name, count in self.missing.items()]
        time_ = "unknown" if self.seconds is None else f"about {clock(self.seconds)}, going by a few images timed here"
        found.append(f"time: {time_ if any(self.missing.values()) else 'none'}; size: {size_text(self.bytes)}")
        if self.unchecked:
            found.append(f"weights of {', '.join(self.unchecked)}: not compared with the cache's, they are not here")
        found += [f"would fail: {sentence}" for sentence in self.trouble] or ["weights: within reach"]
        return found


def forecast(
    table: ImageTable, recipe: Recipe, out: str | Path, *, weights: str | None = None, device: str = "auto",
    workers: int | None = None, store: str = "float32", engine_cpu: str = "auto", prune: bool = False,
) -> Forecast:  # fmt: skip
    """Forecast what `extract` with the same arguments would do. Nothing is downloaded, written or locked.

    A backbone whose weights are not on this machine is timed with random ones, which take just as long.

    Raises
    ------
    DrexcacheError : a recipe or device that cannot be used here at all.
    """
    where, source, out = resolve_device(device), weights or recipe.weights, Path(out)
    trouble = _unreachable(recipe.blocks, source)
    guessed = {block.name for block in recipe.blocks if not block.is_classic and (source == "hub" or trouble)}
    extractors: dict[str, Extractor] = {}
    for block in recipe.blocks:
        chosen = "random" if block.name in guessed else source
        extractors |= load_extractors(
            [block], chosen, where, _silent, compile="never", engine_cpu=engine_cpu, keep=False
        )
    sources = _readable([out, *partial_paths(out)])
    wanted = _with_their_weights(stored_blocks(extractors, store), sources, guessed)
    try:
        refuse_conflicts(table, wanted, sources, out, prune)
    except DrexcacheError as error:
        trouble.append(str(error))
    sources = follow_renamed(table, sources)
    missing = missing_rows(table, wanted, sources, current_files(table, sources)[0])
    entries = {name: provenance_entry(one) for name, one in extractors.items() if missing[name].any()}
    shapes = wanted_contents(table, wanted, entries, sources).datasets().values()
    return Forecast(
        images=len(table.ids),
        missing={name: int(rows.sum()) for name, rows in missing.items()},
        bytes=sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes),
        seconds=_seconds(table, extractors, missing, workers or default_workers(), where == "cpu"),
        trouble=tuple(trouble),
        unchecked=tuple(sorted(name for name in guessed if any(name in cache.blocks for cache in sources))),
    )


def _unreachable(blocks: Sequence[Block], source: str) -> list[str]:
    trouble = []
    for block in blocks:
        try:
            check_reach([block], source)
        except DrexcacheError as error:
            trouble.append(str(error))
    return trouble


def _readable(paths: Sequence[Path]) -> list[FeatureCache]:
    """The readable caches among these paths; damaged partial files are left out, as the run would move them aside."""
    found = []
    for path in paths:
        try:
            if path.exists():
                found.append(FeatureCache(path))
        except DrexcacheError:
            if path == paths[0]:
                raise
    return found


def _with_their_weights(
    wanted: Mapping[str, StoredBlock], sources: Sequence[FeatureCache], guessed: set[str]
) -> dict[str, StoredBlock]:
    """The blocks, assuming that those with unknown weights have the same weights as the cache."""
    found = dict(wanted)
    for name in guessed:
        for old in (cache.blocks[name] for cache in sources if name in cache.blocks):
            found[name] = replace(wanted[name], weights_sha256=old.weights_sha256, weights_source=old.weights_source)
    return found


def _seconds(
    table: ImageTable, extractors: Mapping[str, Extractor], missing: Mapping[str, np.ndarray], workers: int,
    on_cpu: bool,
) -> float | None:  # fmt: skip
    """Estimated seconds: decoding plus models on a CPU, where they share the cores, else the larger of the two."""
    needed = [one for name, one in extractors.items() if missing[name].any()]
    if not needed:
        return None
    rows = np.flatnonzero(np.any([missing[one.block.name] for one in needed], axis=0))
    sizes = np.array([_size(table.files[row]) for row in rows])
    # time the middle file of each of SAMPLE groups, from small to large; the first is read once more to warm up
    order = np.argsort(sizes, kind="stable")
    places = order[((np.arange(SAMPLE) + 0.5) / SAMPLE * len(rows)).astype(int)]
    timed, readable, image = [], [], None
    for place in [places[0], *dict.fromkeys(places.tolist())]:
        started = time.perf_counter()
        read = next(read_ahead(table, rows[[place]], needed, 1, 1))
        if not read.failure:
            timed.append((sizes[place], time.perf_counter() - started))
            readable.append(rows[place])
            image = read
    if image is None:
        return None
    timed, readable = timed[1:] or timed, readable[1:] or readable
    alone = sum(seconds for _, seconds in timed)
    decoding = _of_all(sizes, timed) * _together(table, np.array(readable), needed, workers) / alone
    model = 0.0
    for one in needed:
        count = int(missing[one.block.name].sum())
        batch = [image.inputs[one.block.name]] * min(one.batch, count)
        model += count * _seconds_of_a_batch(one, batch) / len(batch)
    return decoding + model if on_cpu else max(decoding, model)


def _together(table: ImageTable, rows: np.ndarray, needed: Sequence[Extractor], workers: int) -> float:
    """Seconds to read these images by as many threads as the run has, which hinder each other in Python's own code."""
    rounds = -(-4 * workers // len(rows))
    started = time.perf_counter()
    for _ in read_ahead(table, np.tile(rows, rounds), needed, workers, 2 * workers):
        pass
    return (time.perf_counter() - started) / rounds


def _size(file: ImageFile) -> int:
    """The file's size in bytes, or 0 if unknown."""
    try:
        return file.stat()[0]
    except OSError:
        return 0


def _of_all(sizes: np.ndarray, timed: Sequence[tuple[float, float]]) -> float:
    """Estimated seconds for files of these sizes, from a line fitted to the (size, seconds) of some of them.

    >>> _of_all(np.array([100, 200, 600]), [(100, 2.0), (200, 3.0)])
    12.0
    """
    size, seconds = np.array(timed).T
    a_byte = float(np.cov(size, seconds, ddof=0)[0, 1] / np.var(size)) if np.ptp(size) else 0.0
    a_byte = min(max(a_byte, 0.0), float(seconds.mean() / max(size.mean(), 1)))  # neither slope nor intercept below 0
    return round(float(len(sizes) * (seconds.mean() + a_byte * (np.mean(sizes) - size.mean()))), 6)


def _seconds_of_a_batch(extractor: Extractor, batch: Sequence[np.ndarray]) -> float:
    """Seconds for one batch, measured on the second of two passes."""
    for _ in range(2):
        started = time.perf_counter()
        in_memory(extractor(batch))
    return time.perf_counter() - started


def _silent(_line: str) -> None:
    """Drop the messages of loading, which the run itself will repeat."""


def clock(seconds: float) -> str:
    """A duration in readable units.

    >>> clock(42), clock(600), clock(50_000)
    ('42 s', '10 min', '13.9 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
