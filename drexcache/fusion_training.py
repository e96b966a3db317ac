"""Training of K fusion heads in one loop: the paper's recipe, with each head's own settings and rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from drexcache.fusion_head import fuse, parameter_shapes, parameter_views, project
from drexcache.fusion_plan import SPAN, Design, HeadSettings, Plan, make_plan
from drexcache.fusion_update import TILE, make_update

Scaling = tuple[np.ndarray, np.ndarray] | None  # mean and standard deviation, (d,) each


@dataclass(frozen=True)
class TrainedHead:
    """One head: its parameters (the EMA weights), its inputs' scaling if any, and a log row per epoch."""

    parameters: dict[str, np.ndarray]
    scaling: Scaling
    log: list[dict[str, float]]


def train_heads(
    X: np.ndarray,
    y: np.ndarray,
    heads: Sequence[HeadSettings],
    design: Design,
    *,
    verbose: bool = False,
    stack: int | None = None,
) -> list[TrainedHead]:
    """Train all heads on X (n, d) and y (n,), ``stack`` of them at a time (None: what suits the device).

    A head's result is that of training it alone, to floating-point tolerance.
    """
    X_all = torch.from_numpy(np.require(X, np.float32, ["C", "W"])).to(design.device)
    y_all = torch.from_numpy(np.require(y, np.float32, ["C", "W"])).to(design.device)
    stack = stack or heads_that_fit(design, X.shape[1])
    trained: list[TrainedHead] = []
    for start in range(0, len(heads), stack):
        trained += train_stack(X_all, y_all, heads[start : start + stack], design, verbose=verbose)
    return trained


def train_stack(
    X: Tensor, y: Tensor, heads: Sequence[HeadSettings], design: Design, *, verbose: bool = False
) -> list[TrainedHead]:
    """Train K heads together on X (n, d) and y (n,). B is the batch size, P one head's parameters."""
    plan = make_plan(len(X), heads, design)
    scalings = _scalings(X, heads)
    shift, scale = _stacked(scalings, X)  # (K, 1, d) each, or 0 and 1
    clip = torch.tensor([math.inf if head.clip is None else head.clip for head in heads], device=X.device)
    flat, shapes = plan.init, parameter_shapes(design.dims, design.width)
    ema, p = flat.clone(), parameter_views(flat, shapes)  # (K, P), and name -> (K, *shape)
    small = [p[name].requires_grad_() for name in list(shapes)[len(design.arms) :]]  # without arms' weights
    update = make_update(flat, ema, heads, plan, design)
    losses = torch.zeros(len(plan.lr), len(heads), device=X.device)  # (T, K)

    for t in _progress(losses, plan) if verbose else range(len(losses)):
        if t % SPAN == 0:
            masks = plan.draw_masks()  # (SPAN, K, B, 224)
        rows = plan.index[t]  # (K, B)
        x = X.index_select(0, rows.flatten()).view(*rows.shape, -1)  # (K, B, d)
        if any(scalings):
            x = torch.addcmul(shift, x, scale)
        projected = project(p, x, design.columns).requires_grad_()  # (K, B, n_arms, width)
        scores, _ = fuse(p, projected, masks[t % SPAN])  # (K, B)
        errors = functional.huber_loss(scores, y[rows], reduction="none")
        loss = (plan.weight[t] * errors).sum(1)  # (K,), each the mean over its batch
        d, *small_grads = torch.autograd.grad(loss.sum(), [projected, *small])  # d is shaped as projected
        small_grad = torch.cat([part.reshape(len(heads), -1) for part in small_grads], dim=1)
        factors = _clip_factors(x, d, small_grad, clip, design.columns)  # (K,)
        update(t, x, d * factors[:, None, None, None], small_grad * factors[:, None])
        losses[t] = loss.detach()

    return _results(ema, losses, scalings, plan, shapes)


def _clip_factors(x: Tensor, d: Tensor, small_grad: Tensor, clip: Tensor, columns: Sequence[slice]) -> Tensor:
    """What to multiply each head's gradient with to clip its norm, (K,), as torch's clip_grad_norm_.

    x (K, B, d), d (K, B, n_arms, width): the arms' inputs, and the loss's gradient by their projections. The
    norm of an arm's gradient is known before that gradient exists, |x.T d|^2 = sum((x x.T) * (d d.T)): nine
    tenths of the gradient are written once, already clipped.
    """
    square = small_grad.square().sum(1)  # (K,)
    for i, cols in enumerate(columns):
        xi, di = x[..., cols], d[:, :, i]
        square += (torch.bmm(xi, xi.mT) * torch.bmm(di, di.mT)).sum((1, 2))
    return (clip / (square.clamp(min=0).sqrt() + 1e-6)).clamp(max=1)


def heads_that_fit(design: Design, d: int) -> int:
    """How many heads to train at once: what free GPU memory allows; on a CPU as many as stay in its cache."""
    size = sum(math.prod(shape) for shape in parameter_shapes(design.dims, design.width).values())
    if torch.device(design.device).type != "cuda":
        return max(1, TILE // size)  # one of the paper's; small heads run three times as fast stacked
    floats = 8 * size  # parameters, gradient, m, v, ema, and room for temporaries
    floats += design.batch_size * (8 * d + 4 * 224 * SPAN + 40 * design.width * len(design.arms))
    free, _ = torch.cuda.mem_get_info(design.device)
    return max(1, int(0.8 * free / (4 * floats)))


def _scalings(X: Tensor, heads: Sequence[HeadSettings]) -> list[Scaling]:
    """Each head's scaling by its own rows, None where it does not; a constant feature has scale 1."""
    known: dict[int, Scaling] = {}  # heads often share their rows
    for head in heads:
        if head.standardize and id(head.rows) not in known:
            rows = X if head.rows is None else X[torch.from_numpy(head.rows).to(X.device)]
            std, mean = torch.std_mean(rows, dim=0, correction=0)
            std[std <= 1e-6 * mean.abs()] = 1.0  # float32 rounding of a constant
            known[id(head.rows)] = mean.cpu().numpy(), std.cpu().numpy()
    return [known[id(head.rows)] if head.standardize else None for head in heads]


def _stacked(scalings: Sequence[Scaling], X: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale (K, 1, d) such that x * scale + shift is standardised."""
    none = np.zeros(X.shape[1], np.float32), np.ones(X.shape[1], np.float32)
    mean, std = (np.stack(part)[:, None] for part in zip(*[scaling or none for scaling in scalings], strict=True))
    return torch.from_numpy(-mean / std).to(X.device), torch.from_numpy(1 / std).to(X.device)


def _progress(losses: Tensor, plan: Plan) -> Iterator[int]:
    """The steps, with a bar of the first head's epoch and loss; none where the output is not a terminal."""
    bar = tqdm(total=len(losses), disable=None, unit="step", leave=False)
    per_epoch = int(plan.steps[0, 1])
    with bar:
        for t in range(len(losses)):
            if t and t % per_epoch == 0:
                bar.set_postfix(epoch=t // per_epoch, loss=f"{losses[t - per_epoch : t].mean():.5f}")
            yield t
            bar.update()


def _results(
    ema: Tensor, losses: Tensor, scalings: Sequence[Scaling], plan: Plan, shapes: dict[str, tuple[int, ...]]
) -> list[TrainedHead]:
    views = {name: view.cpu().numpy() for name, view in parameter_views(ema, shapes).items()}
    curve = losses.cpu().double().numpy()
    trained = []
    for k, (steps, per_epoch) in enumerate(plan.steps.tolist()):
        if not np.isfinite(curve[:steps, k]).all() or not bool(torch.isfinite(ema[k]).all()):
            raise ValueError("training diverged, its loss is no longer finite: scale the features or lower lr")
        ends = range(per_epoch, steps + 1, per_epoch)
        log = [
            {
                "epoch": i,
                "loss": float(curve[end - per_epoch : end, k].mean()),
                "lr": float(plan.lr[end - 1, k]),
            }
            for i, end in enumerate(ends, start=1)
        ]
        trained.append(TrainedHead({name: view[k].copy() for name, view in views.items()}, scalings[k], log))
    return trained
