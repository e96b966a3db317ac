"""What a WebDataset says of its images: files of the same key beside each, such as 000012.json or 000012.score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from drexcache.datasets.columns import RATING_COLUMNS, SPLIT_COLUMNS, plain_name
from drexcache.datasets.files import ImageFile
from drexcache.datasets.formats import check_cells
from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    from pandas import DataFrame

TEXTS = ("cls", "txt", *RATING_COLUMNS, *SPLIT_COLUMNS)  # extensions of files that hold one number or text
MAX_TEXT = 1 << 16  # bytes of such a file


def table_of_samples(images: Mapping[str, ImageFile], files: Mapping[str, ImageFile], where: str) -> DataFrame | None:
    """A row for each image, with a column for each number or text in the files beside it; None if there are no such.

    A file's extension names its column; those of a .json are named by its keys.

    Raises
    ------
    DrexcacheError : a file that is too large or not readable, or more cells than a table may have.
    """
    from pandas import DataFrame

    beside: dict[str, list[tuple[str, ImageFile]]] = {}
    for name, file in files.items():
        key, kind = _key_and_kind(name)
        if name not in images and (kind == "json" or plain_name(kind) in TEXTS):
            beside.setdefault(key, []).append((kind, file))
    rows: list[dict[str, Any]] = []
    cells = 0
    for name in images:
        rows.append({"image": name})
        for kind, file in beside.get(_key_and_kind(name)[0], []):
            rows[-1] |= dict(_values(kind, file))
        cells += len(rows[-1])
        check_cells(cells, where)
    return DataFrame(rows) if beside else None


def _key_and_kind(name: str) -> tuple[str, str]:
    """A name up to the first dot of its last part, and what follows the last one.

    >>> _key_and_kind("v1.0/000012.left.jpg")
    ('v1.0/000012', 'jpg')
    """
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0], last.rpartition(".")[2].lower()


def _values(kind: str, file: ImageFile) -> Iterator[tuple[str, str | float | None]]:
    try:
        data = file.read()
        if len(data) > MAX_TEXT:
            raise OSError(f"{len(data):,} bytes, more than {MAX_TEXT:,}")
        text = data.decode().strip()
        found = json.loads(text) if kind == "json" else {kind: text}
    except (OSError, ValueError, RecursionError) as error:
        raise DrexcacheError(f"{file}: cannot be read ({error})") from error
    for key, value in found.items() if isinstance(found, dict) else ():
        if value is None or isinstance(value, str | int | float):
            yield key, value
