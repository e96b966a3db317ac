"""The forms in which datasets come: a plain folder, IC9600, SAVOIAS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from drexcache.datasets.files import IMAGE_EXTENSIONS, ImageFile, is_url, list_files, read_bytes
from drexcache.datasets.formats import table_of_file
from drexcache.datasets.matching import counted
from drexcache.datasets.ratings import (
    Columns,
    Ratings,
    ratings_of,
    ratings_of_ic9600,
    read_ratings,
    read_table,
    scores_of_savoias,
)
from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    from pandas import DataFrame

LAYOUTS = ("auto", "folder", "ic9600", "savoias")
_WITHOUT_COLUMNS = {  # the options that a layout's ratings have no use for
    "folder": (),
    "ic9600": ("--image-column", "--rating-column", "--split-column", "--group-column", "--rater-column",
               "--error-column"),
    "savoias": ("--image-column", "--split-column", "--group-column", "--rater-column", "--error-column"),
}  # fmt: skip
_NO_IMAGES = (".csv", ".tsv", ".txt", ".xlsx", ".md", ".json")  # left out without a word

Files = dict[str, ImageFile]  # by path relative to a root, in the order of the paths' bytes


@dataclass(frozen=True)
class Dataset:
    """What a layout finds: images by id, their ratings if there are any, and the range of those if known."""

    name: str
    images: Files
    ratings: Ratings | None
    value_range: tuple[float, float] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A folder, a zip or a URL with the files in it, and the ratings that the user gave."""

    root: str | Path
    files: Files
    given: str | PathLike[str] | DataFrame | Literal[False] | None
    columns: Columns

    @property
    def name(self) -> str:
        return self.root.name if isinstance(self.root, Path) else self.root.rstrip("/").rpartition("/")[2]

    def images(self, below: str = "") -> Files:
        return {
            name.removeprefix(below): file
            for name, file in self.files.items()
            if name.startswith(below) and name.lower().endswith(IMAGE_EXTENSIONS)
        }


def list_dataset(
    source: str | PathLike[str],
    ratings: str | PathLike[str] | DataFrame | Literal[False] | None,
    layout: str,
    columns: Columns,
) -> Dataset:
    """List a dataset's images and read its ratings, not matched yet; see `drexcache.datasets.table.read_images`."""
    root = _root(source)
    here = _Source(root, list_files(root), ratings, columns)
    chosen = _guess(here) if layout == "auto" else layout
    notes = [f"{source}: read as layout {chosen}" + (" (guessed)" if layout == "auto" else "")]
    value_range = None
    if chosen == "folder":
        images, found = here.images(), _folder_ratings(here)
    elif chosen == "ic9600":
        images, found = _ic9600(here)
        value_range = (0.0, 1.0)
    elif chosen == "savoias":
        images = here.images()
        found = None if ratings is False else _savoias_ratings(here, images)
        value_range = (0.0, 100.0)
    else:
        raise DrexcacheError(f"no layout {layout!r}; there are: {', '.join(LAYOUTS)}")
    others = _others(here.files, images)
    if not images:
        instead = f", found {others}" if others else ""
        raise DrexcacheError(f"{source}: no images; looked for {', '.join(IMAGE_EXTENSIONS)}{instead}")
    if others:
        notes.append(f"{source}: left out files that are not among its images: {others}")
    if found is None and ratings is None:
        notes.append(f"{source}: no ratings (none given, and no ratings.csv at the root)")
    unused = [option for option in columns.given() if found is None or option in _WITHOUT_COLUMNS[chosen]]
    if unused:
        why = "there are no ratings" if found is None else f"the ratings of layout {chosen} have no such column"
        raise DrexcacheError(f"{source}: {', '.join(unused)} given, but {why}")
    name = root.stem if isinstance(root, Path) and root.is_file() else here.name
    return Dataset(name, images, found, value_range, tuple(notes))


def _root(source: str | PathLike[str]) -> str | Path:
    """Where the dataset lies, its last part being a name."""
    if is_url(source):
        return str(source)
    root = Path(source).absolute()
    return root.resolve() if ".." in root.parts else root


def _guess(here: _Source) -> str:
    if _ic9600_tops(here.files):
        return "ic9600"
    if isinstance(
        here.root, str
    ):  # the ratings of SAVOIAS lie outside its folder, where a URL's listing does not reach
        return "folder"
    return "savoias" if here.root.parent.name == "Images" and _rankings(here.root).is_dir() else "folder"


def _others(files: Files, images: Files) -> str:
    """What a folder holds besides its images, as ".heic 2, .raw 1"; "" for nothing that could be one."""
    listed = set(images.values())
    suffixes = [PurePosixPath(name).suffix.lower() for name, file in files.items() if file not in listed]
    counts = Counter(suffix or "without extension" for suffix in suffixes if suffix not in _NO_IMAGES)
    return ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common())


def _folder_ratings(here: _Source) -> Ratings | None:
    """Ratings from the table that was given or from ratings.csv."""
    if here.given is None and "ratings.csv" in here.files:
        source = f"{here.name}/ratings.csv"
        return ratings_of(table_of_file(read_bytes(here.files["ratings.csv"]), source), source, here.columns)
    return None if here.given is None or here.given is False else read_ratings(here.given, here.columns)


def _ic9600(here: _Source) -> tuple[Files, Ratings | None]:
    """images/ with train.txt and test.txt beside it, at the root or in one folder below."""
    tops = _ic9600_tops(here.files)
    if len(tops) != 1:
        raise DrexcacheError(
            f"{here.root}: layout ic9600 expects train.txt, test.txt and images/ at the root or one folder below, "
            f"found them in {len(tops)} places"
        )
    images = here.images(tops[0] + "images/")
    if here.given is False:
        return images, None
    if here.given is not None:
        given = here.given if isinstance(here.given, str | PathLike) else "the DataFrame"
        raise DrexcacheError(
            f"{here.root}: layout ic9600 has its ratings in train.txt and test.txt; leave {given} out, or give "
            "--layout folder"
        )
    names = {split: f"{tops[0]}{split}.txt" for split in ("train", "test")}
    parts = {split: (f"{here.name}/{name}", read_bytes(here.files[name])) for split, name in names.items()}
    return images, ratings_of_ic9600(parts)


def _ic9600_tops(files: Files) -> list[str]:
    """The folders ("" or "NAME/") that hold train.txt, test.txt and images/."""
    tops = [name.removesuffix("train.txt") for name in files if name == "train.txt" or name.endswith("/train.txt")]
    return [
        top
        for top in tops
        if top.count("/") <= 1 and f"{top}test.txt" in files and any(n.startswith(f"{top}images/") for n in files)
    ]


def _savoias_ratings(here: _Source, images: Files) -> Ratings:
    """Of one category's folder, .../Images/Scenes: image i is i.jpg or i.png, its rating row i of a workbook."""
    given = _ranking(here.root) if here.given is None or here.given is False else here.given
    if isinstance(given, str | PathLike) and not str(given).lower().endswith(".xlsx"):
        raise DrexcacheError(
            f"{here.root}: layout savoias has its ratings in an .xlsx, not in {given}; or give --layout folder"
        )
    table, source = read_table(given)
    scores = scores_of_savoias(table, source, here.columns.rating)
    by_number: dict[int, str] = {}
    twice = []
    for name in images:
        stem = PurePosixPath(name).stem
        if stem.isascii() and stem.isdigit():
            if int(stem) in by_number:
                twice.append(f"{by_number[int(stem)]} and {name}")
            by_number[int(stem)] = name
    if twice:
        raise DrexcacheError(f"{here.root}: images of the same number: {counted(twice)}")
    names = tuple(by_number.get(number, str(number)) for number in range(len(scores)))
    return Ratings(source, names=names, scores=scores, labels={})


def _rankings(root: Path) -> Path:
    return root.parent.parent / "Ground truth" / "xlsx"


def _ranking(root: str | Path) -> Path:
    """The workbook of a category: its name ends in a beginning of the category's ("ad" for Advertisement)."""
    if isinstance(root, str):
        raise DrexcacheError(f"{root}: layout savoias at a URL needs its workbook named with --ratings")
    category = root.name.lower().replace(" ", "_")
    found = {path.stem.removeprefix("global_ranking_"): path for path in _rankings(root).glob("global_ranking_*.xlsx")}
    fits = [ending for ending in found if ending and category.startswith(ending.lower())]
    if len(fits) != 1:
        raise DrexcacheError(
            f"{_rankings(root)}: not one global_ranking_*.xlsx fits {root.name} (there are: "
            f"{', '.join(sorted(found)) or 'none'}); name the workbook with --ratings"
        )
    return found[fits[0]]
