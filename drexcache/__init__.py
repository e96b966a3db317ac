"""drexcache: pay for frozen vision backbones once, then iterate on small regressors in seconds.

The public names, loaded when first used so that ``import drexcache`` stays fast:
`open_cache`, `import_features`, `FeatureCache`, `FeatureMatrix`, `Recipe`, `recipe`, `read_images`,
`AttentionFusionRegressor`, `TorchHeadRegressor`, `KernelFusionRegressor`, `PooledRegressor`, `GramRidge`,
`regressors`, `fit_many`, `train_streamed`, `Model`, `load_model`, `metrics`, `ScoreTable`, `DrexcacheError`.
"""

import lazy_loader

# This also makes ``drexcache.regressors`` the function, not the subpackage of that name.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
