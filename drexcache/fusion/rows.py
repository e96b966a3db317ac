"""The rows that K heads train on, step by step: in memory or read ahead from a cache, standardised if wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from drexcache.cache import CachedRows
from drexcache.fusion.plan import WINDOW, HeadSettings, Plan

Scaling = tuple[np.ndarray, np.ndarray] | None  # mean and standard deviation, (d,) each


@dataclass(frozen=True)
class TrainingData:
    """All rows: X (n, d) and ratings y (n,)."""

    X: Tensor | CachedRows
    y: Tensor


class ResidentRows:
    """Features by step, with all of X (n, d) on the device."""

    def __init__(self, X: Tensor, plan: Plan) -> None:
        self.X, self.index = X, plan.index

    def batch(self, t: int) -> Tensor:
        """Features (K, B, d) of step t."""
        rows = self.index[t]
        return self.X.index_select(0, rows.flatten()).view(*rows.shape, -1)

    def pieces(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield the features (V, d) of rows (V,), in a single piece."""
        yield self.X[rows]

    def mean_and_std(self, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (d,) of the given rows, None for all."""
        X = self.X if rows is None else self.X[torch.from_numpy(rows).to(self.X.device)]
        std, mean = torch.std_mean(X, dim=0, correction=0)
        return mean.cpu().numpy(), std.cpu().numpy()


class StreamedRows:
    """Features by step, like `ResidentRows`, with only two windows in memory at a time.

    A window holds what some hundred consecutive steps need. Any plan is followed exactly; a locally shuffled one
    (`drexcache.fusion.plan.local_permutation`) is read in large pieces.
    """

    def __init__(self, rows: CachedRows, plan: Plan) -> None:
        self.rows, self.device = rows, plan.index.device
        self.windows = _windows(rows, plan)
        self.start = self.stop = 0

    def batch(self, t: int) -> Tensor:
        """Features (K, B, d) of step t; call it with ascending t."""
        while t >= self.stop:
            self.start, self.stop, self.X, self.index = next(self.windows)
        index = self.index[t - self.start]
        return self.X.index_select(0, index.flatten()).view(*index.shape, -1)

    def pieces(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield the features (m, d) of ascending rows (V,), some at a time."""
        for X, _ in self.rows.pieces(rows.cpu().numpy()):
            yield torch.from_numpy(X).to(self.device)

    def mean_and_std(self, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (d,) of ascending rows, None for all, in a single pass."""
        scaler = StandardScaler()
        for X, _ in self.rows.pieces(rows):
            scaler.partial_fit(X)
        return scaler.mean_.astype(np.float32), np.sqrt(scaler.var_).astype(np.float32)


Window = tuple[int, int, Tensor, Tensor]  # first step, step after the last, X (m, d), rows of this X (steps, K, B)


def _windows(rows: CachedRows, plan: Plan) -> Iterator[Window]:
    """Yield the windows of all steps in order, reading each while the one before is in use."""
    index = plan.index.cpu().numpy()  # (T, K, B)

    def read(start: int, stop: int) -> Window:
        wanted, inverse = np.unique(index[start:stop], return_inverse=True)
        X, where = torch.from_numpy(rows.read(wanted)), torch.from_numpy(inverse.reshape(index[start:stop].shape))
        return start, stop, X.to(plan.index.device), where.to(plan.index.device)

    steps = list(pairwise(_bounds(plan)))
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        coming = reader.submit(read, *steps[0])
        for following in [*steps[1:], None]:
            window = coming.result()
            if following is not None:
                coming = reader.submit(read, *following)
            yield window


def _bounds(plan: Plan) -> list[int]:
    """The steps at which a local shuffle moves on to other rows and a new window begins, and the number of steps."""
    T, _, B = plan.index.shape
    per_epoch = int(plan.steps[0, 1])
    within = -(-np.arange(0, per_epoch * B, WINDOW) // B)
    starts = (np.arange(0, T, per_epoch)[:, None] + within).flatten()
    return [*np.unique(starts[starts < T]).tolist(), T]


class Inputs:
    """The features that each of K heads sees at each step, standardised by its own training rows if wanted.

    columns : of each arm. An arm that is left out of a row is 0, the mean of centred features.
    """

    def __init__(self, data: TrainingData, heads: Sequence[HeadSettings], plan: Plan, columns: Sequence[slice]) -> None:
        self.rows: ResidentRows | StreamedRows
        self.rows = StreamedRows(data.X, plan) if isinstance(data.X, CachedRows) else ResidentRows(data.X, plan)
        self.scalings = _scalings(self.rows, heads)
        d = data.X.shape[1]
        none = np.zeros(d, np.float32), np.ones(d, np.float32)
        mean, std = (np.stack(part)[:, None] for part in zip(*[s or none for s in self.scalings], strict=True))
        self.kept, self.columns = plan.kept, columns
        self.shift, self.scale = (torch.from_numpy(part).to(data.y.device) for part in (-mean / std, 1 / std))

    def batch(self, t: int) -> Tensor:
        """Features (K, B, d) of step t; call it with t in order, repeats allowed."""
        x = self.rows.batch(t)
        x = torch.addcmul(self.shift, x, self.scale) if any(self.scalings) else x
        if self.kept is not None:
            for i, cols in enumerate(self.columns):
                x[..., cols] *= self.kept[t, :, :, i, None]
        return x

    def of_head(self, k: int, rows: Tensor) -> Iterator[Tensor]:
        """Yield head k's features (1, m, d) of rows (V,), in pieces that fit in memory."""
        for x in self.rows.pieces(rows):
            yield torch.addcmul(self.shift[k], x, self.scale[k])[None]


def _scalings(rows: ResidentRows | StreamedRows, heads: Sequence[HeadSettings]) -> list[Scaling]:
    """Each head's scaling by its own rows, or None without standardising; a constant feature has scale 1."""
    known: dict[int, Scaling] = {}  # heads often share their rows
    for head in heads:
        if head.standardize and id(head.rows) not in known:
            mean, std = rows.mean_and_std(head.rows)
            std[std <= 1e-6 * np.abs(mean)] = 1.0  # float32 rounding of a constant
            known[id(head.rows)] = mean, std
    return [known[id(head.rows)] if head.standardize else None for head in heads]
