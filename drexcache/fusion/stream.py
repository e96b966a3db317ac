"""The rows that K heads train on, read from a cache while they train: the next window by a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from drexcache.cache import CachedRows
from drexcache.fusion.plan import WINDOW, Plan


class StreamedRows:
    """Features by step, as `drexcache.fusion.inputs.ResidentRows`, of which two windows are in memory at a time.

    A window is what some hundred consecutive steps need. Any plan is followed exactly; one that is shuffled
    locally (`drexcache.fusion.plan.local_permutation`) is read in large pieces.
    """

    def __init__(self, rows: CachedRows, plan: Plan) -> None:
        self.rows, self.device = rows, plan.index.device
        self.windows = _windows(rows, plan)
        self.start = self.stop = 0

    def batch(self, t: int) -> Tensor:
        """Features (K, B, d) of step t; steps are asked for in order."""
        while t >= self.stop:
            self.start, self.stop, self.X, self.index = next(self.windows)
        index = self.index[t - self.start]
        return self.X.index_select(0, index.flatten()).view(*index.shape, -1)

    def pieces(self, rows: Tensor) -> Iterator[Tensor]:
        """Features (m, d) of ascending rows (V,), some at a time."""
        for X, _ in self.rows.pieces(rows.cpu().numpy()):
            yield torch.from_numpy(X).to(self.device)

    def mean_and_std(self, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (d,) of ascending rows, None for all, in one pass over them."""
        scaler = StandardScaler()
        for X, _ in self.rows.pieces(rows):
            scaler.partial_fit(X)
        return scaler.mean_.astype(np.float32), np.sqrt(scaler.var_).astype(np.float32)


Window = tuple[int, int, Tensor, Tensor]  # first step and the one after the last; X (m, d); (steps, K, B) rows of it


def _windows(rows: CachedRows, plan: Plan) -> Iterator[Window]:
    """All steps' windows in order, each read while the one before is in use."""
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
    """Steps at which a window begins, and at last their number: where a local shuffle comes to other rows."""
    T, _, B = plan.index.shape
    per_epoch = int(plan.steps[0, 1])
    within = -(-np.arange(0, per_epoch * B, WINDOW) // B)
    starts = (np.arange(0, T, per_epoch)[:, None] + within).flatten()
    return [*np.unique(starts[starts < T]).tolist(), T]
