"""Monitoring a training: progress, and early stopping by the averaged weights' loss on validation rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from drexcache.fusion.head import fuse, parameter_shapes, parameter_views, project
from drexcache.fusion.plan import SPAN, Design, HeadSettings, Plan
from drexcache.fusion.rows import Inputs
from drexcache.metrics import pearson
from drexcache.progress import step_bar


class Validation:
    """Early stopping of K heads; a head without ``validation`` rows is not monitored and keeps its last weights."""

    def __init__(self, inputs: Inputs, y: Tensor, heads: Sequence[HeadSettings], plan: Plan, design: Design) -> None:
        self.inputs, self.y, self.heads, self.design = inputs, y, heads, design
        self.steps = plan.steps.tolist()
        self.ends = {end - 1 for steps, per_epoch in self.steps for end in range(per_epoch, steps + 1, per_epoch)}
        self.best = [math.inf] * len(heads)
        self.best_epoch = [0] * len(heads)
        self.best_ema: dict[int, Tensor] = {}
        self.log: list[list[dict[str, float | None]]] = [[] for _ in heads]  # a row per epoch
        self.stopped = [False] * len(heads)

    def after(self, t: int, ema: Tensor) -> bool:
        """Validate the heads whose epoch ended with step t; returns whether all heads are done."""
        if t not in self.ends:
            return False
        for k, (steps, per_epoch) in enumerate(self.steps):
            if self.stopped[k] or t >= steps or (t + 1) % per_epoch:
                continue
            if self.heads[k].validation is not None:
                self._look(k, (t + 1) // per_epoch, ema[k : k + 1])
            self.stopped[k] |= t + 1 == steps
        return all(self.stopped)

    def _look(self, k: int, epoch: int, ema: Tensor) -> None:
        rows = torch.from_numpy(self.heads[k].validation).to(self.y.device)
        p = parameter_views(ema, parameter_shapes(self.design.dims, self.design.width))
        pieces = (project(p, x, self.design.columns) for x in self.inputs.of_head(k, rows))
        scores = torch.cat([fuse(p, piece, fixed_average=self.design.fixed_average).scores[0] for piece in pieces])
        rated = self.y[rows]
        loss = float(functional.huber_loss(scores, rated))
        defined = len(rows) > 2 and math.isfinite(loss)
        r = pearson(rated.cpu().numpy(), scores.cpu().numpy()) if defined else None
        self.log[k].append({"validation_loss": loss, "validation_r": r})
        if loss < self.best[k]:
            self.best[k], self.best_epoch[k], self.best_ema[k] = loss, epoch, ema[0].clone()
        self.stopped[k] = epoch - self.best_epoch[k] >= self.heads[k].patience


def inner_split(n: int, rows: np.ndarray | None, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split into rows to train on and validation rows: a ``fraction`` of all, at least one and never all.

    >>> [part.tolist() for part in inner_split(10, None, 0.2, 0)]
    [[0, 1, 2, 3, 5, 7, 8, 9], [4, 6]]
    """
    rows = np.arange(n) if rows is None else rows
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    mixed = np.random.default_rng(seed).permutation(len(rows))
    return rows[np.sort(mixed[count:])], rows[np.sort(mixed[:count])]


def shown_steps(losses: Tensor, plan: Plan, validation: Validation) -> Iterator[int]:
    """Yield the steps, showing the first head's epoch, loss and validation in a bar or a line a minute."""
    per_epoch, label = int(plan.steps[0, 1]), "epoch 1"
    with step_bar("fusion", "step") as show:
        for t in range(len(losses)):
            if t and t % per_epoch == 0:
                shown = {"loss": float(losses[t - per_epoch : t, 0].mean())}
                shown |= {key: value for key, value in (validation.log[0] or [{}])[-1].items() if value is not None}
                label = ", ".join([f"epoch {t // per_epoch + 1}", *(f"{key} {x:.4f}" for key, x in shown.items())])
            if t % SPAN == 0:
                show(t, len(losses), label)
            yield t
