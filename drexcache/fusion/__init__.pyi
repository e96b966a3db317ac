from .estimator import PRESETS as PRESETS
from .estimator import AttentionFusionRegressor as AttentionFusionRegressor
from .estimator import fit_many as fit_many
from .fitting import fit_together as fit_together
from .head import parameter_shapes as parameter_shapes
from .log import write_log as write_log
from .plan import WINDOW as WINDOW
