"""Where a report's numbers come from: files, runs of the ledger, caches with their blocks, versions, commands."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache import FeatureCache, StoredBlock, open_cache
from drexcache.errors import DrexcacheError
from drexcache.studies import ledger
from drexcache.studies.evaluation import predictions_beside
from drexcache.studies.reporting.commands import extract_commands
from drexcache.studies.reporting.evidence import Evidence, Scale
from drexcache.studies.reporting.pictures import Key

PACKAGES = ("drexcache", "numpy", "scipy", "scikit-learn", "torch", "matplotlib", "jinja2")
BLOCK_HEADERS = ["block", "datasets", "backbone", "pixels", "taps", "weights", "fingerprint", "computed with"]


@dataclass
class Provenance:
    """The origin of a report's numbers.

    files : (path, SHA-256, time written). runs : entries of the ledger. blocks : a row per block under
    `BLOCK_HEADERS`. hashes : of the image files that the features were computed from. versions : of the packages
    installed now. commands : from images to report. scales : dataset -> the scale of its ratings, if known.
    notes : what could not be found out. caches : dataset -> its cache. evaluated : dataset -> names of the blocks
    that were, if the ledger has them.
    """

    files: list[tuple[str, str, str]]
    runs: list[dict[str, Any]]
    blocks: list[list[str]]
    hashes: dict[Key, str]
    versions: dict[str, str]
    commands: list[str]
    scales: dict[str, Scale]
    notes: list[str]
    caches: dict[str, FeatureCache]
    evaluated: dict[str, list[str]]


def provenance(evidence: Evidence, caches: Sequence[str | Path], command: str) -> Provenance:
    """Look up the origin of these score files.

    The ledger beside each file names the command and the caches. A cache that it names is read if it still exists
    and still holds the same features; a cache given by the user must fit.

    caches : paths given by the user. command : the command that makes the report.

    Raises
    ------
    DrexcacheError : a given cache cannot be read, or holds another dataset or other images.
    """
    scores, images = list(evidence.files.values()), evidence.images
    found = {path: _run_of(path) for path in scores}
    runs = [run for run in found.values() if run]
    notes = [f"{path}: no record of the run that wrote it ({ledger.NAME})" for path, run in found.items() if not run]
    opened = {cache.dataset: cache for cache in (_given(path, images) for path in caches)}
    notes += _open_named(opened, runs, images)
    commands = [line for cache in opened.values() for line in extract_commands(cache)]
    commands += [str(run["command"]) for run in runs if run.get("command")]
    entries = [entry for run in reversed(runs) for entry in reversed(run.get("caches", []))]  # the first counts
    return Provenance(
        files=[_file(one) for path in scores for one in (path, predictions_beside(path))], runs=runs,
        blocks=_blocks(list(opened.values())), hashes=_hashes(opened),
        versions={"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        commands=list(dict.fromkeys([*commands, command])),
        scales={name: scale for name, cache in opened.items() if (scale := _scale(cache, evidence))},
        notes=list(dict.fromkeys(notes)), caches=opened,
        evaluated={entry.get("dataset"): list(entry.get("fingerprints", {})) for entry in entries},
    )  # fmt: skip


def _open_named(
    opened: dict[str, FeatureCache], runs: Sequence[Mapping[str, Any]], images: Mapping[str, Sequence[str]]
) -> list[str]:
    """Open the caches that the runs name and the user has not given; returns notes on what is changed or missing."""
    notes = []
    for run in runs:
        for entry in run.get("caches", []):
            name = entry.get("dataset")
            if name in opened:
                notes += _differences(opened[name], entry)
            elif name in images:
                cache, note = _of_ledger(entry, Path(run["ledger"]).parent)
                opened |= {name: cache} if cache else {}
                notes += [note] if note else []
    if missing := [name for name in images if name not in opened]:
        notes.append(f"no recipe and fingerprints of {', '.join(missing)}; give their caches: --cache FILE")
    return notes


def _hashes(caches: Mapping[str, FeatureCache]) -> dict[Key, str]:
    """(dataset, image) -> SHA-256 of its file, where it is known."""
    return {
        (name, image): row.tobytes().hex()
        for name, cache in caches.items()
        for image, row in zip(cache.ids, cache.hashes(), strict=True)
        if row.any()
    }


def _file(path: Path) -> tuple[str, str, str]:
    data = path.read_bytes()
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return str(path), hashlib.sha256(data).hexdigest(), written


def _run_of(path: Path) -> dict[str, Any] | None:
    """The latest run that wrote this file, from the ledger beside it."""
    beside = path.parent / ledger.NAME
    entries = ledger.read(beside)[0] if beside.is_file() else []
    fits = (entry for entry in entries if path.name in [Path(str(file)).name for file in entry.get("files", [])])
    return next(fits, None)


def _given(path: str | Path, images: Mapping[str, Sequence[str]]) -> FeatureCache:
    cache = open_cache(path)
    if cache.dataset not in images:
        raise DrexcacheError(f"{path}: holds {cache.dataset}; the scores are of {', '.join(images)}")
    missing = set(images[cache.dataset]) - set(cache.ids)
    if missing:
        raise DrexcacheError(
            f"{path}: {len(missing)} of the {len(images[cache.dataset])} images of {cache.dataset} are not in it "
            f"(such as {min(missing)}); it is not the cache that was evaluated"
        )
    return cache


def _of_ledger(entry: Mapping[str, Any], beside: Path) -> tuple[FeatureCache | None, str]:
    """The cache that a run names, relative to here or to its ledger; or None and a note if it is gone or changed."""
    path = Path(str(entry.get("path", "")))
    place = next((place for place in (path, beside / path) if place.is_file()), None)
    if place is None:
        return None, f"{path}: the cache of {entry['dataset']} is no longer there"
    try:
        cache = open_cache(place)
        if cache.dataset == entry["dataset"] and not _differences(cache, entry):
            return cache, ""
    except DrexcacheError as error:
        return None, f"the cache of {entry['dataset']} could not be read: {error}"
    return None, f"{place}: no longer holds the features of {entry['dataset']} that were evaluated"


def _differences(cache: FeatureCache, entry: Mapping[str, Any]) -> list[str]:
    """A sentence on each block that was evaluated but is not in the cache."""
    known = {block.fingerprint for block in cache.blocks.values()}
    return [
        f"{cache.path}: has no block {name} with fingerprint {fingerprint[:12]}, which {entry['dataset']} was "
        "evaluated with"
        for name, fingerprint in entry.get("fingerprints", {}).items()
        if fingerprint not in known
    ]


def _scale(cache: FeatureCache, evidence: Evidence) -> Scale | None:
    """The scale of the evaluated ratings, from the cache's target with the same values; None if no target has them."""
    result = next(result for result in evidence.results if result.test == cache.dataset)
    row = {image: row for row, image in enumerate(cache.ids)}
    rows = [row[image] for image in result.ids if image in row]
    for target in cache.targets.values():
        if len(rows) == len(result.ids) and np.allclose(target.unit()[rows], result.rated, atol=1e-6):
            ends = (target.low, target.high)
            return Scale(*(ends if target.higher_is == "more" else ends[::-1]))
    return None


def _blocks(caches: Sequence[FeatureCache]) -> list[list[str]]:
    """A row per block fingerprint, with all datasets that have it."""
    homes: dict[str, list[str]] = {}
    blocks: dict[str, StoredBlock] = {}
    for cache in caches:
        for block in cache.blocks.values():
            homes.setdefault(block.fingerprint, []).append(cache.dataset)
            blocks[block.fingerprint] = block
    return [_block_line(blocks[fingerprint], datasets) for fingerprint, datasets in homes.items()]


def _block_line(block: StoredBlock, datasets: Sequence[str]) -> list[str]:
    fields, tag = block.fields(), block.definition.tag
    size = "x".join(str(side) for side in fields.get("size") or ()) or "full size"
    return [
        block.name,
        ", ".join(datasets),
        fields["backbone"] + (f".{tag}" if tag else ""),
        ", ".join([size, *(str(fields[key]) for key in ("resize", "precision") if fields.get(key))]),
        ", ".join(f"{tap} {part.stop - part.start}" for tap, part in block.taps.items()),
        block.weights_source + (f" ({block.weights_sha256[:12]})" if block.weights_sha256 else ""),
        block.fingerprint,
        "; ".join(", ".join(f"{key} {value}" for key, value in sorted(entry.items())) for entry in block.provenance),
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
