"""The table of scores, and the one way to show it: in a terminal, in markdown, in LaTeX and in the report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
