"""The forms in which datasets come: a plain folder, IC9600, SAVOIAS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Literal

from drexcache.datasets.files import ImageFile, list_files
from drexcache.datasets.matching import IMAGE_EXTENSIONS, counted
from drexcache.datasets.ratings import (
    Columns,
    Ratings,
    parse_ic9600,
    parse_ratings,
    parse_savoias,
    read_bytes,
    read_ratings,
)
from drexcache.datasets.urls import Url, is_url
from drexcache.errors import DrexcacheError

LAYOUTS = ("auto", "folder", "ic9600", "savoias")
_COLUMN_OPTIONS = {  # those that a layout's ratings have a use for
    "folder": (
        "--image-column", "--rating-column", "--split-column", "--group-column", "--rater-column", "--error-column",
    ),
    "ic9600": (),
    "savoias": ("--rating-column",),
}  # fmt: skip
_TEXTS = (".csv", ".tsv", ".txt", ".xlsx", ".md", ".json")  # left out without a word

Files = dict[str, ImageFile]  # by path relative to a root, in the order of the paths' bytes
Root = Path | Url
RatingsOption = str | PathLike[str] | Literal[False] | None


@dataclass(frozen=True)
class Dataset:
    """What a layout finds: images by id, their ratings if there are any, and the range of those if known."""

    name: str
    images: Files
    ratings: Ratings | None
    value_range: tuple[float, float] | None
    notes: tuple[str, ...]


def list_dataset(source: str | PathLike[str], ratings: RatingsOption, layout: str, columns: Columns) -> Dataset:
    """List a dataset's images and read its ratings, not matched yet; see `drexcache.datasets.table.read_images`."""
    root = _root(source)
    files = list_files(root)
    chosen = _guess(root, files) if layout == "auto" else layout
    notes = [f"{source}: read as layout {chosen}" + (" (guessed)" if layout == "auto" else "")]
    value_range = None
    if chosen == "folder":
        images, found = _folder(root, files, ratings, columns)
    elif chosen == "ic9600":
        images, found = _ic9600(root, files, ratings)
        value_range = (0.0, 1.0)
    elif chosen == "savoias":
        images, found = _savoias(root, files, ratings, columns)
        value_range = (0.0, 100.0)
    else:
        raise DrexcacheError(f"no layout {layout!r}; there are: {', '.join(LAYOUTS)}")
    others = _others(files, images)
    if not images:
        instead = f", found {others}" if others else ""
        raise DrexcacheError(f"{source}: no images; looked for {', '.join(IMAGE_EXTENSIONS)}{instead}")
    if others:
        notes.append(f"{source}: left out files that are not among its images: {others}")
    if found is None and ratings is None:
        notes.append(f"{source}: no ratings (none given, and no ratings.csv at the root)")
    unused = [option for option in columns.given() if found is None or option not in _COLUMN_OPTIONS[chosen]]
    if unused:
        why = "there are no ratings" if found is None else f"the ratings of layout {chosen} have no such column"
        raise DrexcacheError(f"{source}: {', '.join(unused)} given, but {why}")
    name = root.stem if isinstance(root, Path) and root.is_file() else root.name
    return Dataset(name, images, found, value_range, tuple(notes))


def _root(source: str | PathLike[str]) -> Root:
    """Where the dataset lies, its last part being a name."""
    if is_url(source):
        return Url(str(source))
    root = Path(source).absolute()
    return root.resolve() if ".." in root.parts else root


def _guess(root: Root, files: Files) -> str:
    if _ic9600_tops(files):
        return "ic9600"
    if isinstance(root, Url):  # a SAVOIAS's ratings lie outside its folder, where a URL's listing does not reach
        return "folder"
    return "savoias" if root.parent.name == "Images" and _rankings(root).is_dir() else "folder"


def _images(files: Files, below: str = "") -> Files:
    return {
        name.removeprefix(below): file
        for name, file in files.items()
        if name.startswith(below) and name.lower().endswith(IMAGE_EXTENSIONS)
    }


def _others(files: Files, images: Files) -> str:
    """What a folder holds besides its images, as ".heic 2, .raw 1"; "" for nothing that could be one."""
    listed = set(images.values())
    suffixes = [PurePosixPath(name).suffix.lower() for name, file in files.items() if file not in listed]
    counts = Counter(suffix or "without extension" for suffix in suffixes if suffix not in _TEXTS)
    return ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common())


def _folder(root: Root, files: Files, ratings: RatingsOption, columns: Columns) -> tuple[Files, Ratings | None]:
    """All images; ratings from a table, by default ratings.csv."""
    if ratings is None and "ratings.csv" in files:
        own = parse_ratings(_read(files["ratings.csv"]), f"{root.name}/ratings.csv", columns)
        return _images(files), own
    return _images(files), read_ratings(ratings, columns) if ratings else None


def _ic9600(root: Root, files: Files, ratings: RatingsOption) -> tuple[Files, Ratings | None]:
    """images/ with train.txt and test.txt beside it, at the root or in one folder below."""
    tops = _ic9600_tops(files)
    if len(tops) != 1:
        raise DrexcacheError(
            f"{root}: layout ic9600 expects train.txt, test.txt and images/ at the root or one folder below, "
            f"found them in {len(tops)} places"
        )
    images = _images(files, tops[0] + "images/")
    if ratings is False:
        return images, None
    if ratings is not None:
        raise DrexcacheError(
            f"{root}: layout ic9600 has its ratings in train.txt and test.txt; leave {ratings} out, or give "
            "--layout folder"
        )
    names = {split: f"{tops[0]}{split}.txt" for split in ("train", "test")}
    parts = {split: (f"{root.name}/{name}", _read(files[name])) for split, name in names.items()}
    return images, parse_ic9600(parts)


def _ic9600_tops(files: Files) -> list[str]:
    """The folders ("" or "NAME/") that hold train.txt, test.txt and images/."""
    tops = [name.removesuffix("train.txt") for name in files if name == "train.txt" or name.endswith("/train.txt")]
    return [
        top
        for top in tops
        if top.count("/") <= 1 and f"{top}test.txt" in files and any(n.startswith(f"{top}images/") for n in files)
    ]


def _savoias(root: Root, files: Files, ratings: RatingsOption, columns: Columns) -> tuple[Files, Ratings | None]:
    """One category's folder, .../Images/Scenes: image i is i.jpg or i.png, its rating row i of a table."""
    images = _images(files)
    if ratings is False:
        return images, None
    if ratings is not None:
        workbook = Path(ratings)
    elif isinstance(root, Url):
        raise DrexcacheError(f"{root}: layout savoias at a URL needs its workbook named with --ratings")
    else:
        workbook = _ranking(root)
    if workbook.suffix.lower() != ".xlsx":
        raise DrexcacheError(
            f"{root}: layout savoias has its ratings in an .xlsx, not in {workbook}; or give --layout folder"
        )
    scores = parse_savoias(read_bytes(workbook), str(workbook), columns.rating)
    by_number: dict[int, str] = {}
    twice = []
    for name in images:
        stem = PurePosixPath(name).stem
        if stem.isascii() and stem.isdigit():
            if int(stem) in by_number:
                twice.append(f"{by_number[int(stem)]} and {name}")
            by_number[int(stem)] = name
    if twice:
        raise DrexcacheError(f"{root}: images of the same number: {counted(twice)}")
    names = tuple(by_number.get(number, str(number)) for number in range(len(scores)))
    return images, Ratings(str(workbook), names, scores, {})


def _rankings(root: Path) -> Path:
    return root.parent.parent / "Ground truth" / "xlsx"


def _ranking(root: Path) -> Path:
    """The workbook of a category: its name ends in a beginning of the category's ("ad" for Advertisement)."""
    category = root.name.lower().replace(" ", "_")
    found = {path.stem.removeprefix("global_ranking_"): path for path in _rankings(root).glob("global_ranking_*.xlsx")}
    fits = [ending for ending in found if ending and category.startswith(ending.lower())]
    if len(fits) != 1:
        raise DrexcacheError(
            f"{_rankings(root)}: not one global_ranking_*.xlsx fits {root.name} (there are: "
            f"{', '.join(sorted(found)) or 'none'}); name the workbook with --ratings"
        )
    return found[fits[0]]


def _read(file: ImageFile) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise DrexcacheError(f"{file}: cannot be read ({error.strerror or error})") from error
