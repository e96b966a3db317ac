"""The layouts of datasets: a plain folder, IC9600, SAVOIAS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from drexcache.datasets.arrow import is_saved, saved_files, saved_table
from drexcache.datasets.columns import RATING_COLUMNS, Columns, plain_name
from drexcache.datasets.files import IMAGE_EXTENSIONS, ImageFile, is_url, list_files, read_bytes
from drexcache.datasets.formats import read_tables, table_of_frame, tables_of_file
from drexcache.datasets.hdf5 import hdf5_files, hdf5_table, is_hdf5
from drexcache.datasets.packed import packed_files, table_beside
from drexcache.datasets.ratings import (
    Ratings,
    ratings_of,
    ratings_of_ic9600,
    ratings_of_savoias,
    read_ratings,
)
from drexcache.datasets.shards import Part, is_parquet, is_shard, name_of_parts, parts_in, parts_named
from drexcache.datasets.webdataset import TEXTS, table_of_samples
from drexcache.errors import DrexcacheError, counted, nearest, several

if TYPE_CHECKING:
    from pandas import DataFrame

LAYOUTS = ("auto", "folder", "ic9600", "savoias")
_RANGES = {"ic9600": (0.0, 1.0), "savoias": (0.0, 100.0)}
_WITHOUT_COLUMNS = {  # the options that do not apply to a layout's ratings
    "folder": (),
    "ic9600": ("--image-column", "--rating-column", "--split-column", "--group-column", "--rater-column",
               "--error-column"),
    "savoias": ("--image-column", "--split-column", "--group-column", "--rater-column", "--error-column"),
}  # fmt: skip
_NO_IMAGES = (  # left out without a note
    ".csv", ".tsv", ".xlsx", ".xls", ".parquet", ".md", ".json", *(f".{kind}" for kind in TEXTS),
)  # fmt: skip

Files = dict[str, ImageFile]  # path relative to a root -> file, sorted by the bytes of the paths


@dataclass(frozen=True)
class Dataset:
    """The files of a folder, a zip or a URL. images : id -> file, those that are the layout's images.

    guesses : what was guessed or left out on the way. value_range : of the layout's ratings, if it prescribes one.
    parts : the tars or Parquet tables that hold the files.
    """

    root: Path | str
    layout: str
    files: Files
    images: Files
    value_range: tuple[float, float] | None
    guesses: tuple[str, ...]
    parts: tuple[Part, ...] = ()

    @property
    def name(self) -> str:
        if isinstance(self.root, str):
            return self.root.rstrip("/").rpartition("/")[2]
        return name_of_parts(self.root) if self.parts and not self.root.exists() else self.root.name


def find_dataset(source: str | PathLike[str], layout: str) -> Dataset:
    """Find the images of a dataset in the given layout, one of `LAYOUTS`.

    Raises
    ------
    DrexcacheError : no such source or layout, or no images.
    """
    if layout not in LAYOUTS:
        raise DrexcacheError(f"no layout {layout!r}; {nearest(layout, LAYOUTS)}")
    root = str(source) if is_url(source) else Path(source).absolute()
    try:
        _ = isinstance(root, Path) and root.exists()
    except OSError as error:  # too long for a path, or in a folder that may not be searched
        raise DrexcacheError(f"{root}: cannot be looked for ({error.strerror})") from error
    if isinstance(root, Path) and ".." in root.parts:
        root = root.resolve()  # so that its last part is a name
    files, parts, taken = _files_of(root)
    chosen = _guess(root, files) if layout == "auto" else layout
    images = _images(files, _ic9600_top(root, files) + "images/" if chosen == "ic9600" else "")
    others = _others(files, images)
    if not images:
        instead = f", found {others}" if others else ""
        raise DrexcacheError(f"{source}: no images; looked for {', '.join(IMAGE_EXTENSIONS)}{instead}")
    guesses = [f"{source}: read as layout {chosen}" + (" (guessed)" if layout == "auto" else ""), *taken]
    if others:
        guesses.append(f"{source}: left out files that are not among its images: {others}")
    return Dataset(root, chosen, files, images, _RANGES.get(chosen), tuple(guesses), tuple(parts))


def _files_of(root: Path | str) -> tuple[Files, list[Part], list[str]]:
    """The files of a dataset, the tars or Parquet tables that hold them, if there are any, and what was guessed."""
    if is_saved(root):
        return saved_files(Path(root)), [], []
    if is_hdf5(root):
        files, notes = hdf5_files(Path(root))
        return files, [], notes
    parts = parts_named(root)
    files = {} if parts else list_files(root)
    parts = parts or parts_in(root, files)
    if not parts:
        return files, [], []
    inside = {str(part.path) for part in parts}
    beside = {name: file for name, file in files.items() if file.location not in inside}
    return packed_files(Path(root), parts, beside), parts, []


def ratings_of_dataset(
    dataset: Dataset, given: str | PathLike[str] | DataFrame | Literal[False] | None, columns: Columns
) -> Ratings | None:
    """The ratings that were given or, by default, the layout's own; None if there are none.

    Raises
    ------
    DrexcacheError : the ratings are not readable, or an option names a column that cannot exist.
    """
    if given is False:
        found = None
    elif dataset.layout == "ic9600":
        found = _ic9600_ratings(dataset, given)
    elif dataset.layout == "savoias":
        found = _savoias_ratings(dataset, given, columns)
    elif given is not None:
        found = read_ratings(given, columns)
    elif (frame := _table_with_images(dataset, columns)) is not None:
        named = replace(columns, image=columns.image or "image")  # not guessed: the reader put this column there
        found = ratings_of([table_of_frame(frame, str(dataset.root))], named)
    elif "ratings.csv" in dataset.files:
        data = read_bytes(dataset.files["ratings.csv"])
        found = ratings_of(tables_of_file(data, f"{dataset.name}/ratings.csv"), columns)
    else:
        found = None
    unused = [option for option in columns.given() if found is None or option in _WITHOUT_COLUMNS[dataset.layout]]
    if unused:
        why = "there are no ratings" if found is None else f"the ratings of layout {dataset.layout} have no such column"
        raise DrexcacheError(f"{dataset.root}: {', '.join(unused)} given, but {why}")
    return found


def _table_with_images(dataset: Dataset, columns: Columns) -> DataFrame | None:
    """What a table of images says of them, if a column is known to hold ratings, or was named."""
    frame: DataFrame | None
    if is_saved(dataset.root):
        frame = saved_table(Path(dataset.root))
    elif not dataset.parts:
        frame = hdf5_table(dataset.images, columns)
    elif is_parquet(dataset.parts[0].path):
        frame = table_beside(dataset.parts, dataset.images)
    else:
        frame = table_of_samples(dataset.images, dataset.files, str(dataset.root))
    if frame is None or not (columns.given() or any(plain_name(name) in RATING_COLUMNS for name in frame.columns)):
        return None
    if "ratings.csv" in dataset.files:
        raise DrexcacheError(
            f"{dataset.root}: ratings beside the images and in ratings.csv; name it with --ratings, or remove it"
        )
    return frame


def _guess(root: Path | str, files: Files) -> str:
    if _ic9600_tops(files):
        return "ic9600"
    if isinstance(root, str):  # SAVOIAS keeps its ratings outside the folder, so a URL's listing does not have them
        return "folder"
    return "savoias" if root.parent.name == "Images" and _rankings(root).is_dir() else "folder"


def _images(files: Files, below: str) -> Files:
    return {
        name.removeprefix(below): file
        for name, file in files.items()
        if name.startswith(below) and name.lower().endswith(IMAGE_EXTENSIONS)
    }


def _others(files: Files, images: Files) -> str:
    """The other files that might be images, as ".heic 2, .raw 1"; "" if there are none."""
    listed = set(images.values())
    others = [PurePosixPath(name) for name, file in files.items() if file not in listed]
    left_out = [name.suffix.lower() for name in others if name.suffix.lower() not in _NO_IMAGES or is_shard(name.name)]
    counts = Counter(suffix or "without extension" for suffix in left_out)
    return ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common())


def _ic9600_top(root: Path | str, files: Files) -> str:
    tops = _ic9600_tops(files)
    if len(tops) != 1:
        raise DrexcacheError(
            f"{root}: layout ic9600 expects train.txt, test.txt and images/ at the root or one folder below, "
            f"found them in {several(len(tops), 'place')}"
        )
    return tops[0]


def _ic9600_tops(files: Files) -> list[str]:
    """The folders ("" or "NAME/") that hold train.txt, test.txt and images/."""
    tops = [name.removesuffix("train.txt") for name in files if name == "train.txt" or name.endswith("/train.txt")]
    return [
        top
        for top in tops
        if top.count("/") <= 1 and f"{top}test.txt" in files and any(n.startswith(f"{top}images/") for n in files)
    ]


def _ic9600_ratings(dataset: Dataset, given: str | PathLike[str] | DataFrame | None) -> Ratings:
    """The ratings in train.txt and test.txt beside images/."""
    if given is not None:
        what = given if isinstance(given, str | PathLike) else "the DataFrame"
        raise DrexcacheError(
            f"{dataset.root}: layout ic9600 has its ratings in train.txt and test.txt; leave {what} out, or give "
            "--layout folder"
        )
    top = _ic9600_top(dataset.root, dataset.files)
    names = {split: f"{top}{split}.txt" for split in ("train", "test")}
    return ratings_of_ic9600(
        {split: (f"{dataset.name}/{name}", read_bytes(dataset.files[name])) for split, name in names.items()}
    )


def _savoias_ratings(dataset: Dataset, given: str | PathLike[str] | DataFrame | None, columns: Columns) -> Ratings:
    """The ratings of a category's folder, .../Images/Scenes: row i of its workbook rates the image i.jpg or i.png."""
    given = _ranking(dataset.root) if given is None else given
    if isinstance(given, str | PathLike) and not str(given).lower().endswith(".xlsx"):
        raise DrexcacheError(
            f"{dataset.root}: layout savoias has its ratings in an .xlsx, not in {given}; or give --layout folder"
        )
    tables = read_tables(given)
    by_number: dict[int, str] = {}
    twice = []
    for name in dataset.images:
        stem = PurePosixPath(name).stem
        if stem.isascii() and stem.isdigit():
            if int(stem) in by_number:
                twice.append(f"{by_number[int(stem)]} and {name}")
            by_number[int(stem)] = name
    if twice:
        raise DrexcacheError(f"{dataset.root}: images of the same number: {counted(twice)}")
    return ratings_of_savoias(tables, columns.rating, by_number)


def _rankings(root: Path) -> Path:
    return root.parent.parent / "Ground truth" / "xlsx"


def _ranking(root: Path | str) -> Path:
    """A category's workbook, whose name ends in the start of the category's name ("ad" for Advertisement)."""
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
