from .authors_checkpoint import import_reference as import_reference
from .demo_pictures import draw_set as draw_set
from .dry_run import Forecast as Forecast
from .dry_run import forecast as forecast
from .extraction import Summary as Summary
from .loading import extract as extract
from .prediction import predict as predict
from .ray import extract_on_ray as extract_on_ray
