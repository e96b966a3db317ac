"""Stage 2: folds, evaluation, comparison."""

from drexcache.studies.comparison import compare
from drexcache.studies.evaluation import evaluate

__all__ = ["compare", "evaluate"]
