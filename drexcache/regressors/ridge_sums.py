"""The sums over rows that ridge regression needs, in float64: with NumPy or, on a GPU, torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # a float64 numpy.ndarray, or a torch.Tensor on a GPU


def to_device(values: np.ndarray, device: str) -> Array:
    """The values as float64 on the device; "cpu" means NumPy, whose symmetric product and eigh are faster there."""
    if device == "cpu":  # "cpu:0" means torch on the CPU
        return np.asarray(values, dtype=np.float64)
    import torch  # takes a second, and a model that is read to predict needs none of this

    return torch.as_tensor(values, device=device).double()


def to_numpy(values: Array) -> np.ndarray:
    """The values as a NumPy array."""
    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)


def eigenvectors(A: Array) -> tuple[Array, Array]:
    """Eigenvalues (d,), clipped at 0, and eigenvectors (d, d) of a positive semi-definite matrix."""
    if isinstance(A, np.ndarray):
        values, vectors = np.linalg.eigh(A)
    else:
        import torch

        values, vectors = torch.linalg.eigh(A)
    return values.clip(0), vectors


def deviation(mean: np.ndarray, variance: np.ndarray, n: float) -> np.ndarray:
    """The standard deviation (d,) that `StandardScaler` divides by: 1 for columns that are constant up to rounding."""
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    return np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance)))


class Sums:
    """Sums over rows of x - shift and y - y_shift, weighted if they have weights.

    The shift, a first guess of the mean, preserves precision for columns whose mean is far from zero.

    Attributes
    ----------
    n : the number of rows, or the sum of their weights. x, y : (d,) and scalar sums. gram : (d, d) sum of x xᵀ.
    xy : (d,) sum of x y.

    >>> Sums(np.zeros(1)).add(np.array([[1.0], [2.0]]), np.array([0.0, 3.0])).xy
    array([6.])
    """

    def __init__(self, shift: np.ndarray, y_shift: float = 0.0, device: str = "cpu") -> None:
        d = len(shift)
        self.device, self.shift, self.y_shift, self.n = device, to_device(shift, device), y_shift, 0.0
        self.x, self.gram, self.xy = (to_device(np.zeros(shape), device) for shape in (d, (d, d), d))
        self.y = 0.0

    def shifted(self, X: np.ndarray, y: np.ndarray) -> tuple[Array, Array]:
        """The rows X (n, d) and y (n,) on the device, minus the shifts."""
        return to_device(X, self.device) - self.shift, to_device(y, self.device) - self.y_shift

    def add(self, X: np.ndarray, y: np.ndarray, w: np.ndarray | None = None) -> Sums:
        """Add the rows X (n, d), y (n,), with weights w (n,); returns itself."""
        x, t = self.shifted(X, y)
        root = to_device(np.ones(len(y)) if w is None else np.sqrt(w), self.device)
        if w is not None:
            x, t = x * root[:, None], t * root
        self.n += len(y) if w is None else float(w.sum())
        self.x += root @ x
        self.y += float(root @ t)
        self.gram += x.T @ x
        self.xy += x.T @ t
        return self

    def scaled(self, standardize: bool) -> ScaledSums:
        """The sums for centred rows and, if ``standardize``, columns scaled to standard deviation 1."""
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
    """Sums of centred, scaled rows: gram (d, d), xy (d,); with scale (d,), mean (d,) and y_mean (less the shifts)."""

    mean: Array
    scale: Array
    y_mean: float
    gram: Array
    xy: Array
