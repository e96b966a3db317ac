"""Stage 2: folds, search, evaluation, comparison, ablation and the report."""

from drexcache.studies.ablation import ablate
from drexcache.studies.comparison import compare
from drexcache.studies.evaluation import evaluate
from drexcache.studies.report import report
from drexcache.studies.search import search

__all__ = ["ablate", "compare", "evaluate", "report", "search"]
