"""The one exception that drexcache raises for what a user can mend."""


class DrexcacheError(Exception):
    """One clear sentence: which file, which key, what was expected, what was found, what to do.

    >>> raise DrexcacheError("ratings.csv: column 'score' not found; it has: file, rating")
    Traceback (most recent call last):
    drexcache.errors.DrexcacheError: ratings.csv: column 'score' not found; it has: file, rating
    """
