"""Training K fusion heads of one design in one loop, each with its own settings and rows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drexcache.fusion.head import Shapes, parameter_shapes, parameter_views
from drexcache.fusion.plan import SPAN, Design, HeadSettings, Plan, make_plan
from drexcache.fusion.rows import Inputs, Scaling, TrainingData
from drexcache.fusion.step import make_step
from drexcache.fusion.stopping import Validation, shown_steps

LogRow = dict[str, float | None]


@dataclass(frozen=True)
class TrainedHead:
    """One trained head: its parameters (the EMA weights), the scaling of its inputs if any, and a log row per epoch."""

    parameters: dict[str, np.ndarray]
    scaling: Scaling
    log: list[LogRow]


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
    """Train K heads together. B is the batch size, P the parameters of one head, T the steps of the longest training.

    threads : number of threads on a CPU. stop : if another thread sets it, training ends with CancelledError.
    """
    plan = make_plan(len(data.y), heads, design)
    inputs = Inputs(data, heads, plan, design.columns)
    flat = plan.init
    ema = flat.clone()  # (K, P)
    validation = Validation(inputs, data.y, heads, plan, design)
    step = make_step(flat, ema, heads, plan, design, inputs.batch(0), threads)
    losses = torch.zeros(len(plan.lr), len(heads), device=data.y.device)  # (T, K)

    for t in shown_steps(losses, plan, validation) if verbose else range(len(losses)):
        if stop.is_set():
            raise CancelledError
        if t % SPAN == 0:
            masks = plan.draw_masks()  # (SPAN, K, B, 224)
        scores, rows = step.forward(masks[t % SPAN]), plan.index[t]  # (K, B) each
        losses[t], d_scores = huber(scores, data.y[rows], plan.weight[t])
        step.backward(t, d_scores, inputs.batch(min(t + 1, len(losses) - 1)))
        if validation.after(t, ema):
            break

    shapes = parameter_shapes(design.dims, design.width)
    return [_result(k, ema, losses, inputs, plan, validation, shapes) for k in range(len(heads))]


def huber(scores: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The Huber losses (K,) with delta 1, as torch.nn.functional.huber_loss, and their gradient by the scores (K, B).

    scores and y : (K, B); weight : (K, B), sums to 1 over a batch.
    """
    error = scores - y
    clamped = error.clamp(-1, 1)
    d = weight * clamped
    return (d * (error - 0.5 * clamped)).sum(1), d


def _result(
    k: int,
    ema: Tensor,
    losses: Tensor,
    inputs: Inputs,
    plan: Plan,
    validation: Validation,
    shapes: Shapes,
) -> TrainedHead:
    """Head k with its best weights if it was validated, else its last, and a log of its epochs."""
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
    return TrainedHead(parameters, inputs.scalings[k], log)
