"""Images inside of one file: a tar, such as WebDataset's shards, or a Parquet table with a column of images."""

from __future__ import annotations

import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drexcache.datasets.columns import IMAGE_COLUMNS, plain_name
from drexcache.datasets.files import IMAGE_EXTENSIONS, MAX_BYTES, ImageFile, is_hidden
from drexcache.datasets.formats import frame_of_parquet
from drexcache.datasets.parquet import images_of, open_parquet
from drexcache.errors import DrexcacheError, counted
from drexcache.files import utf8_name

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
    """

    state: int = 0

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


def is_packed(root: object) -> bool:
    """Whether this is a tar or a Parquet file, by its first bytes or, for a packed or an old tar, by its name.

    >>> is_packed(Path("photos")), is_packed("s3://bucket/photos.tar")
    (False, False)
    """
    if not isinstance(root, Path) or not root.is_file():
        return False
    with suppress(OSError):  # listing its files says why it cannot be read
        head, name = _head(root), root.name.lower()
        is_tar = head[257:262] == b"ustar" or re.search(r"\.tar(\.\w+)?$|\.tgz$", name) is not None
        return _is_parquet(root) or (is_tar and not head.startswith(b"PK"))
    return False


def _is_parquet(root: Path) -> bool:
    return _head(root).startswith(b"PAR1")


def _head(root: Path) -> bytes:
    with root.open("rb") as file:
        return file.read(512)


def packed_files(root: Path) -> dict[str, ImageFile]:
    """The files in a tar, or the images of a Parquet table: name -> file, sorted by the bytes of the names.

    A tar's names are those that it would be unpacked to. A row's name is its id, its image's path, or its number.

    Raises
    ------
    DrexcacheError : compressed or not readable, no column of images, or a name twice.
    """
    files: dict[str, ImageFile] = {}
    twice = []
    for name, one in _rows(root) if _is_parquet(root) else _members(root):
        twice += [name] if name in files else []
        files[utf8_name(name, root)] = one
    if twice:
        raise DrexcacheError(f"{root}: images under one name: {counted(twice)}")
    return dict(sorted(files.items()))


class _Header(tarfile.TarInfo):
    """A member's header; what it says of its size is checked before tarfile reads or goes that far."""

    def _block(self, count: int) -> int:
        if not 0 <= count <= (MAX_ABOUT if self.type in ABOUT else 1 << 62):
            raise tarfile.ReadError(f"a member of {count} bytes")
        return -(-count // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _members(root: Path) -> Iterator[tuple[str, ImageFile]]:
    state, files = state_of(root), dict[str, tuple[int, int]]()
    try:
        with tarfile.open(root, "r:", tarinfo=_Header) as archive:
            for member in archive:
                name = member.name.replace("\\", "/").removeprefix("./").lstrip("/")
                if member.isdir() or any(is_hidden(part) for part in name.split("/")):
                    continue
                regular = member.isreg() and not member.sparse
                listed = (member.offset_data, member.size if regular else -1)
                # the same file under a second name points to the first one
                files[member.name] = files.get(member.linkname, listed) if member.islnk() else listed
                yield name, MemberOfTar(str(root), member.name, files[member.name], state)
    except DrexcacheError:
        raise
    except Exception as error:  # a broken header makes tarfile raise errors of many kinds
        raise DrexcacheError(
            f"{root}: a compressed or broken tar ({error}); unpack it, or pack it without gzip"
        ) from error


def _rows(root: Path) -> Iterator[tuple[str, ImageFile]]:
    """Each row's name and image; the images themselves are read only where the names lack something."""
    state, table = state_of(root), open_parquet(root, str(root))
    picture, named = picture_and_name(table.schema_arrow, root)
    names = None if named is None else iter(_texts(frame_of_parquet(root, str(root), [named])[named]))
    number = 0
    for group in range(table.num_row_groups):
        mine = None if names is None else list(islice(names, table.metadata.row_group(group).num_rows))
        whole = mine is not None and all(name.lower().endswith(IMAGE_EXTENSIONS) for name in mine)
        cells = repeat(None) if whole else images_of(root, group, picture)
        for row, (name, cell) in enumerate(zip(repeat("") if mine is None else mine, cells, strict=False)):
            found = name_of(name, None if cell is None else cell.as_py(), number)
            yield found, RowOfTable(str(root), found, (group, row), state, column=picture)
            number += 1


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


def table_beside(root: Path) -> DataFrame | None:
    """What a Parquet table says of its images in its other columns, under the names that they have here; else None."""
    if not is_packed(root) or not _is_parquet(root):
        return None
    known, names = open_parquet(root, str(root)).schema_arrow.names, [name for name, _ in _rows(root)]
    others = [name for name in known if plain_name(name) not in (*PICTURES, *IMAGE_COLUMNS)]
    frame = frame_of_parquet(root, str(root), others)
    if len(frame) != len(names):
        raise DrexcacheError(f"{root}: not a readable Parquet file ({len(frame)} rows, {len(names)} images)")
    frame.insert(0, "image", names, allow_duplicates=True)
    return frame
