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
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV

from drexcache.cache import CachedRows

PER_ROW = 0.4  # components per row, at most: with more, a head fits noise
UNLIKE = 30.0  # an arm is standardised if the 10% and 90% quantiles of its columns' deviations differ by this factor
LINE_PENALTIES = np.logspace(-1, 5, 25)  # of the ridge, chosen by leave-one-out
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

    def line(self, Z: np.ndarray, y: np.ndarray, datasets: np.ndarray | None, d: int) -> np.ndarray:
        """A ridge of y (n,) on components Z (n, q), as coefficients of the raw features: (d + 1,), the intercept last.

        datasets : (n,) each row's dataset; their ratings are first given the same mean and standard deviation.
        """
        ridge = RidgeCV(LINE_PENALTIES).fit(Z, y if datasets is None else _on_one_scale(y, datasets))
        line = np.zeros(d + 1)
        for arm, cols in zip(self.arms, self.columns, strict=True):
            line[arm.columns] = (arm.matrix @ ridge.coef_[cols]).astype(np.float32)
        means = sum(arm.mean @ line[arm.columns] for arm in self.arms)
        line[-1] = ridge.intercept_ - means
        return line.astype(np.float32)


def _on_one_scale(y: np.ndarray, datasets: np.ndarray) -> np.ndarray:
    groups = [y[datasets == code] for code in range(datasets.max() + 1)]
    mean, deviation = np.array([(own.mean(), max(own.std(), 1e-6)) for own in groups if len(own)]).T
    place = np.unique(datasets, return_inverse=True)[1]
    return (y - mean[place]) / deviation[place] * deviation.mean() + mean.mean()


def find_basis(
    X: np.ndarray | CachedRows, rows: np.ndarray, columns: Sequence[slice], components: int, *, standardize: bool
) -> Basis:
    """Find each arm's first ``components`` from the given rows of X (n, d); fewer if there are few rows or columns.

    standardize : whether to standardise the columns of every arm first, not only of arms whose columns have
        incomparable units.
    """
    if len(rows) > BASIS_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, BASIS_ROWS, replace=False))
    picked = X[rows] if isinstance(X, np.ndarray) else X.read(np.sort(rows))
    return Basis(tuple(_arm_basis(picked, cols, components, standardize) for cols in columns))


def _arm_basis(X: np.ndarray, columns: slice, components: int, standardize: bool) -> ArmBasis:
    x = X[:, columns].astype(np.float64)
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation <= 1e-6 * np.abs(mean)] = 0.0  # float32 rounding of a constant
    varied = deviation[deviation > 0]
    if not len(varied):  # all columns are constant: the arm is only its bias
        return ArmBasis(columns, mean, np.zeros((len(mean), 1)))
    low, high = np.quantile(varied, (0.1, 0.9))
    scale = np.ones_like(deviation)
    if standardize or high > UNLIKE * low:
        scale = np.where(deviation > 0, deviation, 1.0)
    scale = np.where(deviation > 0, 1 / scale, 0.0)  # constant columns are ignored
    q = min(components, max(1, int(PER_ROW * len(x))), len(varied))
    pca = PCA(q, random_state=0).fit((x - mean) * scale)
    spread = np.sqrt(pca.explained_variance_.mean())
    return ArmBasis(columns, mean, scale[:, None] * pca.components_.T / spread)
