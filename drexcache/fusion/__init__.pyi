from .checks import resolved_arms as resolved_arms
from .estimator import PRESETS as PRESETS
from .estimator import AttentionFusionRegressor as AttentionFusionRegressor
from .estimator import fit_many as fit_many
from .head import fuse as fuse
from .head import parameter_shapes as parameter_shapes
from .head import project as project
from .plan import WINDOW as WINDOW
