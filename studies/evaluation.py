"""evaluate: train and test inside and across datasets; every prediction is kept, and the scores come from
them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from drexcache.errors import DrexcacheError
from drexcache.matrix import FeatureMatrix
from drexcache.scores import ScoreTable
from drexcache.studies.cells import Cell, Part, comparable, plan
from drexcache.studies.predictions import Predictions, Run
from drexcache.studies.scoring import score

Make = Callable[[str, FeatureMatrix, int], Any]
Progress = Callable[[int, int, str], None]
Fitted = tuple[Any, float]  # an estimator and the seconds its training took


def evaluate(
    matrices: Sequence[FeatureMatrix], regressors: Sequence[str], *, train: Sequence[str] | None = None,
    test: Sequence[str] | None = None, folds: int = 5, repeats: int = 1, seeds: Sequence[int] = (42,),
    split: str | None = None, groups: str | None = None, leave_one_out: bool = False, calibrate: bool = True,
    make: Make | None = None, progress: Progress | None = None,
) -> tuple[ScoreTable, Predictions]:  # fmt: skip
    """Score regressors inside each dataset and for every train -> test pair of datasets.

    In-domain scores are of out-of-fold predictions, pooled over the folds. Folds follow a hash of the image's
    id and are the same for all regressors. Copies of an image stay in one fold; an image that is in the test
    set too is left out of a cross-dataset training, and a note says so. Images without a rating are not used.

    Parameters
    ----------
    matrices : one per dataset, with the same blocks and fingerprints. regressors : names that `make` knows.
    train, test : names of datasets: only these cells. Default: all.
    folds, repeats : k-fold inside a dataset, repeated with other folds. seeds : of the regressors.
    split : a column of labels; in-domain scores are then of its "test" images after training on its "train"
        images. Cells across datasets always use all rated images of both.
    groups : a column of labels; also a score for each of its values.
    leave_one_out : also train on all datasets but one and test on that one.
    calibrate : errors across datasets also after a linear calibration, see `drexcache.studies.scoring`.
    make : (name, matrix, seed) -> unfitted estimator; default `drexcache.estimators.make_regressor`.
    progress : called with (trainings done, trainings in all, what comes next).

    Raises
    ------
    DrexcacheError : matrices that cannot be compared, unknown names, fewer than 10 rated images, more folds
        than images, a training that fails or predicts something that is not finite.

    >>> from sklearn.linear_model import Ridge
    >>> X = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    >>> ids, blocks = [f"{i}.png" for i in range(40)], {"cues": slice(0, 3)}
    >>> toy = FeatureMatrix(X, X[:, 0] / 8 + 0.5, ids, blocks, dataset="toy")
    >>> scores, predictions = evaluate([toy], ["ridge"], make=lambda name, matrix, seed: Ridge())
    >>> round(scores.select(metric="pearson").rows[0].value, 2), len(predictions.runs[0].ids)
    (1.0, 40)
    """
    if not regressors or len(set(regressors)) < len(regressors):
        raise DrexcacheError(f"name one or more different regressors; found: {', '.join(regressors) or 'none'}")
    if not seeds or len(set(seeds)) < len(seeds) or repeats < 1:
        raise DrexcacheError(f"needs one or more different seeds and repeats >= 1; found {list(seeds)} and {repeats}")
    cells = plan(comparable(matrices), train, test, folds=folds, split=split, leave_one_out=leave_one_out)
    for cell in cells:
        cell.check(groups)
    trainer = _Trainer(make or _make_regressor, regressors, seeds, progress)
    trainer.total = sum(cell.trainings * _repeats(cell, repeats) for cell in cells) * len(regressors) * len(seeds)
    predictions = Predictions()
    for cell in cells:
        for repeat in range(_repeats(cell, repeats)):
            predictions.runs += trainer.runs(cell, repeat, groups)
    return score(predictions, calibrate, {cell.name: cell.notes() for cell in cells}), predictions


@dataclass(frozen=True)
class _Piece:
    """What one training predicted: (n,) values and, by arm, (n,) attention weights."""

    part: Part
    predicted: np.ndarray
    attention: dict[str, np.ndarray]
    seconds: float


class _Trainer:
    """Fits every regressor with every seed on what a cell trains on, once for all its test sets."""

    def __init__(self, make: Make, regressors: Sequence[str], seeds: Sequence[int], progress: Progress | None) -> None:
        self.make, self.regressors, self.seeds, self.progress = make, regressors, seeds, progress
        self.done = self.total = 0
        self.kept: dict[tuple, Fitted] = {}  # of the current train set only

    def runs(self, cell: Cell, repeat: int, groups: str | None) -> list[Run]:
        """One run per regressor and seed."""
        pieces: dict[tuple[str, int], list[_Piece]] = defaultdict(list)
        for part in cell.parts(repeat):
            for name, seed in product(self.regressors, self.seeds):
                label = f"{name} (seed {seed}), {cell.train} → {cell.test.dataset}"
                estimator, seconds = self._fitted(part, name, seed, label)
                predicted, attention = _predict(estimator, part.test.X, label)
                pieces[name, seed].append(_Piece(part, predicted, attention, seconds))
        return [_run(cell, repeat, who, own, groups) for who, own in pieces.items()]

    def _fitted(self, part: Part, name: str, seed: int, label: str) -> Fitted:
        if self.progress:
            self.progress(self.done, self.total, label)
        self.done += 1
        key = (part.key, name, seed)
        if part.key and key in self.kept:
            return self.kept[key]
        started = time.perf_counter()
        try:
            estimator = self.make(name, part.train, seed).fit(part.train.X, part.train.y)
        except ValueError as error:
            raise DrexcacheError(f"{label}: the training failed: {str(error).splitlines()[0]}") from error
        fitted = estimator, time.perf_counter() - started
        if part.key:
            self.kept = {old: kept for old, kept in self.kept.items() if old[0] and old[0][0] == part.key[0]}
            self.kept[key] = fitted
        return fitted


def _predict(estimator: Any, X: np.ndarray, label: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predictions (n,) and, of a regressor that has them, attention weights by arm."""
    predicted = np.asarray(estimator.predict(X), dtype=np.float64).reshape(-1)
    if len(predicted) != len(X) or not np.isfinite(predicted).all():
        raise DrexcacheError(f"{label}: predicted values that are not {len(X)} finite numbers")
    if not hasattr(estimator, "attention"):
        return predicted, {}
    weights = np.asarray(estimator.attention(X), dtype=np.float64)  # (n, n_arms)
    return predicted, dict(zip(estimator.arms_, weights.T, strict=True))


def _run(cell: Cell, repeat: int, who: tuple[str, int], pieces: Sequence[_Piece], groups: str | None) -> Run:
    """The pieces of all folds as one run of who, a regressor with a seed."""
    name, seed = who
    tests = [piece.part.test for piece in pieces]
    arms = pieces[0].attention
    folds = [np.full(len(piece.part.test), piece.part.fold, dtype=np.intp) for piece in pieces]
    return Run(
        name, *cell.name, seed, repeat,
        ids=[image for test in tests for image in test.ids],
        fold=np.concatenate(folds),
        rated=np.concatenate([test.y for test in tests]),
        predicted=np.concatenate([piece.predicted for piece in pieces]),
        group=[group for test in tests for group in test.labels[groups]] if groups else (),
        attention={arm: np.concatenate([piece.attention[arm] for piece in pieces]) for arm in arms},
        seconds=sum(piece.seconds for piece in pieces),
    )  # fmt: skip


def _repeats(cell: Cell, repeats: int) -> int:
    """Only k-fold has something to repeat."""
    return repeats if cell.kind == "in-domain" else 1


def _make_regressor(name: str, matrix: FeatureMatrix, seed: int) -> Any:
    from drexcache.estimators import make_regressor

    return make_regressor(name, matrix, seed)
