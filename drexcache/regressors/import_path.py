"""Any regressor that follows scikit-learn's contract, by its import path."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from sklearn.base import is_regressor

from drexcache.errors import DrexcacheError


def is_import_path(name: str) -> bool:
    """Whether a regressor's name is one: "package.module.Class" or "package.module:Class".

    >>> is_import_path("xgboost.XGBRegressor"), is_import_path("mine:Best"), is_import_path("svr")
    (True, True, False)
    """
    return "." in name or ":" in name


def regressor_at(path: str) -> Any:
    """An unfitted regressor with its default settings, such as ``regressor_at("sklearn.linear_model.HuberRegressor")``.

    Raises
    ------
    DrexcacheError : the module is missing or cannot be imported, has no such name, or it is no regressor.

    >>> regressor_at("sklearn.linear_model:HuberRegressor")
    HuberRegressor()
    """
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        raise DrexcacheError(
            f"-r {path}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "is it installed, or its folder on PYTHONPATH?"
        ) from error
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise DrexcacheError(f"-r {path}: module {module_name} has no {name}{hint}")
    try:
        estimator = getattr(module, name)()
        good = is_regressor(estimator) and hasattr(estimator, "get_params")
    except Exception as error:
        raise DrexcacheError(f"-r {path}: cannot be made without arguments ({error})") from error
    if not good:
        raise DrexcacheError(f"-r {path}: is no regressor of scikit-learn's kind (a RegressorMixin)")
    return estimator
