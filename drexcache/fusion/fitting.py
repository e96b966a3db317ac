"""From estimators to stacks of heads and back: checked data, settings per head, and what each has learnt."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from drexcache.cache import CachedRows
from drexcache.fusion.checks import check_settings, checked_datasets, require_finite, resolved_arms
from drexcache.fusion.plan import Design, HeadSettings
from drexcache.fusion.stacks import train_heads
from drexcache.fusion.training import LogRow, TrainedHead
from drexcache.fusion.validation import inner_split

if TYPE_CHECKING:
    from drexcache.fusion.estimator import AttentionFusionRegressor


def fit_together(
    models: Sequence[AttentionFusionRegressor],
    X: np.ndarray | CachedRows,
    y: np.ndarray,
    rows: Sequence[np.ndarray | None],
    datasets: ArrayLike | None,
    *,
    stack: int | None = None,
) -> None:
    """Train every seed of every model, those of one design in stacks, and set what was learnt."""
    labels, codes = checked_datasets(datasets, len(y))
    groups: dict[Design, list[tuple[AttentionFusionRegressor, list[HeadSettings]]]] = {}
    for model, own_rows in zip(models, rows, strict=True):
        check_settings(model.get_params())
        model.n_features_in_ = X.shape[1]
        model.arms_, model.columns_ = resolved_arms(model.arms, X.shape[1])
        arms = tuple((cols.start, cols.stop) for cols in model.columns_)
        design = Design(
            arms, model.width, model.batch_size, model.loss, model.fixed_average, device_of(model.device),
            local_shuffle=isinstance(X, CachedRows),
        )  # fmt: skip
        groups.setdefault(design, []).append((model, _head_settings(model, _checked_rows(own_rows, y), len(y))))
    heads = [(design, [head for _, own in members for head in own]) for design, members in groups.items()]
    show = any(model.verbose for model in models)
    trained = train_heads(X, y, heads, datasets=codes, verbose=show, stack=stack)
    for members, learnt in zip(groups.values(), map(iter, trained), strict=True):
        for model, own in members:
            _set_learnt(model, [next(learnt) for _ in own], labels)


def _head_settings(model: AttentionFusionRegressor, rows: np.ndarray | None, n: int) -> list[HeadSettings]:
    """One `HeadSettings` per seed."""
    model.seeds_ = seeds_of(model)
    validation = None
    if model.early_stopping:
        rows, validation = inner_split(n, rows, model.validation_fraction, model.seeds_[0])
    steps_per_epoch = math.ceil((n if rows is None else len(rows)) / model.batch_size)
    same = ("lr", "weight_decay", "dropout", "clip", "ema", "ema_horizon", "standardize")
    settings = HeadSettings(
        **{name: getattr(model, name) for name in same},
        epochs=max(model.epochs, math.ceil(model.min_steps / steps_per_epoch)),
        rows=rows,
        validation=validation,
        patience=model.early_stopping,
    )
    return [replace(settings, seed=seed) for seed in model.seeds_]


def seeds_of(model: AttentionFusionRegressor) -> list[int]:
    """random_state, random_state + 1, ...; the first is drawn where random_state is no number."""
    first = model.random_state
    if not isinstance(first, int | np.integer):
        first = check_random_state(first).randint(2**31 - 1)
    return [int(first) + i for i in range(model.seeds)]


def _set_learnt(model: AttentionFusionRegressor, heads: Sequence[TrainedHead], labels: Sequence[str]) -> None:
    model.parameters_ = {name: np.stack([head.parameters[name] for head in heads]) for name in heads[0].parameters}
    model.mean_, model.scale_ = heads[0].scaling or (None, None)  # all seeds see the same rows
    epochs = itertools.zip_longest(*[head.log for head in heads])  # a head may have stopped early
    model.log_ = [_mean_row(i, [row for row in rows if row]) for i, rows in enumerate(epochs, start=1)]
    model.dataset_scales_ = {}
    if labels:
        scales = np.mean([head.dataset_scales for head in heads if head.dataset_scales is not None], axis=0)  # (G, 2)
        seen = [(label, pair) for label, pair in zip(labels, scales.tolist(), strict=True) if np.isfinite(pair[0])]
        model.dataset_scales_ = {label: tuple(pair) for label, pair in seen}


def _mean_row(epoch: int, rows: Sequence[LogRow]) -> LogRow:
    """The mean over seeds of each number of an epoch, None where no seed has it."""
    known = {key: [value for row in rows if (value := row[key]) is not None] for key in rows[0]}
    means: LogRow = {key: float(np.mean(found)) if found else None for key, found in known.items()}
    return means | {"epoch": epoch}


def checked(model: AttentionFusionRegressor, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X as float32 (n, d) and y as float64 (n,), both finite."""
    X, y = validate_data(model, X, y, dtype=np.float32, ensure_all_finite=False, ensure_min_samples=2, y_numeric=True)
    require_finite("X", X)
    return X, y.astype(np.float64)


def _checked_rows(rows: np.ndarray | None, y: np.ndarray) -> np.ndarray | None:
    picked = y if rows is None else y[np.asarray(rows)]
    if len(picked) < 2:
        raise ValueError(f"a fusion head needs at least 2 rows to train on, found {len(picked)}")
    if np.ptp(picked) == 0:
        raise ValueError(f"y is constant ({picked[0]:g} in all {len(picked)} rows): there is nothing to learn")
    return None if rows is None else np.arange(len(y))[np.asarray(rows)]


def device_of(name: str) -> str:
    """What "auto" means here: "cuda", else "mps", else "cpu"; any other name as it is."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
