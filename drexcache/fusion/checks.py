"""Checks of a fusion head's input: finite values, arms that fit, settings in range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

Arms = Mapping[str, slice | Sequence[int]]

APART = 10_000  # distance between one estimator's seeds, so that random_state 42 and 43 share none
AT_LEAST_1 = ("width", "epochs", "batch_size", "seeds", "components")
COUNTS = dict.fromkeys(AT_LEAST_1, 1) | {"min_steps": 0, "early_stopping": 0}
RANGES: dict[str, tuple[float, float]] = {
    "lr": (0, np.inf),
    "weight_decay": (0, np.inf),
    "dropout": (0, 0.99),
    "clip": (0, np.inf),
    "offset": (0, np.inf),
    "arm_dropout": (0, 0.99),
    "linear": (0, 1),
    "ema": (0, 1),
    "ema_horizon": (1e-6, np.inf),
    "validation_fraction": (1e-6, 0.9),
}


def require_finite(name: str, values: np.ndarray) -> None:
    """Raise ValueError if values (n, d) has a NaN or infinity, naming the first such rows."""
    if np.isfinite(values.sum(dtype=np.float64)):  # quick, and any NaN or infinity shows in the sum
        return
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(f"{name} has NaN or inf in row {', '.join(map(str, bad[:5]))}{more}; leave such rows out")


def resolved_arms(arms: Arms | None, d: int) -> tuple[list[str], list[slice]]:
    """The arms' names and their columns as plain slices, checked against d features."""
    if arms is None:
        return ["all"], [slice(0, d)]
    if not isinstance(arms, Mapping) or not arms:
        raise ValueError(f"arms must map names to columns, such as {{'dino': slice(0, 384)}}; found {arms!r}")
    columns: list[slice] = []
    for name, given in arms.items():
        pair = given if isinstance(given, slice) else slice(*given)
        start, stop, step = pair.start, pair.stop, pair.step
        start, stop = 0 if start is None else start, d if stop is None else stop
        if step not in (None, 1) or not 0 <= start < stop <= d:
            raise ValueError(f"arm {name!r} names columns {start} to {stop}, but X has columns 0 to {d}")
        for other, cols in zip(arms, columns, strict=False):
            if max(start, cols.start) < min(stop, cols.stop):
                raise ValueError(f"arms {other!r} and {name!r} overlap in column {max(start, cols.start)}")
        columns.append(slice(start, stop))
    return list(arms), columns


def checked_rows(rows: np.ndarray | None, y: np.ndarray) -> np.ndarray | None:
    """The rows to train on as row numbers, after checking that there are at least two with different ratings y (n,)."""
    picked = y if rows is None else y[np.asarray(rows)]
    if len(picked) < 2:
        raise ValueError(f"a fusion head needs at least 2 rows to train on, found {len(picked)}")
    if np.ptp(picked) == 0:
        raise ValueError(f"y is constant ({picked[0]:g} in all {len(picked)} rows): there is nothing to learn")
    return None if rows is None else np.arange(len(y))[np.asarray(rows)]


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for the first invalid setting."""
    if settings["loss"] != "huber":
        raise ValueError(f"loss must be 'huber', found {settings['loss']!r}; 'ccc' and 'rank', no better, were removed")
    for name, least in COUNTS.items():
        if name == "components" and settings[name] is None:
            continue
        if not isinstance(settings[name], int | np.integer) or settings[name] < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, found {settings[name]!r}")
    for name in ("arm_dropout", "linear"):
        if settings[name] and not settings["components"]:
            raise ValueError(f"{name} needs components, such as components=64")
    for name, (low, high) in RANGES.items():
        value = settings[name]
        if value is None and name in ("clip", "ema_horizon"):
            continue
        if not isinstance(value, int | float | np.number) or not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}, found {value!r}")


def seeds_of(model: Any) -> list[int]:
    """A model's seeds: random_state and others `APART` from it; if random_state is not a number, the first is drawn."""
    first = model.random_state
    if not isinstance(first, int | np.integer):
        first = check_random_state(first).randint(2**31 - 1)
    return [int(first) + APART * i for i in range(model.seeds)]
