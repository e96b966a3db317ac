"""Operations on finished caches: merging shards, new ratings, differences, exports."""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from drexcache.cache.beside import no_space, writer_lock
from drexcache.cache.format import DONE, FAILED, Contents, check_name, differences
from drexcache.cache.reader import FeatureCache, open_cache
from drexcache.cache.writer import CacheWriter, create_empty, take_rows
from drexcache.datasets import (
    Columns,
    Target,
    match_comparisons,
    match_ratings,
    read_comparisons,
    read_ratings,
    sha256_of_ids,
)
from drexcache.errors import DrexcacheError, several
from drexcache.files import require_file, write_file
from drexcache.progress import step_bar


def merge(shards: Sequence[str | Path], out: str | Path) -> FeatureCache:
    """Merge all shards of a table into one cache.

    Raises
    ------
    DrexcacheError : the shards belong to different tables or recipes, overlap or are incomplete, or ``out`` exists.
    """
    caches = [open_cache(path) for path in shards]
    out = Path(out)
    if out.exists():
        require_file(out)
        raise DrexcacheError(f"{out}: exists; merge writes a new file, choose another name or delete it first")
    first = caches[0]
    for other in caches[1:]:
        _same_work(first, other)
    ids = sorted((image for cache in caches for image in cache.ids), key=str.encode)
    if twice := [a for a, b in itertools.pairwise(ids) if a == b]:
        homes = [str(cache.path) for cache in caches if twice[0] in cache.ids]
        raise DrexcacheError(
            f"{' and '.join(homes)}: hold {several(len(twice), 'image')} in common (first: {twice[0]}); give each "
            "shard once"
        )
    if sha256_of_ids(ids) != first.table_sha256:
        given = [f"{cache.path} ({cache.shard or 'no shard'}, {several(len(cache), 'image')})" for cache in caches]
        raise DrexcacheError(
            f"shards are missing: the {several(len(ids), 'image')} given are not the whole table: {', '.join(given)}"
        )
    at = {image: (cache, row) for cache in caches for row, image in enumerate(cache.ids)}
    targets = {
        name: replace(target, values=np.array([at[i][0].targets[name].values[at[i][1]] for i in ids]))
        for name, target in first.targets.items()
    }
    labels = {name: tuple(at[i][0].labels[name][at[i][1]] for i in ids) for name in first.labels}
    contents = replace(first.contents, ids=tuple(ids), targets=targets, labels=labels, shard="")
    rewrite(out, contents, caches)
    return open_cache(out)


def _same_work(first: FeatureCache, other: FeatureCache) -> None:
    where = f"{other.path} does not fit {first.path}"
    if other.table_sha256 != first.table_sha256:
        raise DrexcacheError(
            f"{where}: they are not shards of one table; extract all from the same images with --shard"
        )
    if list(other.blocks) != list(first.blocks):
        raise DrexcacheError(f"{where}: blocks {', '.join(other.blocks)} against {', '.join(first.blocks)}")
    for name, block in first.blocks.items():
        if other.blocks[name].fingerprint != block.fingerprint:
            raise DrexcacheError(f"{where}: block {name}: {'; '.join(differences(block, other.blocks[name]))}")
        if other.blocks[name].dtype != block.dtype:
            raise DrexcacheError(f"{where}: block {name} is stored as {other.blocks[name].dtype} against {block.dtype}")
    if list(other.targets) != list(first.targets) or list(other.labels) != list(first.labels):
        raise DrexcacheError(f"{where}: their targets or labels have other names")
    for name, target in first.targets.items():
        theirs = other.targets[name]
        if (target.low, target.high, target.higher_is) != (theirs.low, theirs.high, theirs.higher_is):
            raise DrexcacheError(
                f"{where}: target {name} has the range {theirs.low:g}..{theirs.high:g}, higher is {theirs.higher_is}, "
                f"instead of {target.low:g}..{target.high:g}, higher is {target.higher_is}"
            )


def rate(
    path: str | Path, ratings: str | Path, target: str, *, comparisons: bool = False,
    value_range: tuple[float, float] | None = None, higher_is: str = "more", replace_target: bool = False,
    allow_unmatched: bool = False, out_of_range: str = "refuse", centre_raters: bool = False,
    columns: Columns | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Add or replace a target from a file of ratings, leaving the features alone; returns the notes on reading it.

    ``comparisons`` : the file holds pairwise choices, see `drexcache.datasets.match_comparisons`.
    The file's labels are added, too. Without ``replace_target`` an image keeps its label if the file has none for it.

    Raises
    ------
    DrexcacheError : the ratings do not match the images; or, without ``replace_target``, a target of that name exists,
        or a label in the file contradicts the cache.
    """
    cache = open_cache(path)
    check_name(target, "target")
    if target in cache.targets and not replace_target:
        raise DrexcacheError(f"{path}: has a target named {target}; give --replace, or another --target name")
    options: dict[str, Any] = {"target": target, "higher_is": higher_is, "allow_unmatched": allow_unmatched}
    if comparisons:
        match = match_comparisons(cache.ids, read_comparisons(ratings), **options)
    else:
        options |= {"value_range": value_range, "out_of_range": out_of_range, "centre_raters": centre_raters}
        match = match_ratings(cache.ids, read_ratings(ratings, columns or Columns()), **options)
    targets = dict(sorted({**cache.targets, target: match.target}.items()))
    found = match.labels if replace_target else _agreeing(cache, match.labels, ratings)
    labels = dict(sorted({**cache.labels, **found}.items()))
    rewrite(Path(path), replace(cache.contents, targets=targets, labels=labels), [cache])
    return match.notes


def _agreeing(
    cache: FeatureCache, labels: Mapping[str, Sequence[str]], ratings: str | Path
) -> dict[str, tuple[str, ...]]:
    """The labels of a file of ratings, completed from the cache's own, which they must not contradict."""
    found = {}
    for name, column in labels.items():
        own = cache.labels.get(name, column)
        found[name] = tuple(new or old for new, old in zip(column, own, strict=True))
        if differ := [i for i, old in enumerate(own) if found[name][i] != old]:
            first = differ[0]
            raise DrexcacheError(
                f"{ratings}: label {name} of {several(len(differ), 'image')} is not what {cache.path} holds (first: "
                f"{cache.ids[first]}, {column[first]!r} instead of {own[first]!r}); give --replace to replace it, or "
                "leave the column out of the file"
            )
    return found


def rewrite(
    final: Path, contents: Contents, sources: Sequence[FeatureCache], fill: Callable[[CacheWriter], None] | None = None
) -> None:
    """Write a cache whose rows come from ``sources`` and ``fill``: for merged shards, new ratings, imported features.

    Raises
    ------
    DrexcacheError : another process is writing, there is no space, or a row fails its checksum; nothing is replaced.
    """
    real = final.resolve()
    fresh = real.with_name(f"{real.name}.rewrite")  # unlike a partial file, useless if it is left behind
    with writer_lock(final):
        if any(source.path == final and source.replaced() for source in sources):
            raise DrexcacheError(f"{final}: another process replaced it meanwhile; run the same command again")
        try:
            create_empty(fresh, contents, final)
            with CacheWriter(fresh) as writer:
                for source in sources:
                    if count := take_rows(writer, source, None):
                        raise DrexcacheError(
                            f"{source.path}: {several(count, 'row does', 'rows do')} not match the checksum and "
                            "nothing was replaced; run the extract command that made it again, it recomputes them"
                        )
                    _take_failures(writer, source)
                if fill is not None:
                    fill(writer)
                writer.finish(final)
        except OSError as error:
            raise no_space(error, final) from error
        finally:
            fresh.unlink(missing_ok=True)


def _take_failures(writer: CacheWriter, source: FeatureCache) -> None:
    rows, failures = {image: row for row, image in enumerate(writer.cache.ids)}, source.failures()
    found = [
        (rows[image], at, failures[image]) for at, image in enumerate(source.ids) if image in failures and image in rows
    ]
    if not found:
        return
    place, at = np.array([row for row, _, _ in found]), np.array([at for _, at, _ in found])
    writer.put_files(place, source.hashes()[at], source.stats()[at], [reason for _, _, reason in found])
    for name in set(writer.cache.blocks) & set(source.blocks):
        writer.put_failed(name, place[source.status(name)[at] == FAILED])


def diff(a: FeatureCache, b: FeatureCache) -> list[str]:
    """Where two caches differ and by how much, a line each; empty if they hold the same."""
    found = []
    for one, two in ((a, b), (b, a)):
        only = sorted(set(one.ids) - set(two.ids))
        if only:
            found.append(f"{several(len(only), 'image')} only in {one.path} (first: {', '.join(only[:3])})")
        found += [f"block {name} only in {one.path}" for name in one.blocks if name not in two.blocks]
        found += [f"target {name} only in {one.path}" for name in one.targets if name not in two.targets]
        found += [f"label {name} only in {one.path}" for name in one.labels if name not in two.labels]
    rows = {image: row for row, image in enumerate(b.ids)}
    common = [(row, rows[image]) for row, image in enumerate(a.ids) if image in rows]
    if not common:
        return found
    at, bt = (np.array(side) for side in zip(*common, strict=True))
    changed = int((a.hashes()[at] != b.hashes()[bt]).any(axis=1).sum())
    if changed:
        found.append(several(changed, "image has", "images have") + " other file contents")
    ids = [a.ids[row] for row in at]
    for name in a.targets:
        if name in b.targets:
            found += _target_difference(a.targets[name], b.targets[name], at, bt, ids)
    for name in sorted(set(a.labels) & set(b.labels)):
        one, two = np.array(a.labels[name])[at], np.array(b.labels[name])[bt]
        if (one != two).any():
            first, count = int((one != two).argmax()), int((one != two).sum())
            found.append(f"label {name}: {several(count, 'image has', 'images have')} another (first: {ids[first]})")
    for name in a.blocks:
        if name in b.blocks:
            found += _block_difference(a, b, name, at, bt)
    return found


def _target_difference(one: Target, two: Target, at: np.ndarray, bt: np.ndarray, ids: Sequence[str]) -> list[str]:
    """What differs in the ratings of the images that both caches have, rows ``at`` of one and ``bt`` of two."""
    found = []
    scales = [f"{t.low:g}..{t.high:g}, higher is {t.higher_is}" for t in (one, two)]
    if scales[0] != scales[1]:
        found.append(f"target {one.name}: range {scales[0]} against {scales[1]}")
    first, second = one.values[at], two.values[bt]
    if lone := int((np.isfinite(first) != np.isfinite(second)).sum()):
        found.append(f"target {one.name}: {several(lone, 'image is', 'images are')} rated in one only")
    gap = np.nan_to_num(np.abs(first - second))
    if gap.any():
        worst = int(gap.argmax())
        count = several(int((gap > 0).sum()), "rating differs", "ratings differ")
        found.append(
            f"target {one.name}: {count}, by {gap[gap > 0].mean():.3g} on average, at most {gap[worst]:.3g} "
            f"({ids[worst]}: {first[worst]:g} against {second[worst]:g})"
        )
    return found


def _block_difference(a: FeatureCache, b: FeatureCache, name: str, at: np.ndarray, bt: np.ndarray) -> list[str]:
    found = [f"block {name}: {line}" for line in differences(a.blocks[name], b.blocks[name])]
    both = (a.status(name)[at] == DONE) & (b.status(name)[bt] == DONE)
    if other := int((a.status(name)[at] != b.status(name)[bt]).sum()):
        found.append(f"block {name}: {several(other, 'row has', 'rows have')} another status")
    if a.blocks[name].dim != b.blocks[name].dim:
        return [*found, f"block {name}: {a.blocks[name].dim} against {b.blocks[name].dim} columns"]
    rows, worst, scale = 0, 0.0, 1e-12
    pieces = np.array_split(np.flatnonzero(both), max(1, int(both.sum()) // 1024))
    with step_bar(f"compare {name}", "piece") as show:
        for done, piece in enumerate(pieces, 1):
            one = a.features(name, at[piece]).astype(np.float64)
            gap = np.abs(one - b.features(name, bt[piece]))
            rows += int((gap > 0).any(axis=1).sum())
            worst, scale = max(worst, gap.max(initial=0.0)), max(scale, np.abs(one).max(initial=0.0))
            show(done, len(pieces), "")
    if rows:
        found.append(
            f"block {name}: {several(rows, 'row differs', 'rows differ')}, by at most {worst:.3g} "
            f"({worst / scale:.1e} of the largest value)"
        )
    return found


def export(cache: FeatureCache, out: str | Path, blocks: Sequence[str] | None = None) -> int:
    """Write ids, targets, labels and features with named columns to .npz, .parquet or .csv; returns the number of rows.

    Columns of features are named BLOCK/TAP/NUMBER; an .npz has one array ``X``, with the names in ``columns``. A target
    or label whose name is taken (by ``id``, ``X``, ``columns`` or a target) is called "target/NAME" or "label/NAME".

    Raises
    ------
    DrexcacheError : another extension, pyarrow (for .parquet) is not installed, or the file cannot be written.
    """
    out = Path(out)
    writers = {".npz": _npz, ".parquet": _parquet, ".csv": _csv}
    if out.suffix not in writers:
        raise DrexcacheError(f"{out}: the ending chooses the form; expected one of {', '.join(writers)}")
    matrix = cache.matrix(blocks, target=next(iter(cache.targets), None))
    rows = {image: row for row, image in enumerate(cache.ids)}
    at = [rows[image] for image in matrix.ids]
    known: dict[str, Any] = {"id": list(matrix.ids)}
    for name, target in cache.targets.items():
        known[_free(name, "target", known)] = target.values[at]
    for name, column in matrix.labels.items():
        known[_free(name, "label", known)] = list(column)
    write_file(out, lambda file: writers[out.suffix](file, known, matrix.columns, matrix.X))
    return len(matrix)


def _free(name: str, kind: str, taken: Mapping[str, Any]) -> str:
    return f"{kind}/{name}" if name in taken or name in ("X", "columns") else name


def _npz(file: BinaryIO, known: dict[str, Any], columns: list[str], X: np.ndarray) -> None:
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in known.items()}
    np.savez(file, X=X, columns=np.array(columns), **arrays)


def _csv(file: BinaryIO, known: dict[str, Any], columns: list[str], X: np.ndarray) -> None:
    rows = csv.writer(codecs.getwriter("utf-8")(file))
    rows.writerow([*known, *columns])
    with step_bar("write", "row") as show:
        for done, (*values, features) in enumerate(zip(*known.values(), X, strict=True), 1):
            rows.writerow([*values, *(f"{value:.9g}" for value in features)])
            show(done, len(X), "")


def _parquet(file: BinaryIO, known: dict[str, Any], columns: list[str], X: np.ndarray) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DrexcacheError("export to .parquet needs pyarrow: pip install 'drexcache[parquet]'") from error
    table = {**known, **{name: X[:, number] for number, name in enumerate(columns)}}
    parquet.write_table(pyarrow.table(table), file)
