"""Intervals for one prediction: how far a model's predictions of images that it had not seen were off (CV+).

Barber, Candès, Ramdas & Tibshirani 2021, Ann. Statist. 49, 486-507: the model is trained again without each tenth of
its images. An interval for a new image takes what each of these says of it, and how far each was off on the tenth that
it had not seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drexcache.errors import DrexcacheError
from drexcache.regressors.saving import estimator_arrays, estimator_of

FOLDS = 10
PREFIX = "out_of_fold/"  # of the arrays in a model file
Each = Callable[[Any, np.ndarray], np.ndarray]  # an estimator and X (n, d) -> each seed's predictions (seeds, n)


@dataclass(frozen=True)
class OutOfFold:
    """What cross-validation leaves to make intervals of.

    estimators : one per fold, trained without it. fold : (n,) ints, that of each training image.
    residual : (n,) by how much the fold's estimator was off, in units of `scales`. floor : the least such unit.
    """

    estimators: tuple[Any, ...]
    fold: NDArray[np.int64]
    residual: NDArray[np.float64]
    floor: float

    def bounds(self, X: np.ndarray, level: float, each_seed: Each) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end (n,), (n,) of intervals for the images of X (n, d), on [0, 1] as the ratings.

        Raises
        ------
        DrexcacheError : a level outside of (0, 1), or too high for the number of training images.
        """
        check_level(level)
        count = len(self.fold)
        rank = math.ceil(level * (count + 1))
        if rank > count:
            raise DrexcacheError(
                f"an interval of {level:g} needs at least {math.ceil(level / (1 - level))} training images; the model "
                f"has {count}"
            )
        centre, unit = np.empty((len(self.estimators), len(X))), np.empty((len(self.estimators), len(X)))
        for at, estimator in enumerate(self.estimators):
            each = each_seed(estimator, X)
            centre[at], unit[at] = each.mean(0), scales(each, self.floor)
        width = self.residual[:, None] * unit[self.fold]  # (training images, n)
        middle = centre[self.fold]
        low = np.partition(middle - width, count - rank, axis=0)[count - rank]
        high = np.partition(middle + width, rank - 1, axis=0)[rank - 1]
        return low, high

    def arrays(self, tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A model file's tensors with these, and what stands beside them; `of_arrays` reads both back."""
        found, states = dict(tensors), []
        for k, estimator in enumerate(self.estimators):
            arrays, state = estimator_arrays(estimator)
            states.append(state)
            found |= {f"{PREFIX}{k}/{name}": value for name, value in arrays.items()}
        found |= {f"{PREFIX}fold": self.fold, f"{PREFIX}residual": self.residual}
        return found, {"floor": self.floor, "states": states}

    @classmethod
    def of_arrays(
        cls, tensors: dict[str, np.ndarray], fields: dict[str, Any], d: int, *, trust: bool = False
    ) -> OutOfFold:
        """What `arrays` gave, each part checked; of estimators that take d columns. trust : as in `estimator_of`."""
        fold, residual = tensors[f"{PREFIX}fold"], tensors[f"{PREFIX}residual"]
        states, floor = list(fields["states"]), float(fields["floor"])
        fits = fold.ndim == 1 and fold.shape == residual.shape and (fold.dtype, residual.dtype) == ("i8", "f8")
        if not fits or not (
            floor > 0 and math.isfinite(floor) and np.isfinite(residual).all() and (residual >= 0).all()
        ):
            raise DrexcacheError("the residuals that intervals are made of are malformed")
        if not len(fold) or fold.min() < 0 or fold.max() >= len(states):
            raise DrexcacheError(f"the residuals are of folds that are not among the {len(states)} there are")
        estimators = []
        for k, state in enumerate(states):
            start = f"{PREFIX}{k}/"
            own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            estimators.append(estimator_of(own, state, trust=trust))
            if getattr(estimators[-1], "n_features_in_", d) != d:
                raise DrexcacheError(f"the regressor of fold {k} takes other columns than the {d} there are")
        return cls(tuple(estimators), fold, residual, floor)


def outputs(estimator: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Each seed's predictions on [0, 1] for X (n, d): (seeds, n), and a fusion head's attention (n, n_arms)."""
    if hasattr(estimator, "each_seed"):
        scores, weights = estimator.each_seed(X)
        return scores, None if weights is None else weights.mean(0)
    return np.asarray(estimator.predict(X), dtype=np.float64).reshape(1, len(X)), None


def check_level(level: float) -> None:
    """Raise DrexcacheError unless the level of an interval is between 0 and 1."""
    if not 0 < level < 1:
        raise DrexcacheError(f"the level of an interval must be between 0 and 1, such as 0.9; found {level:g}")


def scales(each: np.ndarray, floor: float) -> np.ndarray:
    """The unit (n,) that residuals are counted in: the spread over the seeds (seeds, n), and a floor; 1 without it."""
    return each.std(0, ddof=1) + floor if len(each) > 1 else np.ones(each.shape[1])


def cross_fitted(X: np.ndarray, y: np.ndarray, names: Sequence[str], fit: Callable[[np.ndarray], Any]) -> OutOfFold:
    """Train without each of 10 folds, and keep the estimators and their errors on what they had not seen.

    names : (n,) the images; those of one name, such as copies, are in one fold. fit : called with the rows (k,) to
    train on, gives a fitted estimator.

    Raises
    ------
    DrexcacheError : fewer than 20 different images.
    """
    fold = folds(names)
    estimators, each = [], []
    for k in range(FOLDS):
        estimators.append(fit(np.flatnonzero(fold != k)))
        each.append(outputs(estimators[-1], X[fold == k])[0])
    error, unit = np.empty(len(y)), np.empty(len(y))
    for k, one in enumerate(each):
        error[fold == k] = np.abs(y[fold == k] - one.mean(0))
    floor = max(float(np.median(error)), 1e-12)
    for k, one in enumerate(each):
        unit[fold == k] = scales(one, floor)
    return OutOfFold(tuple(estimators), fold, error / unit, floor)


def folds(names: Sequence[str]) -> NDArray[np.int64]:
    """The fold (n,) of each image, by a hash of its name, so that the images' order does not count.

    >>> np.bincount(folds([f"{n}.png" for n in range(40)])).tolist()
    [4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    """
    different = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(different) < 2 * FOLDS:
        raise DrexcacheError(f"intervals need at least {2 * FOLDS} different rated images; found {len(different)}")
    place = {name: at % FOLDS for at, name in enumerate(different)}
    return np.array([place[name] for name in names], dtype=np.int64)
