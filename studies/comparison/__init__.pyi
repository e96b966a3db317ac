from .ablation import ablate as ablate
from .significance import ALPHA as ALPHA
from .verdicts import Comparison as Comparison
from .verdicts import Pair as Pair
from .verdicts import compare as compare
from .verdicts import join as join
