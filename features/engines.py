"""The engines that run a backbone: plain torch ("eager") or, on CUDA, torch.compile with CUDA graphs ("compiled")."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    from drexcache.features.backbone import Backbone

COMPILE = ("auto", "always", "never")
WORTH_COMPILING = 20_000  # images; compiling takes a minute or more
M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1  # malloc.h


@dataclass(frozen=True)
class Engines:
    """Chooses a backbone's engine once the number of images is known, and reports the choice and the reason.

    compile : on CUDA, "always", "never" or, with "auto", for WORTH_COMPILING images or more. Nothing is compiled on
        other devices: on a CPU it takes half a minute and the result is slower than eager.
    """

    compile: str = "auto"

    def __call__(self, backbone: Backbone, images: int) -> None:
        """Set the backbone's ``run`` and ``mode``.

        Raises
        ------
        DrexcacheError : "always" although compiling is not possible (says why).
        """
        name = backbone.block.name
        if backbone.device.type != "cuda":
            if self.compile == "always":
                backbone.say(f"block {name}: eager, for nothing is compiled on {backbone.device.type}")
            return
        if self.compile == "never" or (self.compile == "auto" and images < WORTH_COMPILING):
            return
        started = time.monotonic()
        if reason := _why_no_compiler() or (_try_to_compile(backbone) and _try_anew(backbone)):
            if self.compile == "always":
                raise DrexcacheError(f"block {name}: cannot be compiled ({reason}); give --compile never")
            backbone.say(f"block {name}: EAGER, although compiling would pay for {images} images: {reason}")
            return
        backbone.say(f"block {name}: compiled in {time.monotonic() - started:.0f} s")


def _why_no_compiler() -> str:
    """The reason why nothing can be compiled here, or ""."""
    from torch.utils._triton import has_triton

    return "" if has_triton() else "Triton is not installed"


def _try_to_compile(backbone: Backbone) -> str:
    """Compile and run one full batch; returns the reason if that failed, else ""."""
    import torch

    pixels = [np.zeros((3, *backbone.block.pixels), np.uint8)] * backbone.batch
    try:
        backbone.run = torch.compile(backbone.tapped, dynamic=False, fullgraph=True, mode="reduce-overhead")
        backbone.mode, backbone.whole_batches = "compiled", True
        backbone(pixels).cpu()
    except DrexcacheError:
        raise
    except Exception as error:  # whatever the compiler fails on, the eager model works
        backbone.run, backbone.mode, backbone.whole_batches = backbone.tapped, "eager", False
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


def _try_anew(backbone: Backbone) -> str:
    """As above with a fresh cache of compiled code: a process killed while compiling may have left a truncated file."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        return _try_to_compile(backbone)


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, up to its peak, instead of returning it at once.

    A convolutional network frees and takes hundreds of megabytes per batch. glibc returns blocks of that size to the
    system, which has to clear every page again: more than half of EfficientNet-Lite0's time at 512 px
    (benchmarks/results/allocator.txt). All threads share what is kept: with an arena each, every decoding thread would
    hold the largest image that it ever met.

    Returns whether the C library took the advice; others than glibc are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not glibc: macOS, Windows, musl
        return False
    advice = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: (1 << 31) - 1}
    return all(mallopt(what, value) for what, value in advice.items())
