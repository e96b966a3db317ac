"""The settings file that a search writes (best.json) and a training starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drexcache.errors import DrexcacheError

FORMAT = 1
TYPES: dict[str, type] = {"regressor": str, "settings": dict, "blocks": list, "target": str, "seed": int}


@dataclass(frozen=True)
class ChosenSettings:
    """A regressor with its own parameters, such as ``{"svr__C": 3.1}``, and what it was chosen for, where known."""

    regressor: str
    settings: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    target: str | None = None
    seed: int | None = None


def read_settings(path: str | Path) -> ChosenSettings:
    """Read a settings file: JSON with "regressor", and optionally "settings", "blocks", "target" and "seed".

    Other keys are ignored.

    Raises
    ------
    DrexcacheError : no such file, no JSON object, a newer format, or a key that is missing or of the wrong type.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DrexcacheError(f"{path}: the settings could not be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DrexcacheError(f"{path}: not a settings file, such as a search's best.json ({error})") from error
    if not isinstance(found, dict) or "regressor" not in found:
        raise DrexcacheError(
            f'{path}: expected a JSON object with "regressor" and "settings", as in a search\'s best.json'
        )
    if found.get("format", FORMAT) != FORMAT:
        raise DrexcacheError(f"{path}: settings format {found['format']}, this drexcache reads {FORMAT}; upgrade it")
    known = {key: found[key] for key in TYPES if found.get(key) is not None}
    for key, value in known.items():
        if not isinstance(value, TYPES[key]):
            raise DrexcacheError(f"{path}: {key} must be a {TYPES[key].__name__}; found {value!r}")
    return ChosenSettings(**known | {"blocks": tuple(map(str, known.get("blocks", ())))})
