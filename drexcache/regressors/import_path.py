"""Regressors by import path: any that follows scikit-learn's interface, or a fusion head as a torch module."""

from __future__ import annotations

import pkgutil
import sys
from typing import Any

from sklearn.base import RegressorMixin, clone

from drexcache.errors import DrexcacheError, nearest

METHODS = ("fit", "predict", "get_params", "set_params")


def is_import_path(name: str) -> bool:
    """Whether a regressor's name is an import path: "package.module.Class" or "package.module:Class".

    >>> is_import_path("xgboost.XGBRegressor"), is_import_path("mine:Best"), is_import_path("svr")
    (True, True, False)
    """
    return "." in name or ":" in name


def regressor_at(path: str) -> Any:
    """An unfitted regressor with its default settings, such as ``regressor_at("sklearn.linear_model.HuberRegressor")``.

    Importing a module runs it, so the path must come from the user, or from a file that the user trusts. The object
    found is called only if it is a regressor class. A ``torch.nn.Module`` is wrapped in a
    `TorchHeadRegressor`, and an instance of that is copied.

    Raises
    ------
    DrexcacheError : the module is missing, cannot be imported or has no such name, or the object is no regressor class.

    >>> regressor_at("sklearn.linear_model:HuberRegressor")
    HuberRegressor()
    """
    kind = _found_at(path, f"-r {path}")
    if "torch" in sys.modules:  # else it can be no module of torch
        from drexcache.fusion import TorchHeadRegressor

        if isinstance(kind, TorchHeadRegressor):
            return clone(kind)
        if _is_module(kind):
            return TorchHeadRegressor(kind)
    regressor = isinstance(kind, type) and (
        issubclass(kind, RegressorMixin) or getattr(kind, "_estimator_type", None) == "regressor"  # CatBoost's
    )
    if not regressor or not all(callable(getattr(kind, method, None)) for method in METHODS):
        raise DrexcacheError(
            f"-r {path}: found {_kind(kind)}; expected the class of a regressor of scikit-learn's kind "
            "(a RegressorMixin and BaseEstimator with fit and predict), a torch.nn.Module, or a TorchHeadRegressor"
        )
    try:
        return kind()
    except Exception as error:  # whatever its own code raises
        raise DrexcacheError(f"-r {path}: cannot be made without arguments ({error})") from error


def module_at(path: str) -> Any:
    """The class of a head that stands in a model file; importing it runs its code, as in `regressor_at`.

    Raises
    ------
    DrexcacheError : the path leads to no class of a ``torch.nn.Module``.
    """
    found = _found_at(path, path)
    if not _is_module(found):
        raise DrexcacheError(f"{path} is {_kind(found)}, where the class of a torch.nn.Module belongs")
    return found


def _is_module(found: Any) -> bool:
    from torch import nn

    return isinstance(found, type) and issubclass(found, nn.Module)


def _found_at(path: str, shown: str) -> Any:
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = pkgutil.resolve_name(module_name)
    except Exception as error:  # whatever the module's own code raises
        raise DrexcacheError(
            f"{shown}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "is it installed, or its folder on PYTHONPATH?"
        ) from error
    if not hasattr(module, name):
        known = [public for public in dir(module) if not public.startswith("_")]
        raise DrexcacheError(f"{shown}: module {module_name} has no {name}; {nearest(name, known)}")
    return getattr(module, name)


def _kind(found: Any) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a value of type {type(found).__name__}"
