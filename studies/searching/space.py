"""The search space of a regressor: feature blocks and settings, as Optuna's distributions."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.files import read_regular
from drexcache.regressors import Choice, Range, is_import_path, make_regressor, search_space

BLOCK = "block:"  # prefix of a block's parameter in a study: "block:dino" is True if the trial uses that block
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Candidate:
    """One regressor with the blocks it reads and its settings (by the estimator's own parameter paths)."""

    regressor: str
    blocks: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class SearchSpace:
    """All candidates of one regressor.

    blocks : names to choose from; always : those that every candidate uses.
    settings : parameter path -> its allowed values. fixed : parameter path -> the value that all candidates share.

    >>> space = SearchSpace("ridge", ("dino", "effnet"), settings={"alpha": Range(1.0, 100.0, log=True)})
    >>> space.candidate({"block:dino": True, "block:effnet": False, "alpha": 3.0})
    Candidate(regressor='ridge', blocks=('dino',), settings={'alpha': 3.0})
    """

    regressor: str
    blocks: tuple[str, ...]
    always: tuple[str, ...] = ()
    settings: Mapping[str, Range | Choice] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Parameter -> Optuna distribution; every trial has every parameter."""
        free = [] if len(self.blocks) == 1 else [name for name in self.blocks if name not in self.always]
        either = CategoricalDistribution([True, False])
        return {BLOCK + name: either for name in free} | {key: _distribution(s) for key, s in self.settings.items()}

    @property
    def size(self) -> float:
        """The number of different candidates; infinite if a setting is a continuous range."""
        free = sum(key.startswith(BLOCK) for key in self.distributions)
        blocks = 2**free - (0 if self.always or not free else 1)
        return math.prod((_count(setting) for setting in self.settings.values()), start=float(blocks))

    def candidate(self, params: Params) -> Candidate:
        """The candidate that a trial's parameters describe."""
        chosen = tuple(name for name in self.blocks if params.get(BLOCK + name, True))
        return Candidate(self.regressor, chosen, {**self.fixed, **{key: params[key] for key in self.settings}})

    def allows(self, params: Params) -> bool:
        """Whether the parameters leave at least one block."""
        return any(params.get(BLOCK + name, True) for name in self.blocks)

    def defaults(self, matrix: FeatureMatrix) -> dict[str, Any]:
        """Parameters of the first trial: all blocks and the regressor's default settings.

        A setting whose default is outside the space starts in the middle of its range, or with its first choice.
        """
        own = make_regressor(self.regressor, matrix).get_params()
        params = {name: True for name in self.distributions if name.startswith(BLOCK)}
        for key, setting in self.settings.items():
            params[key] = own[key] if own.get(key) in setting else _middle(setting)
        return params

    def describe(self) -> dict[str, str]:
        """Parameter -> its range in words; runs that continue a study must agree on it."""
        words = {
            BLOCK + name: "always" if BLOCK + name not in self.distributions else "yes or no" for name in self.blocks
        }
        return words | {k: str(s) for k, s in self.settings.items()} | {k: f"{v!r}" for k, v in self.fixed.items()}


def make_space(regressor: str, matrix: FeatureMatrix, narrowed: Mapping[str, Any] | None = None) -> SearchSpace:
    """The search space of a regressor over the matrix's blocks, narrowed by the tables that `read_narrowed` returns.

    Raises
    ------
    DrexcacheError : an unknown regressor (names the nearest), block or setting, or a value out of range.
    """
    space = SearchSpace(regressor, tuple(matrix.blocks), settings=search_space(regressor))
    make_regressor(regressor, matrix)
    given = dict(narrowed or {})
    for name, use in given.pop("blocks", {}).items():
        if name not in matrix.blocks or not isinstance(use, bool):
            raise DrexcacheError(
                f"[blocks] {name} = {use!r}: name a block and say true or false; {_list(matrix.blocks)}"
            )
        if use:
            space = replace(space, always=(*space.always, name))
        else:
            space = replace(space, blocks=tuple(block for block in space.blocks if block != name))
    if not space.blocks:
        raise DrexcacheError("[blocks] leaves no block to learn from")
    for key, wanted in given.get(regressor, {}).items():
        space = _narrow(space, key, wanted, matrix)
    return space


def read_narrowed(path: str | Path, regressors: Sequence[str], *, trust: bool = False) -> dict[str, Any]:
    """Read a TOML file that narrows the search space: a table per regressor and a table "blocks".

    A setting is a value (``width = 256``), a list to choose from (``width = [128, 256]``) or a range
    (``lr = {low = 1e-4, high = 1e-3}``); a block is true (always used) or false (never). trust : whether a table may
    name an import path, whose parameters can be anything, even a folder to unpickle from.

    Raises
    ------
    DrexcacheError : no such file, not TOML, a table that is neither "blocks" nor one of the regressors, or an import
        path without ``trust``.
    """
    try:
        tables = tomllib.loads(read_regular(path).decode())
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DrexcacheError(
            f"{path}: not TOML, in which --space says what to search, such as [svr] and C = [1, 10] ({error})"
        ) from error
    for name, table in tables.items():
        if name not in ("blocks", *regressors) or not isinstance(table, dict):
            raise DrexcacheError(f"{path}: [{name}] is no table of this search; {_list(['blocks', *regressors])}")
        if is_import_path(name) and not trust:
            raise DrexcacheError(
                f"{path}: [{name}] sets parameters of imported code; if you trust this file, add --trust"
            )
    return tables


def _narrow(space: SearchSpace, key: str, wanted: Any, matrix: FeatureMatrix) -> SearchSpace:
    """The space with one setting fixed, limited to a list, or given another range."""
    old = space.settings.get(key)
    others = {name: setting for name, setting in space.settings.items() if name != key}
    if isinstance(wanted, dict):
        ends = [wanted.get("low"), wanted.get("high")]
        numbers = all(isinstance(end, int | float) for end in ends) and len(wanted) == 2
        if not isinstance(old, Range) or not numbers or not wanted["low"] < wanted["high"]:
            raise DrexcacheError(f"{space.regressor}: {key} = {wanted} is no range; expected low < high within {old}")
        new: Range | Choice = replace(old, **wanted)
        values = list(wanted.values())
    else:
        values = wanted if isinstance(wanted, list) else [wanted]
        new = Choice(tuple(values))
    for value in values:  # the regressor checks its own settings and their limits
        make_regressor(space.regressor, matrix, settings={key: value})
    if len(values) == 1:
        return replace(space, settings=others, fixed={**space.fixed, key: values[0]})
    return replace(space, settings={**others, key: new})


def _distribution(setting: Range | Choice) -> BaseDistribution:
    if isinstance(setting, Choice):
        return CategoricalDistribution(setting.values)
    if setting.integer:
        return IntDistribution(int(setting.low), int(setting.high), log=setting.log)
    return FloatDistribution(setting.low, setting.high, log=setting.log)


def _count(setting: Range | Choice) -> float:
    if isinstance(setting, Choice):
        return len(setting.values)
    return setting.high - setting.low + 1 if setting.integer else math.inf


def _middle(setting: Range | Choice) -> Any:
    if isinstance(setting, Choice):
        return setting.values[0]
    middle = math.sqrt(setting.low * setting.high) if setting.log else (setting.low + setting.high) / 2
    return round(middle) if setting.integer else middle


def _list(names: Sequence[str] | Mapping[str, Any]) -> str:
    return f"there are: {', '.join(names)}"
