"""Predictions: what every regressor said of every image it had not been trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError
from drexcache.scores import number, read_records, whole, write_records

KEY = ["regressor", "kind", "train", "test", "seed", "repeat"]
COLUMNS = [*KEY, "fold", "id", "group", "rated", "predicted"]
ATTENTION = "attention_"


@dataclass(frozen=True)
class Run:
    """One regressor with one seed, trained here and tested there: n predictions.

    regressor, kind, train, test, seed, repeat : as in `drexcache.scores.table.Score`.
    ids : (n,) images. fold : (n,) ints, the fold that each image was left out with (0 outside of k-fold).
    rated, predicted : (n,) floats on [0, 1] by the target's range. group : (n,) names, or empty.
    attention : arm -> (n,) weights, of a regressor that has them. seconds : time of training, or None.
    """

    regressor: str
    kind: str
    train: str
    test: str
    seed: int
    repeat: int
    ids: Sequence[str]
    fold: NDArray[np.intp]
    rated: Floats
    predicted: Floats
    group: Sequence[str] = ()
    attention: dict[str, Floats] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def cell(self) -> tuple[str, str, str]:
        """kind, train set, test set: what two regressors must share to be compared."""
        return self.kind, self.train, self.test


@dataclass
class Predictions:
    """All runs of an evaluation."""

    runs: list[Run] = field(default_factory=list)

    @property
    def regressors(self) -> list[str]:
        """Names of the regressors, in order of appearance."""
        return list(dict.fromkeys(run.regressor for run in self.runs))

    @property
    def cells(self) -> list[tuple[str, str, str]]:
        """Every (kind, train set, test set), in order of appearance."""
        return list(dict.fromkeys(run.cell for run in self.runs))

    def select(self, **wanted: object) -> Predictions:
        """The runs whose fields have those values, such as ``select(regressor="ridge", test="art")``."""
        runs = self.runs
        return Predictions([run for run in runs if all(getattr(run, key) == value for key, value in wanted.items())])

    def to_csv(self, path: str | Path) -> None:
        """Write one line per prediction, numbers with every digit."""
        arms = list(dict.fromkeys(arm for run in self.runs for arm in run.attention))
        records: list[tuple] = []
        for run in self.runs:
            n = len(run.ids)
            key = tuple(getattr(run, name) for name in KEY)
            weights = [run.attention[arm].tolist() if arm in run.attention else [None] * n for arm in arms]
            values = (
                run.fold.tolist(),
                run.ids,
                run.group or [""] * n,
                run.rated.tolist(),
                run.predicted.tolist(),
            )
            records += [key + cells for cells in zip(*values, *weights, strict=True)]
        write_records(path, COLUMNS + [ATTENTION + arm for arm in arms], records)

    @classmethod
    def read_csv(cls, path: str | Path) -> Predictions:
        """The predictions that `to_csv` wrote.

        Raises
        ------
        DrexcacheError : no such file, a missing column, no prediction at all, a cell that is not a number, or
            an image that one run predicts twice.
        """
        lines: dict[tuple[str, ...], list[tuple[int, dict[str, str]]]] = {}
        for line, record in read_records(path, COLUMNS):
            lines.setdefault(tuple(record[name] for name in KEY), []).append((line, record))
        if not lines:
            raise DrexcacheError(f"{path}: holds no predictions")
        return cls([_run(path, own) for own in lines.values()])


def predictions_beside(scores: str | Path) -> Path:
    """Where the predictions behind a file of scores lie.

    >>> predictions_beside("results/scores.csv").as_posix()
    'results/scores-predictions.csv'
    """
    return Path(scores).with_name(Path(scores).stem + "-predictions.csv")


def _run(path: str | Path, lines: list[tuple[int, dict[str, str]]]) -> Run:
    """The run that these lines of one key make."""
    line, first = lines[0]
    ids = [record["id"] for _, record in lines]
    if len(set(ids)) < len(ids):
        twice = next(image for image in ids if ids.count(image) > 1)
        raise DrexcacheError(f"{path}: {first['regressor']} predicts image {twice} twice in one run")
    rated, predicted = (
        np.array([number(path, at, cells, name) for at, cells in lines]) for name in ("rated", "predicted")
    )
    group = [record["group"] for _, record in lines]
    arms = [name for name in first if name.startswith(ATTENTION) and first[name]]
    return Run(
        first["regressor"],
        first["kind"],
        first["train"],
        first["test"],
        seed=whole(path, line, first, "seed"),
        repeat=whole(path, line, first, "repeat"),
        ids=ids,
        fold=np.array([whole(path, at, cells, "fold") for at, cells in lines], dtype=np.intp),
        rated=rated,
        predicted=predicted,
        group=group if any(group) else (),
        attention={
            arm.removeprefix(ATTENTION): np.array([number(path, at, cells, arm) for at, cells in lines]) for arm in arms
        },
    )
