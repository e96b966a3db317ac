from .estimator import PRESETS as PRESETS
from .estimator import AttentionFusionRegressor as AttentionFusionRegressor
from .estimator import fit_many as fit_many
from .head import parameter_shapes as parameter_shapes
from .plan import WINDOW as WINDOW
