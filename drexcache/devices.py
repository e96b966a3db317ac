"""The choice of a device: what "auto" means on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str, *, float64: bool = False) -> torch.device:
    """The device that "auto" (CUDA, then MPS, then CPU) or a torch device name stands for.

    float64 : whether double precision is needed; Apple's MPS does not have it and is then replaced by the CPU.

    Raises
    ------
    DrexcacheError : this machine does not have the device.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DrexcacheError(f"device {name} cannot be used here ({reason}); try auto or cpu") from error
    return torch.device("cpu") if float64 and device.type == "mps" else device
