"""What a training minimises: losses of a batch for K heads, each with its gradient by the scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from drexcache.fusion.plan import Plan
from drexcache.fusion.scales import DatasetScales

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, y, weight (K, B) each -> (K,)
Criterion = Callable[[int, Tensor], tuple[Tensor, Tensor]]

RANK_SHARE, RANK_STEP = 0.1, 0.1  # of the ranking in "rank"; the difference of scores that counts as one


def make_criterion(name: str, y: Tensor, plan: Plan, scales: DatasetScales | None) -> Criterion:
    """The function (t, scores (K, B)) that gives step t's losses (K,) and their gradient by the scores (K, B)."""
    loss_and_gradient = huber if name == "huber" else _by_autograd(LOSSES[name])

    def criterion(t: int, scores: Tensor) -> tuple[Tensor, Tensor]:
        rows, weight = plan.index[t], plan.weight[t]
        if scales is None:
            return loss_and_gradient(scores, y[rows], weight)
        losses, d = loss_and_gradient(scales.rated(scores, rows), y[rows], weight)
        return losses, scales.step(t, scores, d, rows)

    return criterion


def huber(scores: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Huber's loss with delta 1, as torch.nn.functional.huber_loss; weight (K, B) sums to 1 over a batch."""
    error = scores - y
    clamped = error.clamp(-1, 1)
    d = weight * clamped
    return (d * (error - 0.5 * clamped)).sum(1), d


def ccc(scores: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """One minus Lin's concordance correlation (Biometrics 1989): Pearson's r that minds scale and offset too.

    >>> y = torch.tensor([[0.1, 0.4, 0.9]])
    >>> w = torch.full((1, 3), 1 / 3)
    >>> [round(float(ccc(s, y, w)), 2) for s in (y, y + 0.2, -y)]
    [0.0, 0.16, 1.2]
    """
    mean, y_mean = (weight * scores).sum(1), (weight * y).sum(1)
    a, b = scores - mean[:, None], y - y_mean[:, None]
    spread = (weight * (a.square() + b.square())).sum(1) + (mean - y_mean).square()
    return 1 - 2 * (weight * a * b).sum(1) / (spread + 1e-8)


def rank(scores: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Huber's loss and a share of the logistic loss of every pair in the wrong order (RankNet, Burges 2005)."""
    pairs = weight[:, :, None] * weight[:, None] * (y[:, :, None] > y[:, None])  # (K, B, B), row above column
    ahead = (scores[:, :, None] - scores[:, None]) / RANK_STEP
    return huber(scores, y, weight)[0] + RANK_SHARE * (pairs * functional.softplus(-ahead)).sum((1, 2))


LOSSES: dict[str, Loss] = {"ccc": ccc, "rank": rank}


def _by_autograd(loss: Loss) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    @torch.enable_grad()
    def loss_and_gradient(scores: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        scores = scores.detach().requires_grad_()
        losses = loss(scores, y, weight)
        (d,) = torch.autograd.grad(losses.sum(), scores)
        return losses.detach(), d

    return loss_and_gradient
