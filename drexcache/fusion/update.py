"""AdamW and the moving average of K heads at once, each with its own rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from drexcache.fusion.plan import HeadSettings, Plan

BETA2, EPS = 0.999, 1e-8  # torch.optim.AdamW's defaults


@torch.no_grad()
def adamw_and_ema(buffers: tuple[Tensor, ...], rates: Tensor) -> None:
    """One step of AdamW and EMA on five (K, P) buffers, with rates (K, 5)."""
    p, g, m, v, ema = buffers
    keep, rate, m_rate, eps, ema_rate = rates[..., None].unbind(1)  # (K, 1) each
    m.lerp_(g, m_rate)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    p.mul_(keep).sub_(rate * m / (v.sqrt() + eps))
    ema.lerp_(p, ema_rate)


def step_rates(heads: Sequence[HeadSettings], plan: Plan) -> np.ndarray:
    """Each step's five rates for `adamw_and_ema`, (T, K, 5), with AdamW's bias corrections folded in."""
    steps = np.arange(1, len(plan.lr) + 1)[:, None]
    correction = np.sqrt(1 - BETA2**steps)  # of sqrt(v); it multiplies rate and eps instead of dividing sqrt(v)
    keep = 1 - plan.lr * np.array([head.weight_decay for head in heads])
    rate = plan.lr * correction / (1 - plan.beta1**steps)
    eps = np.broadcast_to(EPS * correction, rate.shape)
    return np.stack([keep, rate, 1 - plan.beta1, eps, plan.ema_rate], axis=2).astype(np.float32)
