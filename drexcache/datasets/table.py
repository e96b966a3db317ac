"""ImageTable: the images and ratings of a folder, a zip or a URL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from drexcache.datasets.columns import Columns
from drexcache.datasets.files import ImageFile, is_url
from drexcache.datasets.layouts import find_dataset, ratings_of_dataset
from drexcache.datasets.matching import Target, match_ratings
from drexcache.datasets.names import sha256_of_ids
from drexcache.errors import DrexcacheError, listed, several, with_guesses
from drexcache.files import utf8_name

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class ImageTable:
    """n images of one dataset; row i of everything belongs to the image ``ids[i]``.

    Attributes
    ----------
    dataset : the name of the folder or zip, or the one that was given.
    ids : unique paths relative to the root, POSIX, sorted by their bytes.
    files : each image's file. targets : name -> ratings. labels : column -> (n,) texts, "" if unknown.
    notes : what was guessed or left out, a sentence each.
    shard_of : "i/n" for one shard of a table, else ""; table_sha256 : of a shard, SHA-256 of the whole table's ids.
    """

    dataset: str
    ids: tuple[str, ...]
    files: tuple[ImageFile, ...]
    targets: dict[str, Target]
    labels: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    shard_of: str = ""
    table_sha256: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def root(self) -> str:
        """The folder, zip or URL that the images' ids start from, "" where they have none in common."""
        file = self.files[0] if self.files else ImageFile("")
        if is_url(file.location):
            return str(file.location)
        path = Path(file.container).resolve().as_posix().encode(errors="replace").decode()
        if file.member is not None:
            return path
        return path.removesuffix(f"/{self.ids[0]}") if path.endswith(f"/{self.ids[0]}") else ""

    def shard(self, index: int, count: int) -> ImageTable:
        """The ``index``-th (from 1) of ``count`` consecutive parts of about equal length.

        Raises
        ------
        DrexcacheError : no such shard, or more shards than images.
        """
        if not 1 <= index <= count <= len(self):
            raise DrexcacheError(
                f"no shard {index}/{count} of {several(len(self), 'image')}; expected I/N, 1 <= I <= N <= {len(self)}"
            )
        rows = slice((index - 1) * len(self) // count, index * len(self) // count)
        return replace(
            self,
            ids=self.ids[rows],
            files=self.files[rows],
            targets={name: replace(target, values=target.values[rows]) for name, target in self.targets.items()},
            labels={name: column[rows] for name, column in self.labels.items()},
            shard_of=f"{index}/{count}",
            table_sha256=sha256_of_ids(self.ids),
        )


def read_images(
    source: str | PathLike[str], ratings: str | PathLike[str] | DataFrame | Literal[False] | None = None, *,
    layout: str = "auto", dataset: str | None = None, image_column: str | None = None,
    rating_column: str | None = None, split_column: str | None = None, group_columns: Sequence[str] = (),
    rater_column: str | None = None, error_column: str | None = None, raters: int | None = None,
    value_range: tuple[float, float] | None = None, higher_is: str = "more", target: str = "rating",
    allow_unmatched: bool = False, out_of_range: str = "refuse", centre_raters: bool = False,
) -> ImageTable:  # fmt: skip
    """List the images of a folder, a zip or a URL and match their ratings; no image is opened.

    Parameters
    ----------
    source : folder, zip, tar, Parquet or HDF5 file, saved dataset, a pattern of tars or Parquet files such as
        photos-{000000..000031}.tar, or a folder's URL such as s3://bucket/photos.
    ratings : a file of ratings, its URL, or a DataFrame (see `drexcache.datasets.read_ratings`); None takes the
        layout's own (a ratings.csv at the root, IC9600's train.txt and test.txt, SAVOIAS's ranking), False takes none.
    layout : "folder" (all images below it), "ic9600" (images/, train.txt and test.txt; ratings on 0..1),
        "savoias" (one category's folder, .../Images/Scenes; ratings on 0..100), or "auto".
    rating_column : may be a pattern for several columns, one per rater, such as "rater_*".
    rater_column, error_column, raters : see `drexcache.datasets.Columns`; they give the ratings' reliability.
    value_range : lowest and highest rating that the scale allows.
    higher_is : whether a higher rating means "more" or "less" of what is rated.
    target : name of the ratings.
    allow_unmatched, out_of_range, centre_raters : see `drexcache.datasets.match_ratings`.

    Raises
    ------
    DrexcacheError : no images, no such layout, or ratings that are not readable or do not match.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.jpg", "a.PNG"):
    ...         _ = (Path(folder) / name).write_bytes(b"")
    ...     _ = (Path(folder) / "ratings.csv").write_text("file,score\\na.png,3\\nb.jpg,5\\n")
    ...     table = read_images(folder, value_range=(1, 7))
    >>> table.ids, table.targets["rating"].values
    (('a.PNG', 'b.jpg'), array([3., 5.]))
    """
    groups = tuple(listed(group_columns, "group_columns"))
    columns = Columns(
        image=image_column, rating=rating_column, split=split_column, groups=groups, rater=rater_column,
        error=error_column, error_raters=raters,
    )  # fmt: skip
    found = find_dataset(source, layout)
    root, ids = found.root, tuple(found.images)
    table = ImageTable(
        utf8_name(dataset or (root.stem if isinstance(root, Path) and root.is_file() else found.name)),
        ids=ids, files=tuple(found.images.values()), targets={}, labels={}, notes=found.guesses,
    )  # fmt: skip
    try:
        rated = ratings_of_dataset(found, ratings, columns)
        if rated is None:
            if value_range is not None:
                raise DrexcacheError(f"{source}: --range given, but no ratings; see --ratings, --rating-column")
            notes = [] if ratings is False else [f"{source}: no ratings (none given, and no ratings.csv at the root)"]
            return replace(table, notes=(*table.notes, *notes))
        match = match_ratings(
            ids, rated, target=target, value_range=value_range or found.value_range, higher_is=higher_is,
            allow_unmatched=allow_unmatched, out_of_range=out_of_range, centre_raters=centre_raters,
        )  # fmt: skip
    except DrexcacheError as error:
        obvious = found.layout in (layout, "folder")  # then a guessed layout cannot be the cause
        raise DrexcacheError(with_guesses(error, found.guesses[1 if obvious else 0 :])) from error
    return replace(table, targets={target: match.target}, labels=match.labels, notes=table.notes + match.notes)
