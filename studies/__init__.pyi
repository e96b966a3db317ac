from .comparison import ablate as ablate
from .comparison import compare as compare
from .comparison import curve as curve
from .evaluation import evaluate as evaluate
from .reporting import report as report
from .searching import search as search
