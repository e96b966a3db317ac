"""Where tensors are computed: what "auto" means, decided in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str, *, float64: bool = False) -> torch.device:
    """The device that "auto" (CUDA, then MPS, then CPU) or a torch device name stands for.

    float64 : whether it must have double precision, which Apple's MPS has not: it is then the CPU instead.

    Raises
    ------
    DrexcacheError : a device that this machine does not have.

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
