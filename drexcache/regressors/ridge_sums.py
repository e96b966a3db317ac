"""Sums over rows, in float64, from which ridge regression follows without the rows: on NumPy or, on a GPU, torch."""

from __future__ import annotations

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
    """Eigenvalues (d,), none below 0, and eigenvectors (d, d) of a symmetric matrix that has none below 0."""
    values, vectors = torch.linalg.eigh(A) if isinstance(A, torch.Tensor) else np.linalg.eigh(A)
    return values.clip(0), vectors


def deviation(mean: np.ndarray, variance: np.ndarray, n: int) -> np.ndarray:
    """Standard deviation (d,), 1 where a column is constant up to rounding: what `StandardScaler` divides by."""
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    return np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance)))


class Sums:
    """Sums over n rows of x - shift and y - y_shift.

    The shift, a first guess of the mean, keeps the digits of columns whose mean is far from zero.

    Attributes
    ----------
    x, y : (d,) and scalar sums. gram : (d, d) sum of x xᵀ. xy : (d,) sum of x y.

    >>> Sums(np.zeros(1)).add(np.array([[1.0], [2.0]]), np.array([0.0, 3.0])).xy
    array([6.])
    """

    def __init__(self, shift: np.ndarray, y_shift: float = 0.0, device: str = "cpu") -> None:
        d = len(shift)
        self.device, self.shift, self.y_shift, self.n = device, to_device(shift, device), y_shift, 0
        self.x, self.gram, self.xy = (to_device(np.zeros(shape), device) for shape in (d, (d, d), d))
        self.y = 0.0

    def shifted(self, X: np.ndarray, y: np.ndarray) -> tuple[Array, Array]:
        """The rows X (n, d) and y (n,) on the device, less the shifts."""
        return to_device(X, self.device) - self.shift, to_device(y, self.device) - self.y_shift

    def add(self, X: np.ndarray, y: np.ndarray) -> Sums:
        """Count in the rows X (n, d), y (n,); returns itself."""
        x, t = self.shifted(X, y)
        self.n += len(y)
        self.x += x.sum(0)
        self.y += float(t.sum())
        self.gram += x.T @ x
        self.xy += x.T @ t
        return self

    def scaled(self, standardize: bool) -> ScaledSums:
        """Of the same rows with their mean taken off and, if asked, each column brought to deviation 1."""
        mean = self.x / self.n
        gram = self.gram - (self.n * mean)[:, None] * mean[None, :]
        xy = self.xy - mean * self.y
        scale = np.ones(len(gram))
        if standardize:
            variance = np.maximum(to_numpy(gram.diagonal()) / self.n, 0)
            scale = deviation(to_numpy(mean), variance, self.n)
        divisor = to_device(scale, self.device)
        gram /= divisor[:, None] * divisor[None, :]
        return ScaledSums(mean, divisor, self.y / self.n, gram, xy / divisor)


@dataclass
class ScaledSums:
    """Centred and scaled: gram (d, d), xy (d,); with the mean (d,) (from the shift), scale (d,) and y_mean behind."""

    mean: Array
    scale: Array
    y_mean: float
    gram: Array
    xy: Array
