"""The rows that K heads train on: resident on the device, picked by index, standardised where a head wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drexcache.fusion_plan import HeadSettings

Scaling = tuple[np.ndarray, np.ndarray] | None  # mean and standard deviation, (d,) each


@dataclass(frozen=True)
class TrainingData:
    """All rows: X (n, d), ratings y (n,), and the number of each row's dataset (n,), or None for one dataset."""

    X: Tensor
    y: Tensor
    datasets: Tensor | None = None


class Inputs:
    """Features (K, B, d) of rows (K, B) of X, each head's standardised by its own training rows if it asks so."""

    def __init__(self, X: Tensor, heads: Sequence[HeadSettings]) -> None:
        self.X = X
        self.scalings = _scalings(X, heads)
        none = np.zeros(X.shape[1], np.float32), np.ones(X.shape[1], np.float32)
        mean, std = (np.stack(part)[:, None] for part in zip(*[s or none for s in self.scalings], strict=True))
        self.shift, self.scale = torch.from_numpy(-mean / std).to(X.device), torch.from_numpy(1 / std).to(X.device)

    def batch(self, rows: Tensor) -> Tensor:
        """(K, B) -> (K, B, d)."""
        x = self.X.index_select(0, rows.flatten()).view(*rows.shape, -1)
        return torch.addcmul(self.shift, x, self.scale) if any(self.scalings) else x

    def of_head(self, k: int, rows: Tensor) -> Tensor:
        """Head k's features of rows (V,): (1, V, d)."""
        return torch.addcmul(self.shift[k], self.X[rows], self.scale[k])[None]


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
