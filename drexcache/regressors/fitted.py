"""Checking a fitted estimator from a file, because compiled code trusts its arrays blindly.

Parameters are checked against scikit-learn's own constraints, and every array that a prediction uses against the shape,
type and range that fitting gives it. No model file holds an estimator that is not listed here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn import linear_model
from sklearn._loss.loss import HalfSquaredError
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
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR, LinearSVR, NuSVR
from sklearn.tree import DecisionTreeRegressor, ExtraTreeRegressor
from sklearn.tree._tree import Tree

from drexcache.errors import DrexcacheError
from drexcache.fusion import AttentionFusionRegressor, resolved_arms
from drexcache.regressors.kernels import KernelFusionRegressor
from drexcache.regressors.pooling import PooledRegressor
from drexcache.regressors.ridge import GramRidge

# Class -> attribute -> its allowed shapes, one letter or digit per dimension: d is the number of columns, any other
# letter a number of its own. The type is floating-point unless one follows.
_COEFFICIENTS = {"coef_": "d", "intercept_": "|1"}
_SUPPORT = {
    "support_vectors_": "nd:f8", "_dual_coef_": "1n:f8", "_intercept_": "1:f8", "support_": "n:i4",
    "_n_support": "2:i4", "_probA": "0:f8", "_probB": "0:f8", "_gamma": "",
}  # fmt: skip
_KERNEL_PARTS = {
    "mean_": "d", "scale_": "d", "basis_": "md", "dual_": "m", "explained_": "mm", "weight_": "", "widths_": "b",
    "noise_": "", "y_mean_": "", "y_scale_": "",
}  # fmt: skip
_LINEAR = (
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV", "Lasso",
    "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression", "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV", "QuantileRegressor", "Ridge", "RidgeCV", "SGDRegressor", "TheilSenRegressor",
)  # fmt: skip
SHAPES: dict[type, dict[str, str]] = {
    StandardScaler: {"mean_": "d", "scale_": "d"},
    PCA: {"components_": "kd", "mean_": "d", "explained_variance_": "k"},
    Nystroem: {"components_": "kd", "normalization_": "kk"},
    DummyRegressor: {"constant_": "11"},
    GramRidge: _COEFFICIENTS,
    LinearSVR: _COEFFICIENTS,
    PLSRegression: {"coef_": "1d", "intercept_": "1", "_x_mean": "d"},
    KernelRidge: {"X_fit_": "nd", "dual_coef_": "n"},
    SVR: _SUPPORT,
    NuSVR: _SUPPORT,
    KNeighborsRegressor: {"_fit_X": "nd", "_y": "n"},
    KernelFusionRegressor: _KERNEL_PARTS,
} | dict.fromkeys((getattr(linear_model, name) for name in _LINEAR), _COEFFICIENTS)

# Allowed parameters where a class's own constraints allow more: "precomputed" kernels and distances would read columns
# of X by stored positions, and other losses have other inverse links.
_KERNELS = ("linear", "poly", "rbf", "sigmoid")
WORDS: dict[type, dict[str, tuple[Any, ...]]] = {
    SVR: {"kernel": _KERNELS},
    NuSVR: {"kernel": _KERNELS},
    KernelRidge: {"kernel": (*_KERNELS, "laplacian")},
    Nystroem: {"kernel": (*_KERNELS, "laplacian")},
    KNeighborsRegressor: {
        "metric": ("cosine", "euclidean", "manhattan", "minkowski"),
        "weights": ("uniform", "distance"),
        "metric_params": (None,),
    },
    HistGradientBoostingRegressor: {"loss": ("squared_error",)},
    TransformedTargetRegressor: {"func": (None,), "inverse_func": (None,)},
    StackingRegressor: {"passthrough": (False,)},
    Pipeline: {"memory": (None,), "transform_input": (None,)},
}


def check_fitted(estimator: Any) -> None:
    """Check a fitted estimator and all its parts; whatever can be rebuilt quickly is rebuilt rather than trusted.

    Raises
    ------
    DrexcacheError : a class that is not listed here, or a parameter or array that fitting never gives.
    """
    _checked(estimator, int(estimator.n_features_in_))


def unlisted(estimator: Any) -> str | None:
    """The class or parameter that keeps an estimator, fitted or not, out of a model file; None if nothing does."""
    parts = (estimator, *estimator.get_params().values())  # also those of its parts
    return next((reason for part in parts if isinstance(part, BaseEstimator) and (reason := _unlisted(part))), None)


def _unlisted(estimator: Any) -> str | None:
    kind = type(estimator)
    if kind not in SHAPES and kind not in PARTS:
        return f"{kind.__module__}.{kind.__qualname__}"
    for name, allowed in WORDS.get(kind, {}).items():
        if getattr(estimator, name) not in allowed:
            return f"{kind.__name__} with {name}={getattr(estimator, name)!r}"
    if kind is TransformedTargetRegressor and type(estimator.transformer) is not StandardScaler:
        return "ratings that are transformed by anything but a StandardScaler"
    return None


def without_search_trees(estimator: Any) -> Any:
    """The estimator, or a copy without the neighbours' search tree, which is rebuilt on loading."""
    parts = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    if all(getattr(part, "_tree", None) is None for part in parts):
        return estimator
    copied = copy.deepcopy(estimator)
    neighbours = copied[-1] if isinstance(copied, Pipeline) else copied
    neighbours._tree = None
    neighbours.effective_metric_params_ = {}
    return copied


def arrays_of(estimator: Any) -> Iterator[np.ndarray]:
    """Yield the arrays that predictions use, of an estimator and all its parts, except those of trees."""
    for value in vars(estimator).values():
        parts = list(value) if isinstance(value, list | tuple) else [value]
        for part in parts:
            inner = part[-1] if isinstance(part, tuple) and part else part
            if isinstance(inner, np.ndarray) and inner.dtype.kind in "fiub":
                yield inner
            elif isinstance(inner, BaseEstimator):
                yield from arrays_of(inner)


def _checked(estimator: Any, d: int) -> int:
    """Check an estimator that takes d columns; returns the number of columns it outputs."""
    kind = type(estimator)
    if kind not in SHAPES and kind not in PARTS:
        raise DrexcacheError(f"holds a {kind.__name__} where a drexcache model never has one; refused")
    _check_parameters(estimator)
    if getattr(estimator, "n_features_in_", d) != d:
        found = estimator.n_features_in_
        raise DrexcacheError(f"holds a {kind.__name__} for {found} columns, but there are {d}; refused")
    if getattr(estimator, "n_outputs_", 1) != 1:
        raise DrexcacheError(f"holds a {kind.__name__} that gives anything but one number; refused")
    sizes = _check_arrays(estimator, d)
    if kind in PARTS:
        return PARTS[kind](estimator, d)
    return sizes.get("k", d if kind is StandardScaler else 1)


def _check_parameters(estimator: Any) -> None:
    kind = type(estimator)
    if hasattr(kind, "_parameter_constraints"):
        estimator._validate_params()  # a ValueError names the parameter
    if reason := unlisted(estimator):
        raise DrexcacheError(f"holds {reason}, which a drexcache model never does; refused")
    hidden = [name for name in set(vars(estimator)) - set(estimator.get_params(deep=False)) if hasattr(kind, name)]
    if (getattr(estimator, "n_jobs", None) or 1) > (os.cpu_count() or 1):
        estimator.n_jobs = -1  # as many threads as there are cores
    if hidden:
        raise DrexcacheError(f"holds a {kind.__name__} whose {hidden[0]} is replaced; refused")


def _check_arrays(estimator: Any, d: int) -> dict[str, int]:
    """Check the arrays listed in `SHAPES`; returns letter -> number."""
    sizes = {"d": d}
    for name, wanted in SHAPES.get(type(estimator), {}).items():
        value = getattr(estimator, name)
        if value is None and isinstance(estimator, StandardScaler):
            continue  # with_mean or with_std is off
        array = np.asarray(value)
        shapes, _, dtype = wanted.partition(":")
        fits = array.dtype == np.dtype(dtype) if dtype else array.dtype.kind == "f"
        if not fits or not np.isfinite(array).all() or not any(_fits(array.shape, s, sizes) for s in shapes.split("|")):
            raise DrexcacheError(
                f"holds a {type(estimator).__name__} whose {name} is {array.dtype} {array.shape}, where finite "
                f"{dtype or 'numbers'} ({', '.join(shapes.replace('|', ''))}) with d={d} belong; refused"
            )
    return sizes


def _fits(shape: tuple[int, ...], wanted: str, sizes: dict[str, int]) -> bool:
    """Whether a shape matches the wanted one; a new letter takes its number from the shape."""
    if len(shape) != len(wanted):
        return False
    pairs = zip(shape, wanted, strict=True)
    return all(size == (int(one) if one.isdigit() else sizes.setdefault(one, size)) for size, one in pairs)


def _pipeline(pipeline: Pipeline, d: int) -> int:
    names = [name for name, _ in pipeline.steps]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DrexcacheError("holds a pipeline without names of its steps; refused")
    for _, step in pipeline.steps:
        d = d if step is None or step == "passthrough" else _checked(step, d)
    return d


def _scaled_target(model: TransformedTargetRegressor, d: int) -> int:
    if _checked(model.regressor_, d) != 1 or type(model.transformer_) is not StandardScaler or model._training_dim != 1:
        raise DrexcacheError("holds ratings scaled in a way that a drexcache model never does; refused")
    return _checked(model.transformer_, 1)


def _stack(stack: StackingRegressor, d: int) -> int:
    columns = sum(_checked(member, d) for member in stack.estimators_)
    if set(stack.stack_method_) != {"predict"} or len(stack.stack_method_) != columns:
        raise DrexcacheError("holds a stack of anything but predictions; refused")
    return _checked(stack.final_estimator_, columns)


def _fusion(head: AttentionFusionRegressor, d: int) -> int:
    """A head inside of another estimator is made again from what a head's own file would hold."""
    again = AttentionFusionRegressor.from_state(*head.get_state())
    head.__dict__.update(again.__dict__)
    return 1


def _kernels(model: KernelFusionRegressor, d: int) -> int:
    """The blocks' columns are made again from the arms."""
    model.arms_, model.columns_ = resolved_arms(model.arms, d)
    if len(model.columns_) != len(model.widths_):
        raise DrexcacheError("holds kernels of other blocks than it has; refused")
    return 1


def _pooled(model: PooledRegressor, d: int) -> int:
    """Both parts are of the regressor's kind."""
    for part in (model.shared_, model.own_):
        if type(part) is not type(model.regressor) or _checked(part, d) != 1:
            raise DrexcacheError("holds another regressor of several datasets than it names; refused")
    return 1


def _network(network: MLPRegressor, d: int) -> int:
    layers = list(zip(network.coefs_, network.intercepts_, strict=True))
    for weights, offsets in layers:
        right = weights.ndim == 2 and weights.shape == (d, len(offsets)) and offsets.ndim == 1
        if not right or weights.dtype.kind != "f" or not (np.isfinite(weights).all() and np.isfinite(offsets).all()):
            raise DrexcacheError("holds a network whose layers do not fit together; refused")
        d = len(offsets)
    if network.n_layers_ != len(layers) + 1 or network.out_activation_ != "identity" or d != 1:
        raise DrexcacheError("holds a network that is no regressor; refused")
    return d


def _neighbours(neighbours: KNeighborsRegressor, d: int) -> int:
    """Trust only the rows, and rebuild the search structure."""
    neighbours.fit(neighbours._fit_X, neighbours._y)
    return 1


def _forest(forest: Any, d: int) -> int:
    if not forest.estimators_:
        raise DrexcacheError("holds a forest without trees; refused")
    for member in forest.estimators_:
        if type(member) not in (DecisionTreeRegressor, ExtraTreeRegressor):
            raise DrexcacheError(f"holds a forest with a {type(member).__name__}; refused")
        _checked(member, d)
    return 1


def _tree(model: Any, d: int) -> int:
    tree = model.tree_
    if type(tree) is not Tree or not 0 < tree.node_count <= tree.capacity or tree.n_features != d:
        raise DrexcacheError("holds a tree of the wrong size; refused")
    inner = np.flatnonzero(tree.children_left != -1)
    below = np.stack([tree.children_left[inner], tree.children_right[inner]])
    _check_nodes(inner, below, tree.feature[inner], tree.value, tree.node_count, d)
    return 1


def _boosting(boosting: HistGradientBoostingRegressor, d: int) -> int:
    predictors = [predictor for step in boosting._predictors for predictor in step]
    categories = boosting._bin_mapper.is_categorical_
    right = (
        all(len(step) == 1 for step in boosting._predictors)
        and boosting.n_trees_per_iteration_ == 1
        and np.shape(boosting._baseline_prediction) == (1, 1)
        and np.isfinite(boosting._baseline_prediction).all()
        and (boosting._preprocessor, boosting._is_categorical_remapped, boosting._n_features) == (None, None, d)
        and (categories.shape, categories.dtype, categories.any()) == ((d,), np.dtype("u1"), False)
    )
    if not right:
        raise DrexcacheError("holds boosted trees of another kind than a drexcache model's; refused")
    boosting._loss = HalfSquaredError()
    for predictor in predictors:
        _check_predictor(predictor, d)
    return 1


def _check_predictor(predictor: TreePredictor, d: int) -> None:
    nodes = predictor.nodes
    if type(predictor) is not TreePredictor or nodes.dtype != PREDICTOR_RECORD_DTYPE or nodes.ndim != 1:
        raise DrexcacheError("holds a tree of the wrong kind; refused")
    if nodes["is_categorical"].any():
        raise DrexcacheError("holds a tree with categories, which a drexcache model never holds; refused")
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    below = np.stack([nodes["left"][inner], nodes["right"][inner]]).astype(np.int64)
    _check_nodes(inner, below, nodes["feature_idx"][inner], nodes["value"], len(nodes), d)


def _check_nodes(
    inner: np.ndarray, below: np.ndarray, feature: np.ndarray, value: np.ndarray, count: int, d: int
) -> None:
    """Check that each inner node (k,) has existing, later children (2, k) and tests an existing column."""
    if count == 0 or (below <= inner).any() or (below >= count).any():
        raise DrexcacheError("holds a tree whose nodes lead nowhere; refused")
    if (feature < 0).any() or (feature >= d).any():
        raise DrexcacheError(f"holds a tree that asks for a column beyond the {d} there are; refused")
    if not np.isfinite(value).all():
        raise DrexcacheError("holds a tree with NaN or infinite values; refused")


PARTS: dict[type, Callable[[Any, int], int]] = {
    Pipeline: _pipeline,
    TransformedTargetRegressor: _scaled_target,
    StackingRegressor: _stack,
    AttentionFusionRegressor: _fusion,
    KernelFusionRegressor: _kernels,
    PooledRegressor: _pooled,
    MLPRegressor: _network,
    KNeighborsRegressor: _neighbours,
    RandomForestRegressor: _forest,
    ExtraTreesRegressor: _forest,
    DecisionTreeRegressor: _tree,
    ExtraTreeRegressor: _tree,
    HistGradientBoostingRegressor: _boosting,
}
