"""Numbers as people write them in tables: which texts are some, with which decimal sign, and what may be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from drexcache.errors import counted

Floats = NDArray[np.float64]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WITH_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}([ .,'\u2019\xa0\u202f]\d{3})+([.,]\d+)?", re.ASCII)  # a sign between thousands
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


def numbers(texts: Iterable[str], decimal: str = ".") -> Floats:
    """Parse finite numbers (digits 0 to 9, one decimal sign, an exponent); NaN for anything else.

    >>> numbers(["1", "2e-1", "n/a", "inf", "3_5"])
    array([1. , 0.2, nan, nan, nan])
    """
    texts = map(_plain, texts)
    dotted = texts if decimal == "." else (text.replace(".", " ").replace(decimal, ".") for text in texts)
    values = np.array([float(text) if _NUMBER.fullmatch(text) else np.nan for text in dotted], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def holds_number(text: str) -> bool:
    """Whether a text has a digit, so that it is not just a word for "no rating".

    >>> holds_number("10%"), holds_number("#N/A")
    (True, False)
    """
    return any(map(str.isdigit, text))


def _plain(text: str) -> str:
    """A number's text with the hyphen that programs read instead of a true minus."""
    return text.replace("\u2212", "-")


def decimal_sign(texts: Sequence[str]) -> tuple[str, list[str]]:
    """The decimal sign that all numbers agree on, and the numbers whose comma is ambiguous.

    >>> decimal_sign(["1,5", "2", "n/a"]), decimal_sign(["1,5", "2.5"]), decimal_sign(["1,500", "2,000"])
    ((',', []), ('.', ['1,5']), ('.', ['1,500', '2,000']))
    """
    texts = [_plain(text) for text in texts]
    commas = [text for text in texts if _WITH_COMMA.fullmatch(text)]
    known = {*commas, *filter(_NUMBER.fullmatch, texts)}
    if grouped := [text for text in texts if text not in known and _GROUPED.fullmatch(text)]:
        return ".", [*grouped, *commas]
    dots = any("." in text for text in texts if _NUMBER.fullmatch(text))
    if not commas or (not dots and not all(map(_THOUSANDS.fullmatch, commas))):
        return ("," if commas else "."), []
    return ".", commas


def wrong_numbers(unclear: Sequence[str], names: Sequence[str], scores: Sequence[str], decimal: str) -> tuple[str, ...]:
    """What is wrong with the scores: numbers that could mean two things, and texts that hold more than a number."""
    found = [f"numbers whose marks could mean two things (write 1234.5): {counted(unclear)}"] if unclear else []
    values = numbers(scores, decimal)
    more = [
        f"{name} = {score!r}"
        for name, score, value in zip(names, scores, values.tolist(), strict=False)
        if np.isnan(value) and holds_number(score) and score not in unclear
    ]
    if more:
        found.append(f"ratings that are no finite number: {counted(more)}: write a plain number, such as 4 for '4/7'")
    return tuple(found)


def stray(values: Floats) -> list[str]:
    """Notes on a lowest or highest value that may mean "not rated": far from the others, or the only one below 0."""
    found = []
    for end, others in ((values.min(), values[values > values.min()]), (values.max(), values[values < values.max()])):
        if len(others) < 2:
            continue
        low, high = others.min(), others.max()
        gap = low - end if end < low else end - high
        if gap > max(high - low, 1e-9) or (end < 0 <= low):
            count = int((values == end).sum())
            found.append(
                f"{count} rating{' is' if count == 1 else 's are'} {end:g}, the others {low:g}..{high:g}: if that "
                f"means 'not rated', give --range {low:g} {high:g} --out-of-range drop"
            )
    return found
