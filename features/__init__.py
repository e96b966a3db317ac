"""Stage 1: backbones, weights, pixels and the extraction engine."""

from drexcache.features.authors_checkpoint import import_reference
from drexcache.features.extraction import Summary, extract
from drexcache.features.prediction import predict

__all__ = ["Summary", "extract", "import_reference", "predict"]
