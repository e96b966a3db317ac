"""Training of K fusion heads of one design in one loop: the paper's recipe, with each head's own settings and rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from drexcache.fusion.head import Shapes, fuse, parameter_shapes, parameter_views, project
from drexcache.fusion.plan import SPAN, Design, HeadSettings, Plan, make_plan
from drexcache.fusion.rows import Inputs, Scaling, TrainingData
from drexcache.fusion.scales import DatasetScales
from drexcache.fusion.step import make_step
from drexcache.metrics import pearson

LogRow = dict[str, float | None]


@dataclass(frozen=True)
class TrainedHead:
    """One head: its parameters (the EMA weights), its inputs' scaling if any, a log row per epoch.

    ``dataset_scales``: (G, 2) of a mixed training, each dataset's scale and offset.
    """

    parameters: dict[str, np.ndarray]
    scaling: Scaling
    log: list[LogRow]
    dataset_scales: np.ndarray | None = None


@torch.no_grad()
def train_stack(
    data: TrainingData,
    heads: Sequence[HeadSettings],
    design: Design,
    threads: int,
    stop: threading.Event,
    *,
    verbose: bool = False,
) -> list[TrainedHead]:
    """Train K heads together. B is the batch size, P one head's parameters, T the steps of the longest.

    threads : how many work on it, on a CPU. stop : set by another thread, it ends the training with CancelledError.
    """
    plan = make_plan(len(data.y), heads, design)
    inputs = Inputs(data, heads, plan, design.columns)
    flat = plan.init
    ema = flat.clone()  # (K, P)
    scales = None if data.datasets is None else DatasetScales(data.datasets, data.y, heads, plan)
    validation = Validation(inputs, data.y, scales, heads, plan, design)
    step = make_step(flat, ema, heads, plan, design, inputs.batch(0), threads)
    losses = torch.zeros(len(plan.lr), len(heads), device=data.y.device)  # (T, K)

    for t in _progress(losses, plan, validation) if verbose else range(len(losses)):
        if stop.is_set():
            raise CancelledError
        if t % SPAN == 0:
            masks = plan.draw_masks()  # (SPAN, K, B, 224)
        scores, rows = step.forward(masks[t % SPAN]), plan.index[t]  # (K, B) each
        rated = scores if scales is None else scales.rated(scores, rows)
        losses[t], d = huber(rated, data.y[rows], plan.weight[t])
        d_scores = d if scales is None else scales.step(t, scores, d, rows)
        step.backward(t, d_scores, inputs.batch(min(t + 1, len(losses) - 1)))
        if validation.after(t, ema):
            break

    shapes = parameter_shapes(design.dims, design.width)
    return [_result(k, ema, losses, inputs, plan, validation, scales, shapes) for k in range(len(heads))]


def huber(scores: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Huber's losses (K,) with delta 1, and their gradient by the scores (K, B).

    As torch.nn.functional.huber_loss; scores and y (K, B); weight (K, B) sums to 1 over a batch.
    """
    error = scores - y
    clamped = error.clamp(-1, 1)
    d = weight * clamped
    return (d * (error - 0.5 * clamped)).sum(1), d


class Validation:
    """Watches K heads; a head without ``validation`` rows is never watched and ends with its last weights.

    scales : each dataset's scale and offset in a mixed training, or None.
    """

    def __init__(
        self, inputs: Inputs, y: Tensor, scales: DatasetScales | None, heads: Sequence[HeadSettings], plan: Plan,
        design: Design,
    ) -> None:  # fmt: skip
        self.inputs, self.y, self.scales, self.heads, self.design = inputs, y, scales, heads, design
        self.steps = plan.steps.tolist()
        self.ends = {end - 1 for steps, per_epoch in self.steps for end in range(per_epoch, steps + 1, per_epoch)}
        self.best = [math.inf] * len(heads)
        self.best_epoch = [0] * len(heads)
        self.best_ema: dict[int, Tensor] = {}
        self.log: list[list[dict[str, float | None]]] = [[] for _ in heads]  # a row per epoch
        self.stopped = [False] * len(heads)

    def after(self, t: int, ema: Tensor) -> bool:
        """Look at the heads whose epoch ended with step t; whether every head has ended."""
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
        if self.scales is not None:  # every row's own ratings
            scores = self.scales.rated(scores.expand(len(self.heads), -1), rows.expand(len(self.heads), -1))[k]
        loss = float(functional.huber_loss(scores, rated))
        defined = len(rows) > 2 and math.isfinite(loss)
        r = pearson(rated.cpu().numpy(), scores.cpu().numpy()) if defined else None
        self.log[k].append({"validation_loss": loss, "validation_r": r})
        if loss < self.best[k]:
            self.best[k], self.best_epoch[k], self.best_ema[k] = loss, epoch, ema[0].clone()
        self.stopped[k] = epoch - self.best_epoch[k] >= self.heads[k].patience


def _progress(losses: Tensor, plan: Plan, validation: Validation) -> Iterator[int]:
    """The steps, with a bar of the first head's epoch, loss and validation; none where there is no terminal."""
    bar = tqdm(total=len(losses), disable=None, unit="step", leave=False)
    per_epoch = int(plan.steps[0, 1])
    with bar:
        for t in range(len(losses)):
            if t and t % per_epoch == 0:
                shown = {"loss": float(losses[t - per_epoch : t, 0].mean())}
                shown |= {key: value for key, value in (validation.log[0] or [{}])[-1].items() if value is not None}
                bar.set_postfix({"epoch": t // per_epoch, **{key: f"{value:.4f}" for key, value in shown.items()}})
            yield t
            bar.update()


def _result(
    k: int,
    ema: Tensor,
    losses: Tensor,
    inputs: Inputs,
    plan: Plan,
    validation: Validation,
    scales: DatasetScales | None,
    shapes: Shapes,
) -> TrainedHead:
    """Head k: its best weights where it was watched, else its last, and the epochs it took."""
    weights = validation.best_ema.get(k, ema[k])
    steps, per_epoch = plan.steps[k].tolist()
    watched = validation.log[k]
    ends = range(per_epoch, (len(watched) * per_epoch or steps) + 1, per_epoch)
    curve = losses[: ends[-1], k].cpu().double().numpy()
    if not np.isfinite(curve).all() or not bool(torch.isfinite(weights).all()):
        raise ValueError("training diverged, its loss is no longer finite: scale the features or lower lr")
    log: list[LogRow] = []
    for i, end in enumerate(ends):
        log.append({"epoch": i + 1, "loss": float(curve[end - per_epoch : end].mean())})
        log[-1] |= {"lr": float(plan.lr[end - 1, k]), **(watched[i] if watched else {})}
    views = parameter_views(weights[None], shapes)
    parameters = {name: view[0].cpu().numpy().copy() for name, view in views.items()}
    return TrainedHead(parameters, inputs.scalings[k], log, None if scales is None else scales.of_head(k))
