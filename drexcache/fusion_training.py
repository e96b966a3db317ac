"""Training of K fusion heads in one stacked loop: the paper's recipe, each head with its own settings and rows."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from drexcache.fusion_head import fuse, parameter_shapes, parameter_views, project
from drexcache.fusion_plan import SPAN, HeadSettings, Plan, make_plan

BETA2, EPS = 0.999, 1e-8  # torch.optim.AdamW's defaults
COMPILE_FROM = 1000  # steps from which compiling the update for a GPU pays


@dataclass(frozen=True)
class TrainedHead:
    """One head: parameters (the EMA weights), its inputs' mean and scale (d,) if standardised, a log per epoch."""

    parameters: dict[str, np.ndarray]
    mean: np.ndarray | None
    scale: np.ndarray | None
    log: list[dict[str, float]]


def train_heads(
    X: np.ndarray,
    y: np.ndarray,
    heads: Sequence[HeadSettings],
    arms: Sequence[slice],
    width: int = 384,
    batch_size: int = 16,
    device: str = "cpu",
    verbose: bool = False,
    stack: int | None = None,
) -> list[TrainedHead]:
    """Train all heads, ``stack`` of them at a time (None: one on a CPU, what fits in free memory on a GPU).

    X : float32 (n, d); y : (n,). A head's result is that of training it alone, to floating-point tolerance.
    """
    X_all = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32)).to(device)
    y_all = torch.from_numpy(np.asarray(y, dtype=np.float32)).to(device)
    stack = stack or heads_that_fit(arms, width, batch_size, X_all)
    trained: list[TrainedHead] = []
    for start in range(0, len(heads), stack):
        trained += train_stack(X_all, y_all, heads[start : start + stack], arms, width, batch_size, verbose)
    return trained


def train_stack(
    X: Tensor,
    y: Tensor,
    heads: Sequence[HeadSettings],
    arms: Sequence[slice],
    width: int,
    batch_size: int,
    verbose: bool = False,
) -> list[TrainedHead]:
    """Train K heads together. K = len(heads), B = batch_size, P = parameters per head, X (n, d), y (n,)."""
    dims = [cols.stop - cols.start for cols in arms]
    plan = make_plan(len(X), heads, dims, width, batch_size, X.device)
    inputs = [_input_scaling(X, head) for head in heads]
    shift, scale = _stack_scaling(inputs, X)  # (K, 1, d) each, or None
    clip = torch.tensor([math.inf if head.clip is None else head.clip for head in heads], device=X.device)

    shapes = parameter_shapes(dims, width)
    flat = plan.init.to(X.device)  # (K, P)
    ema, grad = flat.clone(), torch.zeros_like(flat)
    p, g = parameter_views(flat, shapes), parameter_views(grad, shapes)
    for name in list(shapes)[len(arms) :]:  # autograd fills all gradients but those of the arms' big weights
        p[name].requires_grad_().grad = g[name]
    small_grad = grad[:, sum(dims) * width :]
    update = _make_update(flat, grad, ema, heads, plan)

    losses = torch.zeros(len(plan.lr), len(heads), device=X.device)  # (T, K)
    bar = tqdm(range(len(losses)), disable=None if verbose else True, unit="step", leave=False)
    for t in bar:
        if t % SPAN == 0:
            masks = plan.masks(X.device)  # (SPAN, K, B, 224)
        x = X[plan.index[t]]  # (K, B, d)
        if scale is not None:
            x = torch.addcmul(shift, x, scale)
        projected = project(p, x, arms).requires_grad_()  # (K, B, n_arms, width)
        scores, _ = fuse(p, projected, masks[t % SPAN])  # (K, B)
        errors = F.huber_loss(scores, y[plan.index[t]], reduction="none")
        loss = (plan.weight[t] * errors).sum(1)  # (K,)
        small_grad.zero_()
        loss.sum().backward()
        _clip_and_finish_gradient(x, projected.grad, arms, g, small_grad, clip)
        update(t)
        losses[t] = loss.detach()
        if verbose and (t + 1) % plan.steps[0, 1] == 0:
            epoch_loss = losses[t + 1 - plan.steps[0, 1] : t + 1].mean()
            bar.set_postfix(epoch=(t + 1) // plan.steps[0, 1], loss=f"{epoch_loss:.5f}")

    return _results(ema, shapes, inputs, losses, plan)


def _clip_and_finish_gradient(
    x: Tensor, d: Tensor, arms: Sequence[slice], g: dict[str, Tensor], small_grad: Tensor, clip: Tensor
) -> None:
    """Clip each head's gradient to its norm, and write the gradient of the arms' weights, x.T @ d, already clipped.

    x (K, B, d), d (K, B, n_arms, width): the loss's gradient by the projections. The big gradient's norm is known
    before it exists, |x.T d|^2 = sum((x x.T) * (d d.T)), so that it is written once and never read for clipping.
    """
    square = small_grad.square().sum(1)  # (K,)
    for i, cols in enumerate(arms):
        gram = torch.bmm(x[..., cols], x[..., cols].mT)  # (K, B, B)
        square += (gram * torch.bmm(d[:, :, i], d[:, :, i].mT)).sum((1, 2))
    factor = (clip / (square.clamp(min=0).sqrt() + 1e-6)).clamp(max=1)  # as torch's clip_grad_norm_
    small_grad *= factor[:, None]
    d = d * factor[:, None, None, None]
    for i, cols in enumerate(arms):
        torch.bmm(x[..., cols].mT, d[:, :, i], out=g[f"arm.{i}.weight"])


def _make_update(
    flat: Tensor, grad: Tensor, ema: Tensor, heads: Sequence[HeadSettings], plan: Plan
) -> Callable[[int], None]:
    """The function of step t that moves flat (K, P) by AdamW and lets ema follow."""
    if len(heads) == 1 and flat.device.type == "cpu":
        flat.grad = grad
        optimizer = torch.optim.AdamW([flat], weight_decay=heads[0].weight_decay, fused=True)
        group = optimizer.param_groups[0]

        def update_one(t: int) -> None:
            group["lr"], group["betas"] = float(plan.lr[t, 0]), (float(plan.beta1[t, 0]), BETA2)
            optimizer.step()
            ema.lerp_(flat, float(plan.ema_rate[t, 0]))

        return update_one

    m, v = torch.zeros_like(flat), torch.zeros_like(flat)
    # per step and head, (5, T, K, 1), with AdamW's bias corrections folded in
    t1 = np.arange(1, len(plan.lr) + 1)[:, None]
    correction = np.sqrt(1 - BETA2**t1)
    keep = 1 - plan.lr * np.array([head.weight_decay for head in heads])
    rate = plan.lr * correction / (1 - plan.beta1**t1)
    table = np.stack(
        [keep, rate, 1 - plan.beta1, np.broadcast_to(EPS * correction, rate.shape), plan.ema_rate]
    )
    scalars = torch.from_numpy(table.astype(np.float32)).to(flat.device)[..., None]
    compiles = flat.device.type == "cuda" and len(plan.lr) >= COMPILE_FROM and _can_compile()
    step = torch.compile(adamw_and_ema, dynamic=False) if compiles else adamw_and_ema

    def update_stack(t: int) -> None:
        step(flat, grad, m, v, ema, *scalars[:, t])

    return update_stack


@torch.no_grad()
def adamw_and_ema(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    ema: Tensor,
    keep: Tensor,
    rate: Tensor,
    m_rate: Tensor,
    eps: Tensor,
    ema_rate: Tensor,
) -> None:
    """One step of AdamW and of the average, for (K, P) buffers and (K, 1) scalars; compiled, it is one pass."""
    m.lerp_(g, m_rate)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    p.mul_(keep).sub_(rate * m / (v.sqrt() + eps))
    ema.lerp_(p, ema_rate)


def heads_that_fit(arms: Sequence[slice], width: int, batch_size: int, X: Tensor) -> int:
    """How many heads to train at once: as free GPU memory allows; one on a CPU, whose cache a second would spill."""
    if X.device.type != "cuda":
        return 1
    shapes = parameter_shapes([cols.stop - cols.start for cols in arms], width)
    floats = 8 * sum(
        math.prod(shape) for shape in shapes.values()
    )  # p, grad, m, v, ema and room for temporaries
    floats += batch_size * (8 * X.shape[1] + 224 * SPAN + 40 * width * len(arms))
    free, _ = torch.cuda.mem_get_info(X.device)
    return max(1, int(0.8 * free / (4 * floats)))


def _can_compile() -> bool:
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("gcc", "clang", "cc")))


def _input_scaling(X: Tensor, head: HeadSettings) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation (d,) of the head's rows; 1 for a constant feature."""
    if not head.standardize:
        return None
    rows = X if head.rows is None else X[torch.from_numpy(head.rows).to(X.device)]
    std, mean = torch.std_mean(rows, dim=0, correction=0)
    std[std < 1e-6 * mean.abs().clamp(min=1e-6)] = 1.0  # below float32's rounding of the feature: constant
    return mean.cpu().numpy(), std.cpu().numpy()


def _stack_scaling(
    inputs: Sequence[tuple[np.ndarray, np.ndarray] | None], X: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Shift and scale (K, 1, d) with which x * scale + shift standardises; None where no head wants it."""
    if not any(inputs):
        return None, None
    zero, one = np.zeros(X.shape[1], np.float32), np.ones(X.shape[1], np.float32)
    mean, std = (np.stack(part) for part in zip(*[pair or (zero, one) for pair in inputs], strict=True))
    shift, scale = (torch.from_numpy(a)[:, None].to(X.device) for a in (-mean / std, 1 / std))
    return shift, scale


def _results(
    ema: Tensor,
    shapes: dict[str, tuple[int, ...]],
    inputs: Sequence[tuple[np.ndarray, np.ndarray] | None],
    losses: Tensor,
    plan: Plan,
) -> list[TrainedHead]:
    views = {name: view.cpu().numpy() for name, view in parameter_views(ema, shapes).items()}
    curve = losses.cpu().double().numpy()
    trained = []
    for k, (steps, per_epoch) in enumerate(plan.steps.tolist()):
        if not np.isfinite(curve[:steps, k]).all() or not bool(torch.isfinite(ema[k]).all()):
            raise ValueError(
                "training diverged (the loss is no longer finite): scale the features or lower lr"
            )
        log = [
            {
                "epoch": e + 1,
                "loss": float(curve[a : a + per_epoch, k].mean()),
                "lr": float(plan.lr[a + per_epoch - 1, k]),
            }
            for e, a in enumerate(range(0, steps, per_epoch))
        ]
        mean, scale = inputs[k] or (None, None)
        trained.append(TrainedHead({name: view[k].copy() for name, view in views.items()}, mean, scale, log))
    return trained
