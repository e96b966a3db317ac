"""All regressors by name, and the model file that a trained one is saved in."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
