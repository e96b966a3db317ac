"""Training on several datasets: a scale and an offset are learnt per dataset, from the head's scores to its ratings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from drexcache.fusion.plan import BETA2, EPS, HeadSettings, Plan

FASTER = 10  # times the head's learning rate, because these two numbers have a long way to go


class DatasetScales:
    """rating = pivot + scale * (score - pivot) + offset for K heads and G datasets, learnt by Adam.

    The pivot is the mean rating, which makes scale and offset nearly independent. The mean scale is kept at 1 and the
    mean offset at 0, so that a head predicts on the common scale of its datasets. codes : (n,) each row's dataset, 0 to
    G - 1; y : (n,).
    """

    def __init__(self, codes: Tensor, y: Tensor, heads: Sequence[HeadSettings], plan: Plan) -> None:
        count = int(codes.max()) + 1
        self.member = functional.one_hot(codes, count).float()  # (n, G)
        own = [slice(None) if head.rows is None else torch.from_numpy(head.rows).to(y.device) for head in heads]
        self.present = torch.stack([self.member[rows].amax(0) for rows in own])  # (K, G), 0: none of a head's rows
        self.pivot = torch.stack([y[rows].mean() for rows in own])[:, None]  # (K, 1)
        self.value = torch.zeros(2, len(heads), count, device=codes.device)  # scale - 1 and offset
        self.m, self.v = torch.zeros_like(self.value), torch.zeros_like(self.value)
        self.plan = plan

    def rated(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Convert the scores (K, B) of rows (K, B) to their datasets' own scales."""
        scale, offset = self._of(rows)
        return scores + scale * (scores - self.pivot) + offset

    def step(self, t: int, scores: Tensor, d: Tensor, rows: Tensor) -> Tensor:
        """Make one step, given the loss's gradient d (K, B) with respect to `rated`; returns that by the scores."""
        d_scores = d * (1 + self._of(rows)[0])
        member = self.member[rows]  # (K, B, G)
        grad = torch.stack(
            [torch.bmm(part[:, None], member)[:, 0] for part in (d * (scores - self.pivot), d)]
        )  # (2, K, G)
        lr, beta1 = torch.tensor(np.stack([self.plan.lr[t], self.plan.beta1[t]])).to(grad)[..., None]  # (K, 1) each
        self.m.lerp_(grad, 1 - beta1)
        self.v.lerp_(grad.square(), 1 - BETA2)
        m, v = self.m / (1 - beta1 ** (t + 1)), self.v / (1 - BETA2 ** (t + 1))
        self.value -= FASTER * lr * m / (v.sqrt() + EPS)
        mean = (self.value * self.present).sum(-1, keepdim=True) / self.present.sum(-1, keepdim=True)
        self.value = (self.value - mean) * self.present
        return d_scores

    def of_head(self, k: int) -> np.ndarray:
        """Scale and offset (G, 2) in rating = scale * score + offset; NaN for datasets that head k never saw."""
        scale, offset = self.value[:, k]
        values = torch.stack([1 + scale, offset - scale * self.pivot[k]], dim=1)
        return values.where(self.present[k, :, None] > 0, torch.nan).cpu().numpy()

    def _of(self, rows: Tensor) -> Tensor:
        """Scale - 1 and offset of each of rows (K, B): (2, K, B)."""
        member = self.member[rows]  # (K, B, G)
        return torch.stack([torch.bmm(member, part[..., None])[..., 0] for part in self.value])
