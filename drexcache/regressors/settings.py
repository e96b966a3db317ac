"""The allowed values of a regressor's settings, and the settings file that a search writes and training reads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated

import msgspec

from drexcache.errors import DrexcacheError
from drexcache.files import read_regular
from drexcache.regressors.import_path import is_import_path

FORMAT = 1
Plain = str | int | float | bool | None
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


@dataclass(frozen=True)
class Range:
    """The values of a setting that a search may choose: numbers from low to high, inclusive.

    ``log`` : whether to sample on the logarithmic scale.

    >>> Range(1e-4, 1.0, log=True), 0.5 in Range(0, 1), 0.5 in Range(0, 1, integer=True)
    (Range(low=0.0001, high=1.0, log=True, integer=False), True, False)
    >>> print(Range(1, 40, log=True, integer=True))
    1 to 40, whole, log
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __contains__(self, value: object) -> bool:
        kind = Integral if self.integer else Real
        return isinstance(value, kind) and not isinstance(value, bool) and bool(self.low <= value <= self.high)  # type: ignore[operator]

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + ", whole" * self.integer + ", log" * self.log


@dataclass(frozen=True)
class Choice:
    """The values of a setting that a search may choose: one of several texts, numbers, booleans or None.

    >>> "cosine" in Choice(("euclidean", "cosine")), print(Choice((True, False)))
    True or False
    (True, None)
    """

    values: tuple[str | int | float | bool | None, ...]

    def __contains__(self, value: object) -> bool:
        return any(type(value) is type(one) and value == one for one in self.values)

    def __str__(self) -> str:
        return " or ".join(map(str, self.values))


class ChosenSettings(msgspec.Struct, frozen=True):
    """A regressor with its own parameters, such as ``{"svr__C": 3.1}``, and what they were chosen for, if known."""

    regressor: str
    settings: dict[str, Plain] = {}
    blocks: tuple[str, ...] = ()
    target: str | None = None
    seed: Seed | None = None


class _File(msgspec.Struct):
    """The contents of a settings file; null means unknown, and other keys are ignored."""

    regressor: str
    format: int = FORMAT
    settings: dict[str, Plain] | None = None
    blocks: tuple[str, ...] | None = None
    target: str | None = None
    seed: Seed | None = None


def read_settings(path: str | Path, *, trust: bool = False) -> ChosenSettings:
    """Read a settings file: JSON with "regressor", and optionally "settings", "blocks", "target" and "seed".

    Other keys are ignored. trust : whether the regressor may be an import path, whose module training would run.

    Raises
    ------
    DrexcacheError : no such file, not a JSON object, a newer format, a key that is missing or of the wrong type, or an
        import path without ``trust``.
    """
    try:
        found = msgspec.json.decode(read_regular(path), type=_File)
    except OSError as error:
        raise DrexcacheError(f"{path}: the settings could not be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, and so is bad UTF-8
        raise DrexcacheError(f"{path}: not a settings file, such as a search's best.json ({error})") from error
    if found.format != FORMAT:
        raise DrexcacheError(f"{path}: settings format {found.format}, this drexcache reads {FORMAT}; upgrade it")
    if is_import_path(found.regressor) and not trust:
        raise DrexcacheError(
            f"{path}: the regressor {found.regressor} is an import path, and importing it would run its code; "
            "if you trust this file, add --trust"
        )
    settings = found.settings or {}
    if found.regressor == "ridge" and "cv" in settings:
        del settings["cv"]
        warnings.warn(
            f"{path}: ridge's setting cv is ignored: its penalty is now chosen by leave-one-out", stacklevel=2
        )
    return ChosenSettings(found.regressor, settings, found.blocks or (), found.target, found.seed)
