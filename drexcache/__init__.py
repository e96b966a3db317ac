"""drexcache: pay for frozen vision backbones once, then iterate on small regressors in seconds.

The public names, loaded when first used so that ``import drexcache`` stays fast:
`open_cache`, `FeatureCache`, `FeatureMatrix`, `Recipe`, `recipe`, `read_images`, `AttentionFusionRegressor`,
`regressors`, `Model`, `load_model`, `metrics`, `ScoreTable`, `DrexcacheError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    from drexcache import metrics
    from drexcache.cache import FeatureCache, open_cache
    from drexcache.estimators import regressors
    from drexcache.fusion import AttentionFusionRegressor
    from drexcache.images import read_images
    from drexcache.matrix import FeatureMatrix
    from drexcache.model import Model, load_model
    from drexcache.recipes import Recipe, recipe
    from drexcache.scores import ScoreTable

_HOME = {
    "open_cache": "cache",
    "FeatureCache": "cache",
    "FeatureMatrix": "matrix",
    "Recipe": "recipes",
    "recipe": "recipes",
    "read_images": "images",
    "AttentionFusionRegressor": "fusion",
    "regressors": "estimators",
    "Model": "model",
    "load_model": "model",
    "ScoreTable": "scores",
}

__all__ = [
    "AttentionFusionRegressor",
    "DrexcacheError",
    "FeatureCache",
    "FeatureMatrix",
    "Model",
    "Recipe",
    "ScoreTable",
    "load_model",
    "metrics",
    "open_cache",
    "read_images",
    "recipe",
    "regressors",
]


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("drexcache.metrics")
    if name not in _HOME:
        raise AttributeError(f"module 'drexcache' has no attribute {name!r}")
    return getattr(importlib.import_module(f"drexcache.{_HOME[name]}"), name)
