"""Input: folders, zips, URLs and tables of ratings become an `ImageTable`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
