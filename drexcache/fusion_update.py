"""The end of a training step: the big gradients, AdamW and the moving average, in few passes over memory."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from drexcache.fusion_plan import Design, HeadSettings, Plan

BETA2, EPS = 0.999, 1e-8  # torch.optim.AdamW's defaults
TILE = 2**18  # weights whose five buffers stay in a CPU's cache
COMPILE_FROM = 1000  # steps from which compiling for a GPU pays

Update = Callable[[int, Tensor, Tensor, Tensor], None]


def make_update(flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design) -> Update:
    """The function (t, x, d, small_grad) that makes step t on flat and ema (K, P).

    The arms' weights come first in flat; the gradient of arm i's is x[..., columns].mT @ d[:, :, i] for x
    (K, B, d) and d (K, B, n_arms, width), and small_grad (K, rest) is the gradient of all others.
    """
    if len(heads) == 1 and flat.device.type == "cpu":
        return _tiled_update(flat, ema, heads[0].weight_decay, plan, design)
    return _stacked_update(flat, ema, _rates(heads, plan).to(flat.device), design)


def _stacked_update(flat: Tensor, ema: Tensor, rates: Tensor, design: Design) -> Update:
    """All heads together, each with its own rates (T, 5, K, 1); compiled to one pass on a GPU if possible."""
    grad = torch.zeros_like(flat)
    *big, small = grad.split([*(dim * design.width for dim in design.dims), _small(flat, design)], dim=1)
    big = [part.view(len(flat), -1, design.width) for part in big]  # n_arms times (K, d_i, width)
    buffers = (flat, grad, torch.zeros_like(flat), torch.zeros_like(flat), ema)
    compiles = flat.device.type == "cuda" and len(rates) >= COMPILE_FROM and _can_compile()
    step = torch.compile(adamw_and_ema, dynamic=False) if compiles else adamw_and_ema

    def update(t: int, x: Tensor, d: Tensor, small_grad: Tensor) -> None:
        for i, cols in enumerate(design.columns):
            torch.bmm(x[..., cols].mT, d[:, :, i], out=big[i])
        small.copy_(small_grad)
        step(buffers, rates[t])

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


def _tiled_update(flat: Tensor, ema: Tensor, weight_decay: float, plan: Plan, design: Design) -> Update:
    """One head, tile by tile: a tile's gradient is made, used by AdamW and forgotten, its average follows.

    The whole gradient is never in memory, and the five passes over a tile find it in the cache.
    """
    m, v = torch.zeros_like(flat), torch.zeros_like(flat)
    buffers = [buffer[0] for buffer in (flat, m, v, ema)]  # (P,) each
    rows = max(1, TILE // design.width)
    scratch = torch.empty(1, rows, design.width)
    tiles, start = [], 0
    for i, (first, last) in enumerate(design.arms):
        for a in range(first, last, rows):
            cols = slice(a, min(a + rows, last))
            stop = start + (cols.stop - a) * design.width
            tiles.append((i, cols, [buffer[start:stop] for buffer in buffers]))
            start = stop
    small = [buffer[start:] for buffer in buffers]
    count = torch.zeros(())

    def step(tile: list[Tensor], grad: Tensor, t: int) -> None:
        p, m, v, ema = tile
        torch._fused_adamw_(  # what torch.optim.AdamW(fused=True) calls, without its 30 us of bookkeeping
            [p],
            [grad],
            [m],
            [v],
            [],
            [count],
            lr=float(plan.lr[t, 0]),
            beta1=float(plan.beta1[t, 0]),
            beta2=BETA2,
            weight_decay=weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )
        ema.lerp_(p, float(plan.ema_rate[t, 0]))

    def update(t: int, x: Tensor, d: Tensor, small_grad: Tensor) -> None:
        count.fill_(t + 1)
        for i, cols, tile in tiles:
            grad = scratch[:, : cols.stop - cols.start]
            torch.bmm(x[..., cols].mT, d[:, :, i], out=grad)  # (1, rows, B) @ (1, B, width)
            step(tile, grad.view(-1), t)
        step(small, small_grad[0], t)

    return torch.no_grad()(update)


def _small(flat: Tensor, design: Design) -> int:
    return flat.shape[1] - sum(design.dims) * design.width


def _can_compile() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
