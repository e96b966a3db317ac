"""The C library's allocator, told what a feature extraction needs of it."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # malloc.h
KEEP = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, up to its peak, instead of handing it back at once.

    A convolutional network frees and takes hundreds of megabytes per batch. glibc returns blocks of that size to the
    system, which has to clear every page again: more than half of EfficientNet-Lite0's time at 512 px
    (benchmarks/results/allocator.txt). Returns whether the C library took the advice; others than glibc are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc: macOS, Windows, musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, KEEP))
