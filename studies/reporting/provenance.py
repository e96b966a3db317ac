"""Where a report's numbers come from: files, runs of the ledger, caches with their blocks, versions, commands."""

from __future__ import annotations

import hashlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from drexcache.cache import FeatureCache, StoredBlock, open_cache
from drexcache.errors import DrexcacheError
from drexcache.recipes import recipe, recipe_names
from drexcache.studies import ledger
from drexcache.studies.evaluation import predictions_beside
from drexcache.studies.reporting.images import Key

PACKAGES = ("drexcache", "numpy", "scipy", "scikit-learn", "torch", "matplotlib", "jinja2")


@dataclass
class Provenance:
    """files : [path, SHA-256, when written]. runs : entries of the ledger. blocks : a line per block, heads in
    `BLOCK_HEADERS`. hashes : of the image files that the features were computed from. versions : of packages now.
    commands : from images to report. notes : what is not known."""

    files: list[tuple[str, str, str]]
    runs: list[dict[str, Any]]
    blocks: list[list[str]]
    hashes: dict[Key, str]
    versions: dict[str, str]
    commands: list[str]
    notes: list[str]


BLOCK_HEADERS = ["block", "datasets", "backbone", "pixels", "taps", "weights", "fingerprint", "computed with"]


def provenance(
    scores: Mapping[str, Path], images: Mapping[str, Sequence[str]], caches: Sequence[str | Path], command: str
) -> Provenance:
    """Look up what is known of these score files.

    The ledger beside each tells the command and the caches; caches that it names are read if they are still
    there and still hold the same features. Caches given by the user must fit.

    images : dataset -> ids. caches : paths given by the user. command : the one that makes the report.

    Raises
    ------
    DrexcacheError : a given cache that cannot be read, or of another dataset or other images.
    """
    files = [entry for path in scores.values() for entry in (_file(path), _file(predictions_beside(path)))]
    runs = [run for run in map(_run_of, scores.values()) if run]
    notes = [f"{path}: no run in a ledger beside it" for path in scores.values() if not _run_of(path)]
    opened = _opened(images, caches, runs, notes)
    commands = [line for cache in opened.values() for line in _extractions(cache)]
    commands += dict.fromkeys(str(run["command"]) for run in runs if run.get("command"))
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    blocks = _blocks(list(opened.values()))
    return Provenance(files, runs, blocks, _hashes(opened), versions, [*commands, command], notes)


def _opened(
    images: Mapping[str, Sequence[str]], given: Sequence[str | Path], runs: Sequence[Mapping[str, Any]],
    notes: list[str],
) -> dict[str, FeatureCache]:  # fmt: skip
    """The cache of each dataset, given or named by the ledger; notes get what is missing or differs."""
    opened = {cache.dataset: cache for cache in (_given(path, images) for path in given)}
    for run in runs:
        for entry in run.get("caches", []):
            if entry.get("dataset") in images and entry["dataset"] not in opened:
                cache = _of_ledger(entry, run, notes)
                if cache:
                    opened[cache.dataset] = cache
    missing = [name for name in images if name not in opened]
    if missing:
        notes.append(f"no recipe and fingerprints of {', '.join(missing)}; give their caches: --cache FILE")
    notes += _differences(opened, runs)
    return opened


def _hashes(opened: Mapping[str, FeatureCache]) -> dict[Key, str]:
    """SHA-256 of each image file whose features are in a cache."""
    return {
        (name, image): row.tobytes().hex()
        for name, cache in opened.items()
        for image, row in zip(cache.ids, cache.hashes(), strict=True)
        if row.any()
    }


def _extractions(cache: FeatureCache) -> list[str]:
    """The extract commands that fill the cache, IMAGES being where the images lie."""
    stored = [block.definition for block in cache.blocks.values()]
    own = f"drexcache extract IMAGES --dataset {shlex.quote(cache.dataset)} -o {shlex.quote(str(cache.path))} --recipe "
    lines, known = [], []
    for name in recipe_names():
        blocks = recipe(name).blocks
        fits = [one for one in stored for block in blocks if (one.tag, one.spec()) == (block.tag, block.spec())]
        if len(fits) == len(blocks):
            lines.append(own + name)
            known += fits
    others = [block.name for block in stored if block not in known]
    return lines + [f"{own}RECIPE.toml  # {', '.join(others)}: of no recipe that ships with drexcache"] * bool(others)


def _file(path: Path) -> tuple[str, str, str]:
    data = path.read_bytes()
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return str(path), hashlib.sha256(data).hexdigest(), written


def _run_of(path: Path) -> dict[str, Any] | None:
    """The latest run in the ledger beside it that wrote this file."""
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


def _of_ledger(entry: Mapping[str, Any], run: Mapping[str, Any], notes: list[str]) -> FeatureCache | None:
    """The cache that the ledger names, as seen from here or from the ledger; None and a note where it is gone."""
    places = (Path(str(entry.get("path", ""))), Path(run["ledger"]).parent / str(entry.get("path", "")))
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        notes.append(f"{entry.get('path')}: the cache of {entry['dataset']} is no longer there")
        return None
    try:
        cache = open_cache(place)
        prints = {name: block.fingerprint for name, block in cache.blocks.items()}
    except DrexcacheError as error:
        notes.append(f"the cache of {entry['dataset']} could not be read: {error}")
        return None
    if cache.dataset == entry["dataset"] and set(entry.get("fingerprints", {}).values()) <= set(prints.values()):
        return cache
    notes.append(f"{place}: no longer holds the features of {entry['dataset']} that were evaluated")
    return None


def _differences(opened: Mapping[str, FeatureCache], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Caches that were given although the ledger knows other fingerprints."""
    notes = []
    for run in runs:
        for entry in run.get("caches", []):
            cache = opened.get(entry.get("dataset"))
            known = {} if cache is None else {name: block.fingerprint for name, block in cache.blocks.items()}
            for name, fingerprint in entry.get("fingerprints", {}).items():
                if cache is not None and fingerprint not in known.values():
                    notes.append(
                        f"{cache.path}: has no block {name} with fingerprint {fingerprint[:12]}, which "
                        f"{entry['dataset']} was evaluated with"
                    )
    return list(dict.fromkeys(notes))


def _blocks(caches: Sequence[FeatureCache]) -> list[list[str]]:
    """A line per block and fingerprint, with all the datasets that have it."""
    homes: dict[str, list[str]] = {}
    blocks: dict[str, StoredBlock] = {}
    for cache in caches:
        for block in cache.blocks.values():
            homes.setdefault(block.fingerprint, []).append(cache.dataset)
            blocks[block.fingerprint] = block
    return [_block_line(blocks[fingerprint], datasets) for fingerprint, datasets in homes.items()]


def _block_line(block: StoredBlock, datasets: Sequence[str]) -> list[str]:
    fields = block.fields()
    size = "x".join(str(side) for side in fields.get("size") or ()) or "full size"
    tag = block.definition.tag
    with_tag = fields["backbone"] + (f".{tag}" if tag else "")
    pixels = ", ".join([size, *(str(fields[key]) for key in ("resize", "precision") if fields.get(key))])
    taps = ", ".join(f"{tap} {part.stop - part.start}" for tap, part in block.taps.items())
    weights = f"{block.weights_source} ({block.weights_sha256[:12]})" if block.weights_sha256 else block.weights_source
    entries = [", ".join(f"{key} {value}" for key, value in sorted(entry.items())) for entry in block.provenance]
    return [block.name, ", ".join(datasets), with_tag, pixels, taps, weights, block.fingerprint, "; ".join(entries)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
