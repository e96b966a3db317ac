"""The usual spellings of a split's parts, recognised wherever images are selected by split."""

from __future__ import annotations

import re
from collections.abc import Sequence

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "tst"),
}


def split_part(text: str) -> str | None:
    """The part of a split that a text names; "" for an empty text, None for an unknown one.

    >>> [split_part(text) for text in ("Train", "test set", "val", "", "boat")]
    ['train', 'test', 'validation', '', None]
    """
    word = re.sub(r"[ _-]*(set|split|data)$", "", text.strip().lower())
    return next((part for part, words in SPELLINGS.items() if word in words), "" if not word else None)


def split_texts(header: str, texts: Sequence[str]) -> tuple[str, ...]:
    """A column's texts, where yes and no in a column such as is_test or is_train become "test" and "train".

    >>> split_texts("is_test", ["1", "0"]), split_texts("isTrain", ["yes", ""]), split_texts("is_new", ["1", "0"])
    (('test', 'train'), ('train', ''), ('1', '0'))
    """
    named = re.fullmatch(r"(?:is|in)[ _-]*(\w+)", header.strip(), re.IGNORECASE)
    part = split_part(named[1]) if named else None
    other = "test" if part == "train" else "train"
    words = {"": ""} | dict.fromkeys(("1", "true", "yes"), part or "") | dict.fromkeys(("0", "false", "no"), other)
    known = part and all(text.casefold() in words for text in texts)
    return tuple(words[text.casefold()] for text in texts) if known else tuple(texts)


def folders_of_splits(ids: Sequence[str]) -> list[str]:
    """The folders in the images' ids that are named like parts of a split, if one of them is for training.

    >>> folders_of_splits(["photos/Train/a.jpg", "photos/test/b.jpg"]), folders_of_splits(["train/a.jpg", "bus/b.jpg"])
    (['Train', 'test'], [])
    """
    folders = {folder for image in ids for folder in image.split("/")[:-1]}
    parts = {folder: part for folder in sorted(folders) if (part := split_part(folder))}
    return list(parts) if {"train"} < set(parts.values()) else []


def has_value(column: Sequence[str], value: str) -> list[bool]:
    """For each text in a column, (n,), whether it is the value or names the same part of a split.

    >>> has_value(["Train", "TEST", "training set", "trainee"], "train")
    [True, False, True, False]
    """
    part = split_part(value)
    return [text == value or bool(part and split_part(text) == part) for text in column]
