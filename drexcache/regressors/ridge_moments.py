"""Sums over rows, in float64, from which ridge regression follows without the rows: on NumPy or, on a GPU, torch."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = Any  # a float64 numpy.ndarray, or a torch.Tensor on a GPU


def to_device(values: np.ndarray, device: str) -> Array:
    """float64 on the device; "cpu" means NumPy, which has the faster symmetric product and eigendecomposition there."""
    if device == "cpu":  # torch's own processor is "cpu:0"
        return np.asarray(values, dtype=np.float64)
    return torch.as_tensor(values, device=device).double()


def to_numpy(values: Array) -> np.ndarray:
    """The values as a NumPy array."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def eigenvectors(A: Array) -> tuple[Array, Array]:
    """Eigenvalues (d,) in ascending order and eigenvectors (d, d) of a symmetric matrix."""
    return torch.linalg.eigh(A) if isinstance(A, torch.Tensor) else np.linalg.eigh(A)


def deviation(mean: np.ndarray, variance: np.ndarray, n: int) -> np.ndarray:
    """Standard deviation (d,), 1 where a column is constant up to rounding: what `StandardScaler` divides by."""
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    return np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance)))


@dataclass
class Moments:
    """Sums over n rows of x - shift and y - y_shift; those of two sets of rows can be added and subtracted.

    The shift, a first guess of the mean, keeps the digits of columns whose mean is far from zero.

    Attributes
    ----------
    x, y : (d,) and scalar sums. gram : (d, d) sum of x xᵀ. xy : (d,) sum of x y. yy : sum of y².

    >>> X, y = np.array([[1.0], [2.0], [6.0]]), np.array([0.0, 1.0, 2.0])
    >>> all_rows = Moments.zero(np.zeros(1)).add(X, y)
    >>> (all_rows - Moments.zero(np.zeros(1)).add(X[:1], y[:1])).x
    array([8.])
    """

    device: str
    shift: Array
    y_shift: float
    n: int
    x: Array
    y: Array
    gram: Array
    xy: Array
    yy: Array

    @classmethod
    def zero(cls, shift: np.ndarray, y_shift: float = 0.0, device: str = "cpu") -> Moments:
        """Of no rows."""
        d = len(shift)
        zeros = [to_device(np.zeros(shape), device) for shape in (d, (d, d), d)]
        return cls(device, to_device(shift, device), y_shift, 0, zeros[0], 0.0, zeros[1], zeros[2], 0.0)

    def add(self, X: np.ndarray, y: np.ndarray) -> Moments:
        """Count in the rows X (n, d), y (n,); returns itself."""
        x, t = to_device(X, self.device) - self.shift, to_device(y, self.device) - self.y_shift
        self.n += len(y)
        self.x += x.sum(0)
        self.y += t.sum(0)
        self.gram += x.T @ x
        self.xy += x.T @ t
        self.yy += t @ t
        return self

    def __add__(self, other: Moments) -> Moments:
        return self._combined(other, operator.add)

    def __sub__(self, other: Moments) -> Moments:
        return self._combined(other, operator.sub)

    def _combined(self, other: Moments, combine: Callable[[Any, Any], Any]) -> Moments:
        sums = {key: combine(getattr(self, key), getattr(other, key)) for key in ("n", "x", "y", "gram", "xy", "yy")}
        return Moments(self.device, self.shift, self.y_shift, **sums)

    def scaled(self, standardize: bool) -> ScaledMoments:
        """Of the same rows with their mean taken off and, if asked, each column brought to deviation 1."""
        mean = self.x / self.n
        gram = self.gram - (self.n * mean)[:, None] * mean[None, :]
        xy = self.xy - mean * self.y
        if not standardize:
            return ScaledMoments(mean, to_device(np.ones(len(gram)), self.device), self.y / self.n, gram, xy)
        variance = to_numpy(gram.diagonal()) / self.n
        divisor = to_device(deviation(to_numpy(mean), np.maximum(variance, 0), self.n), self.device)
        gram *= (1 / divisor)[:, None] * (1 / divisor)[None, :]
        return ScaledMoments(mean, divisor, self.y / self.n, gram, xy / divisor)

    def squared_error(self, weights: Array, intercept: Array) -> np.ndarray:
        """Sum over the rows of (x @ weights + intercept - y)², (k,), for weights (d, k) and intercept (k,), both in
        shifted columns.
        """
        quadratic = (weights * (self.gram @ weights)).sum(0) + self.yy - 2 * (self.xy @ weights)
        linear = 2 * intercept * (self.x @ weights - self.y)
        return to_numpy(quadratic + linear + self.n * intercept**2)


@dataclass
class ScaledMoments:
    """Centred and scaled: gram (d, d), xy (d,); with the mean (d,) (from the shift), scale (d,) and y_mean behind."""

    mean: Array
    scale: Array
    y_mean: Array
    gram: Array
    xy: Array

    def unscaled(self, weights: Array) -> tuple[Array, Array]:
        """Weights (d, k) for the shifted columns themselves, and their intercepts (k,)."""
        raw = weights / self.scale[:, None]
        return raw, self.y_mean - self.mean @ raw
