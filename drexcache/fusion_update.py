"""The end of a training step: the big gradients, AdamW and the moving average, in few passes over memory."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from drexcache import fusion_tiles
from drexcache.fusion_head import parameter_shapes, parameter_views, project
from drexcache.fusion_plan import Design, HeadSettings, Plan
from drexcache.fusion_tiles import BETA2, EPS, TiledUpdate, Update

COMPILE_FROM = 1000  # steps from which compiling for a GPU pays


def make_update(
    flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design, threads: int = 1
) -> Update:
    """The function (t, x, d, small_grad, ahead) that makes step t on flat and ema (K, P).

    threads : on a CPU, how many work on it.
    The arms' weights come first in flat; the gradient of arm i's is x[..., columns].mT @ d[:, :, i] for x
    (K, B, d) and d (K, B, n_arms, width), and small_grad (K, rest) is the gradient of all others. It returns
    the projections (K, B, n_arms, width) of the next batch, ``ahead`` (K, B, d).
    """
    if flat.device.type == "cpu" and flat.shape[1] >= fusion_tiles.TILE:
        return TiledUpdate(flat, ema, heads, plan, design, threads)
    return _stacked_update(flat, ema, _rates(heads, plan).to(flat.device), design)


def _stacked_update(flat: Tensor, ema: Tensor, rates: Tensor, design: Design) -> Update:
    """All heads together, each with its own rates (T, 5, K, 1); compiled to one pass on a GPU if possible."""
    grad = torch.zeros_like(flat)
    p = parameter_views(flat, parameter_shapes(design.dims, design.width))
    *big, small = grad.split([*(dim * design.width for dim in design.dims), _small(flat, design)], dim=1)
    big = [part.view(len(flat), -1, design.width) for part in big]  # n_arms times (K, d_i, width)
    buffers = (flat, grad, torch.zeros_like(flat), torch.zeros_like(flat), ema)
    compiles = flat.device.type == "cuda" and len(rates) >= COMPILE_FROM and _can_compile()
    step = torch.compile(adamw_and_ema, dynamic=False) if compiles else adamw_and_ema

    def update(t: int, x: Tensor, d: Tensor, small_grad: Tensor, ahead: Tensor) -> Tensor:
        for i, cols in enumerate(design.columns):
            torch.bmm(x[..., cols].mT, d[:, :, i], out=big[i])
        small.copy_(small_grad)
        step(buffers, rates[t])
        return project(p, ahead, design.columns)

    return update


@torch.no_grad()
def adamw_and_ema(buffers: tuple[Tensor, ...], rates: Tensor) -> None:
    """One step of AdamW and EMA on five (K, P) buffers, with rates (5, K, 1)."""
    p, g, m, v, ema = buffers
    keep, rate, m_rate, eps, ema_rate = rates
    m.lerp_(g, m_rate)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    p.mul_(keep).sub_(rate * m / (v.sqrt() + eps))
    ema.lerp_(p, ema_rate)


def _rates(heads: Sequence[HeadSettings], plan: Plan) -> Tensor:
    """Each step's five rates for `adamw_and_ema`, (T, 5, K, 1), with AdamW's bias corrections folded in."""
    steps = np.arange(1, len(plan.lr) + 1)[:, None]
    correction = np.sqrt(1 - BETA2**steps)  # of sqrt(v); it multiplies rate and eps instead of dividing sqrt(v)
    keep = 1 - plan.lr * np.array([head.weight_decay for head in heads])
    rate = plan.lr * correction / (1 - plan.beta1**steps)
    eps = np.broadcast_to(EPS * correction, rate.shape)
    rates = np.stack([keep, rate, 1 - plan.beta1, eps, plan.ema_rate], axis=1)
    return torch.from_numpy(rates.astype(np.float32))[..., None]


def _small(flat: Tensor, design: Design) -> int:
    return flat.shape[1] - sum(design.dims) * design.width


def _can_compile() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
