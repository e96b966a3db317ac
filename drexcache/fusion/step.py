"""One training step of K heads: forward, backward, clipping, AdamW and the moving average."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from drexcache.fusion.head import fuse, parameter_shapes, parameter_views, project
from drexcache.fusion.kernel import compiled as fusion_compiled
from drexcache.fusion.kernel.compiled import CompiledStep
from drexcache.fusion.plan import BETA2, Design, HeadSettings, Plan, step_rates

COMPILE_FROM = 1000  # steps from which compiling for a GPU pays


def make_step(
    flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design, x: Tensor, threads: int
) -> TorchStep | CompiledStep:
    """The object that makes the training steps, updating the parameters flat (K, P) and their average ema (K, P).

    x : (K, B, d), the first batch. threads : number of threads on a CPU.
    """
    if has_compiled_step(design.device):
        return CompiledStep(flat, ema, heads, plan, design, x, threads)
    return TorchStep(flat, ema, heads, plan, design, x)


def has_compiled_step(device: str) -> bool:
    """Whether drexcache's own compiled module makes the steps on this device."""
    return torch.device(device).type == "cpu" and fusion_compiled.fusion_cpu is not None


class TorchStep:
    """Training steps by torch's operations and autograd, on a GPU or if the compiled module is missing."""

    def __init__(
        self, flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design, x: Tensor
    ) -> None:
        self.design, self.x = design, x
        shapes, arms = parameter_shapes(design.dims, design.width), len(design.arms)
        leaves = {name: view.detach().requires_grad_() for name, view in parameter_views(flat, shapes).items()}
        self.p, self.small = leaves, list(leaves.values())[arms:]  # the arms' weights come first
        grad = torch.zeros_like(flat)
        self.arm_grads = list(parameter_views(grad, shapes).values())[:arms]
        self.small_grad = grad[:, sum(design.dims) * design.width :]
        self.buffers = (flat, grad, torch.zeros_like(flat), torch.zeros_like(flat), ema)
        self.rates = torch.from_numpy(step_rates(heads, plan)).to(flat.device)
        self.clip = torch.tensor([[math.inf if h.clip is None else h.clip] for h in heads], device=flat.device)
        compiles = flat.device.type == "cuda" and len(self.rates) >= COMPILE_FROM and _can_compile()
        self.update = torch.compile(clip_adamw_ema, dynamic=False) if compiles else clip_adamw_ema

    @torch.enable_grad()
    def forward(self, masks: Tensor) -> Tensor:
        """Scores (K, B) of the current batch, with dropout factors (K, B, 224)."""
        with torch.no_grad():
            projected = project(self.p, self.x, self.design.columns)  # (K, B, n_arms, width)
        self.projected = projected.requires_grad_()
        self.scores = fuse(self.p, self.projected, masks, fixed_average=self.design.fixed_average).scores
        return self.scores.detach()

    def backward(self, t: int, d_scores: Tensor, ahead: Tensor) -> None:
        """Make step t, given the loss's gradient with respect to the scores (K, B); ``ahead`` is the next batch."""
        leaves = [self.projected, *self.small]
        d, *small = torch.autograd.grad(self.scores, leaves, d_scores, allow_unused=True, materialize_grads=True)
        torch.cat([grad.flatten(1) if grad.dim() > 1 else grad[:, None] for grad in small], dim=1, out=self.small_grad)
        for i, cols in enumerate(self.design.columns):  # nine tenths of the gradient, written in place
            torch.bmm(self.x[..., cols].mT, d[:, :, i], out=self.arm_grads[i])
        self.update(self.buffers, self.rates[t], self.clip)
        self.x = ahead


@torch.no_grad()
def clip_adamw_ema(buffers: tuple[Tensor, ...], rates: Tensor, clip: Tensor) -> None:
    """Clip the gradients' norms, then update parameters (AdamW) and average, on five (K, P) buffers.

    rates : (K, 5), one step of `drexcache.fusion.plan.step_rates`. clip : (K, 1), the largest norms allowed.
    """
    p, g, m, v, ema = buffers
    keep, rate, m_rate, eps, ema_rate = rates[..., None].unbind(1)  # (K, 1) each
    norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
    g.mul_((clip / (norm + 1e-6)).clamp(max=1))  # as torch.nn.utils.clip_grad_norm_
    m.lerp_(g, m_rate)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    change = torch.sqrt(v, out=g).add_(eps)  # reuses the gradient's memory: allocating takes longer than the sums
    p.mul_(keep).sub_(torch.div(m, change, out=change).mul_(rate))
    ema.lerp_(p, ema_rate)


def _can_compile() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
