"""All regressors by name, and the model file that a trained one is saved in."""

import sys
from types import ModuleType
from typing import Any

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Room(ModuleType):
    """``drexcache.regressors()`` is a public function, and this package has its name: so it can be called, too."""

    def __call__(self) -> dict[str, Any]:
        from drexcache.regressors.named import regressors

        return regressors()


sys.modules[__name__].__class__ = _Room
