"""Images inside of one file: a tar, such as WebDataset's shards, or a Parquet table with a column of images."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drexcache.datasets.columns import IMAGE_COLUMNS, plain_name
from drexcache.datasets.files import IMAGE_EXTENSIONS, MAX_BYTES, ImageFile
from drexcache.errors import DrexcacheError, counted

if TYPE_CHECKING:
    from pandas import DataFrame

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
_open_tables = threading.local()  # in each thread: the row group read last


@dataclass(frozen=True, slots=True)
class MemberOfTar(ImageFile):
    """The file that stands in the tar at ``location`` from a byte on. listed : that byte, and the size."""

    def read(self) -> bytes:
        """The file's bytes; OSError as in `ImageFile.read`."""
        start, size = self.listed
        with Path(self.location).open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise OSError("the tar was cut off")
        return data

    def stat(self) -> tuple[int, int]:
        """The size, and the state of the tar."""
        return self.listed[1], hash_of(self)


@dataclass(frozen=True, slots=True)
class RowOfTable(ImageFile):
    """The image in a row of the Parquet file at ``location``. member : its id. listed : row group, and row in it."""

    column: str = ""

    def read(self) -> bytes:
        """The image's bytes; OSError as in `ImageFile.read`."""
        group, row = self.listed
        where = (str(self.location), group, self.column, Path(self.location).stat().st_mtime_ns)
        if getattr(_open_tables, "where", None) != where:
            try:
                _open_tables.cells = _parquet(Path(self.location)).read_row_group(group, columns=[self.column])[0]
            except Exception as error:  # pyarrow has many kinds of errors
                raise OSError(f"row of the table cannot be read: {error}") from error
            _open_tables.where = where
        value: Any = _open_tables.cells[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError("the table has no image in this row")
        return data

    def stat(self) -> tuple[int, int]:
        """The size of the whole table, and its state."""
        return Path(self.location).stat().st_size, hash_of(self)


def hash_of(file: ImageFile) -> int:
    """A number that another state of the container changes."""
    status = Path(file.location).stat()
    signs = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size, *file.listed)
    return hash(signs) & (2**63 - 1)


def is_packed(root: object) -> bool:
    """Whether this is a tar or a Parquet file.

    >>> is_packed(Path("photos")), is_packed("s3://bucket/photos.tar")
    (False, False)
    """
    if not isinstance(root, Path) or not root.is_file() or root.suffix.lower() == ".zip":
        return False
    with root.open("rb") as file:
        head = file.read(4)
    return head == b"PAR1" or (head[:2] != b"PK" and tarfile.is_tarfile(root))


def packed_files(root: Path) -> dict[str, ImageFile]:
    """The files in a tar, or the images of a Parquet table: name -> file, sorted by the bytes of the names.

    A tar's names are those that it would be unpacked to. A row's name is its id, its image's path, or its number.

    Raises
    ------
    DrexcacheError : compressed or not readable, no column of images, or a name twice.
    """
    with root.open("rb") as file:
        listing = _rows(root) if file.read(4) == b"PAR1" else _members(root)
    files: dict[str, ImageFile] = {}
    twice = []
    for name, one in listing:
        if any(part.startswith(".") for part in name.split("/")):
            continue
        twice += [name] if name in files else []
        files[name] = one
    if twice:
        raise DrexcacheError(f"{root}: images under one name: {counted(twice)}")
    return dict(sorted(files.items()))


def _members(root: Path) -> Iterator[tuple[str, ImageFile]]:
    try:
        with tarfile.open(root, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.sparse and member.size <= MAX_BYTES:
                    name = member.name.replace("\\", "/").removeprefix("./").lstrip("/")
                    yield name, MemberOfTar(str(root), member.name, (member.offset_data, member.size))
    except tarfile.ReadError as error:
        raise DrexcacheError(
            f"{root}: a compressed or broken tar ({error}); unpack it, or pack it without gzip"
        ) from error


def _parquet(root: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DrexcacheError(f"{root}: reading Parquet needs pyarrow: pip install 'drexcache[parquet]'") from error
    return parquet.ParquetFile(root)


def _rows(root: Path) -> Iterator[tuple[str, ImageFile]]:
    """Each row's name and image; the images themselves are read only where the names lack something."""
    table = _parquet(root)
    schema = table.schema_arrow
    binary = [
        name for name in schema.names if str(schema.field(name).type).startswith(("binary", "large_bin", "struct"))
    ]
    picture = next((name for known in PICTURES for name in binary if plain_name(name) == known), None)
    if picture is None:
        columns = ", ".join(schema.names)
        raise DrexcacheError(f"{root}: no column of images (bytes) such as {PICTURES[0]}; columns: {columns}")
    texts = [name for name in schema.names if name != picture]
    named = next((name for known in IMAGE_COLUMNS for name in texts if plain_name(name) == known), None)
    number = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        names = (
            [str(one) for one in table.read_row_group(group, columns=[named])[0].to_pylist()] if named else [""] * rows
        )
        whole = all(name.lower().endswith(IMAGE_EXTENSIONS) for name in names)
        values = [None] * rows if whole else table.read_row_group(group, columns=[picture])[0].to_pylist()
        for row, (name, value) in enumerate(zip(names, values, strict=True)):
            found = name or _path(value) or f"{number:06}"
            if not found.lower().endswith(IMAGE_EXTENSIONS):
                data = value.get("bytes") if isinstance(value, dict) else value
                found += TYPES.get((data or b"")[:2], ".png")
            yield found, RowOfTable(str(root), found, (group, row), column=picture)
            number += 1


def _path(value: Any) -> str:
    return str(value.get("path") or "") if isinstance(value, dict) else ""


def table_beside(root: Path) -> DataFrame | None:
    """What a Parquet table says of its images in its other columns, under the names that they have here; else None."""
    if root.suffix.lower() != ".parquet":
        return None
    table, names = _parquet(root), [name for name, _ in _rows(root)]
    others = [name for name in table.schema_arrow.names if plain_name(name) not in (*PICTURES, *IMAGE_COLUMNS)]
    frame = table.read(columns=others).to_pandas()
    frame.insert(0, "image", names)
    return frame
