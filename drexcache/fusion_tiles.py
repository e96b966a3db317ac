"""The end of a training step on a CPU: tiles of weights, shared out among threads, each in few passes over memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from drexcache.fusion_plan import Design, HeadSettings, Plan

BETA2, EPS = 0.999, 1e-8  # torch.optim.AdamW's defaults
TILE = 3 * 2**17  # weights whose five buffers stay in a core's share of the cache
LANES = 8  # threads at most: each step hands work to each of them once

Update = Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Tile:
    """Some parameters of one head, n of them, and all that a step does with them.

    arm, cols : which features the weights multiply; None for the parameters that are no arm's weights.
    p, m, v, average : (n,) parameters, AdamW's moments, moving average.
    weight : (rows, width), the same parameters as the arm's matrix. projected : (B, width), its share.
    """

    k: int
    p: Tensor
    m: Tensor
    v: Tensor
    average: Tensor
    arm: int = 0
    cols: slice | None = None
    weight: Tensor | None = None
    projected: Tensor | None = None


class TiledUpdate:
    """Makes step t on flat and ema (K, P), see `drexcache.fusion_update.make_update`.

    While a tile is in a core's cache its gradient is made, used by AdamW and forgotten, its average follows, and it
    projects its features of the next batch. The average reads every second step alone: it takes the weights before
    and after. Every second step goes backwards, from the tiles still in the cache.

    torch would share out every single operation, some 50 a step, and wake its threads as often; here each thread has
    tiles of its own and is woken once a step. What is computed does not depend on the number of threads.
    """

    def __init__(
        self, flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design, threads: int
    ) -> None:
        self.heads, self.plan = heads, plan
        self.behind = _left_behind(heads, plan)
        self.count = torch.zeros(())  # steps made, as AdamW wants to know
        self.parts = [  # of the next batch's projections, for each arm: (tiles, K, B, width)
            torch.zeros(len(_cuts(design, i)), *plan.index.shape[1:], design.width) for i in range(len(design.arms))
        ]
        self.lanes = _lanes(self._tiles(flat, ema, design), min(threads, LANES))
        rows = max(cols.stop - cols.start for i in range(len(design.arms)) for cols in _cuts(design, i))
        self.grads = [torch.empty(rows, design.width) for _ in self.lanes]
        # its threads end with this object
        self.pool = ThreadPoolExecutor(len(self.lanes) - 1) if len(self.lanes) > 1 else None

    def __call__(self, t: int, x: Tensor, d: Tensor, small_grad: Tensor, ahead: Tensor) -> Tensor:
        """The projections (K, B, n_arms, width) of the next batch."""
        self.count.fill_(t + 1)
        work = (t, x, d, small_grad, ahead)
        others = [self.pool.submit(self._run, lane, *work) for lane in range(1, len(self.lanes))] if self.pool else []
        self._run(0, *work)
        for other in others:
            other.result()
        return torch.stack([part.sum(0) for part in self.parts], dim=2)

    def _tiles(self, flat: Tensor, ema: Tensor, design: Design) -> list[Tile]:
        m, v = torch.zeros_like(flat), torch.zeros_like(flat)
        tiles = []
        for k in range(len(flat)):
            place = 0
            for i in range(len(design.arms)):
                for part, cols in zip(self.parts[i], _cuts(design, i), strict=True):
                    at = slice(place, place + (cols.stop - cols.start) * design.width)
                    weight = flat[k, at].view(-1, design.width)
                    tiles.append(Tile(k, flat[k, at], m[k, at], v[k, at], ema[k, at], i, cols, weight, part[k]))
                    place = at.stop
            rest = slice(place, flat.shape[1])
            tiles.append(Tile(k, flat[k, rest], m[k, rest], v[k, rest], ema[k, rest]))
        return tiles

    @torch.inference_mode()
    def _run(self, lane: int, t: int, x: Tensor, d: Tensor, small_grad: Tensor, ahead: Tensor) -> None:
        """One thread's part of step t."""
        for tile in self.lanes[lane][:: 1 if t % 2 else -1]:
            k = tile.k
            if t >= self.plan.steps[k, 0]:
                continue
            if tile.weight is None:
                self._step(tile, small_grad[k], t)
            else:
                grad = self.grads[lane][: len(tile.weight)]
                torch.mm(x[k, :, tile.cols].T, d[k, :, tile.arm], out=grad)  # (rows, B) @ (B, width)
                self._step(tile, grad.view(-1), t)
                torch.mm(ahead[k, :, tile.cols], tile.weight, out=tile.projected)

    def _step(self, tile: Tile, grad: Tensor, t: int) -> None:
        """AdamW and the moving average on one tile."""
        k, rate = tile.k, self.plan.ema_rate
        if self.behind[t - 1, k]:  # for t = 0 the last row, which is never behind
            tile.average.lerp_(tile.p, float(rate[t - 1, k]))
        torch._fused_adamw_(  # what torch.optim.AdamW(fused=True) calls, without its 30 us of bookkeeping
            [tile.p], [grad], [tile.m], [tile.v], [], [self.count], lr=float(self.plan.lr[t, k]),
            beta1=float(self.plan.beta1[t, k]), beta2=BETA2, weight_decay=self.heads[k].weight_decay, eps=EPS,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        if not self.behind[t, k]:
            tile.average.lerp_(tile.p, float(rate[t, k]))


def _cuts(design: Design, arm: int) -> list[slice]:
    """The arm's columns of X in even tiles of TILE weights at most."""
    first, last = design.arms[arm]
    count = -(-(last - first) * design.width // TILE)
    edges = np.linspace(first, last, count + 1).round().astype(int).tolist()
    return [slice(start, stop) for start, stop in pairwise(edges) if stop > start]


def _lanes(tiles: Sequence[Tile], threads: int) -> list[list[Tile]]:
    """The tiles by thread, evenly: the largest first, each to the thread that has the least to do."""
    lanes: list[list[Tile]] = [[] for _ in range(min(threads, len(tiles)))]
    for tile in sorted(tiles, key=lambda tile: -len(tile.p)):
        min(lanes, key=lambda lane: sum(len(other.p) for other in lane)).append(tile)
    return lanes


def _left_behind(heads: Sequence[HeadSettings], plan: Plan) -> np.ndarray:
    """(T, K): whether the average leaves out a step to make it with the next; never where somebody looks at it."""
    behind = np.zeros((len(plan.lr), len(heads)), bool)
    for k, (steps, per_epoch) in enumerate(plan.steps.tolist()):
        period = steps if heads[k].validation is None else per_epoch
        for t in range(steps):
            behind[t, k] = (t == 0 or not behind[t - 1, k]) and (t + 1) % period != 0
    return behind
