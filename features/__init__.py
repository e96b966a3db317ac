"""Stage 1: from images to a cache of features from frozen backbones (or hand-made cues), and predictions from a model.

`extract` fills a cache, `forecast` estimates what that would take, `extract_on_ray` does it on a cluster, `predict`
applies a model to new images, and `import_reference` imports the paper authors' checkpoint as a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
