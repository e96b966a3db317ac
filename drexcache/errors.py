"""The exception for whatever a user can fix, and phrases that several messages share."""

import difflib
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_about = threading.local()  # for each thread, the file that its warnings are about


LONGEST = 2000  # characters of a message


class DrexcacheError(Exception):
    """An error that the user can fix, in one clear sentence: which file, which key, expected, found, what to do.

    >>> raise DrexcacheError("ratings.csv: column 'score' not found; it has: file, rating")
    Traceback (most recent call last):
    drexcache.errors.DrexcacheError: ratings.csv: column 'score' not found; it has: file, rating
    """

    def __str__(self) -> str:
        """The message in one line, control characters spelled out, without its middle if a file has made it endless."""
        text = "".join(repr(char)[1:-1] if _steers(char) else char for char in super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 + 5 :]}"


def _steers(char: str) -> bool:
    """Whether a character moves a terminal's cursor, ends a line, or is no character."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the work; ``number`` is the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = int(number)


@contextmanager
def warnings_about(name: str) -> Iterator[None]:
    """A context in which libraries' warnings in this thread concern that image or file; `about` returns its name."""
    before, _about.name = about(), name
    try:
        yield
    finally:
        _about.name = before


def about() -> str:
    """The image or file that this thread's warnings concern, "" outside `warnings_about`.

    >>> with warnings_about("a.tif"):
    ...     print(about())
    a.tif
    """
    return getattr(_about, "name", "")


def nearest(name: str, known: Iterable[str], shown: Iterable[str] | None = None) -> str:
    """The end of a message about an unknown name: the most similar known one, and up to 40 of the names in ``shown``.

    >>> nearest("svm_r", ["ridge", "svr"])
    'did you mean svr? there are: ridge, svr'
    >>> nearest("svm_r", ["ridge", "svr"], shown=())
    'did you mean svr?'
    """
    names = list(known)
    told = names if shown is None else list(shown)
    close = difflib.get_close_matches(name, names, n=1)
    hint = [f"did you mean {close[0]}?"] if close else []
    if told:
        hint.append(f"there are: {', '.join(told[:40])}{', ...' if len(told) > 40 else ''}")
    return " ".join(hint)


def listed(given: Any, what: str, one: type | tuple[type, ...] = str) -> list[Any]:
    """Return the given values as a list, whether several or a single one of that type.

    Raises
    ------
    DrexcacheError : anything else was given; the message says what was expected.

    >>> listed("ridge", "regressors"), listed(("ridge", "svr"), "regressors")
    (['ridge'], ['ridge', 'svr'])
    """
    several = [given] if isinstance(given, one) or not isinstance(given, Iterable) else list(given)
    if wrong := [value for value in several if not isinstance(value, one)]:
        kinds = " or ".join(kind.__name__ for kind in (one if isinstance(one, tuple) else (one,)))
        raise DrexcacheError(f"{what}: expected one or several, each of type {kinds}; found {wrong[0]!r:.80}")
    return several


def some(names: Iterable[str]) -> str:
    """The first three names, followed by dots if there are more.

    >>> some("abcd")
    'a, b, c, ...'
    """
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")


def several(n: int, one: str, more: str = "") -> str:
    """A count followed by the singular or plural words; by default the plural is the singular and an "s".

    >>> several(1, "image is a copy", "images are copies"), several(1200, "image")
    ('1 image is a copy', '1,200 images')
    """
    return f"{n:,} {one if n == 1 else more or f'{one}s'}"


def counted(names: Sequence[str]) -> str:
    """The number of names, and the first three.

    >>> counted(["a.jpg", "b.jpg"])
    '2 (a.jpg, b.jpg)'
    """
    return f"{len(names)} ({some(names)})"


def with_guesses(message: object, guesses: Iterable[str]) -> str:
    """The message followed by the guesses made before it, one of which may be the cause.

    >>> with_guesses("r.csv: no ratings", ["r.csv: guessed image names from column 'file'"])
    "r.csv: no ratings (guessed image names from column 'file')"
    """
    source = str(message).partition(": ")[0]
    listed = "; ".join(guess.removeprefix(f"{source}: ") for guess in guesses)
    return f"{message} ({listed})" if listed else str(message)
