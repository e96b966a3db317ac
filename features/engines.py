"""When a backbone is compiled, and how: only if the images to come pay for it, and never silently otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from drexcache.errors import DrexcacheError
from drexcache.features.backbone import Backbone

CHOICES = ("auto", "always", "never")

# What compiling one backbone takes, in seconds, and which share of the eager time it saves: stated, not measured in
# each run. Freezing folds batch norms into convolutions, of which a transformer in fp32 has none to gain from.
COST = {"cpu": 60.0, "cuda": 90.0}
SAVED = {"fp32": 0.1, "bf16": 0.25}
FEWEST = 100  # images; for fewer it is not even worth to measure


def settle(backbone: Backbone, images: int, choice: str, say: Callable[[str], None]) -> None:
    """Compile the backbone if ``images`` to compute pay for it ("auto") or it is wished ("always"); say what was done.

    Raises
    ------
    DrexcacheError : "always" where compiling is not possible; the message says why.
    """
    few = images < FEWEST if choice == "auto" else not images
    if choice == "never" or few or backbone.device.type not in COST:
        return
    name, cost = backbone.block.name, COST[backbone.device.type]
    seconds = backbone.seconds_per_image()
    saved = images * seconds * _share_saved(backbone)
    sums = f"{images} images at {seconds:.3f} s would save about {saved:.0f} s, compiling takes about {cost:.0f} s"
    if choice == "auto" and saved < cost:
        say(f"block {name}: eager ({sums})")
        return
    started = time.monotonic()
    if reason := missing_compiler(backbone.device) or (_try_to_compile(backbone) and _try_anew(backbone)):
        if choice == "always":
            raise DrexcacheError(f"block {name}: cannot be compiled ({reason}); mend it, or give --compile never")
        say(f"block {name}: EAGER, although compiling would pay ({sums}): {reason}")
        return
    say(f"block {name}: compiled in {time.monotonic() - started:.0f} s ({sums})")


def missing_compiler(device: torch.device) -> str:
    """Why nothing can be compiled for this device, or ""."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "Triton is not installed"
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # torch has several errors for this
        return f"no C++ compiler such as g++ was found ({type(error).__name__})"
    return ""


def _try_to_compile(backbone: Backbone) -> str:
    """Compile and run one full batch; why that did not work, or ""."""
    eager, pixels = backbone.forward, torch.zeros(backbone.batch, 3, *backbone.block.size, dtype=torch.uint8)
    backbone.forward, backbone.compiled = compile_module(backbone.tapped, backbone.device), True
    try:
        backbone(pixels).cpu()
    except DrexcacheError:
        raise
    except Exception as error:  # whatever a compiler stumbles over, the eager model works
        backbone.forward, backbone.compiled = eager, False
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


def _try_anew(backbone: Backbone) -> str:
    """As above, without torch's cache of compiled code: a process killed while it compiled left a file cut short."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        return _try_to_compile(backbone)


def compile_module(module: nn.Module, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module compiled for one shape: weights frozen into the code on a CPU, CUDA graphs on a GPU."""
    if device.type == "cuda":
        return torch.compile(module, dynamic=False, fullgraph=True, mode="reduce-overhead")
    return torch.compile(module, dynamic=False, fullgraph=True, options={"freezing": True})


def _share_saved(backbone: Backbone) -> float:
    normed = any(isinstance(module, nn.BatchNorm2d) for module in backbone.tapped.modules())
    fp32_transformer = backbone.device.type == "cpu" and backbone.block.precision == "fp32" and not normed
    return 0.0 if fp32_transformer else SAVED[backbone.block.precision]
