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


def has_value(column: Sequence[str], value: str) -> list[bool]:
    """For each text in a column, (n,), whether it is the value or names the same part of a split.

    >>> has_value(["Train", "TEST", "training set", "trainee"], "train")
    [True, False, True, False]
    """
    part = split_part(value)
    return [text == value or bool(part and split_part(text) == part) for text in column]
