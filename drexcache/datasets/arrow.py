"""Images in a folder that Hugging Face's datasets saved (save_to_disk): Arrow files, read a batch at a time."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drexcache.datasets.columns import IMAGE_COLUMNS, plain_name
from drexcache.datasets.files import MAX_BYTES, ImageFile
from drexcache.datasets.packed import PICTURES, Packed, name_of, picture_and_name, state_of
from drexcache.errors import DrexcacheError, counted
from drexcache.files import utf8_name

if TYPE_CHECKING:
    from pandas import DataFrame

_SPLITS, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_reading = threading.local()  # in each thread: the batch read last


@dataclass(frozen=True, slots=True)
class RowOfBatch(Packed):
    """The image in a row of an Arrow file. member : its id. listed : where its batch starts, and its row in it."""

    column: str = ""

    def read(self) -> bytes:
        """The image's bytes; OSError as in `ImageFile.read`."""
        start, row = self.listed
        where = (self.location, self.state, start, self.column)
        if getattr(_reading, "where", None) != where:
            try:
                _, _reading.cells = next(_batches(Path(self.location), [self.column], start))
            except DrexcacheError as error:
                raise OSError(str(error)) from error
            _reading.where = where
        self.check()
        value: Any = _reading.cells[0][row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError("the dataset has no image in this row")
        return data


def is_saved(root: object) -> bool:
    """Whether this is a folder that `save_to_disk` wrote, of a dataset or of several splits.

    >>> is_saved(Path("photos")), is_saved("s3://bucket/photos")
    (False, False)
    """
    if not isinstance(root, Path):
        return False
    return (root / _SPLITS).is_file() or ((root / _STATE).is_file() and (root / _INFO).is_file())


def saved_files(root: Path) -> dict[str, ImageFile]:
    """The images of a saved dataset: name -> file, sorted by the bytes of the names.

    A row's name is its id, its image's path, or its number, below the name of its split if there are splits.

    Raises
    ------
    DrexcacheError : not as `save_to_disk` writes it, no column of images, or a name twice.
    """
    files: dict[str, ImageFile] = {}
    twice = []
    for name, one in _rows(root):
        twice += [name] if name in files else []
        files[utf8_name(name, root)] = one
    if twice:
        raise DrexcacheError(f"{root}: images under one name: {counted(twice)}")
    return dict(sorted(files.items()))


def saved_table(root: Path) -> DataFrame:
    """What a saved dataset says of its images in its other columns; splits become the column "split" if it has none."""
    import pandas as pd

    frames = []
    for path, split in _parts(root):
        names = _schema(path).names
        others = [name for name in names if plain_name(name) not in (*PICTURES, *IMAGE_COLUMNS)]
        for _, batch in _batches(path, others):
            frame = batch.to_pandas()
            frames.append(frame.assign(split=split) if split and "split" not in frame else frame)
    whole = pd.concat(frames, ignore_index=True)
    whole.insert(0, "image", [name for name, _ in _rows(root)], allow_duplicates=True)
    return whole


def _rows(root: Path) -> Iterator[tuple[str, ImageFile]]:
    numbers: dict[str, int] = {}  # split -> rows so far: numbers go on from file to file
    for path, split in _parts(root):
        state = state_of(path)
        picture, named = picture_and_name(_schema(path), path)
        for start, batch in _batches(path, [picture, *([named] if named else [])]):
            names = batch[1].to_pylist() if named else [""] * batch.num_rows
            for row, (name, cell) in enumerate(zip(names, batch[0], strict=True)):
                number = numbers[split] = numbers.get(split, -1) + 1
                found = name_of("" if name is None else str(name), cell.as_py(), number)
                found = f"{split}/{found}" if split else found
                yield found, RowOfBatch(str(path), found, (start, row), state, str(root), column=picture)


def _parts(root: Path) -> list[tuple[Path, str]]:
    """The Arrow files in their order, each with the name of its split, "" if there are none."""
    if (root / _SPLITS).is_file():
        splits = _names(root / _SPLITS, lambda known: known["splits"])
        return [(path, split) for split in splits for path, _ in _parts_of_one(root / split, split)]
    return _parts_of_one(root, "")


def _parts_of_one(folder: Path, split: str) -> list[tuple[Path, str]]:
    names = _names(folder / _STATE, lambda known: [one["filename"] for one in known["_data_files"]])
    return [(folder / name, split) for name in names]


def _names(path: Path, of: Any) -> list[str]:
    """The names in a description, each of something beside it."""
    try:
        names = list(of(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DrexcacheError(f"{path}: not what datasets' save_to_disk writes ({type(error).__name__})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (path.parent / name).exists():
            raise DrexcacheError(f"{path}: names {name!r}, which is not beside it")
    return names


def _arrow(path: Path) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise DrexcacheError(f"{path}: reading it needs pyarrow: pip install 'drexcache[parquet]'") from error
    return pa


def _schema(path: Path) -> Any:
    pa = _arrow(path)
    try:
        with pa.OSFile(str(path)) as file:
            return pa.ipc.read_schema(file)
    except Exception as error:  # pyarrow has many kinds of errors
        raise DrexcacheError(f"{path}: not a readable Arrow stream ({error})") from error


def _batches(path: Path, columns: Sequence[str], start: int | None = None) -> Iterator[tuple[int, Any]]:
    """Each batch with its place in the file, from that place on; only these columns.

    The file is not mapped to memory: one that is cut off meanwhile would end the process.
    """
    pa = _arrow(path)
    try:
        with pa.OSFile(str(path)) as file:
            schema = pa.ipc.read_schema(file)
            file.seek(file.tell() if start is None else start)
            while True:
                at = file.tell()
                try:
                    message = pa.ipc.read_message(file)
                except EOFError:
                    return
                if message.type != "record batch" or message.body.size > MAX_BYTES or _is_compressed(message.metadata):
                    raise ValueError(f"a {message.type} at byte {at} that is compressed, or over {MAX_BYTES} bytes")
                batch = pa.ipc.read_record_batch(message, schema).select(list(columns))
                batch.validate(full=True)  # offsets of a stranger's file may point anywhere
                yield at, batch
    except Exception as error:  # pyarrow has many kinds of errors
        raise DrexcacheError(f"{path}: not a readable Arrow stream ({error})") from error


def _is_compressed(metadata: Any) -> bool:
    """Whether a message's flatbuffer (Message.fbs of Arrow) names a compression, which datasets never does.

    A few bytes could unpack to any number.
    """
    data = metadata.to_pybytes()

    def field(table: int, slot: int) -> int:
        """Where a table's field stands; 0 if it has none."""
        (back,) = struct.unpack_from("<i", data, table)
        (size,) = struct.unpack_from("<H", data, table - back)
        (offset,) = struct.unpack_from("<H", data, table - back + 4 + 2 * slot) if size > 4 + 2 * slot else (0,)
        return table + offset if offset else 0

    header = field(struct.unpack_from("<I", data)[0], 2)
    return bool(field(header + struct.unpack_from("<I", data, header)[0], 3))
