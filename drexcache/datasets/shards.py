"""Which tars or Parquet tables a dataset consists of: one, those of a folder, or those that a pattern names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from drexcache.datasets.files import IMAGE_EXTENSIONS, ImageFile, is_hidden
from drexcache.datasets.splits import split_part
from drexcache.errors import DrexcacheError, counted, several

_TAR = re.compile(r"\.tar(\.\w+)?$|\.tgz$", re.IGNORECASE)
_NUMBERED = re.compile(  # photos-000012.tar, train-00000-of-00008.parquet
    r"(?P<series>.*?)(?P<number>\d{1,9})(-of-(?P<count>\d{1,9})(-[0-9a-f]{16})?)?(?P<kind>\.tar|\.parquet)",
    re.IGNORECASE,
)
_BRACES = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}")
MAX_FILES = 1_000_000  # that a pattern may name


@dataclass(frozen=True)
class Part:
    """A tar or a Parquet table. below : what the ids of its images start with, "" or "FOLDER/".

    split : the part of a division that its name tells, "" for none.
    """

    path: Path
    below: str = ""
    split: str = ""


def is_packed(root: object) -> bool:
    """Whether this is a tar or a Parquet file, by its first bytes or, for a packed or an old tar, by its name.

    >>> is_packed(Path("photos")), is_packed("s3://bucket/photos.tar")
    (False, False)
    """
    if not isinstance(root, Path) or not root.is_file():
        return False
    with suppress(OSError):  # listing its files says why it cannot be read
        head = _head(root)
        is_tar = head[257:262] == b"ustar" or _TAR.search(root.name) is not None
        return is_parquet(root) or (is_tar and not head.startswith(b"PK"))
    return False


def is_parquet(path: Path) -> bool:
    """Whether the file starts as a Parquet table does; DrexcacheError if it cannot be read."""
    try:
        return _head(path).startswith(b"PAR1")
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be read ({error.strerror})") from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def is_shard(name: str) -> bool:
    """Whether a name is that of one of several Parquet tables, and not of a table of ratings.

    >>> [is_shard(name) for name in ("train-00000-of-00002.parquet", "0003.parquet", "ratings2.parquet")]
    [True, True, False]
    """
    found = _NUMBERED.fullmatch(name)
    return found is not None and bool(found["count"] or found["number"].startswith("0"))


def parts_named(root: Path | str) -> list[Part]:
    """The tar or Parquet table of that path, or those that a pattern names; none for any other path.

    Raises
    ------
    DrexcacheError : nothing fits the pattern, or something that is neither; or a missing file of a numbered series.
    """
    if not isinstance(root, Path) or root.exists():
        return [Part(root)] if isinstance(root, Path) and is_packed(root) else []
    if any(True for _ in islice(expanded(str(root)), MAX_FILES, None)):
        raise DrexcacheError(f"{root}: names more than {MAX_FILES:,} files")
    spelled = [Path(path) for path in expanded(str(root))]
    searched = [path for path in spelled if not path.exists() and re.search(r"[*?[]", str(path))]
    if not searched and spelled == [root]:
        return []
    gone = [path.name for path in spelled if path not in searched and not path.exists()]
    if gone:
        raise DrexcacheError(f"{root}: missing files: {counted(gone)}")
    paths = sorted({*spelled} - {*searched} | {found for path in searched for found in _found(path)})
    others = [path.name for path in paths if not is_packed(path)]
    if others or not paths:
        what = f"files that are neither tars nor Parquet tables: {counted(others)}" if others else "no file"
        raise DrexcacheError(f"{root}: names {what}; a pattern names tars or Parquet tables, in quotes")
    if searched:
        _refuse_gaps(root, paths)
    return _parts(root, paths, _folder_above(root))


def _found(pattern: Path) -> Iterator[Path]:
    above = _folder_above(pattern)
    try:
        found = list(above.glob(str(pattern.relative_to(above))))
    except ValueError as error:
        raise DrexcacheError(f"{pattern}: no pattern; ** stands for folders, alone between two slashes") from error
    return (path for path in found if path.is_file() and not is_hidden(path.name))


def _folder_above(pattern: Path) -> Path:
    return next(parent for parent in pattern.parents if parent.is_dir())


def name_of_parts(pattern: Path) -> str:
    """A dataset's name by the pattern of its files: what all of their names start with, else their folder's name.

    >>> [name_of_parts(Path(pattern)) for pattern in ("/data/photos-{00..31}.tar", "/data/*.tar", "/data/*/a.tar")]
    ['photos', 'data', 'a']
    """
    start = re.split(r"[*?\[{]", pattern.name)[0].rstrip("-_.")
    start = start.removesuffix(".tar").removesuffix(".parquet")
    return start or (name_of_parts(pattern.parent) if pattern.name else "images")


def parts_in(root: Path | str, files: dict[str, ImageFile]) -> list[Part]:
    """The tars or Parquet tables in a folder with these files; none if it holds images, too.

    Raises
    ------
    DrexcacheError : tars and Parquet tables, or a missing file of a numbered series.
    """
    if not isinstance(root, Path) or not root.is_dir() or any(map(_is_image, files)):
        return []
    paths = [root / name for name in files if _TAR.search(name) or name.lower().endswith(".parquet")]
    _refuse_gaps(root, paths)
    return _parts(root, paths, root)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def expanded(pattern: str) -> Iterator[str]:
    """The paths that a pattern with braces spells, as WebDataset and shells read them.

    >>> list(expanded("{a,b}-{08..10}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    down = words is None and int(first) > int(last)
    numbers = range(int(first), int(last) + (-1 if down else 1), -1 if down else 1) if words is None else ()
    for part in (f"{number:0{len(first)}}" for number in numbers) if words is None else words.split(","):
        yield from expanded(pattern[: found.start()] + part + pattern[found.end() :])


def _parts(root: Path, paths: Sequence[Path], top: Path) -> list[Part]:
    """Each file with what its images' ids start with: its folder below ``top``, and its split if there are several."""
    tables = [is_packed(path) and is_parquet(path) for path in paths]
    if len(set(tables)) > 1:
        raise DrexcacheError(
            f"{root}: tars and Parquet tables; name those that hold the images in a pattern such as "
            f"'{top}/*{paths[tables.index(False)].suffix}', and a table of ratings with --ratings"
        )
    below = [f"{path.parent.relative_to(top).as_posix()}/".removeprefix("./") for path in paths]
    numbered = [_NUMBERED.fullmatch(path.name) for path in paths]
    names = [one["series"].strip("-_.") if one and all(tables) else "" for one in numbered]
    if len(set(names)) > 1 and all(map(split_part, names)):
        return [Part(path, f"{at}{name}/", name) for path, at, name in zip(paths, below, names, strict=True)]
    return [Part(path, at) for path, at in zip(paths, below, strict=True)]


def _refuse_gaps(root: Path, paths: Iterable[Path]) -> None:
    """Raise DrexcacheError if files of a numbered series are missing, as far as their names tell.

    A series is known by "-of-", or by numbers from 0 or 1 or with zeros before them; years would be none.
    """
    all_series: defaultdict[tuple[Path, str, str, str], dict[int, str]] = defaultdict(dict)
    for path in paths:
        if found := _NUMBERED.fullmatch(path.name):
            key = (path.parent, found["series"], found["count"], found["kind"])
            all_series[key][int(found["number"])] = found["number"]
    for (_, series, count, kind), numbers in all_series.items():
        if count:
            wanted = range(1, int(count) + 1) if int(count) in numbers else range(int(count))
        elif any(text.startswith("0") or text == "1" for text in numbers.values()):
            wanted = range(min(numbers), max(numbers) + 1)
        else:
            continue
        lacking = len(wanted) - sum(number in wanted for number in numbers)
        if lacking:
            width = len(next(iter(numbers.values())))
            first = next(f"{number:0{width}}" for number in wanted if number not in numbers)
            name = f"{series}{first}{f'-of-{count}' if count else ''}{kind}"
            raise DrexcacheError(
                f"{root}: {several(lacking, 'file of a series is', 'files of a series are')} missing, first {name}; "
                "fetch what is missing, or name the files to read in a pattern such as 'photos-{000..007}.tar'"
            )
