"""An estimator as bytes without pickle, and back, with nothing executed and nothing out of bounds on the way."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import skops.io
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.pipeline import Pipeline
from sklearn.tree._tree import Tree

from drexcache.errors import DrexcacheError

# What our regressors hold beyond the types that skops knows to be safe. Trees are compiled code that follows the
# indices in the file without looking: `_check_trees` looks. The others only hold attributes.
TRUSTED = (
    "drexcache.fusion.AttentionFusionRegressor",
    "drexcache.GramRidge",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.model_selection._split.KFold",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
OLD_RIDGE = b'"__module__": "drexcache.ridge"'


def dump_estimator(estimator: Any) -> bytes:
    """The estimator in skops's format.

    Raises
    ------
    DrexcacheError : it holds something that could not be read back without trusting code from elsewhere.
    """
    kind = type(estimator).__name__
    try:
        data: bytes = skops.io.dumps(estimator)
        foreign = _foreign(data)
    except Exception as error:  # skops raises whatever it stumbles over
        raise DrexcacheError(f"{kind} cannot be saved without pickle ({error}); evaluate can still use it") from error
    if foreign:
        raise DrexcacheError(
            f"{kind} cannot be saved: reading it back would mean to trust {foreign[0]}; evaluate can still use it"
        )
    return data


def load_estimator(data: bytes) -> Any:
    """The estimator that `dump_estimator` wrote.

    Raises
    ------
    DrexcacheError : it holds types that a model of ours never holds, or trees that lead out of bounds. Other damage
        raises whatever skops raises, and another scikit-learn's file its warning.
    """
    data = _with_todays_names(data)
    if foreign := _foreign(data):
        raise DrexcacheError(f"holds {foreign[0]}, which a drexcache model never holds; refused")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another scikit-learn wrote it: say so in one sentence
        estimator = skops.io.loads(data, trusted=list(TRUSTED))
    _check_trees(estimator)
    return estimator


def _with_todays_names(data: bytes) -> bytes:
    """The same estimator, with the class path that release 0.1 wrote brought up to date."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    schema = members.get("schema.json", b"")
    if OLD_RIDGE not in schema:
        return data
    members["schema.json"] = schema.replace(OLD_RIDGE, b'"__module__": "drexcache"')
    fresh = io.BytesIO()
    with zipfile.ZipFile(fresh, "w") as new:
        for name, member in members.items():
            new.writestr(name, member)
    return fresh.getvalue()


def _foreign(data: bytes) -> list[str]:
    return [name for name in skops.io.get_untrusted_types(data=data) if name not in TRUSTED]


def _check_trees(estimator: Any) -> None:
    """All trees are those of a forest or of histogram boosting, alone or at the end of a pipeline, and in bounds."""
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    checked: list[Any] = []
    if isinstance(last, RandomForestRegressor | ExtraTreesRegressor):
        for member in last.estimators_:
            _check_tree(member.tree_, {member.n_features_in_, last.n_features_in_})
            checked.append(member.tree_)
    elif isinstance(last, HistGradientBoostingRegressor):
        for predictor in chain.from_iterable(last._predictors):
            _check_predictor(predictor, last.n_features_in_)
            checked.append(predictor)
    if {id(tree) for tree in _trees(estimator, set())} != {id(tree) for tree in checked}:
        raise DrexcacheError("holds trees where a drexcache model never has any; refused")


def _check_tree(tree: Tree, widths: set[int]) -> None:
    if not 0 < tree.node_count <= tree.capacity or widths != {tree.n_features}:
        raise DrexcacheError("holds a tree of the wrong size; refused")
    inner = np.flatnonzero(tree.children_left != -1)
    below = np.stack([tree.children_left[inner], tree.children_right[inner]])
    _check_nodes(inner, below, tree.feature[inner], tree.node_count, tree.n_features)


def _check_predictor(predictor: TreePredictor, d: int) -> None:
    nodes = predictor.nodes
    if nodes["is_categorical"].any():
        raise DrexcacheError("holds a tree with categories, which a drexcache model never holds; refused")
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    below = np.stack([nodes["left"][inner], nodes["right"][inner]]).astype(np.int64)
    _check_nodes(inner, below, nodes["feature_idx"][inner], len(nodes), d)


def _check_nodes(inner: np.ndarray, below: np.ndarray, feature: np.ndarray, count: int, d: int) -> None:
    """That each inner node (k,) has later nodes that exist below it (2, k), and asks for a column that exists."""
    if count == 0 or (below <= inner).any() or (below >= count).any():
        raise DrexcacheError("holds a tree whose nodes lead nowhere; refused")
    if (feature < 0).any() or (feature >= d).any():
        raise DrexcacheError(f"holds a tree that asks for a column beyond the {d} there are; refused")


def _trees(value: Any, seen: set[int]) -> Iterator[Any]:
    """Every tree that can be reached from a value."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tree | TreePredictor):
        yield value
    inner: list[Any] = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, dict):
        inner += value.values()
    elif isinstance(value, list | tuple | set) or (isinstance(value, np.ndarray) and value.dtype == object):
        inner += list(value)
    for one in inner:
        yield from _trees(one, seen)
