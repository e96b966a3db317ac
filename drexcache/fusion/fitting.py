"""Training the heads of many estimators together, and setting what they have learnt."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from drexcache.cache import CachedRows
from drexcache.devices import resolve_device
from drexcache.fusion.basis import find_basis, linear_part
from drexcache.fusion.checks import check_settings, checked_rows, resolved_arms, seeds_of
from drexcache.fusion.plan import WINDOW, Design, HeadSettings
from drexcache.fusion.stacks import train_heads
from drexcache.fusion.stopping import inner_split
from drexcache.fusion.training import LogRow, TrainedHead

if TYPE_CHECKING:
    from drexcache.fusion.estimator import AttentionFusionRegressor


def fit_together(
    models: Sequence[AttentionFusionRegressor],
    X: np.ndarray | CachedRows,
    y: np.ndarray,
    rows: Sequence[np.ndarray | None],
    *,
    stack: int | None = None,
) -> None:
    """Train every seed of every model, stacking those of one design, and set the fitted attributes."""
    groups: dict[Design, list[tuple[AttentionFusionRegressor, list[HeadSettings]]]] = {}
    for model, given in zip(models, rows, strict=True):
        design, own_rows = _design(model, X.shape[1], isinstance(X, CachedRows)), checked_rows(given, y)
        if model.components:
            _fit_in_basis(model, design, X, y, own_rows)
        else:
            groups.setdefault(design, []).append((model, _head_settings(model, own_rows, len(y))))
    if not groups:
        return
    heads = [(design, [head for _, own in members for head in own]) for design, members in groups.items()]
    show = any(model.verbose for model in models)
    trained = train_heads(X, y, heads, verbose=show, stack=stack)
    for members, learnt in zip(groups.values(), map(iter, trained), strict=True):
        for model, own in members:
            _set_learnt(model, [next(learnt) for _ in own])


def _fit_in_basis(
    model: AttentionFusionRegressor, design: Design, X: np.ndarray | CachedRows, y: np.ndarray,
    rows: np.ndarray | None,
) -> None:  # fmt: skip
    """Train one model in the basis of its own rows, with all components in memory, and set the fitted attributes."""
    picked = np.arange(len(y)) if rows is None else rows
    basis = find_basis(X, picked, model.columns_, model.components or X.shape[1], standardize=model.standardize)
    pieces = (X[picked],) if isinstance(X, np.ndarray) else (piece for piece, _ in X.pieces(picked, size=WINDOW))
    Z = np.concatenate([basis(piece) for piece in pieces])
    inside = replace(design, arms=tuple((cols.start, cols.stop) for cols in basis.columns), local_shuffle=False)
    heads = [replace(head, standardize=False) for head in _head_settings(model, None, len(picked))]
    (trained,) = train_heads(Z, y[picked], [(inside, heads)], verbose=model.verbose)
    _set_learnt(model, trained)
    model.parameters_ = basis.unfolded(model.parameters_)
    if model.linear:
        model.line_ = linear_part(X, y, picked, model.columns_)


def _design(model: AttentionFusionRegressor, d: int, local_shuffle: bool) -> Design:
    """Check the settings against d columns, and return the model's design, which heads in one stack must share."""
    check_settings(model.get_params())
    model.n_features_in_ = d
    model.arms_, model.columns_ = resolved_arms(model.arms, d)
    return Design(
        arms=tuple((cols.start, cols.stop) for cols in model.columns_),
        width=model.width,
        batch_size=model.batch_size,
        fixed_average=model.fixed_average,
        device=str(resolve_device(model.device)),
        local_shuffle=local_shuffle,
    )


def _head_settings(model: AttentionFusionRegressor, rows: np.ndarray | None, n: int) -> list[HeadSettings]:
    """The settings of each seed's head, trained on ``rows`` of n (None: all)."""
    model.seeds_ = seeds_of(model)
    validation = None
    if model.early_stopping:
        rows, validation = inner_split(n, rows, model.validation_fraction, model.seeds_[0])
    steps_per_epoch = math.ceil((n if rows is None else len(rows)) / model.batch_size)
    same = ("lr", "weight_decay", "dropout", "clip", "ema", "ema_horizon", "standardize", "offset", "arm_dropout")
    settings = HeadSettings(
        **{name: getattr(model, name) for name in same},
        epochs=max(model.epochs, math.ceil(model.min_steps / steps_per_epoch)),
        rows=rows,
        validation=validation,
        patience=model.early_stopping,
    )
    return [replace(settings, seed=seed) for seed in model.seeds_]


def _set_learnt(model: AttentionFusionRegressor, heads: Sequence[TrainedHead]) -> None:
    """Set the fitted attributes from the seeds' heads."""
    model.parameters_ = {name: np.stack([head.parameters[name] for head in heads]) for name in heads[0].parameters}
    model.mean_, model.scale_ = heads[0].scaling or (None, None)  # all seeds see the same rows
    model.line_ = None
    epochs = itertools.zip_longest(*[head.log for head in heads])  # a head may have stopped early
    model.log_ = [_mean_row(i, [row for row in rows if row]) for i, rows in enumerate(epochs, start=1)]


def _mean_row(epoch: int, rows: Sequence[LogRow]) -> LogRow:
    """An epoch's log row averaged over seeds; None for numbers that no seed has."""
    known = {key: [value for row in rows if (value := row[key]) is not None] for key in rows[0]}
    means: LogRow = {key: float(np.mean(found)) if found else None for key, found in known.items()}
    return means | {"epoch": epoch}
