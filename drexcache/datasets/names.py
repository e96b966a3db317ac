"""Names of images: matching those in a table to images, by the rules in docs/any-folder.md; a hash of many."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from drexcache.datasets.files import IMAGE_EXTENSIONS


@dataclass(frozen=True)
class NameMatch:
    """The result of matching names to n images. row : (n,) number of the name that matches each image, -1 for none.

    The others are texts to list in messages. twice : images that several names match. without : names that match no
    image. ambiguous : names that match several images. inexact : names spelt differently from the image's id.
    """

    row: np.ndarray
    twice: list[str]
    without: list[str]
    ambiguous: list[str]
    inexact: list[str]


def match_names(ids: Sequence[str], names: Sequence[str]) -> NameMatch:
    """Match each name to an image, trying the most literal reading first.

    >>> match_names(["a.jpg", "b.png"], ["C:\\\\data\\\\B.png", "C:\\\\data\\\\a.jpg"]).row
    array([1, 0])
    """
    images: list[list[int]] = [[] for _ in names]
    left: Sequence[int] = _look_up(images, ids, names, range(len(names)))
    if left:
        plain_ids, plain = [_composed(image) for image in ids], [_composed(name) for name in names]
        top = len(_shared_folder(plain_ids))
        above = len(_folder_above(plain, {_stem(image[at:]) for image in plain_ids for at in {0, top}}))
        shortened = [name[above:] for name in plain]
        left = _look_up_spellings(images, plain_ids, shortened, left)
        if top:
            left = _look_up_spellings(images, [image[top:] for image in plain_ids], shortened, left)
        alone = [row for row in left if "/" not in plain[row]]
        found = _look_up_spellings(images, [image.rpartition("/")[2] for image in plain_ids], plain, alone)
        left = sorted({*left} - {*alone} | {*found})
    return _summary(images, ids, names, left)


def _look_up_spellings(
    images: list[list[int]], ids: Sequence[str], names: Sequence[str], rows: Sequence[int]
) -> Sequence[int]:
    """`_look_up` as written, then in lower case, then without the extension."""
    spellings: tuple[Callable[[str], str], ...] = (str, str.casefold, _stem)
    for spelling in spellings:
        if rows:
            rows = _look_up(images, [spelling(image) for image in ids], names, rows, spelling)
    return rows


def _look_up(
    images: list[list[int]],
    ids: Sequence[str],
    names: Sequence[str],
    rows: Sequence[int],
    spelling: Callable[[str], str] = str,
) -> list[int]:
    """Record for each of these rows the images whose id equals its name; returns the rows without any."""
    index: dict[str, list[int]] = {}
    for at, image in enumerate(ids):
        index.setdefault(image, []).append(at)
    for row in rows:
        images[row] = index.get(spelling(names[row]), [])
    return [row for row in rows if not images[row]]


def _summary(images: list[list[int]], ids: Sequence[str], names: Sequence[str], left: Sequence[int]) -> NameMatch:
    row_of = np.full(len(ids), -1)
    twice: dict[str, None] = {}
    ambiguous, inexact = [], []
    for row, found in enumerate(images):
        if len(found) > 1:
            ambiguous.append(f"{names[row]}: {' or '.join(ids[at] for at in found[:5])}")
        elif found:
            [at] = found
            if names[row] != ids[at]:
                inexact.append(f"{names[row]} is {ids[at]}")
            if row_of[at] < 0:
                row_of[at] = row
            else:
                twice[ids[at]] = None
    bases = {image.rpartition("/")[2] for image in ids}
    without = [names[row] + _in_another_folder(names[row], bases) or "a row without a name" for row in left]
    return NameMatch(row_of, twice=sorted(twice), without=without, ambiguous=ambiguous, inexact=inexact)


def _in_another_folder(name: str, bases: set[str]) -> str:
    base = _composed(name).rpartition("/")[2]
    return f" ({base} is in another folder)" if base in bases else ""


def _composed(name: str) -> str:
    """The name stripped, with forward slashes, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")


def _stem(name: str) -> str:
    folded = name.casefold()
    return folded.rpartition(".")[0] if folded.endswith(IMAGE_EXTENSIONS) else folded


def _shared_folder(names: Sequence[str]) -> str:
    """The leading folders that all names share, "" or "a/b/"."""
    first, last = min(names), max(names)  # a prefix of both is a prefix of all
    at = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind("/", 0, at) + 1]


def _folder_above(names: Sequence[str], known: set[str]) -> str:
    """The shortest shared leading folder to remove so that any name is known; "" if none has to be, or none helps."""
    parts = _shared_folder(names).split("/")[:-1]
    folders = ["/".join(parts[:count]) + "/" for count in range(1, len(parts) + 1)]
    for folder in ["", *folders]:
        if any(_stem(name[len(folder) :]) in known for name in names):
            return folder
    return ""


def sha256_of_ids(values: Sequence[str]) -> str:
    """SHA-256 (hex) over the values in UTF-8, each followed by a zero byte."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.encode() + b"\0")
    return digest.hexdigest()
