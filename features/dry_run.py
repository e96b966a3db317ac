"""What an extraction would do, how long it would take and how large the cache would be; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drexcache.cache import FeatureCache, StoredBlock, partial_paths
from drexcache.datasets import ImageTable
from drexcache.errors import DrexcacheError
from drexcache.features.backbone import Backbone, resolve_device
from drexcache.features.memory import keep_freed_memory
from drexcache.features.planning import (
    current_files,
    missing_rows,
    refuse_conflicts,
    setting,
    stored_blocks,
    wanted_contents,
)  # fmt: skip
from drexcache.features.reading import default_workers, read_image
from drexcache.features.weights import check_weights
from drexcache.recipes import Block, Recipe


@dataclass(frozen=True)
class Plan:
    """What `extract` would do.

    Attributes
    ----------
    images : in the table. missing : block -> rows to compute. bytes : size of the finished cache.
    seconds : estimate from one image timed here, None where nothing is missing or the image could not be read.
    trouble : why the run would fail, a sentence each: weights out of reach, another recipe, removed images.
    unchecked : blocks of the cache whose weights are not compared with this run's, which are not on this machine.
    """

    images: int
    missing: dict[str, int]
    bytes: int
    seconds: float | None
    trouble: tuple[str, ...]
    unchecked: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        found = [f"dry run, nothing is written: {self.images} images"]
        found += [f"block {name}: {count} of {self.images} rows to compute" for name, count in self.missing.items()]
        time_ = "unknown" if self.seconds is None else f"about {clock(self.seconds)}, going by one image timed here"
        found.append(f"time: {time_ if any(self.missing.values()) else 'none'}; size: {self.bytes / 1e6:,.1f} MB")
        if self.unchecked:
            found.append(
                f"weights of {', '.join(self.unchecked)}: not compared with the cache's, for that they are needed"
            )
        found += [f"would fail: {sentence}" for sentence in self.trouble] or ["weights: within reach"]
        return found


def plan(
    table: ImageTable, recipe: Recipe, out: str | Path, *, weights: str | None = None, device: str = "auto",
    workers: int | None = None, store: str = "float32", prune: bool = False,
) -> Plan:  # fmt: skip
    """What `extract` with the same arguments would compute. Nothing is downloaded, written or locked.

    A backbone whose weights are not on this machine is timed with random ones, which take the same time.

    Raises
    ------
    DrexcacheError : a recipe or device that cannot be used here at all.
    """
    where, source, out = resolve_device(device), weights or recipe.weights, Path(out)
    if where.type == "cpu":
        keep_freed_memory()
    trouble = _unreachable(recipe.blocks, source)
    guessed = {block.name for block in recipe.blocks if not block.is_classic and (source == "hub" or trouble)}
    backbones = {
        block.name: Backbone(block, "random" if block.name in guessed else source, where)
        for block in recipe.blocks
        if not block.is_classic
    }
    sources = _readable([out, *partial_paths(out)])
    wanted = _with_their_weights(stored_blocks(recipe.blocks, backbones, store), sources, guessed)
    try:
        refuse_conflicts(table, wanted, sources, out, prune)
    except DrexcacheError as error:
        trouble.append(str(error))
    missing = missing_rows(table, wanted, sources, current_files(table, sources)[0])
    needed = [block for block in recipe.blocks if missing[block.name].any()]
    settings = {block.name: setting(where, backbones.get(block.name)) for block in needed}
    shapes = wanted_contents(table, wanted, settings, sources).datasets().values()
    return Plan(
        images=len(table.ids),
        missing={name: int(rows.sum()) for name, rows in missing.items()},
        bytes=sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes),
        seconds=_seconds(table, needed, backbones, missing, workers or default_workers()),
        trouble=tuple(trouble),
        unchecked=tuple(sorted(name for name in guessed if any(name in cache.blocks for cache in sources))),
    )


def _unreachable(blocks: Sequence[Block], source: str) -> list[str]:
    trouble = []
    for block in blocks:
        try:
            if not block.is_classic:
                check_weights(block.backbone, block.tag, source)
        except DrexcacheError as error:
            trouble.append(str(error))
    return trouble


def _readable(paths: Sequence[Path]) -> list[FeatureCache]:
    """The caches among these that can be read; a damaged partial file is moved aside by the run, and so left out."""
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
    """Blocks of unknown weights, taken to be those of the cache."""
    found = dict(wanted)
    for name in guessed:
        for cache in sources:
            if name in cache.blocks:
                old = cache.blocks[name]
                found[name] = replace(
                    wanted[name], weights_sha256=old.weights_sha256, weights_source=old.weights_source
                )
    return found


def _seconds(
    table: ImageTable, blocks: Sequence[Block], backbones: Mapping[str, Backbone], missing: Mapping[str, np.ndarray],
    workers: int,
) -> float | None:  # fmt: skip
    """Going by the first missing image: on a CPU decoding and the models share the cores, beside a GPU they do not."""
    if not blocks:
        return None
    row = int(np.flatnonzero(np.any([missing[block.name] for block in blocks], axis=0))[0])
    started = time.perf_counter()
    image = read_image(table.files[row], row, blocks)
    decode = (time.perf_counter() - started) / workers
    if image.failure:
        return None
    images = max(int(missing[block.name].sum()) for block in blocks)
    model, on_cpu = 0.0, True
    for block in blocks:
        if block.name in backbones:
            on_cpu = backbones[block.name].device.type == "cpu"
            model += int(missing[block.name].sum()) * backbones[block.name].seconds_per_image()
    return images * decode + model if on_cpu else max(images * decode, model)


def clock(seconds: float) -> str:
    """A duration for people.

    >>> clock(42), clock(600), clock(50_000)
    ('42 s', '10 min', '13.9 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
