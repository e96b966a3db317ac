"""The training step on a CPU with the compiled module fusion_cpu: tiles of weights, distributed over threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from drexcache.fusion.head import parameter_shapes, parameter_views, project
from drexcache.fusion.plan import Design, HeadSettings, Plan, step_rates

try:
    from drexcache.fusion.kernel import fusion_cpu
except ImportError:  # installed without a C compiler
    fusion_cpu = None  # type: ignore[assignment]

TILE = 2**17  # weights per tile
LANES = 8  # threads at most: each step hands work to every one of them


class CompiledStep:
    """Computes the same as `drexcache.fusion.step.TorchStep`, without ever storing the arms' gradients.

    While some rows of weights are in a core's cache, their gradient is computed, used by AdamW and discarded, their
    average is updated, and they project the next batch's features. The average is updated only every second step, with
    the weights before and after it. Each thread has its own tiles and is woken once per step; the result does not
    depend on the number of threads.
    """

    def __init__(
        self, flat: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design, x: Tensor,
        threads: int,
    ) -> None:  # fmt: skip
        K, B, n = len(heads), plan.index.shape[2], len(design.arms)
        self.shape = (K, B, n, design.width, flat.shape[1], design.fixed_average)
        self.flat, self.ema = flat.numpy(), ema.numpy()
        self.m, self.v = np.zeros_like(self.flat), np.zeros_like(self.flat)
        self.arms = np.array(design.arms, np.int64)
        self.clip = np.array([math.inf if head.clip is None else head.clip for head in heads], np.float32)
        self.rates = np.concatenate([step_rates(heads, plan), np.zeros((len(plan.lr), K, 1), np.float32)], axis=2)
        _average_every_second_step(self.rates, heads, plan)
        self.work = np.empty(fusion_cpu.workspace(self.shape), np.float32)
        self.scores = np.empty((K, B), np.float32)
        self.small_grad = np.empty((K, flat.shape[1] - sum(design.dims) * design.width), np.float32)
        self.d = np.empty((K, B, n, design.width), np.float32)

        tiles = _tiles(design, self.small_grad.shape[1])
        self.ends = np.cumsum([sum(tile[3] == arm for tile in tiles) for arm in range(n)]).tolist()
        self.parts = np.empty((self.ends[-1], K, B, design.width), np.float32)
        self.lanes = _lanes([(k, *tile) for k in range(K) for tile in tiles], design.width, min(threads, LANES))
        # the threads end with this object
        self.pool = ThreadPoolExecutor(len(self.lanes) - 1) if len(self.lanes) > 1 else None
        self.x = x.numpy()
        p = parameter_views(flat, parameter_shapes(design.dims, design.width))
        self.projected = project(p, x, design.columns).numpy()

    def forward(self, masks: Tensor) -> Tensor:
        """Scores (K, B) of the current batch, with dropout factors (K, B, 224)."""
        fusion_cpu.forward(self.shape, self.flat, self.projected, masks.numpy(), self.work, self.scores)
        return torch.from_numpy(self.scores)

    def backward(self, t: int, d_scores: Tensor, ahead: Tensor) -> None:
        """Make step t, given the loss's gradient with respect to the scores (K, B); ``ahead`` is the next batch."""
        small = self.small_grad
        fusion_cpu.backward(
            self.shape, self.flat, self.x, self.arms, d_scores.numpy(), self.clip, self.work, small, self.d
        )
        next_x = ahead.numpy()
        work = (self.rates[t], self.flat, self.m, self.v, self.ema, self.x, next_x, self.d, small, self.parts)
        first, *rest = self.lanes
        others = [
            self.pool.submit(fusion_cpu.update, self.shape, lane, *work, t % 2 == 1) for lane in rest if self.pool
        ]
        fusion_cpu.update(self.shape, first, *work, t % 2 == 1)
        for other in others:
            other.result()
        arms = np.split(self.parts, self.ends[:-1])
        self.projected = np.stack([arm.sum(0) for arm in arms], axis=2)
        self.x = next_x


def _tiles(design: Design, small: int) -> list[tuple[int, int, int, int, int]]:
    """One head's tiles: (offset in flat, rows, first column of X, arm, part); last the small parameters, as arm -1."""
    tiles: list[tuple[int, int, int, int, int]] = []
    place = 0
    for arm, (first, last) in enumerate(design.arms):
        count = -(-(last - first) * design.width // TILE)
        edges = np.linspace(first, last, count + 1).round().astype(int).tolist()
        for start, stop in pairwise(edges):
            if stop > start:
                tiles.append((place, stop - start, start, arm, len(tiles)))
                place += (stop - start) * design.width
    return [*tiles, (place, -(-small // design.width), 0, -1, 0)]


def _lanes(tiles: Sequence[tuple[int, ...]], width: int, threads: int) -> list[np.ndarray]:
    """Distribute the tiles over threads, (n, 6) each: the largest first, each to the thread with the least work."""
    lanes: list[list[tuple[int, ...]]] = [[] for _ in range(min(threads, len(tiles)))]
    size = {tile: tile[2] * width for tile in tiles}
    for tile in sorted(tiles, key=lambda tile: -size[tile]):
        min(lanes, key=lambda lane: sum(size[other] for other in lane)).append(tile)
    return [np.array(lane, np.int64) for lane in lanes]


def _average_every_second_step(rates: np.ndarray, heads: Sequence[HeadSettings], plan: Plan) -> None:
    """Move the average's rate (.., 4) of every other step to the next (.., 5), except where the average is used."""
    for k, (steps, per_epoch) in enumerate(plan.steps.tolist()):
        period = steps if heads[k].validation is None else per_epoch
        behind = False
        for t in range(steps - 1):
            behind = not behind and (t + 1) % period != 0
            if behind:
                rates[t + 1, k, 5], rates[t, k, 4] = rates[t, k, 4], 0
