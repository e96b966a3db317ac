"""Parquet files, read within limits whatever they say of themselves; all that pyarrow raises becomes one sentence."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from drexcache.datasets.files import BYTES_AT_ANY_RATIO, MAX_RATIO
from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    from pandas import DataFrame

AT_ONCE = 8  # images
# Where pyarrow describes columns from Python, a damaged description ends the process: another process tries it first.
_TRIAL = """
import sys
from pyarrow.parquet import ParquetFile
about = ParquetFile(sys.stdin.buffer).metadata
for group in map(about.row_group, range(about.num_row_groups)):
    for at in range(group.num_columns):
        group.column(at)
"""
_SECONDS = 60  # that it may take
_SIZES = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT96": 12}  # bytes of a value; 8 of any other


def open_parquet(source: Path | bytes, where: str, **options: Any) -> Any:
    """The pyarrow.parquet.ParquetFile of a file or of its bytes.

    Raises
    ------
    DrexcacheError : not readable as Parquet, or pyarrow is not installed.
    """
    try:
        from pyarrow import BufferReader, parquet
    except ImportError as error:
        raise DrexcacheError(f"{where}: reading Parquet needs pyarrow: pip install 'drexcache[parquet]'") from error
    with _in_a_sentence(where):
        return parquet.ParquetFile(BufferReader(source) if isinstance(source, bytes) else source, **options)


def read_frame(source: Path | bytes, where: str, columns: Sequence[str] | None = None, most: int = 0) -> DataFrame:
    """The table, or some of its columns; a text that many rows repeat is held only once.

    most : bytes that it may take; by default `most_bytes` of the file.

    Raises
    ------
    DrexcacheError : as `open_parquet`; larger than that; or a column of lists or structs of texts.
    """
    from pyarrow import types

    file = open_parquet(source, where)
    with _in_a_sentence(where):
        _try_out(source)
        schema, most = file.schema_arrow, most or most_bytes(source)
        names = [name for name in schema.names if columns is None or name in columns]
        _refuse_large(_unpacked(file, range(file.num_row_groups), names), most, where)
        kinds = types.is_string, types.is_large_string, types.is_binary, types.is_large_binary
        texts = [name for name in names if any(is_kind(schema.field(name).type) for is_kind in kinds)]
        for leaf in _leaves(file, names):
            if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in texts:
                raise DrexcacheError(f"{where}: column {leaf.path} has texts inside lists or structs; leave it out")
    file = open_parquet(source, where, read_dictionary=texts)
    with _in_a_sentence(where):
        return file.read(columns=names).to_pandas()


def images_of(path: Path, group: int, column: str) -> Iterator[Any]:
    """The cells of a column of images in a row group, a few at a time; pyarrow's scalars.

    Raises
    ------
    DrexcacheError : they take more bytes than `most_bytes` of the file in all, or cannot be read.
    """
    file, where, most = open_parquet(path, str(path)), str(path), most_bytes(path)
    with _in_a_sentence(where):
        _try_out(path)
        _refuse_large(_unpacked(file, [group], [column]), most, where)
        for batch in file.iter_batches(AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
            most -= batch.nbytes
            _refuse_large(0, most, where)
            yield from batch.column(0)


def _try_out(source: Path | bytes) -> None:
    if isinstance(source, bytes):
        with tempfile.TemporaryFile() as file:
            file.write(source)
            file.seek(0)
            _refuse_damaged(file)
    else:
        status = source.stat()
        _tried(source, status.st_ino, status.st_size, status.st_mtime_ns)


@cache
def _tried(path: Path, *state: int) -> None:
    with path.open("rb") as file:
        _refuse_damaged(file)


def _refuse_damaged(file: BinaryIO) -> None:
    command = [sys.executable, "-c", _TRIAL]
    done = subprocess.run(command, stdin=file, capture_output=True, timeout=_SECONDS, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(reason[-1] if reason else "what it says of its columns is damaged")


def most_bytes(source: Path | bytes) -> int:
    """Bytes that may come out of a file: as many as of a zip's member of its size."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    return max(BYTES_AT_ANY_RATIO, MAX_RATIO * size)


def _leaves(file: Any, names: Sequence[str]) -> Iterator[Any]:
    """The columns of numbers or texts that these columns consist of."""
    for at in range(len(file.schema)):
        leaf = file.schema.column(at)
        if any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in names):
            yield leaf


def _unpacked(file: Any, groups: Sequence[int], names: Sequence[str]) -> int:
    """Bytes that these columns take, texts that are repeated counted once."""
    leaves = {leaf.path: leaf for leaf in _leaves(file, names)}
    total = 0
    for group in groups:
        about = file.metadata.row_group(group)
        for column in map(about.column, range(about.num_columns)):
            if leaf := leaves.get(column.path_in_schema):
                width = max(leaf.length, _SIZES.get(leaf.physical_type, 8))
                total += max(column.total_uncompressed_size, column.num_values * width)
    return total


def _refuse_large(size: int, most: int, where: str) -> None:
    if size > most:
        raise DrexcacheError(f"{where}: a Parquet file that takes too much memory unpacked; save it in parts")


@contextmanager
def _in_a_sentence(where: str) -> Iterator[None]:
    try:
        yield
    except DrexcacheError:
        raise
    except Exception as error:  # pyarrow raises errors of many kinds, and pandas where it reads pyarrow's notes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DrexcacheError(f"{where}: not a readable Parquet file ({reason})") from error
