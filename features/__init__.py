"""Stage 1: backbones, weights, pixels and the extraction engine."""

from drexcache.features.extraction import Summary, extract
from drexcache.features.prediction import predict
from drexcache.features.reference import import_reference

__all__ = ["Summary", "extract", "import_reference", "predict"]
