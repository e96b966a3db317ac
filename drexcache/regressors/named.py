"""Regressors by name: each is a scikit-learn estimator that includes its own scaling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingRegressor,
)
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import ElasticNet, LinearRegression
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError, nearest
from drexcache.fusion import PRESETS, AttentionFusionRegressor
from drexcache.regressors.import_path import is_import_path, regressor_at
from drexcache.regressors.kernels import KernelFusionRegressor
from drexcache.regressors.ridge import GramRidge
from drexcache.regressors.settings import Choice, Range

Space = Mapping[str, Range | Choice]

MEMBERS = ("fusion", "pls", "svr", "gaussian-process")  # of best
WIDTH = 0.25  # RBF kernels: exp(-WIDTH * mean squared difference of the standardised columns)


@dataclass(frozen=True)
class _Named:
    """A regressor's one-line description, its constructor, and its search space by the estimator's parameter paths."""

    line: str
    make: Callable[[], BaseEstimator]
    space: Space = field(default_factory=dict)


def _scaled(*steps: BaseEstimator) -> BaseEstimator:
    """A pipeline that standardises the columns, then applies the steps."""
    return make_pipeline(StandardScaler(), *steps)


def _reducible(*steps: BaseEstimator) -> BaseEstimator:
    """A pipeline that standardises the columns, takes principal components if "pca" is set, then applies the steps."""
    named = [(type(step).__name__.lower(), step) for step in steps]
    return Pipeline([("standardscaler", StandardScaler()), ("pca", "passthrough"), *named])


def _centred(*steps: BaseEstimator) -> BaseEstimator:
    """The same pipeline with standardised ratings, for regressors without an intercept or a scale of their own."""
    return TransformedTargetRegressor(_reducible(*steps), transformer=StandardScaler())


def _network(epochs: int, **settings: Any) -> BaseEstimator:
    """A network trained for exactly so many epochs: none improves by ``tol``, so training stops without a warning."""
    return MLPRegressor(**settings, tol=1e9, n_iter_no_change=epochs, max_iter=10_000)


def _best() -> BaseEstimator:
    """A stack with non-negative weights, fitted to the members' out-of-fold predictions."""
    members = [(name, _REGRESSORS[name].make()) for name in MEMBERS]
    return StackingRegressor(members, LinearRegression(positive=True), cv=KFold(5, shuffle=True, random_state=0))


_GAMMA = Range(1e-6, 0.1, log=True)  # of RBF kernels; the default that `make_regressor` sets is WIDTH / columns
_PCA = Choice((0, 16, 32, 64, 128, 256))  # principal components to keep; 0 keeps the columns as they are
_TREE_SPACE: Space = {
    "max_features": Range(0.005, 1.0, log=True),
    "min_samples_leaf": Range(1, 20, log=True, integer=True),
}
_FUSION_SPACE: Space = {
    "lr": Range(1e-4, 1e-2, log=True),
    "weight_decay": Range(1e-4, 1.0, log=True),
    "dropout": Range(0.0, 0.5),
    "width": Choice((128, 256, 384)),
    "batch_size": Choice((16, 32, 64)),
    "epochs": Range(5, 40, integer=True),
}

_REGRESSORS: dict[str, _Named] = {
    "mean": _Named("the training ratings' mean: the floor", DummyRegressor),
    "ridge": _Named(
        "linear, standardised columns, penalty by leave-one-out over 13 values from 1 to 1e6",
        GramRidge,
        {"standardize": Choice((True, False))},
    ),
    "elastic-net": _Named(
        "linear, with the columns that matter least left out",
        lambda: _scaled(ElasticNet(alpha=0.1, l1_ratio=0.05)),
        {"elasticnet__alpha": Range(1e-3, 10.0, log=True), "elasticnet__l1_ratio": Range(0.01, 1.0, log=True)},
    ),
    "pls": _Named(
        "partial least squares: linear, on the 4 directions that vary most with the ratings",
        lambda: _scaled(PLSRegression(n_components=4, scale=False)),
        {"plsregression__n_components": Range(1, 40, log=True, integer=True)},
    ),
    "kernel-ridge": _Named(
        "ridge with an RBF kernel, penalty 0.1",
        lambda: _centred(KernelRidge(kernel="rbf", alpha=0.1)),
        {
            "regressor__kernelridge__alpha": Range(1e-4, 10.0, log=True),
            "regressor__kernelridge__gamma": _GAMMA,
            "regressor__pca": _PCA,
        },
    ),
    "svr": _Named(
        "support vectors, RBF kernel, C=1, epsilon=0.02",
        lambda: _reducible(SVR(C=1.0, epsilon=0.02)),
        {
            "svr__C": Range(1e-2, 100.0, log=True),
            "svr__epsilon": Range(1e-3, 0.2, log=True),
            "svr__gamma": _GAMMA,
            "pca": _PCA,
        },
    ),
    "neighbours": _Named(
        "mean rating of the 20 nearest images by cosine, the nearer the more",
        lambda: _reducible(KNeighborsRegressor(n_neighbors=20, weights="distance", metric="cosine")),
        {
            "kneighborsregressor__n_neighbors": Range(1, 50, log=True, integer=True),
            "kneighborsregressor__weights": Choice(("uniform", "distance")),
            "kneighborsregressor__metric": Choice(("euclidean", "cosine")),
            "pca": _PCA,
        },
    ),
    "random-forest": _Named(
        "200 trees on resampled rows",
        lambda: RandomForestRegressor(200, max_features="sqrt", min_samples_leaf=3),
        _TREE_SPACE,
    ),
    "extra-trees": _Named(
        "200 trees with random thresholds",
        lambda: ExtraTreesRegressor(200, max_features="sqrt", min_samples_leaf=3),
        _TREE_SPACE,
    ),
    "boosting": _Named(
        "histogram gradient boosting, 100 small trees on a twentieth of the columns each",
        lambda: HistGradientBoostingRegressor(
            learning_rate=0.1, max_iter=100, max_leaf_nodes=8, max_bins=32, max_features=0.05, early_stopping=False
        ),
        {
            **_TREE_SPACE,
            "learning_rate": Range(0.01, 0.3, log=True),
            "max_iter": Range(50, 500, log=True, integer=True),
            "max_leaf_nodes": Range(4, 31, log=True, integer=True),
            "l2_regularization": Range(1e-3, 100.0, log=True),
        },
    ),
    "gaussian-process": _Named(
        "a product of one RBF kernel per block, widths and noise by evidence; beyond 2,000 rows by Nystroem",
        KernelFusionRegressor,
        {"rows": Range(500, 4000, log=True, integer=True)},
    ),
    "mlp": _Named(
        "a network with one hidden layer of 128, 40 epochs, strong weight decay",
        lambda: _centred(_network(epochs=40, hidden_layer_sizes=128, alpha=10.0, batch_size=32)),
        {
            "regressor__mlpregressor__hidden_layer_sizes": Range(16, 512, log=True, integer=True),
            "regressor__mlpregressor__alpha": Range(1e-2, 100.0, log=True),
            "regressor__mlpregressor__learning_rate_init": Range(1e-4, 1e-2, log=True),
            "regressor__mlpregressor__n_iter_no_change": Range(10, 200, log=True, integer=True),
            "regressor__pca": _PCA,
        },
    ),
    "fusion-paper": _Named(
        "DReX's attention-fusion head and training recipe to the letter",
        lambda: AttentionFusionRegressor(**PRESETS["fusion-paper"]),
        {**_FUSION_SPACE, "ema": Range(0.9, 0.9999)},
    ),
    "fusion": _Named(
        "the same head made fit for hundreds of images: in each arm's principal components, the mean of eight seeds",
        lambda: AttentionFusionRegressor(**PRESETS["fusion"]),
        {**_FUSION_SPACE, "ema_horizon": Range(0.01, 0.5, log=True), "standardize": Choice((False, True))},
    ),
    "best": _Named(
        f"{', '.join(MEMBERS)} mixed by their out-of-fold predictions of the training rows: the slowest",
        _best,
        {"svr__svr__C": Range(1e-2, 100.0, log=True), "pls__plsregression__n_components": Range(1, 40, True, True)},
    ),
}


def regressors() -> dict[str, Any]:
    """Name -> unfitted estimator with its default settings.

    >>> "fusion" in regressors()
    True
    """
    return {name: named.make() for name, named in _REGRESSORS.items()}


def describe_regressors() -> dict[str, str]:
    """Name -> a one-line description."""
    return {name: named.line for name, named in _REGRESSORS.items()}


def search_space(name: str) -> dict[str, Range | Choice]:
    """The settings that a search may change, by the estimator's own parameter paths (as in ``set_params``).

    "mean" and import paths have none.

    Raises
    ------
    DrexcacheError : an unknown name (suggests the nearest).

    >>> search_space("neighbours")["kneighborsregressor__metric"]
    Choice(values=('euclidean', 'cosine'))
    """
    return {} if is_import_path(name) else dict(_named(name).space)


def make_regressor(name: str, matrix: FeatureMatrix, seed: int = 42, settings: Mapping[str, Any] | None = None) -> Any:
    """The unfitted estimator of that name, or at that import path, adapted to this matrix.

    Parameters
    ----------
    name : one of `regressors`, or "package.module:Class" for any regressor that follows scikit-learn's interface.
    matrix : the training data. Every block becomes an arm of fusion; the numbers of neighbours and components are
        limited by rows and columns; the width of RBF kernels follows the number of columns.
    seed : for everything random in the estimator.
    settings : the estimator's own parameters by their paths, such as `search_space` lists.

    Raises
    ------
    DrexcacheError : an unknown name or setting (suggests the nearest), a setting out of range, or an import path that
        does not lead to a regressor.
    """
    estimator = regressor_at(name) if is_import_path(name) else _named(name).make()
    given = _checked(name, estimator, settings or {})
    estimator.set_params(**given)
    if not is_import_path(name):
        estimator.set_params(**_suited(estimator, given, matrix))
    of_its_own = {"random_state": seed, "arms": dict(matrix.blocks)}
    own = {key: of_its_own[_last(key)] for key in estimator.get_params() if _last(key) in of_its_own}
    return estimator.set_params(**{key: value for key, value in own.items() if key not in given})


def _suited(estimator: BaseEstimator, given: Mapping[str, Any], matrix: FeatureMatrix) -> dict[str, Any]:
    """Parameters that depend on the n rows and d columns; best trains its members on four fifths of the rows."""
    rows, d = 4 * len(matrix) // 5, sum(cols.stop - cols.start for cols in matrix.blocks.values())  # X may have more
    limits = {
        "kneighborsregressor__n_neighbors": rows,
        "mlpregressor__batch_size": rows,
        "plsregression__n_components": min(rows, d),
    }
    suited: dict[str, Any] = {}
    for key, value in estimator.get_params().items():
        for limited, most in limits.items():
            if key.endswith(limited):
                suited[key] = max(1, min(value, most))
        if _last(key) == "gamma" and key not in given:
            suited[key] = WIDTH / max(1, _varied(matrix))
        if _last(key) == "pca" and key in given:
            suited[key] = PCA(min(value, rows, d)) if value else "passthrough"
    return suited


def _varied(matrix: FeatureMatrix) -> int:
    """How many columns vary: the others are no part of a distance."""
    return sum(int((np.ptp(matrix.X[:, cols], axis=0) > 0).sum()) for cols in matrix.blocks.values() if len(matrix))


def _last(key: str) -> str:
    return key.rpartition("__")[2]


def _named(name: str) -> _Named:
    if name not in _REGRESSORS:
        raise DrexcacheError(f"no regressor named {name}; {nearest(name, _REGRESSORS)}")
    return _REGRESSORS[name]


def _checked(name: str, estimator: BaseEstimator, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, after checking that they are within the search space, or plain values if not part of it.

    For our own regressors, text outside the search space is refused, because it could be a path (a pipeline's
    ``memory`` is a folder of pickles).
    """
    space = search_space(name)
    others = {key for key, value in estimator.get_params().items() if not is_made_of(value)}
    plain = (str, int, float, NoneType) if is_import_path(name) else (int, float, NoneType)
    for key, value in settings.items():
        if key not in space and key not in others:
            raise DrexcacheError(f"{name} has no setting {key}; {nearest(key, space or sorted(others))}")
        if key in space and value not in space[key]:
            raise DrexcacheError(f"{name}: setting {key} must be {space[key]}; found {value!r}")
        if key not in space and not isinstance(value, plain):
            words = "text, a number" if str in plain else "a number"
            raise DrexcacheError(f"{name}: setting {key} must be {words}, true, false or null; found {value!r}")
    return dict(settings)


def is_made_of(value: Any) -> bool:
    """Whether a parameter is an estimator or a list of them, whose settings have paths of their own."""
    return isinstance(value, list) or hasattr(value, "get_params")
