"""The HDF5 file: one dataset's features, kept so that a crash loses nothing, read as a matrix or row by row."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
