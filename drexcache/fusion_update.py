"""The end of a training step: the big gradients, AdamW and the moving average, in few passes over memory."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from drexcache.fusion_head import parameter_shapes, parameter_views, project
from drexcache.fusion_plan import Design, HeadSettings, Plan

BETA2, EPS = 0.999, 1e-8  # torch.optim.AdamW's defaults
TILE = 2**19  # weights whose five buffers stay in a CPU's cache
COMPILE_FROM = 1000  # steps from which compiling for a GPU pays

Update = Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]


def make_update(flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design) -> Update:
    """The function (t, x, d, small_grad, ahead) that makes step t on flat and ema (K, P).

    The arms' weights come first in flat; the gradient of arm i's is x[..., columns].mT @ d[:, :, i] for x
    (K, B, d) and d (K, B, n_arms, width), and small_grad (K, rest) is the gradient of all others. It returns
    the projections (K, B, n_arms, width) of the next batch, ``ahead`` (K, B, d).
    """
    if flat.device.type == "cpu" and flat.shape[1] >= TILE:
        return _tiled_update(flat, ema, heads, plan, design)
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


def _tiled_update(flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design) -> Update:
    """Head by head and tile by tile, so that memory is read and written once a step, and less.

    While a tile is in the processor's cache its gradient is made, used by AdamW and forgotten, its average
    follows, and it projects its features of the next batch. The average reads every second step alone: it
    takes the weights before and after. Every second step goes backwards, from the tiles still in the cache.
    """
    m, v = torch.zeros_like(flat), torch.zeros_like(flat)
    tiles = _tiles(design)
    scratch = torch.empty(max(cols.stop - cols.start for _, cols, _ in tiles), design.width)
    small = slice(flat.shape[1] - _small(flat, design), flat.shape[1])
    count = torch.zeros(())
    behind = _left_behind(heads, plan)

    def step(k: int, part: slice, grad: Tensor, t: int) -> None:
        p, average = flat[k, part], ema[k, part]
        if behind[t - 1, k]:  # for t = 0 the last row, which is never behind
            average.lerp_(p, float(plan.ema_rate[t - 1, k]))
        torch._fused_adamw_(  # what torch.optim.AdamW(fused=True) calls, without its 30 us of bookkeeping
            [p], [grad], [m[k, part]], [v[k, part]], [], [count], lr=float(plan.lr[t, k]),
            beta1=float(plan.beta1[t, k]), beta2=BETA2, weight_decay=heads[k].weight_decay, eps=EPS,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        if not behind[t, k]:
            average.lerp_(p, float(plan.ema_rate[t, k]))

    def update(t: int, x: Tensor, d: Tensor, small_grad: Tensor, ahead: Tensor) -> Tensor:
        count.fill_(t + 1)
        projected = torch.zeros_like(d)
        for k in range(len(flat)):
            if t >= plan.steps[k, 0]:
                continue
            for i, cols, part in tiles[:: 1 if t % 2 else -1]:
                grad = scratch[: cols.stop - cols.start]
                torch.mm(x[k, :, cols].T, d[k, :, i], out=grad)  # (rows, B) @ (B, width)
                step(k, part, grad.view(-1), t)
                projected[k, :, i].addmm_(ahead[k, :, cols], flat[k, part].view(-1, design.width))
            step(k, small, small_grad[k], t)
        return projected

    return torch.no_grad()(update)


def _left_behind(heads: Sequence[HeadSettings], plan: Plan) -> np.ndarray:
    """(T, K): whether the average leaves out a step to make it with the next; never where somebody looks at it."""
    behind = np.zeros((len(plan.lr), len(heads)), bool)
    for k, (steps, per_epoch) in enumerate(plan.steps.tolist()):
        period = steps if heads[k].validation is None else per_epoch
        for t in range(steps):
            behind[t, k] = (t == 0 or not behind[t - 1, k]) and (t + 1) % period != 0
    return behind


def _tiles(design: Design) -> list[tuple[int, slice, slice]]:
    """Arm, its features and their place among one head's parameters, of TILE weights each at most."""
    rows, tiles, place = max(1, TILE // design.width), [], 0
    for i, (first, last) in enumerate(design.arms):
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            end = place + (stop - start) * design.width
            tiles.append((i, slice(start, stop), slice(place, end)))
            place = end
    return tiles


def _small(flat: Tensor, design: Design) -> int:
    return flat.shape[1] - sum(design.dims) * design.width


def _can_compile() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
