"""The devices of this machine: what "auto" means, how many cores there are, and memory that it gets back."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

from drexcache.errors import DrexcacheError


def resolve_device(name: str, *, float64: bool = False) -> str:
    """The torch device that "auto" (CUDA, then MPS, then CPU) or a device's name stands for.

    Loads torch only where there may be a device besides the CPU.
    float64 : whether double precision is needed; Apple's MPS does not have it and is then replaced by the CPU.

    Raises
    ------
    DrexcacheError : this machine does not have the device.

    >>> resolve_device("cpu")
    'cpu'
    """
    if name == "cpu" or (name == "auto" and not _may_have_another()):
        return "cpu"
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DrexcacheError(f"device {name} cannot be used here ({reason}); try auto or cpu") from error
    return "cpu" if device.type == "cpu" or (float64 and device.type == "mps") else str(device)


def _may_have_another() -> bool:
    """Whether a driver is installed without which no torch finds a GPU: CUDA's, or AMD's; or this is a Mac."""
    if sys.platform == "darwin" or Path("/dev/kfd").exists():
        return True
    with suppress(OSError):
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return True
    return False


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def return_freed_memory() -> None:
    """Return the memory that was freed to the system, where the C library (glibc) keeps it for later."""
    with suppress(OSError, TypeError, AttributeError):  # not glibc: macOS, musl
        ctypes.CDLL(None).malloc_trim(0)
