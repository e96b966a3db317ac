"""Importing features computed by another tool into a cache as a block, matched to its images by id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache.changes import rewrite
from drexcache.cache.format import DONE, Contents, StoredBlock, check_name, differences
from drexcache.cache.incoming import Incoming, read_features
from drexcache.cache.reader import FeatureCache, open_cache
from drexcache.cache.writer import CacheWriter
from drexcache.datasets import Columns, ImageFile, ImageTable, match_names, match_ratings, read_images, read_ratings
from drexcache.errors import DrexcacheError, counted, several, some
from drexcache.recipes import IMPORTED, Block, Tap

Say = Callable[[str], None]


def import_features(
    features: str | Path | np.ndarray, out: str | Path, block: str, *, note: str = "",
    images: str | Path | None = None, ratings: Any = None, ids: str | Path | Sequence[str] | None = None,
    array: str | None = None, id_column: str | None = None, columns: str | None = None, same_order: bool = False,
    allow_unmatched: bool = False, replace_block: bool = False, say: Say = print, **reading: Any,
) -> FeatureCache:  # fmt: skip
    """Write features computed by another tool into a cache as a block, and open the cache.

    Rows are matched to images by id, by the same rules as ratings (docs/any-folder.md). An existing cache keeps its
    images and ratings. A new one takes them from ``images`` and ``ratings``, or from the ratings alone; without either,
    its images are the features' own ids.

    A block from another cache keeps its fingerprint. Other features get one from ``note``: features described in the
    same words count as the same, so that a model trained on one dataset can predict another. Without a note the
    fingerprint is computed from the numbers themselves.

    Parameters
    ----------
    features, ids, array, id_column, columns : see `drexcache.cache.read_features`.
    note : what computed them, such as "open_clip ViT-B/32 laion2b, 224 px".
    same_order : take the rows in the order of the cache's images (or of the ratings' lines) instead of by id.
    allow_unmatched : leave out features without an image, and accept images without features.
    replace_block : replace a block of that name.
    reading : for a new cache, the other options of `read_images`.

    Raises
    ------
    DrexcacheError : whatever `read_features` and `read_images` refuse, ids that match no image (shows some of both), or
        an existing block of that name with other features. Nothing is written then.

    >>> import_features("clip.npz", "photos.h5", "clip", note="ViT-B/32")  # doctest: +SKIP
    """
    out = Path(out)
    check_name(block, "block")
    found = read_features(features, block, ids=ids, array=array, id_column=id_column, columns=columns)
    cache = open_cache(out) if out.exists() else None
    contents, order, files, notes = _contents(cache, found, out, images, ratings, reading)
    for line in (*notes, *found.notes):
        say(line)
    old = None if cache is None or replace_block else cache.blocks.get(block)
    if same_order:
        rows = _in_order(found, contents.ids, order, say)
    else:
        done = None if cache is None or old is None else cache.status(block) == DONE
        rows = _by_id(found, contents.ids, out, done, allow_unmatched, say)
    places = np.flatnonzero(rows >= 0)
    X = found.X[rows[places]]
    stored = _stored(block, found, note, X, [contents.ids[at] for at in places.tolist()])
    if cache is not None and old is not None:
        stored = _joined(cache, old, stored, places, X)
    known, stats = _hashed(files, len(contents.ids)) if cache is None else (cache.hashes(), cache.stats())
    hashes = (
        known if found.hashes is None else _agreed(found.source, contents.ids, found.hashes[rows], known, rows >= 0)
    )

    def fill(writer: CacheWriter) -> None:
        if cache is None:
            writer.put_files(np.arange(len(hashes)), hashes, stats, [""] * len(hashes))
        step = max(1, (8 << 20) // (4 * X.shape[1]))
        for start in range(0, len(places), step):
            writer.put(block, places[start : start + step], X[start : start + step])

    contents = replace(contents, blocks=dict(sorted({**contents.blocks, block: stored}.items())))
    rewrite(out, contents, [] if cache is None else [cache], fill)
    if stored.definition.backbone == IMPORTED and not note:
        say(
            f"block {block}: without --note these features count as a kind of their own; say with --note what computed "
            "them, in the same words for every dataset, and a model trained here predicts there"
        )
    return open_cache(out)


def _contents(
    cache: FeatureCache | None, found: Incoming, out: Path, images: str | Path | None, ratings: Any,
    reading: dict[str, Any],
) -> tuple[Contents, Sequence[str], Sequence[ImageFile], Sequence[str]]:  # fmt: skip
    """The contents of the cache or else of a new one, the images' order for ``same_order``, new files, and notes."""
    if cache is not None:
        if any(given is not None for given in (images, ratings, reading.get("value_range"), reading.get("dataset"))):
            raise DrexcacheError(
                f"{out}: exists, and its own images and ratings count; give neither (drexcache cache rate adds ratings)"
            )
        return cache.contents, cache.ids, (), ()
    if images is not None:
        table = read_images(images, ratings, **reading)
        order: Sequence[str] = table.ids
    elif ratings is not None:
        table, order = _table_of_ratings(out, ratings, reading)
    elif found.ids is not None:
        order = ids = tuple(sorted(found.ids, key=str.encode))
        table = ImageTable(reading.get("dataset") or out.stem, ids, (), {}, {}, ())
    else:
        raise DrexcacheError(
            f"{found.source}: holds no ids, and no images are given; give ids with --ids FILE, or images and "
            "--same-order"
        )
    contents = Contents(table.dataset, table.ids, table.targets, table.labels, {}, images=table.root)
    return contents, order, table.files, table.notes


def _table_of_ratings(out: Path, ratings: Any, reading: dict[str, Any]) -> tuple[ImageTable, Sequence[str]]:
    """A table of the images named in a file of ratings, without files, and their order in it."""
    names = ("image", "rating", "split", "rater", "error")
    columns = Columns(
        **{name: reading.get(f"{name}_column") for name in names},
        groups=tuple(reading.get("group_columns", ())), error_raters=reading.get("raters"),
    )  # fmt: skip
    rated = read_ratings(ratings, columns)
    order = tuple(dict.fromkeys(rated.names))
    ids = tuple(sorted(order, key=str.encode))
    options = ("value_range", "higher_is", "target", "allow_unmatched", "out_of_range")
    match = match_ratings(ids, rated, **{name: reading[name] for name in options if name in reading})
    table = ImageTable(
        reading.get("dataset") or out.stem, ids, (), {match.target.name: match.target}, match.labels, match.notes
    )
    return table, order


def _in_order(found: Incoming, ids: Sequence[str], order: Sequence[str], say: Say) -> np.ndarray:
    """For each image its row of the features, (n,), if the rows are in the given order."""
    if len(order) != len(found.X):
        counts = f"{several(len(found.X), 'row')} for {several(len(order), 'image')}"
        raise DrexcacheError(f"{found.source}: {counts}; --same-order needs as many")
    row = {image: at for at, image in enumerate(order)}
    say(f"{found.source}: rows taken in the order of the images, as asked: row 1 is {order[0]}, the last {order[-1]}")
    return np.array([row[image] for image in ids])


def _by_id(
    found: Incoming, ids: Sequence[str], out: Path, done: np.ndarray | None, allowed: bool, say: Say
) -> np.ndarray:
    """For each image its row of the features, (n,), matched by id; -1 if it has none."""
    if found.ids is None:
        raise DrexcacheError(
            f"{found.source}: holds no ids; give them with --ids FILE (one a line), or say with --same-order that its "
            "rows stand in the order of the images"
        )
    match = match_names(ids, found.ids)
    rows = match.row
    if (rows < 0).all():
        raise DrexcacheError(
            f"{found.source}: no id matches an image of {out}; features of: {some(found.ids)}; images: {some(ids)}"
        )
    never = _said({"ids that fit several images": match.ambiguous, "images that several ids mean": match.twice})
    lacking = rows < 0 if done is None else (rows < 0) & ~done
    without = [ids[at] for at in np.flatnonzero(lacking).tolist()]
    may = _said({"features without an image": match.without, "images without features": without})
    if never or (may and not allowed):
        raise DrexcacheError(
            f"{found.source}: {'; '.join([*never, *([] if allowed else may)])}; correct the ids"
            + ("" if never else ", or leave the others out with --allow-unmatched")
        )
    notes = [f"{line}, as allowed" for line in may]
    if match.inexact:
        notes.append(f"accepted ids in another case, extension or folder: {counted(match.inexact)}")
    for line in notes:
        say(f"{found.source}: {line}")
    return rows


def _said(problems: dict[str, list[str]]) -> list[str]:
    return [f"{what}: {counted(names)}" for what, names in problems.items() if names]


def _stored(block: str, found: Incoming, note: str, X: np.ndarray, ids: Sequence[str]) -> StoredBlock:
    """The block's description; the hash of the note, or else of ids and numbers, takes the place of the weights'."""
    content = hashlib.sha256()
    for image, row in zip(ids, X, strict=True):
        content.update(image.encode() + b"\0" + row.tobytes())
    source = Path(found.source).name
    if found.stored is not None and not note:  # drexcache's own features keep their description
        return replace(found.stored, definition=replace(found.stored.definition, name=block))
    taps = tuple(Tap(layer="file", pool="value", name=name, dim=width) for name, width in found.taps.items())
    entry = {
        "source": source, "note": note, "content_sha256": content.hexdigest(), "rows": len(X),
        "drexcache": version("drexcache"),
    }  # fmt: skip
    return StoredBlock(
        Block(name=block, backbone=IMPORTED, tag=note, taps=taps),
        weights_sha256=hashlib.sha256(note.encode()).hexdigest() if note else content.hexdigest(),
        weights_source=f"{source}: {note}" if note else source,
        dims=tuple(found.taps.values()), dtype=X.dtype.name, provenance=(entry,), numerics=1,
    )  # fmt: skip


def _joined(cache: FeatureCache, old: StoredBlock, new: StoredBlock, places: np.ndarray, X: np.ndarray) -> StoredBlock:
    """The description of the block with the rows of both, which must be the same features.

    Raises
    ------
    DrexcacheError : they differ in width, note or content, or a row exists with other numbers.
    """
    end = "replace the block with --replace, or give another --block name"
    if old.dim != new.dim:
        raise DrexcacheError(f"{cache.path}: block {old.name} has {old.dim} columns, these features {new.dim}; {end}")
    if old.fingerprint != new.fingerprint or old.dtype != new.dtype:
        found = differences(old, new) or [f"stored as {old.dtype} -> {new.dtype}"]
        words = f"note {old.definition.tag!r} -> {new.definition.tag!r}; {'; '.join(found)}"
        raise DrexcacheError(f"{cache.path}: block {old.name} holds other features ({words}); {end}")
    there = (cache.status(old.name) == DONE)[places]
    same = (cache.features(old.name, places[there]) == X[there]).all(axis=1)
    if not same.all():
        first = [cache.ids[at] for at in places[there][~same].tolist()]
        raise DrexcacheError(f"{cache.path}: block {old.name} holds other numbers of {counted(first)}; {end}")
    entries = [*old.provenance, *(entry for entry in new.provenance if entry not in old.provenance)]
    return replace(old, provenance=tuple(entries))


def _agreed(source: str, ids: Sequence[str], theirs: np.ndarray, ours: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The hashes (n, 32) of the images' files, theirs where they are known; ``there`` (n,): which rows they have.

    Raises DrexcacheError where both are known and differ.
    """
    known = theirs.any(axis=1) & there
    differ = (theirs != ours).any(axis=1) & known & ours.any(axis=1)
    if differ.any():
        names = [ids[at] for at in np.flatnonzero(differ).tolist()]
        raise DrexcacheError(f"{source}: holds features of other files of these names: {counted(names)}")
    return np.where(known[:, None], theirs, ours)


def _hashed(files: Sequence[ImageFile], n: int) -> tuple[np.ndarray, np.ndarray]:
    """SHA-256 (n, 32) and state (n, 2) of the image files; zeros if there are none."""
    hashes, stats = np.zeros((n, 32), "u1"), np.zeros((n, 2), "<i8")

    def read(file: ImageFile) -> tuple[bytes, tuple[int, int]]:
        try:
            return hashlib.sha256(file.read()).digest(), file.stat()
        except OSError as error:
            raise DrexcacheError(f"{file}: cannot be read ({error.strerror or error})") from error

    with ThreadPoolExecutor() as pool:
        for at, (digest, stat) in enumerate(pool.map(read, files)):
            hashes[at], stats[at] = np.frombuffer(digest, "u1"), stat
    return hashes, stats
