"""One training step of K heads: forward, backward, clipping, AdamW and the moving average."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from drexcache.fusion.gradient import backward
from drexcache.fusion.head import fuse, parameter_shapes, parameter_views, project
from drexcache.fusion.kernel import compiled as fusion_compiled
from drexcache.fusion.kernel.compiled import CompiledStep
from drexcache.fusion.plan import Design, HeadSettings, Plan
from drexcache.fusion.update import adamw_and_ema, step_rates

COMPILE_FROM = 1000  # steps from which compiling for a GPU pays


def make_step(
    flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design, x: Tensor, threads: int
) -> TorchStep | CompiledStep:
    """What makes the steps of a training, on the parameters and their average, flat and ema (K, P).

    x : (K, B, d), the first batch. threads : how many work on it, on a CPU.
    """
    if has_compiled_step(design.device):
        return CompiledStep(flat, ema, heads, plan, design, x, threads)
    return TorchStep(flat, ema, heads, plan, design, x)


def has_compiled_step(device: str) -> bool:
    """Whether drexcache's own compiled module makes the steps there."""
    return torch.device(device).type == "cpu" and fusion_compiled.fusion_cpu is not None


class TorchStep:
    """By torch's operations: on a GPU, or where the compiled module is missing."""

    def __init__(
        self, flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design, x: Tensor
    ) -> None:
        self.design, self.x = design, x
        shapes = parameter_shapes(design.dims, design.width)
        self.p, grad = parameter_views(flat, shapes), torch.zeros_like(flat)
        self.grads = parameter_views(grad, shapes)  # name -> (K, *shape)
        self.small_grad = grad[:, sum(design.dims) * design.width :]  # the arms' weights come first
        self.buffers = (flat, grad, torch.zeros_like(flat), torch.zeros_like(flat), ema)
        self.rates = torch.from_numpy(step_rates(heads, plan)).to(flat.device)
        self.clip = torch.tensor([math.inf if h.clip is None else h.clip for h in heads], device=flat.device)
        compiles = flat.device.type == "cuda" and len(self.rates) >= COMPILE_FROM and _can_compile()
        self.update = torch.compile(adamw_and_ema, dynamic=False) if compiles else adamw_and_ema
        self.projected = project(self.p, x, design.columns)  # (K, B, n_arms, width)

    def forward(self, masks: Tensor) -> Tensor:
        """Scores (K, B) of the batch at hand, with dropout factors (K, B, 224)."""
        self.masks = masks
        self.state = fuse(self.p, self.projected, masks, fixed_average=self.design.fixed_average)
        return self.state.scores

    def backward(self, t: int, d_scores: Tensor, ahead: Tensor) -> None:
        """Step t down the loss's gradient by the scores (K, B), and on to the batch ahead, (K, B, d)."""
        fixed_average, columns = self.design.fixed_average, self.design.columns
        d = backward(self.p, self.state, d_scores, self.masks, self.grads, fixed_average=fixed_average)
        factors = _clip_factors(self.x, d, self.small_grad, self.clip, columns)  # (K,)
        d *= factors[:, None, None, None]
        self.small_grad *= factors[:, None]
        for i, cols in enumerate(columns):
            torch.bmm(self.x[..., cols].mT, d[:, :, i], out=self.grads[f"arm.{i}.weight"])
        self.update(self.buffers, self.rates[t])
        self.x, self.projected = ahead, project(self.p, ahead, columns)


def _clip_factors(x: Tensor, d: Tensor, small_grad: Tensor, clip: Tensor, columns: Sequence[slice]) -> Tensor:
    """What to multiply each head's gradient with to clip its norm, (K,), as torch's clip_grad_norm_.

    x (K, B, d), d (K, B, n_arms, width): the arms' inputs, and the loss's gradient by their projections. The
    norm of an arm's gradient is known before that gradient exists, |x.T d|^2 = sum((x x.T) * (d d.T)): nine
    tenths of the gradient are written once, already clipped.
    """
    square = torch.linalg.vector_norm(small_grad, dim=1).square()  # (K,)
    for i, cols in enumerate(columns):
        xi, di = x[..., cols], d[:, :, i]
        square += (torch.bmm(xi, xi.mT) * torch.bmm(di, di.mT)).sum((1, 2))
    return (clip / (square.clamp(min=0).sqrt() + 1e-6)).clamp(max=1)


def _can_compile() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
