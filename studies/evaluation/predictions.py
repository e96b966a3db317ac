"""Predictions: every regressor's predictions for images it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError
from drexcache.scores import read_records, write_records

if TYPE_CHECKING:
    import pandas as pd

KEY: dict[str, type] = {"regressor": str, "kind": str, "train": str, "test": str, "seed": int, "repeat": int}
TYPES: dict[str, type] = {
    **KEY, "fold": int, "id": str, "group": str, "rated": float, "predicted": float,
    "target": str,
}  # fmt: skip
BY_ARM = {"attention": "attention_", "contributions": "contribution_"}  # field of a run -> columns, one per arm
DEFAULTS = {"seed": 0, "repeat": 0, "fold": 0, "group": "", "target": ""}  # for columns that may be missing


@dataclass(frozen=True)
class Run:
    """The n predictions of one regressor with one seed, trained on one set and tested on another.

    regressor, kind, train, test, seed, repeat : as in `drexcache.scores.table.Score`.
    ids : (n,) images. fold : (n,) ints, the fold in which each image was held out (0 outside k-fold).
    rated, predicted : (n,) floats, scaled from the target's range to [0, 1]. group : (n,) names, or empty.
    attention : arm -> (n,) weights, if the regressor has them. contributions : arm -> (n,), if they were asked for,
        see `drexcache.regressors.contributions`. seconds : training time, or None.
    target : the name of the test set's ratings, "" if unknown.
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
    contributions: dict[str, Floats] = field(default_factory=dict)
    seconds: float | None = None
    target: str = ""

    @property
    def by_arm(self) -> dict[str, Floats]:
        """Column of the CSV -> (n,) values: attention weights and contributions."""
        return {start + arm: own for name, start in BY_ARM.items() for arm, own in getattr(self, name).items()}

    @property
    def cell(self) -> tuple[str, str, str]:
        """kind, train set, test set, which two regressors must share to be compared."""
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

    def of(self, cell: tuple[str, str, str], regressor: str) -> list[Run]:
        """The runs of one regressor in one cell."""
        return [run for run in self.runs if run.cell == cell and run.regressor == regressor]

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row per prediction and the columns of the CSV; missing values by arm are NaN."""
        import pandas as pd

        frames = [
            pd.DataFrame({
                **{name: getattr(run, name) for name in KEY},
                "fold": run.fold, "id": list(run.ids), "group": list(run.group or [""] * len(run.ids)),
                "rated": run.rated, "predicted": run.predicted, "target": run.target,
                **run.by_arm,
            })
            for run in self.runs
        ]  # fmt: skip
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(TYPES))

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame) -> Predictions:
        """The predictions from a frame as `to_pandas` returns it; seed, repeat, fold, group and target may be missing.

        Raises
        ------
        DrexcacheError : another column is missing, there are no predictions, one is not a finite number, or a run
            predicts an image twice.
        """
        missing = [name for name in TYPES if name not in frame and name not in DEFAULTS]
        if missing:
            raise DrexcacheError(f"no column {', '.join(missing)} in the predictions; they have: {', '.join(frame)}")
        return cls(_runs(frame, "the predictions"))

    def to_csv(self, path: str | Path | BinaryIO) -> None:
        """Write one line per prediction; numbers keep every digit."""
        columns = list(dict.fromkeys(column for run in self.runs for column in run.by_arm))
        records: list[tuple] = []
        for run in self.runs:
            n = len(run.ids)
            key = tuple(getattr(run, name) for name in KEY)
            by_arm = [run.by_arm[column].tolist() if column in run.by_arm else [None] * n for column in columns]
            group = run.group or [""] * n
            values = (run.rated.tolist(), run.predicted.tolist(), [run.target] * n)
            records += [key + cells for cells in zip(run.fold.tolist(), run.ids, group, *values, *by_arm, strict=True)]
        write_records(path, [*TYPES, *columns], records)

    @classmethod
    def read_csv(cls, path: str | Path) -> Predictions:
        """Read predictions that `to_csv` wrote.

        Raises
        ------
        DrexcacheError : no such file, a missing column, no predictions, a cell that is not a number, or a run that
            predicts an image twice.
        """
        # earlier versions did not write "target"
        needed = {name: kind for name, kind in TYPES.items() if name != "target"}
        return cls(_runs(read_records(path, needed, {f"{start}*": float for start in BY_ARM.values()}), str(path)))


def predictions_beside(scores: str | Path) -> Path:
    """The file with the predictions behind a file of scores.

    >>> predictions_beside("results/scores.csv").as_posix()
    'results/scores-predictions.csv'
    """
    return Path(scores).with_name(Path(scores).stem + "-predictions.csv")


def _runs(frame: pd.DataFrame, where: str) -> list[Run]:
    """Group the lines into runs."""
    if frame.empty:
        raise DrexcacheError(f"{where}: holds no predictions")
    frame = frame.assign(**{name: value for name, value in DEFAULTS.items() if name not in frame})
    runs = []
    for key, own in frame.groupby(list(KEY), sort=False):
        named = dict(zip(KEY, key, strict=True))
        ids, group = own["id"].tolist(), own["group"].tolist()
        if own["id"].duplicated().any():
            twice = own["id"][own["id"].duplicated()].iloc[0]
            raise DrexcacheError(f"{where}: {named['regressor']} predicts image {twice} twice in one run")
        columns = [name for name in own if name.startswith(tuple(BY_ARM.values())) and own[name].notna().any()]
        values = {name: own[name].to_numpy(np.float64) for name in ("rated", "predicted", *columns)}
        for name, numbers in values.items():
            if not np.isfinite(numbers).all():
                raise DrexcacheError(f"{where}: {named['regressor']} has a {name} that is not a finite number")
        by_arm: dict[str, Any] = {
            field: {name.removeprefix(start): values[name] for name in columns if name.startswith(start)}
            for field, start in BY_ARM.items()
        }
        runs.append(
            Run(
                **named, ids=ids, fold=own["fold"].to_numpy(np.intp), rated=values["rated"],
                predicted=values["predicted"], group=group if any(group) else (),
                target=own["target"].iloc[0], **by_arm,
            )
        )  # fmt: skip
    return runs
