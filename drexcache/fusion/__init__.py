"""The attention-fusion head: its forward pass, its training, and the scikit-learn estimator around them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
