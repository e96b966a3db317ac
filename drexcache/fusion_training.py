"""Training of K fusion heads in one loop: the paper's recipe, with each head's own settings and rows."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from drexcache.fusion_head import fuse, parameter_shapes, parameter_views, project
from drexcache.fusion_plan import SPAN, Design, HeadSettings, Plan, make_plan

BETA2, EPS = 0.999, 1e-8  # torch.optim.AdamW's defaults
COMPILE_FROM = 1000  # steps from which compiling the update for a GPU pays

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
    ema, grad = flat.clone(), torch.zeros_like(flat)  # (K, P)
    p, g = parameter_views(flat, shapes), parameter_views(grad, shapes)
    small = [p[name].requires_grad_() for name in list(shapes)[len(design.arms) :]]  # without arms' weights
    small_grad = grad[:, sum(design.dims) * design.width :]
    update = _make_update(flat, grad, ema, heads, plan)
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
        torch.cat([part.reshape(len(heads), -1) for part in small_grads], dim=1, out=small_grad)
        big = [(x[..., cols], d[:, :, i], g[f"arm.{i}.weight"]) for i, cols in enumerate(design.columns)]
        _clip_and_finish_gradient(big, small_grad, clip)
        update(t)
        losses[t] = loss.detach()

    return _results(ema, losses, scalings, plan, shapes)


def _clip_and_finish_gradient(
    big: Sequence[tuple[Tensor, Tensor, Tensor]], small_grad: Tensor, clip: Tensor
) -> None:
    """Clip each head's gradient to norm clip (K,); the arms' weights get theirs here, already clipped.

    big : per arm its inputs x (K, B, d_i), the loss's gradient d (K, B, width) by its projections, and where
    to write its weights' gradient x.T @ d. The norm of that is known before it exists, as
    |x.T d|^2 = sum((x x.T) * (d d.T)): nine tenths of the gradient are written once and never read to clip.
    """
    square = small_grad.square().sum(1)  # (K,)
    for x, d, _ in big:
        square += (torch.bmm(x, x.mT) * torch.bmm(d, d.mT)).sum((1, 2))
    factor = (clip / (square.clamp(min=0).sqrt() + 1e-6)).clamp(max=1)  # as torch's clip_grad_norm_
    small_grad *= factor[:, None]
    for x, d, out in big:
        torch.bmm(x.mT, d * factor[:, None, None], out=out)


def _make_update(
    flat: Tensor, grad: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan
) -> Callable[[int], None]:
    """The function of step t that moves flat (K, P) by AdamW and lets the average follow."""
    if len(heads) == 1 and flat.device.type == "cpu":  # torch's fused AdamW takes one head's rates per call
        flat.grad = grad
        optimizer = torch.optim.AdamW([flat], weight_decay=heads[0].weight_decay, fused=True)
        group = optimizer.param_groups[0]

        def update_one(t: int) -> None:
            group["lr"], group["betas"] = float(plan.lr[t, 0]), (float(plan.beta1[t, 0]), BETA2)
            optimizer.step()
            ema.lerp_(flat, float(plan.ema_rate[t, 0]))

        return update_one

    buffers = (flat, grad, torch.zeros_like(flat), torch.zeros_like(flat), ema)
    rates = _rates(heads, plan).to(flat.device)  # (T, 5, K, 1)
    compiles = flat.device.type == "cuda" and len(rates) >= COMPILE_FROM and _can_compile()
    step = torch.compile(adamw_and_ema, dynamic=False) if compiles else adamw_and_ema
    return lambda t: step(buffers, rates[t])


def _rates(heads: Sequence[HeadSettings], plan: Plan) -> Tensor:
    """Each step's five rates for `adamw_and_ema`, (T, 5, K, 1), with AdamW's bias corrections folded in."""
    steps = np.arange(1, len(plan.lr) + 1)[:, None]
    correction = np.sqrt(
        1 - BETA2**steps
    )  # m / c1 / (sqrt(v) / correction + eps), times correction above and below
    keep = 1 - plan.lr * np.array([head.weight_decay for head in heads])
    rate = plan.lr * correction / (1 - plan.beta1**steps)
    eps = np.broadcast_to(EPS * correction, rate.shape)
    rates = np.stack([keep, rate, 1 - plan.beta1, eps, plan.ema_rate], axis=1)
    return torch.from_numpy(rates.astype(np.float32))[..., None]


@torch.no_grad()
def adamw_and_ema(buffers: tuple[Tensor, ...], rates: Tensor) -> None:
    """One step of AdamW and EMA on five (K, P) buffers, with rates (5, K, 1); one pass when compiled."""
    p, g, m, v, ema = buffers
    keep, rate, m_rate, eps, ema_rate = rates
    m.lerp_(g, m_rate)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    p.mul_(keep).sub_(rate * m / (v.sqrt() + eps))
    ema.lerp_(p, ema_rate)


def heads_that_fit(design: Design, d: int) -> int:
    """How many heads to train at once: what free GPU memory allows; one on a CPU, to stay in its cache."""
    if torch.device(design.device).type != "cuda":
        return 1
    shapes = parameter_shapes(design.dims, design.width)
    floats = 8 * sum(
        math.prod(shape) for shape in shapes.values()
    )  # p, grad, m, v, ema; room for temporaries
    floats += design.batch_size * (8 * d + 4 * 224 * SPAN + 40 * design.width * len(design.arms))
    free, _ = torch.cuda.mem_get_info(design.device)
    return max(1, int(0.8 * free / (4 * floats)))


def _can_compile() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


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
    mean, std = (
        np.stack(part)[:, None] for part in zip(*[scaling or none for scaling in scalings], strict=True)
    )
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
            raise ValueError(
                "training diverged, its loss is no longer finite: scale the features or lower lr"
            )
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
