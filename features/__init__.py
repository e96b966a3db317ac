"""Stage 1: from images to a cache of what frozen backbones (or hand-made cues) say of them, and predictions with it.

`extract` fills a cache, `forecast` says what that would take, `extract_on_ray` has a cluster do it, `predict` takes a
model to new images, and `import_reference` makes a model of the paper authors' checkpoint.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
