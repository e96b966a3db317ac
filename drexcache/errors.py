"""The one exception that drexcache raises for what a user can mend, and the words for a name that is not known."""

import difflib
from collections.abc import Iterable


class DrexcacheError(Exception):
    """One clear sentence: which file, which key, what was expected, what was found, what to do.

    >>> raise DrexcacheError("ratings.csv: column 'score' not found; it has: file, rating")
    Traceback (most recent call last):
    drexcache.errors.DrexcacheError: ratings.csv: column 'score' not found; it has: file, rating
    """


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the work; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = int(number)


def nearest(name: str, known: Iterable[str], shown: Iterable[str] | None = None) -> str:
    """The end of a message about an unknown name: the most similar known one, and up to 40 of those to be ``shown``.

    >>> nearest("svm_r", ["ridge", "svr"])
    'did you mean svr? there are: ridge, svr'
    >>> nearest("svm_r", ["ridge", "svr"], shown=())
    'did you mean svr?'
    """
    names = list(known)
    listed = names if shown is None else list(shown)
    close = difflib.get_close_matches(name, names, n=1)
    hint = [f"did you mean {close[0]}?"] if close else []
    if listed:
        hint.append(f"there are: {', '.join(listed[:40])}{', ...' if len(listed) > 40 else ''}")
    return " ".join(hint)
