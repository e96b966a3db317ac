"""The settings file that a search writes (best.json) and a training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from drexcache.errors import DrexcacheError
from drexcache.regressors.import_path import is_import_path

FORMAT = 1
Plain = str | int | float | bool | None
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class ChosenSettings(msgspec.Struct, frozen=True):
    """A regressor with its own parameters, such as ``{"svr__C": 3.1}``, and what it was chosen for, where known."""

    regressor: str
    settings: dict[str, Plain] = {}
    blocks: tuple[str, ...] = ()
    target: str | None = None
    seed: Seed | None = None


class _File(msgspec.Struct):
    """What may stand in the file; null stands for what is not known, and other keys are ignored."""

    regressor: str
    format: int = FORMAT
    settings: dict[str, Plain] | None = None
    blocks: tuple[str, ...] | None = None
    target: str | None = None
    seed: Seed | None = None


def read_settings(path: str | Path, *, trust: bool = False) -> ChosenSettings:
    """Read a settings file: JSON with "regressor", and optionally "settings", "blocks", "target" and "seed".

    Other keys are ignored. trust : whether the regressor may be an import path, whose module a training would run.

    Raises
    ------
    DrexcacheError : no such file, no JSON object, a newer format, a key that is missing or of the wrong type, or a
        regressor that is an import path without ``trust``.
    """
    try:
        found = msgspec.json.decode(Path(path).read_bytes(), type=_File)
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
    return ChosenSettings(found.regressor, found.settings or {}, found.blocks or (), found.target, found.seed)
