"""Which of two regressors is better on the same images, and what each part of the features contributes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
