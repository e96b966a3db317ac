"""The basis of each arm's principal components, in which a head for few images is trained.

Raw features have a large mean, which makes all images look alike to the attention, and more columns than there are
images, which makes a head overfit. A centred basis of few components avoids both. Because the basis is linear, a head
trained in it is converted back to a head on the raw features, and nothing else needs to know about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import lsqr
from sklearn.linear_model import RidgeCV
from threadpoolctl import threadpool_limits

from drexcache.cache import CachedRows

PER_ROW = 0.4  # components per row, at most: with more, a head fits noise
UNLIKE = 30.0  # an arm is standardised if the 10% and 90% quantiles of its columns' deviations differ by this factor
LINE_PENALTIES = np.logspace(0, 6, 13)  # of the ridge, chosen by leave-one-out
PLS_SHARE, PLS_DIRECTIONS = 1 / 3, 4
FEW_ROWS = 2000  # up to so many, the threads of a decomposition mostly wait for each other
BASIS_ROWS = 8192  # rows to compute a basis from, at most


@dataclass(frozen=True)
class ArmBasis:
    """An arm's columns of X, and z = (x - mean) @ matrix: mean (d,), matrix (d, q), scaled so that rms(z) = 1."""

    columns: slice
    mean: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True)
class Basis:
    """All arms' bases, side by side."""

    arms: tuple[ArmBasis, ...]

    @property
    def columns(self) -> list[slice]:
        """Each arm's columns among the components."""
        edges = np.cumsum([0, *(arm.matrix.shape[1] for arm in self.arms)]).tolist()
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """The components (n, q) of X (n, d), float32."""
        return np.concatenate([(X[:, arm.columns] - arm.mean) @ arm.matrix for arm in self.arms], 1).astype(np.float32)

    def unfolded(self, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Convert parameters (seeds, *shape) of heads on the components to those of heads on X itself."""
        raw = dict(parameters)
        bias = parameters["arm.bias"].astype(np.float64)  # (seeds, n_arms, width)
        for i, arm in enumerate(self.arms):
            weight = (arm.matrix @ parameters[f"arm.{i}.weight"].astype(np.float64)).astype(np.float32)
            raw[f"arm.{i}.weight"] = weight  # (seeds, d, width)
            bias[:, i] -= arm.mean @ weight.astype(np.float64)
        return raw | {"arm.bias": bias.astype(np.float32)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Each arm's mean and matrix by name, which `of_arrays` reads."""
        named = [{f"basis.{i}.mean": arm.mean, f"basis.{i}.matrix": arm.matrix} for i, arm in enumerate(self.arms)]
        return {name: array for own in named for name, array in own.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], columns: Sequence[slice]) -> Basis:
        """The basis of arms with these columns; ValueError for an array of the wrong shape or type."""
        arms = [ArmBasis(own, arrays[f"basis.{i}.mean"], arrays[f"basis.{i}.matrix"]) for i, own in enumerate(columns)]
        for arm in arms:
            d = arm.columns.stop - arm.columns.start
            right = arm.mean.shape == (d,) and arm.matrix.ndim == 2 and 0 < arm.matrix.shape[1] <= d == len(arm.matrix)
            if not right or arm.mean.dtype.kind != "f" or arm.matrix.dtype.kind != "f":
                raise ValueError(f"the basis of columns {arm.columns} has the wrong shape or type")
        return cls(tuple(arms))


def find_basis(
    X: np.ndarray | CachedRows, rows: np.ndarray, columns: Sequence[slice], components: int, *, standardize: bool
) -> Basis:
    """Find each arm's first ``components`` from the given rows of X (n, d); fewer if there are few rows or columns.

    standardize : whether to standardise the columns of every arm first, not only of arms whose columns have
        incomparable units.
    """
    picked = X[_some(rows)] if isinstance(X, np.ndarray) else X.read(_some(rows))
    with threadpool_limits(1 if len(picked) <= FEW_ROWS else None, user_api="blas"):
        return Basis(tuple(_arm_basis(picked, cols, components, standardize) for cols in columns))


def linear_part(X: np.ndarray | CachedRows, y: np.ndarray, rows: np.ndarray, columns: Sequence[slice]) -> np.ndarray:
    """Coefficients (d + 1,), intercept last, of y (n,) on the arms' standardised columns of X (n, d).

    A ridge, and for a `PLS_SHARE` of the prediction partial least squares: the mean of both beats either.
    """
    some = _some(rows)
    x = (X[some] if isinstance(X, np.ndarray) else X.read(some)).astype(np.float64)
    mean, deviation = x.mean(0), _deviation(x)
    scale = np.zeros_like(mean)
    for cols in columns:  # a constant column, or one of no arm, has no say
        scale[cols] = np.where(deviation[cols] > 0, 1 / np.where(deviation[cols] > 0, deviation[cols], 1), 0)
    z = (x - mean) * scale
    with threadpool_limits(1 if len(x) <= FEW_ROWS else None, user_api="blas"):
        ridge = RidgeCV(LINE_PENALTIES).fit(z, y[some]).coef_
        pls = lsqr(z, y[some] - y[some].mean(), iter_lim=PLS_DIRECTIONS)[0]  # its k-th step is PLS of k directions
    line = np.append(((1 - PLS_SHARE) * ridge + PLS_SHARE * pls) * scale, 0).astype(np.float32)
    line[-1] = y[some].mean() - mean @ line[:-1]
    return line


def _some(rows: np.ndarray) -> np.ndarray:
    """The rows, ascending, or as many of them as are enough, drawn at random."""
    if len(rows) > BASIS_ROWS:
        rows = np.random.default_rng(0).choice(rows, BASIS_ROWS, replace=False)
    return np.sort(rows)


def _deviation(x: np.ndarray) -> np.ndarray:
    """(d,) of x (n, d), 0 where a column is constant up to float32 rounding."""
    deviation = x.std(0)
    return np.where(deviation > 1e-6 * np.abs(x.mean(0)), deviation, 0.0)


def _arm_basis(X: np.ndarray, columns: slice, components: int, standardize: bool) -> ArmBasis:
    x = X[:, columns].astype(np.float64)
    mean, deviation = x.mean(0), _deviation(x)
    varied = deviation[deviation > 0]
    if not len(varied):  # all columns are constant: the arm is only its bias
        return ArmBasis(columns, mean, np.zeros((len(mean), 1)))
    low, high = np.quantile(varied, (0.1, 0.9))
    scale = np.ones_like(deviation)
    if standardize or high > UNLIKE * low:
        scale = np.where(deviation > 0, deviation, 1.0)
    scale = np.where(deviation > 0, 1 / scale, 0.0)  # constant columns are ignored
    q = min(components, max(1, int(PER_ROW * len(x))), len(varied))
    variances, axes = principal_axes((x - mean) * scale, q)
    return ArmBasis(columns, mean, scale[:, None] * axes / np.sqrt(variances.mean()))


def principal_axes(x: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances (q,) and axes (d, q) of the first principal components of centred x (n, d); fewer where its rank is.

    From the products of rows or of columns, whichever are fewer. They are exact, as those of a randomised decomposition
    are not: columns that never vary change nothing.
    """
    n, d = x.shape
    values, vectors = eigh(x @ x.T if n < d else x.T @ x, subset_by_index=(min(n, d) - q, min(n, d) - 1))
    kept = values > 1e-12 * values[-1]
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    axes = x.T @ vectors / np.sqrt(values) if n < d else vectors
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(len(values))])  # a decomposition leaves them open
    return values / (n - 1), axes * signs
