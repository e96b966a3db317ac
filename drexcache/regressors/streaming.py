"""Training on a cache that does not fit in memory: its features are read again and again instead of kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drexcache.cache import FeatureCache, FeatureMatrix, rated_rows_of
from drexcache.errors import DrexcacheError
from drexcache.regressors.model import Model, as_model
from drexcache.regressors.named import make_regressor


def train_streamed(
    regressor: str, cache: FeatureCache, columns: Sequence[str] = (), seed: int = 42, *, target: str | None = None,
    split: tuple[str, str] | None = None, settings: Mapping[str, Any] | None = None, log: str | Path | None = None,
) -> Model:  # fmt: skip
    """Train fusion, fusion-paper or ridge as `drexcache.regressors.train_model` does, in memory that rows do not need.

    A fusion head takes its rows in an order that is shuffled locally (`drexcache.fusion.plan.local_permutation`)
    and two windows of 8,192 rows at a time; with no more rows than that, the result is that of training in
    memory. Several seeds are trained one after the other. A ridge reads the cache twice; the result is that of
    training in memory.

    columns : block or "block/tap" names; default: all blocks. target : default: the only one there is.
    split : label and value of the rows to train on. settings, log : as in `train_model`.

    Raises
    ------
    DrexcacheError : another regressor, as `train_model`, or NaN or infinite features (of which images), which
        show when they are read.

    >>> model = train_streamed("fusion", open_cache("photos.h5"))  # doctest: +SKIP
    >>> model.save("photos.drex")  # doctest: +SKIP
    """
    rows = rated_rows_of(cache, columns, target, split)
    if len(rows) < 2:
        raise DrexcacheError(f"{cache.path}: {len(rows)} rated images with features; training needs at least 2")
    no_rows = FeatureMatrix(np.empty((0, rows.shape[1]), np.float32), rows.y[:0], (), rows.blocks)
    estimator = make_regressor(regressor, no_rows, seed, settings)
    if not hasattr(estimator, "fit_stream"):
        raise DrexcacheError(f"{regressor} needs all features in memory; fusion, fusion-paper and ridge can stream")
    has_epochs = hasattr(estimator, "write_log")
    if log is not None and not has_epochs:
        raise DrexcacheError(f"{regressor} has no training log: it is not trained in epochs as a fusion head is")
    try:
        if has_epochs:
            estimator.set_params(verbose=True)  # a bar, where there is a terminal
        estimator.fit_stream(rows)
    except ValueError as error:
        raise DrexcacheError(f"{cache.path}: {regressor} cannot be trained: {str(error).splitlines()[0]}") from error
    if log is not None:
        estimator.write_log(log)
    return as_model(regressor, estimator, cache, tuple(rows.blocks), rows.target, len(rows), seed)
