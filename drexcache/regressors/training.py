"""Training a model from a cache's features and ratings, in memory or streamed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from drexcache.cache import FeatureCache, FeatureMatrix, rated_rows, rated_rows_of
from drexcache.errors import DrexcacheError, several
from drexcache.progress import step_bar
from drexcache.regressors.intervals import OutOfFold, cross_fitted
from drexcache.regressors.model import Model
from drexcache.regressors.named import is_made_of, make_regressor
from drexcache.regressors.pooling import DATASET, PooledRegressor, joined, upside_down
from drexcache.regressors.saving import refuse_unsavable

FEW_ROWS = (
    1000  # up to which one thread is as quick as several, and several times as quick where others keep cores busy
)


def train_model(
    regressor: str, matrix: FeatureMatrix, cache: FeatureCache, columns: tuple[str, ...], seed: int,
    *, others: Sequence[FeatureMatrix] = (), own: bool = False, settings: Mapping[str, Any] | None = None,
    log: bool = False, intervals: bool = False,
) -> Model:  # fmt: skip
    """Fit a regressor on every rated row of the matrix; ``columns`` are the names with which the matrix was made.

    others : datasets to train on, too, see `drexcache.regressors.PooledRegressor`; predictions are on the mean scale of
    the datasets, or, with ``own``, on the matrix's, and then half of each is of a training on its rows alone.
    settings : the regressor's parameters; others keep their defaults. log : the epochs
    will be saved, too (see `Model.save`); only a fusion head has them.

    Raises
    ------
    DrexcacheError : no target, fewer than two rated images, NaN or infinite values (names the images), an unknown
        regressor or setting, a regressor that no model file can hold, a log for a regressor without epochs, datasets
        whose features differ, or anything that the regressor refuses.
    """
    rated = rated_rows(matrix, str(cache.path))
    estimator = make_regressor(regressor, rated, seed, settings)
    if not others:
        _fit(regressor, estimator, lambda: estimator.fit(rated.X, rated.y), len(rated), cache, log)
        model = _as_model(regressor, estimator, cache, columns, matrix.target, len(rated), seed)
        return replace(model, out_of_fold=_out_of_fold(regressor, rated, cache, seed, settings)) if intervals else model
    if log:
        raise DrexcacheError("a log tells of a training on one cache; leave it out, or the other caches")
    if intervals:
        raise DrexcacheError("intervals are of a training on one cache; leave them out, or the other caches")
    mixed = joined([rated, *(rated_rows(one, one.dataset) for one in others)], rated.dataset)
    for sentence in upside_down(mixed):
        warnings.warn(sentence, stacklevel=2)
    pooled = PooledRegressor(estimator, own=rated.dataset if own else None)
    _fit(regressor, pooled, lambda: pooled.fit(mixed.X, mixed.y, mixed.labels[DATASET]), len(mixed), cache, False)
    fitted = pooled if own else pooled.shared_
    model = _as_model(regressor, fitted, cache, columns, matrix.target, len(mixed), seed)
    return replace(model, trained={**model.trained, "others": [one.dataset for one in others]})


def _out_of_fold(
    regressor: str, rated: FeatureMatrix, cache: FeatureCache, seed: int, settings: Mapping[str, Any] | None
) -> OutOfFold:
    """What intervals are made of: the regressor trained again without each fold of the rows."""

    def fit(rows: np.ndarray) -> Any:
        part = rated.rows(rows)
        one = make_regressor(regressor, part, seed, settings)
        _fit(regressor, one, lambda: one.fit(part.X, part.y), len(part), cache, False)
        return one

    return cross_fitted(rated.X, rated.y, rated.hashes or rated.ids, fit)


def train_streamed(
    regressor: str, cache: FeatureCache, columns: Sequence[str] = (), seed: int = 42, *, target: str | None = None,
    split: tuple[str, str] | None = None, settings: Mapping[str, Any] | None = None, log: bool = False,
) -> Model:  # fmt: skip
    """Train fusion, fusion-paper or ridge as `drexcache.regressors.train_model` does, without all rows in memory.

    A fusion head reads its rows in a locally shuffled order (`drexcache.fusion.plan.local_permutation`), two windows
    of 8,192 rows at a time; with no more rows than that, the result is the same as in memory. Several seeds are trained
    one after the other. A ridge reads the cache twice; the result is the same as in memory.

    columns : block or "block/tap" names; default: all blocks. target : name of the ratings; default: the only ones.
    split : label and value of the rows to train on. settings, log : as in `train_model`.

    Raises
    ------
    DrexcacheError : another regressor; as `train_model`; or NaN or infinite features (names the images), which are
        found only when they are read.

    >>> model = train_streamed("fusion", open_cache("photos.h5"))  # doctest: +SKIP
    >>> model.save("photos.drex")  # doctest: +SKIP
    """
    rows = rated_rows_of(cache, columns, target, split)
    no_rows = FeatureMatrix(np.empty((0, rows.shape[1]), np.float32), rows.y[:0], (), rows.blocks)
    estimator = make_regressor(regressor, no_rows, seed, settings)
    if not hasattr(estimator, "fit_stream"):
        raise DrexcacheError(f"{regressor} needs all features in memory; fusion, fusion-paper and ridge can stream")
    _fit(regressor, estimator, lambda: estimator.fit_stream(rows), len(rows), cache, log)
    return _as_model(regressor, estimator, cache, tuple(rows.blocks), rows.target, len(rows), seed)


def _fit(regressor: str, estimator: Any, fit: Callable[[], Any], rows: int, cache: FeatureCache, log: bool) -> None:
    """Fit an estimator, after checking everything that can be checked in advance."""
    if rows < 2:
        raise DrexcacheError(f"{cache.path}: {several(rows, 'rated image')} with features; training needs at least 2")
    has_epochs = hasattr(estimator, "write_log")
    if log and not has_epochs:
        raise DrexcacheError(f"{regressor} has no training log: it is not trained in epochs as a fusion head is")
    if has_epochs:
        estimator.set_params(verbose=True)  # a progress bar on a terminal
    else:
        refuse_unsavable(estimator)
    try:
        with threadpool_limits(1 if rows <= FEW_ROWS and not _has_a_head(estimator) else None):
            if has_epochs:
                fit()
            else:
                with step_bar("train", "training") as show:
                    show(0, 1, regressor)
                    fit()
    except ValueError as error:
        raise DrexcacheError(f"{cache.path}: {regressor} cannot be trained: {str(error).splitlines()[0]}") from error


def _has_a_head(estimator: Any) -> bool:
    """Whether a fusion head, which shares its work out among threads itself, is the estimator or a part of it."""
    return any(hasattr(part, "write_log") for part in (estimator, *estimator.get_params().values()))


def _as_model(
    regressor: str, estimator: Any, cache: FeatureCache, columns: Sequence[str], target: str, images: int, seed: int
) -> Model:
    """The model of a regressor trained on ``images`` rows of these columns of a cache."""
    names = dict.fromkeys(name.split("/")[0] for name in columns)
    rated = cache.targets[target]
    trained = {
        "dataset": cache.dataset, "images": images, "seed": seed, "cache": cache.path.name,
        "settings": {key: repr(value) for key, value in estimator.get_params().items() if not is_made_of(value)},
        "versions": {package: version(package) for package in ("drexcache", "torch", "scikit-learn", "numpy")},
    }  # fmt: skip
    blocks = {name: cache.blocks[name] for name in names}
    return Model(regressor, estimator, tuple(columns), blocks, target, rated.low, rated.high, rated.higher_is, trained)
