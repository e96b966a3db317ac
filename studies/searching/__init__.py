"""Search over regressors, settings and blocks with Optuna; any number of processes can share one search."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
