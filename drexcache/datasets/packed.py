"""Images inside of other files: tars, such as WebDataset's shards, or Parquet tables with a column of images."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, repeat
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drexcache.datasets.columns import IMAGE_COLUMNS, plain_name
from drexcache.datasets.files import IMAGE_EXTENSIONS, MAX_BYTES, ImageFile, is_hidden
from drexcache.datasets.formats import check_cells, frame_of_parquet
from drexcache.datasets.parquet import images_of, open_parquet
from drexcache.datasets.shards import Part, is_parquet
from drexcache.errors import DrexcacheError, counted
from drexcache.files import utf8_name
from drexcache.progress import step_bar

if TYPE_CHECKING:
    from pandas import DataFrame, Series

PICTURES = ("image", "img", "picture", "jpg", "png", "image_bytes", "bytes")  # names of a table's column of images
TYPES = {
    b"\xff\xd8": ".jpg",
    b"\x89P": ".png",
    b"GI": ".gif",
    b"RI": ".webp",
    b"BM": ".bmp",
    b"II": ".tif",
    b"MM": ".tif",
}
MAX_ABOUT = 1 << 16  # bytes of what a tar says of a member: a long name, or a list of attributes
ABOUT = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_reading = threading.local()  # in each thread: the row group that it reads, and the row that comes next


@dataclass(frozen=True, slots=True)
class Packed(ImageFile):
    """An image in the container at ``location``. state : of the container when its images were listed.

    The images of a container that was replaced afterwards may be in other places, so they are not read.
    root : the dataset that the container is part of.
    """

    state: int = 0
    root: str = ""

    @property
    def container(self) -> str:
        """The dataset, which is the container itself or has several."""
        return self.root

    def stat(self) -> tuple[int, int]:
        """The image's size or row, and a number that changes whenever the container does."""
        return self.listed[1], hash((self.state, *self.listed)) & (2**63 - 1)

    def check(self) -> None:
        """Raise OSError unless the container is still the one whose images were listed."""
        if state_of(Path(self.location)) != self.state:
            raise OSError("the file changed after its images were listed; run the command again")


@dataclass(frozen=True, slots=True)
class MemberOfTar(Packed):
    """A file in a tar. listed : its first byte, and its size, -1 for a link or device."""

    def read(self) -> bytes:
        """The file's bytes; OSError as in `ImageFile.read`."""
        start, size = self.listed
        if size < 0:
            raise OSError("no regular file")
        if size > MAX_BYTES:
            raise OSError(f"{size} bytes, more than {MAX_BYTES}")
        with Path(self.location).open("rb") as file:
            file.seek(start)
            data = file.read(size)
        self.check()
        if len(data) < size:
            raise OSError("the tar was cut off")
        return data


@dataclass(frozen=True, slots=True)
class RowOfTable(Packed):
    """The image in a row of a Parquet file. member : its id. listed : row group, and row in it."""

    column: str = ""

    def read(self) -> bytes:
        """The image's bytes; OSError as in `ImageFile.read`."""
        group, row = self.listed
        where = (str(self.location), self.state, group, self.column)
        if getattr(_reading, "where", None) != where or _reading.next > row:
            _reading.cells = images_of(Path(self.location), group, self.column)
            _reading.where, _reading.next = where, 0
        try:
            cell = next(islice(_reading.cells, row - _reading.next, None), None)
            value: Any = None if cell is None else cell.as_py()
        except Exception as error:  # pyarrow has many kinds of errors
            _reading.where = None
            raise OSError(f"row of the table cannot be read: {error}") from error
        _reading.next = row + 1
        self.check()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError("the table has no image in this row")
        return data


def state_of(path: Path) -> int:
    """A number that changes whenever the file does, even if another of the same size and time takes its place."""
    status = path.stat()
    return hash((status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size))


def packed_files(root: Path, parts: Sequence[Part], beside: Mapping[str, ImageFile]) -> dict[str, ImageFile]:
    """The files in tars, or the images of Parquet tables: name -> file, sorted by the bytes of the names.

    A tar's names are those that it would be unpacked to. A row's name is its id, its image's path, or its number.
    beside : the other files of the folder that they are in.

    Raises
    ------
    DrexcacheError : compressed or not readable, no column of images, or a name twice.
    """
    files, twice = dict(beside), []
    rows: dict[str, int] = {}  # folder of the ids -> rows so far: numbers go on from table to table
    with step_bar("list the images", "file") as show:
        for at, part in enumerate(parts):
            show(at, len(parts), part.path.name)
            for name, one in _rows(root, part, rows) if is_parquet(part.path) else _members(root, part):
                if name in files:
                    places = dict.fromkeys(Path(file.location).name for file in (files[name], one))
                    twice.append(f"{name} in {' and '.join(places)}" if len(places) > 1 else name)
                files[utf8_name(name, part.path)] = one
    if twice:
        raise DrexcacheError(f"{root}: images under one name: {counted(twice)}")
    return dict(sorted(files.items()))


class _Header(tarfile.TarInfo):
    """A member's header; what it says of its size is checked before tarfile reads or goes that far."""

    def _block(self, count: int) -> int:
        if not 0 <= count <= (MAX_ABOUT if self.type in ABOUT else 1 << 62):
            raise tarfile.ReadError(f"a member of {count} bytes")
        return -(-count // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _members(root: Path, part: Part) -> Iterator[tuple[str, ImageFile]]:
    path, state, files = str(part.path), state_of(part.path), dict[str, tuple[int, int]]()
    try:
        with tarfile.open(path, "r:", tarinfo=_Header) as archive:
            for member in archive:
                name = member.name.replace("\\", "/").removeprefix("./").lstrip("/")
                if member.isdir() or any(is_hidden(part) for part in name.split("/")):
                    continue
                regular = member.isreg() and not member.sparse
                listed = (member.offset_data, member.size if regular else -1)
                # the same file under a second name points to the first one
                files[member.name] = files.get(member.linkname, listed) if member.islnk() else listed
                yield part.below + name, MemberOfTar(path, member.name, files[member.name], state, str(root))
    except DrexcacheError:
        raise
    except Exception as error:  # a broken header makes tarfile raise errors of many kinds
        raise DrexcacheError(
            f"{path}: a compressed or broken tar ({error}); unpack it, or pack it without gzip"
        ) from error


def _rows(root: Path, part: Part, numbers: dict[str, int]) -> Iterator[tuple[str, ImageFile]]:
    """Each row's name and image; the images themselves are read only where the names lack something.

    numbers : folder of the ids -> how many rows it has so far.
    """
    path, state, table = str(part.path), state_of(part.path), open_parquet(part.path, str(part.path))
    picture, named = picture_and_name(table.schema_arrow, part.path)
    names = None if named is None else iter(_texts(frame_of_parquet(part.path, path, [named])[named]))
    number = numbers.get(part.below, 0)
    for group in range(table.num_row_groups):
        mine = None if names is None else list(islice(names, table.metadata.row_group(group).num_rows))
        whole = mine is not None and all(name.lower().endswith(IMAGE_EXTENSIONS) for name in mine)
        cells = repeat(None) if whole else images_of(part.path, group, picture)
        for row, (name, cell) in enumerate(zip(repeat("") if mine is None else mine, cells, strict=False)):
            found = part.below + name_of(name, None if cell is None else cell.as_py(), number)
            yield found, RowOfTable(path, found, (group, row), state, str(root), column=picture)
            number += 1
    numbers[part.below] = number


def _texts(column: Series) -> list[str]:
    return column.astype(object).where(column.notna(), "").astype(str).tolist()


def picture_and_name(schema: Any, path: Path) -> tuple[str, str | None]:
    """The column of images in a table with this schema, and that of their names, if there is one."""
    binary = [
        name for name in schema.names if str(schema.field(name).type).startswith(("binary", "large_bin", "struct"))
    ]
    picture = next((name for known in PICTURES for name in binary if plain_name(name) == known), None)
    if picture is None:
        columns = ", ".join(schema.names)
        raise DrexcacheError(f"{path}: no column of images (bytes) such as {PICTURES[0]}; columns: {columns}")
    texts = [name for name in schema.names if name != picture]
    return picture, next((name for known in IMAGE_COLUMNS for name in texts if plain_name(name) == known), None)


def name_of(name: str, value: Any, number: int) -> str:
    """An image's name: the one given, else its path's, else its number; with the extension of its kind."""
    path = str(value.get("path") or "") if isinstance(value, dict) else ""
    found = name or path or f"{number:06}"
    if not found.lower().endswith(IMAGE_EXTENSIONS):
        data = value.get("bytes") if isinstance(value, dict) else value
        found += TYPES.get((data or b"")[:2], ".png")
    return found


def table_beside(parts: Sequence[Part], files: Mapping[str, ImageFile]) -> DataFrame:
    """What Parquet tables say of their images in the other columns, under the names that they have here.

    Raises
    ------
    DrexcacheError : not readable, or more cells than a table may have.
    """
    import pandas as pd

    rows = sorted((str(file.location), file.listed, name) for name, file in files.items())
    names = {path: [name for *_, name in mine] for path, mine in groupby(rows, key=itemgetter(0))}
    frames: list[DataFrame] = []
    for part in parts:
        frame = _other_columns(part, names.get(str(part.path), []))
        frames.append(frame.assign(split=part.split) if part.split and "split" not in frame else frame)
        check_cells(sum(frame.size for frame in frames), str(part.path))
    try:
        return pd.concat(frames, ignore_index=True)
    except Exception as error:  # such as two columns of one name
        where = f"{parts[0].path} and the other tables"
        raise DrexcacheError(f"{where}: columns that do not go together ({' '.join(str(error).split())})") from error


def _other_columns(part: Part, names: Sequence[str]) -> DataFrame:
    path = str(part.path)
    known = open_parquet(part.path, path).schema_arrow.names
    others = [name for name in known if plain_name(name) not in (*PICTURES, *IMAGE_COLUMNS)]
    frame = frame_of_parquet(part.path, path, others)
    if len(frame) != len(names):
        raise DrexcacheError(f"{path}: not a readable Parquet file ({len(frame)} rows, {len(names)} images)")
    frame.insert(0, "image", list(names), allow_duplicates=True)
    return frame
