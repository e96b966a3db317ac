"""Reading features computed by another tool: arrays and tables from a file, checked, with their ids."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from drexcache.cache.format import DONE, StoredBlock
from drexcache.cache.reader import open_cache
from drexcache.datasets import (
    BYTES_AT_ANY_RATIO,
    IMAGE_COLUMNS,
    MAX_RATIO,
    RATING_COLUMNS,
    SPLIT_COLUMNS,
    find_column,
    plain_name,
    read_frame,
)
from drexcache.errors import DrexcacheError, counted, several
from drexcache.files import require_file

if TYPE_CHECKING:
    import pandas as pd

READ = "read are .npy, .npz, .csv, .tsv, .parquet, .safetensors and a drexcache cache (.h5)"
ID_ARRAYS = ("id", "ids", "name", "names", "file", "files", "filename", "filenames", "path", "paths", "image", "images")
NUMBERED = re.compile(r"(.+)/\d+")  # a column of `cache export`: BLOCK/TAP/NUMBER


@dataclass(frozen=True)
class Incoming:
    """n rows of features from another tool.

    source : the file, for messages. X : (n, d), float16 or float32. ids : (n,) names, None if the file has none.
    taps : name -> number of columns, in order, covering all d. notes : what was left out, a sentence each.
    stored, hashes : for a block from a cache, its description and the image files' SHA-256 (n, 32); else None.
    """

    source: str
    X: np.ndarray
    ids: tuple[str, ...] | None
    taps: dict[str, int]
    notes: tuple[str, ...] = ()
    stored: StoredBlock | None = None
    hashes: np.ndarray | None = None


def read_features(
    source: str | Path | np.ndarray, block: str, *, ids: str | Path | Sequence[str] | None = None,
    array: str | None = None, id_column: str | None = None, columns: str | None = None,
) -> Incoming:  # fmt: skip
    """Read features from a file, or take an array (n, d).

    Parameters
    ----------
    block : from a file with columns named BLOCK/TAP/NUMBER, as `cache export` writes them, only this block is taken,
        or all columns if it has none; from a cache, this block unless ``array`` names another.
    ids : the n names, or a file with one per line, if the features' own file has none.
    array : name of the array in an .npz or .safetensors, or of the block in a cache.
    id_column, columns : for a table, the column of ids, and a pattern for the feature columns such as "clip_*".

    Raises
    ------
    DrexcacheError : another kind of file, one with pickled objects, an array that is not two-dimensional and numeric,
        NaN or infinite values (names the ids), a repeated id, or not one id per row.
    """
    if isinstance(source, np.ndarray):
        found = Incoming("the array", source, None, {})
    else:
        path = Path(source)
        require_file(path, "file of features")
        kind = path.suffix.lower()
        if kind == ".h5":
            found = _of_cache(path, array or block)
        elif kind in (".csv", ".tsv", ".parquet"):
            found = _of_table(_frame(path), str(path), block, id_column, columns)
        elif kind in (".npy", ".npz", ".safetensors"):
            found = _of_arrays(_arrays(path), path, array, block)
        else:
            raise DrexcacheError(f"{path}: no file of features; {READ}; convert pickles and .pt files to one of them")
    if ids is not None:
        found = replace(found, ids=_given_ids(ids))
    return _checked(found)


def _checked(found: Incoming) -> Incoming:
    X, where = np.asarray(found.X), found.source
    if X.dtype.kind not in "fiu" or X.ndim != 2 or 0 in X.shape:
        raise DrexcacheError(f"{where}: expected numbers with a row per image (n, d); found {X.dtype} {X.shape}")
    names = found.ids if found.ids is not None else tuple(f"row {row + 1}" for row in range(len(X)))
    if len(names) != len(X):
        raise DrexcacheError(f"{where}: {several(len(X), 'row')} of features, but {several(len(names), 'id')}")
    if found.ids is not None and (twice := sorted({name for name, count in Counter(names).items() if count > 1})):
        raise DrexcacheError(f"{where}: ids that stand there more than once: {counted(twice)}; keep one row of each")
    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(X, dtype="<f2" if X.dtype == np.float16 else "<f4")
    bad = np.flatnonzero(~np.isfinite(kept).all(axis=1)).tolist()
    if bad:
        raise DrexcacheError(
            f"{where}: NaN, infinite or too large features of {counted([names[row] for row in bad])}; compute them "
            "again, or leave these rows out"
        )
    notes = found.notes
    if X.dtype.kind != "f" or X.dtype.itemsize > 4:
        changed = int((kept != X).any(axis=1).sum())
        notes += (f"{where}: {X.dtype} kept as float32, which rounds {changed} of {len(X)} rows",) if changed else ()
    taps = found.taps or {"all": X.shape[1]}
    return replace(found, X=kept, taps=taps, notes=notes)


def _given_ids(ids: str | Path | Sequence[str]) -> tuple[str, ...]:
    """The names as given, or read from a file: a .npy of texts, or a text file with one per line."""
    if not isinstance(ids, str | Path):
        return tuple(str(name) for name in ids)
    path = Path(ids)
    if path.suffix.lower() == ".npy":
        return _texts(_npy(path), str(path))
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DrexcacheError(f"{path}: cannot be read as a text of one id a line ({error})") from error


def _texts(values: np.ndarray, where: str) -> tuple[str, ...]:
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise DrexcacheError(f"{where}: expected ids, one text for each row; found {values.dtype} {values.shape}")
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist())


def _npy(path: Path) -> np.ndarray:
    """The array of a .npy, memory-mapped and never unpickled."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy passes on what its header makes Python's parser raise
        raise DrexcacheError(f"{path}: {_why(error)}") from error


def _why(error: Exception) -> str:
    if "object" in str(error).casefold() or "pickle" in str(error).casefold():
        return "holds pickled objects, which could run code and are refused; save plain numbers, and ids as text"
    return f"not a readable file of arrays ({' '.join(str(error).split())[:120]})"


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() == ".npy":
        return {"": _npy(path)}
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _check_member(archive, member)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a broken zip makes zipfile raise errors of many kinds, besides NumPy's
        raise DrexcacheError(f"{path}: {_why(error)}") from error


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Check that an array is as large as it claims, before memory is allocated for it."""
    if member.file_size > max(BYTES_AT_ANY_RATIO, MAX_RATIO * member.compress_size):
        raise ValueError(f"{member.filename} unpacks from {member.compress_size} to {member.file_size} bytes")
    with archive.open(member) as file:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("an array of objects")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if min(shape, default=0) < 0 or size != member.file_size - file.tell():
            raise ValueError(f"{member.filename} says {dtype} {shape} in {member.file_size} bytes")


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors and, as array "ids", the JSON list under the metadata key "ids"."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            listed = json.loads((file.metadata() or {}).get("ids", "null"))
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise DrexcacheError(f"{path}: not a readable safetensors file ({error})") from error
    if isinstance(listed, list):
        return tensors | {"ids": np.array([str(name) for name in listed])}
    vectors = {
        name: tensor.reshape(-1) for name, tensor in tensors.items() if tensor.size == max(tensor.shape, default=0)
    }
    if len(vectors) == len(tensors) > 1 and len({len(vector) for vector in vectors.values()}) == 1:
        return {"": np.stack(list(vectors.values())), "ids": np.array(list(vectors))}  # one tensor per image
    return tensors


def _of_arrays(arrays: dict[str, np.ndarray], path: Path, chosen: str | None, block: str) -> Incoming:
    tables = {name: values for name, values in arrays.items() if values.ndim == 2 and values.dtype.kind in "fiu"}
    if chosen is not None and chosen not in arrays:
        raise DrexcacheError(f"{path}: no array named {chosen}; it has: {', '.join(arrays)}")
    if chosen is None and len(tables) != 1:
        found = ", ".join(f"{name or 'one'} {a.dtype} {a.shape}" for name, a in arrays.items())
        hint = "name one with --array" if tables else "expected numbers with a row per image (n, d)"
        raise DrexcacheError(f"{path}: found {found}; {hint}")
    name = chosen if chosen is not None else next(iter(tables))
    own = next((key for key in ID_ARRAYS for known in [arrays.get(key)] if known is not None and known.ndim == 1), None)
    ids = None if own is None else _texts(arrays[own], f"{path}, array {own}")
    if "columns" in arrays and arrays["columns"].shape == arrays[name].shape[1:]:
        header = _texts(arrays["columns"], f"{path}, array columns")
        picked, taps = _taps(header, block)
        return Incoming(str(path), arrays[name][:, picked], ids, taps)
    return Incoming(str(path), arrays[name], ids, {})


def _of_cache(path: Path, block: str) -> Incoming:
    cache = open_cache(path)
    if block not in cache.blocks and len(cache.blocks) == 1:
        block = next(iter(cache.blocks))
    if block not in cache.blocks:
        raise DrexcacheError(
            f"{path}: no block named {block}; it has: {', '.join(cache.blocks)}; name the one to import with --array"
        )
    rows = np.flatnonzero(cache.status(block) == DONE)
    if not cache.intact(block).all():
        raise DrexcacheError(f"{path}: rows of block {block} do not match their checksum; see drexcache cache verify")
    taps = {tap: cols.stop - cols.start for tap, cols in cache.blocks[block].taps.items()}
    ids = tuple(cache.ids[row] for row in rows.tolist())
    stored, hashes = cache.blocks[block], cache.hashes()[rows]
    return Incoming(str(path), cache.features(block, rows), ids, taps, stored=stored, hashes=hashes)


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        return read_frame(path, str(path))
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        mark = max("\t;,", key=header.count)
        return pd.read_csv(path, sep=mark, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DrexcacheError(f"{path}: not readable as a table ({' '.join(str(error).split())[:120]})") from error


def _of_table(frame: pd.DataFrame, where: str, block: str, id_column: str | None, pattern: str | None) -> Incoming:
    from fnmatch import fnmatchcase

    header = [str(name) for name in frame.columns]
    try:
        at = find_column(header, id_column, IMAGE_COLUMNS, "image names")
    except LookupError as error:
        if id_column is not None:
            raise DrexcacheError(f"{where}: {error.args[0]}; the header row has: {', '.join(header[:20])}") from error
        at = -1
    others = [i for i in range(len(header)) if i != at]
    if pattern is not None:
        picked = [i for i in others if fnmatchcase(header[i], pattern)]
    elif numbered := [i for i in others if NUMBERED.fullmatch(header[i])]:
        picked = numbered
    else:
        picked = [i for i in others if plain_name(header[i]) not in {*RATING_COLUMNS, *SPLIT_COLUMNS}]
    if not picked:
        raise DrexcacheError(f"{where}: no column of features; the header row has: {', '.join(header[:20])}")
    if pattern is None:
        places, taps = _taps([header[i] for i in picked], block)
        picked = [picked[place] for place in places]
    else:
        taps = {}
    left = [header[i] for i in others if i not in {*picked} and not NUMBERED.fullmatch(header[i])]
    ids = tuple(str(name).strip() for name in frame.iloc[:, at]) if at >= 0 else None
    notes = (f"{where}: columns that are no features: {', '.join(left[:10])}",) if left else ()
    X, wider = _values(frame.iloc[:, picked], where, ids)
    return Incoming(where, X, ids, {} if wider else taps, notes)


def _values(cells: pd.DataFrame, where: str, ids: Sequence[str] | None) -> tuple[np.ndarray, bool]:
    """The cells as numbers (n, d), and whether they come from a single column of lists."""
    import pandas as pd

    if cells.shape[1] == 1 and len(cells) and isinstance(cells.iloc[0, 0], list | np.ndarray):
        widths = {len(row) for row in cells.iloc[:, 0]}
        if len(widths) > 1:
            raise DrexcacheError(f"{where}: rows of {min(widths)} to {max(widths)} numbers; expected one width")
        return np.stack([np.asarray(row) for row in cells.iloc[:, 0]]), True
    if all(isinstance(kind, np.dtype) and kind.kind in "fiu" for kind in cells.dtypes):
        return cells.to_numpy(), False
    found = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)  # unlike Python, without 3_5
    if not np.isnan(found).any():
        return found, False
    texts = cells.to_numpy(dtype=object)
    missing = np.isin(np.char.lower(texts.astype(str)), ["nan"])  # refused later, with the images' names
    if not (np.isnan(found) & ~missing).any():
        return found, False
    row, column = np.argwhere(np.isnan(found) & ~missing)[0].tolist()
    name = ids[row] if ids is not None else f"row {row + 1}"
    raise DrexcacheError(
        f"{where}: column {cells.columns[column]!r} of {name} is {texts[row, column]!r}, no number; name the columns "
        "of features with --columns PATTERN, such as 'clip_*', and that of ids with --id-column"
    )


def _taps(header: Sequence[str], block: str) -> tuple[list[int], dict[str, int]]:
    """Which columns to take and, if they are named BLOCK/TAP/NUMBER, the taps' widths."""
    if not all(NUMBERED.fullmatch(name) for name in header):
        return list(range(len(header))), {}
    own = [at for at, name in enumerate(header) if name.partition("/")[0] == block]
    picked = own or list(range(len(header)))
    taps: dict[str, int] = {}
    for prefix, group in groupby(header[at].rpartition("/")[0] for at in picked):
        tap = prefix.removeprefix(f"{block}/").replace("/", ".") if prefix != block else "all"
        if tap in taps:
            return picked, {}  # the columns of a tap are not adjacent: take them as they are
        taps[tap] = len(list(group))
    return picked, taps
