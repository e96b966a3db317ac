"""Model: a fitted regressor with all that is needed to use it on new images, saved as one file without pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import safetensors
from safetensors.numpy import save

from drexcache.cache import (
    FeatureCache,
    StoredBlock,
    block_from_attributes,
    differences,
    featured_rows_of,
    stored_block_attributes,
)
from drexcache.errors import DrexcacheError, several
from drexcache.files import kind_of_file, require_file, write_file, write_files
from drexcache.hub import local_file
from drexcache.regressors.intervals import PREFIX, OutOfFold, check_level, outputs
from drexcache.regressors.saving import estimator_arrays, estimator_of, numbers_per_row

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
ALSO = "also/"  # before the arrays of further targets in a model file
PREDICTED_ROWS = 4096  # rows of a cache to predict at a time, at most
NUMBERS_AT_ONCE = 2**24  # temporary numbers of a prediction (128 MB), which limits the rows if each needs many


@dataclass(frozen=True)
class Prediction:
    """Predictions for n images.

    value : (n,) in the target's own range. spread : (n,) standard deviation over the model's seeds in the same unit, or
    None. attention : arm -> (n,), or empty. low, high : (n,) ends of the intervals that were asked for, or None.
    others : target -> the predictions of a model's further targets, of the same images.
    """

    ids: list[str]
    value: np.ndarray
    spread: np.ndarray | None = None
    attention: dict[str, np.ndarray] = field(default_factory=dict)
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    others: dict[str, Prediction] = field(default_factory=dict)

    def outside(self, low: float, high: float) -> str:
        """A sentence on how many values are outside a range, with the lowest and highest of them; "" if none is.

        >>> Prediction(["a.png", "b.png"], np.array([3.0, 9.5])).outside(1, 7)
        '1 of 2 predictions lies outside of 1 to 7: 9.5 (b.png)'
        """
        out = [row for row in np.argsort(self.value).tolist() if not low <= self.value[row] <= high]
        named = [f"{self.value[row]:g} ({self.ids[row]})" for row in dict.fromkeys((out[0], out[-1]))] if out else []
        lie = "lies" if len(out) == 1 else "lie"
        counted = f"{len(out)} of {len(self.ids)} predictions {lie} outside of {low:g} to {high:g}"
        return f"{counted}: {' to '.join(named)}" if out else ""

    def clipped(self, low: float, high: float) -> Prediction:
        """The same predictions clipped to the range."""
        lower, upper = (None if end is None else end.clip(low, high) for end in (self.low, self.high))
        return replace(self, value=self.value.clip(low, high), low=lower, high=upper)

    def to_pandas(self, failures: Mapping[str, str] | None = None) -> pd.DataFrame:
        """A data frame, a row per image: id, prediction; if known, spread, low, high, attention_ARM for each arm.

        A further target's columns end in its name, such as prediction_beauty.
        failures : id -> why it has no prediction; these images come last, and a column "failure" says why.
        """
        import pandas as pd

        columns: dict[str, Any] = {"id": self.ids, "prediction": self.value}
        if self.spread is not None:
            columns["spread"] = self.spread
        if self.low is not None and self.high is not None:
            columns |= {"low": self.low, "high": self.high}
        columns |= {f"attention_{arm}": weights for arm, weights in self.attention.items()}
        for target, other in self.others.items():
            columns |= {f"{name}_{target}": column for name, column in other.to_pandas().items() if name != "id"}
        frame = pd.DataFrame(columns)
        if not failures:
            return frame
        failed = pd.DataFrame({"id": list(failures), "failure": list(failures.values())})
        return pd.concat([frame, failed], ignore_index=True)

    def to_csv(self, path: str | Path, failures: Mapping[str, str] | None = None) -> None:
        """Write the table of `to_pandas` with six significant digits.

        Raises
        ------
        DrexcacheError : the file cannot be written.
        """
        write_file(path, self.to_pandas(failures).to_csv(index=False, float_format="%.6g"))


@dataclass(frozen=True)
class Model:
    """A fitted regressor with the blocks it reads, the target's range, and a record of its training.

    ``columns`` are the names of the blocks or taps ("block/tap") that the regressor takes, in order.
    ``out_of_fold`` is what intervals are made of, if the model was trained to have them. ``also`` holds models of the
    same features for further targets.
    """

    regressor: str
    estimator: Any
    columns: tuple[str, ...]
    blocks: dict[str, StoredBlock]
    target: str
    low: float
    high: float
    higher_is: str
    trained: dict[str, Any]
    out_of_fold: OutOfFold | None = None
    also: tuple[Model, ...] = ()

    def check(self, blocks: dict[str, StoredBlock], where: str) -> None:
        """Check that ``blocks`` describes the same features as the model was trained on.

        Raises
        ------
        DrexcacheError : a block is missing or was computed differently (says field by field what differs).
        """
        for name, mine in self.blocks.items():
            if name not in blocks:
                raise DrexcacheError(f"{where}: the model needs block {name}; it has: {', '.join(blocks) or 'none'}")
            if blocks[name].fingerprint != mine.fingerprint:
                raise DrexcacheError(
                    f"{where}: block {name} is not what the model was trained on: "
                    f"{'; '.join(differences(mine, blocks[name]))} (model -> here)"
                )

    def predict(self, cache: FeatureCache, interval: float | None = None) -> Prediction:
        """Predict every image of a cache that has the model's features, reading them piece by piece.

        interval : the share of images whose rating is to lie between low and high, such as 0.9; for images like those
        that the model was trained on. On another dataset that is not promised.

        Raises
        ------
        DrexcacheError : as `check`; a model without intervals, or a level that is not between 0 and 1; no image has
            the features; or a feature or a prediction is NaN or infinite (names the images).
        """
        self.check(cache.blocks, str(cache.path))
        rows = featured_rows_of(cache, self.columns)
        per_row = numbers_per_row(self.estimator)
        if interval is not None:
            per_row = max(per_row, 4 * len(self.check_interval(interval).fold))
        size = min(PREDICTED_ROWS, max(1, NUMBERS_AT_ONCE // per_row))
        parts, ends = [], []
        for X, _ in rows.pieces(size=size):
            parts.append(self._outputs(self.estimator, X))
            if interval is not None:
                ends.append(self.check_interval(interval).bounds(X, interval, lambda one, X: self._outputs(one, X)[0]))
        found = self._prediction([cache.ids[place] for place in rows.places.tolist()], parts)
        found = replace(found, others={other.target: other.predict(cache, interval) for other in self.also})
        if not ends:
            return found
        low, high = (self._raw(np.concatenate(side)) for side in zip(*ends, strict=True))
        return replace(found, low=np.minimum(low, high), high=np.maximum(low, high))

    def check_interval(self, level: float) -> OutOfFold:
        """What intervals of that level are made of.

        Raises
        ------
        DrexcacheError : a level that is not between 0 and 1, or a model that was trained without intervals.
        """
        check_level(level)
        if self.out_of_fold is None:
            raise DrexcacheError("the model was trained without intervals; train it again with --intervals")
        return self.out_of_fold

    def _raw(self, unit: np.ndarray) -> np.ndarray:
        """Values on [0, 1] in the target's own range."""
        return self.low + (self.high - self.low) * (unit if self.higher_is == "more" else 1.0 - unit)

    def _outputs(self, estimator: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Each seed's predictions on [0, 1] for X (n, d): (seeds, n), and a fusion head's attention (n, n_arms)."""
        try:
            with np.errstate(all="ignore"):  # non-finite results are reported later
                return outputs(estimator, X)
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
            # the features have been checked before, so the model file must have been altered
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DrexcacheError(f"the {self.regressor} of the model file cannot predict ({reason})") from error

    def _prediction(self, ids: list[str], parts: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> Prediction:
        """The predictions in the target's own range."""
        scores = np.concatenate([part for part, _ in parts], axis=1)  # (seeds, n)
        unit, width = scores.mean(0), self.high - self.low
        value = self._raw(unit)
        spread = scores.std(0, ddof=1) * width if len(scores) > 1 else None
        weights = [part for _, part in parts if part is not None]
        attention = dict(zip(self.estimator.arms_, np.concatenate(weights).T, strict=True)) if weights else {}
        if not np.isfinite(value).all():
            bad = np.flatnonzero(~np.isfinite(value))
            raise DrexcacheError(
                f"the model predicts NaN or infinity for {len(bad)} of {len(ids)} images, {ids[bad[0]]} first: its "
                "file is damaged, or these images are unlike all that it was trained on"
            )
        return Prediction(ids, value, spread, attention)

    def save(self, path: str | Path, log: str | Path | None = None) -> None:
        """Write the model file: a safetensors file whose metadata key "drexcache" holds the rest as JSON.

        log : together with it, a CSV of a fusion head's epochs.
        """
        tensors, fields = self.parts()
        data = save(
            {name: np.ascontiguousarray(value) for name, value in tensors.items()},
            {"drexcache": json.dumps(fields)},
        )
        write_files({path: data} | ({log: self.estimator.write_log} if log else {}))

    def parts(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays of a model file, and its other fields."""
        tensors, state = estimator_arrays(self.estimator)
        folds, also = None, []
        if self.out_of_fold is not None:
            tensors, folds = self.out_of_fold.arrays(tensors)
        for k, other in enumerate(self.also):
            arrays, fields = other.parts()
            tensors = {**tensors, **{f"{ALSO}{k}/{name}": value for name, value in arrays.items()}}
            also.append(fields)
        return tensors, {
            "version": VERSION, "drexcache": version("drexcache"), "regressor": self.regressor, "state": state,
            "columns": list(self.columns), "target": self.target, "low": self.low, "high": self.high,
            "higher_is": self.higher_is, "trained": self.trained, "out_of_fold": folds, "also": also,
            "blocks": {name: {**stored_block_attributes(b), "dtype": b.dtype} for name, b in self.blocks.items()},
        }  # fmt: skip


class _Fields(msgspec.Struct):
    """The fields of a model file besides the arrays."""

    version: int
    regressor: str
    state: dict[str, Any] | None
    columns: list[str]
    target: str
    low: float
    high: float
    higher_is: Literal["more", "less"]
    trained: dict[str, Any]
    blocks: dict[str, dict[str, Any]]
    out_of_fold: dict[str, Any] | None = None
    also: list[dict[str, Any]] = []


def load_model(path: str | Path, *, trust: bool = False) -> Model:
    """Read a model file; nothing in it is ever executed, and its arrays are checked before use.

    trust : whether to import the module of a head of your own (`TorchHeadRegressor`) from the path in the file, which
        runs its code: only for a file that you trust.

    Raises
    ------
    DrexcacheError : no such file, not a model file, of a newer version, damaged, or with types, shapes or values that
        no drexcache model has, or with a head of the user's own and without ``trust``.
    """
    path = local_file(path)
    require_file(path, "model file")
    if (kind := kind_of_file(path)) not in ("a model", "binary"):
        raise DrexcacheError(f"{path}: not a drexcache model file, but {kind or 'empty'}; drexcache train makes models")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            fields = json.loads((file.metadata() or {}).get("drexcache", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise DrexcacheError(f"{path}: not a drexcache model file ({error})") from error
    if not isinstance(fields, dict) or "version" not in fields:
        raise DrexcacheError(f"{path}: a safetensors file, but not a drexcache model (no 'drexcache' metadata)")
    if fields["version"] != VERSION:
        raise DrexcacheError(
            f"{path}: model format version {fields['version']}, this drexcache reads {VERSION}; upgrade it"
        )
    try:
        return _model(msgspec.convert(fields, _Fields), tensors, path, trust)
    except DrexcacheError as error:
        raise DrexcacheError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DrexcacheError(f"{path}: a field of the model file is missing or malformed ({error})") from error


def _model(fields: _Fields, tensors: dict[str, np.ndarray], path: Path, trust: bool) -> Model:
    blocks = {
        name: block_from_attributes(attributes, attributes["dtype"], f"{path}: block {name}")
        for name, attributes in fields.blocks.items()
    }
    own = {name: array for name, array in tensors.items() if not name.startswith((PREFIX, ALSO))}
    estimator = estimator_of(own, fields.state, trust=trust)
    d = sum(_width(blocks, name) for name in fields.columns)
    if getattr(estimator, "n_features_in_", d) != d:
        takes = several(estimator.n_features_in_, "column")
        raise DrexcacheError(f"the regressor takes {takes}, but its blocks have {d}")
    folds = None if fields.out_of_fold is None else OutOfFold.of_arrays(tensors, fields.out_of_fold, d, trust=trust)
    if not (math.isfinite(fields.low) and math.isfinite(fields.high) and fields.low < fields.high):
        raise DrexcacheError(f"the target's range must be two numbers, low < high; found {fields.low}, {fields.high}")
    return Model(
        regressor=fields.regressor, estimator=estimator, columns=tuple(fields.columns), blocks=blocks,
        target=fields.target, low=fields.low, high=fields.high, higher_is=fields.higher_is, trained=fields.trained,
        out_of_fold=folds, also=tuple(_further(fields, tensors, path, trust)),
    )  # fmt: skip


def _further(fields: _Fields, tensors: dict[str, np.ndarray], path: Path, trust: bool) -> Iterator[Model]:
    """The models of further targets, which have none of their own."""
    for k, about in enumerate(fields.also):
        start = f"{ALSO}{k}/"
        own = {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
        yield _model(msgspec.convert({**about, "also": []}, _Fields), own, path, trust)


def _width(blocks: dict[str, StoredBlock], column: str) -> int:
    """The number of columns of a "block" or "block/tap"."""
    block, _, tap = column.partition("/")
    if not tap:
        return blocks[block].dim
    columns = blocks[block].taps[tap]
    return columns.stop - columns.start
