"""Model: a fitted regressor in one file without pickle, with all that is needed to use it on new images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from drexcache.cache import (
    FeatureCache,
    FeatureMatrix,
    StoredBlock,
    block_from_attributes,
    differences,
    featured_rows_of,
    rated_rows,
    stored_block_attributes,
)
from drexcache.errors import DrexcacheError
from drexcache.files import write_file
from drexcache.fusion import AttentionFusionRegressor
from drexcache.regressors.saving import dump_estimator, load_estimator

VERSION = 1
ROWS_AT_ONCE = 4096  # of a cache to predict


@dataclass(frozen=True)
class Prediction:
    """Predictions for n images: ``value`` (n,) in the target's own range; ``spread`` (n,) or None, the standard
    deviation over the model's seeds in the same unit; ``attention`` arm -> (n,) or empty.
    """

    ids: list[str]
    value: np.ndarray
    spread: np.ndarray | None = None
    attention: dict[str, np.ndarray] = field(default_factory=dict)

    def to_csv(self, path: str | Path) -> None:
        """Write one row per image: id, prediction, spread where there is one, attention_ARM for each arm."""
        columns: dict[str, Any] = {"id": self.ids, "prediction": self.value}
        if self.spread is not None:
            columns["spread"] = self.spread
        columns |= {f"attention_{arm}": weights for arm, weights in self.attention.items()}
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            rows.writerow([row[0], *(f"{value:.6g}" for value in row[1:])])
        write_file(path, text.getvalue())


@dataclass(frozen=True)
class Model:
    """A fitted regressor with the blocks it reads, the target's range, and how it was trained.

    ``columns`` are the block or "block/tap" names whose features the regressor takes, in order.
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

    def check(self, blocks: dict[str, StoredBlock], where: str) -> None:
        """That features described by ``blocks`` are those the model was trained on.

        Raises
        ------
        DrexcacheError : a block is missing or was computed otherwise; says field by field what differs.
        """
        for name, mine in self.blocks.items():
            if name not in blocks:
                raise DrexcacheError(f"{where}: the model needs block {name}; it has: {', '.join(blocks) or 'none'}")
            if blocks[name].fingerprint != mine.fingerprint:
                raise DrexcacheError(
                    f"{where}: block {name} is not what the model was trained on: "
                    f"{'; '.join(differences(mine, blocks[name]))} (model -> here)"
                )

    def predict(self, cache: FeatureCache) -> Prediction:
        """Predictions for every image of a cache that has the model's features, which are read a piece at a time.

        Raises
        ------
        DrexcacheError : as `check`; no image has the features, or one of them is NaN or infinite (of which images).
        """
        self.check(cache.blocks, str(cache.path))
        rows = featured_rows_of(cache, self.columns)
        parts = [self._outputs(X) for X, _ in rows.pieces(size=ROWS_AT_ONCE)]
        return self._prediction([cache.ids[place] for place in rows.places.tolist()], parts)

    def predict_matrix(self, matrix: FeatureMatrix) -> Prediction:
        """Predictions for the rows of a matrix with the model's columns; its fingerprints must be the model's."""
        for name in self.columns:
            mine = self.blocks[name.split("/")[0]].fingerprint
            if matrix.fingerprints.get(name) != mine:
                raise DrexcacheError(
                    f"{matrix.dataset}: features of {name} are not of the model's fingerprint {mine[:12]}"
                )
        return self._prediction(list(matrix.ids), [self._outputs(matrix.X)])

    def _outputs(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """For X (n, d) predictions on [0, 1] of each seed (seeds, n), and a fusion head's attention (n, n_arms)."""
        if hasattr(self.estimator, "each_seed"):
            scores, weights = self.estimator.each_seed(X)
            return scores, weights.mean(0)
        return np.asarray(self.estimator.predict(X), dtype=np.float64).reshape(1, -1), None

    def _prediction(self, ids: list[str], parts: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> Prediction:
        """In the target's own range."""
        scores = np.concatenate([part for part, _ in parts], axis=1)  # (seeds, n)
        unit, width = scores.mean(0), self.high - self.low
        value = self.low + width * (unit if self.higher_is == "more" else 1.0 - unit)
        spread = scores.std(0, ddof=1) * width if len(scores) > 1 else None
        weights = [part for _, part in parts if part is not None]
        attention = dict(zip(self.estimator.arms_, np.concatenate(weights).T, strict=True)) if weights else {}
        return Prediction(ids, value, spread, attention)

    def save(self, path: str | Path) -> None:
        """Write the model file: a safetensors file whose metadata key "drexcache" holds the rest as JSON."""
        if hasattr(self.estimator, "get_state"):
            tensors, state = self.estimator.get_state()
        else:
            tensors, state = {"skops": np.frombuffer(dump_estimator(self.estimator), dtype="u1")}, None
        fields = {
            "version": VERSION, "drexcache": version("drexcache"), "regressor": self.regressor, "state": state,
            "columns": list(self.columns), "target": self.target, "low": self.low, "high": self.high,
            "higher_is": self.higher_is, "trained": self.trained,
            "blocks": {name: {**stored_block_attributes(b), "dtype": b.dtype} for name, b in self.blocks.items()},
        }  # fmt: skip
        data = save(
            {name: np.ascontiguousarray(value) for name, value in tensors.items()},
            {"drexcache": json.dumps(fields)},
        )
        write_file(path, data)


def load_model(path: str | Path) -> Model:
    """Read a model file; nothing in it is ever executed.

    Raises
    ------
    DrexcacheError : no such file, not a model file, of a newer version, damaged, or holding types that a model of
        ours never holds.
    """
    path = Path(path)
    if not path.is_file():
        raise DrexcacheError(f"{path}: no such model file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            fields = json.loads((file.metadata() or {}).get("drexcache", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DrexcacheError(f"{path}: not a drexcache model file ({error})") from error
    if not isinstance(fields, dict) or "version" not in fields:
        raise DrexcacheError(f"{path}: a safetensors file, but not a drexcache model (no 'drexcache' metadata)")
    if fields["version"] != VERSION:
        raise DrexcacheError(
            f"{path}: model format version {fields['version']}, this drexcache reads {VERSION}; upgrade it"
        )
    try:
        blocks = {
            name: block_from_attributes(attributes, attributes["dtype"], f"{path}: block {name}")
            for name, attributes in fields["blocks"].items()
        }
        estimator = _estimator(tensors, fields["state"], path)
        return Model(
            fields["regressor"], estimator, tuple(fields["columns"]), blocks, fields["target"], float(fields["low"]),
            float(fields["high"]), fields["higher_is"], dict(fields["trained"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DrexcacheError(f"{path}: a field of the model file is missing or malformed ({error})") from error


def _estimator(tensors: dict[str, np.ndarray], state: dict[str, Any] | None, path: Path) -> Any:
    if state is not None:
        return AttentionFusionRegressor.from_state(tensors, state)
    try:
        return load_estimator(tensors["skops"].tobytes())
    except DrexcacheError as error:
        raise DrexcacheError(f"{path}: {error}") from error
    except Exception as error:  # skops raises whatever the damage leads to
        raise DrexcacheError(f"{path}: the regressor inside cannot be read here ({error})") from error


def train_model(
    regressor: str, matrix: FeatureMatrix, cache: FeatureCache, columns: tuple[str, ...], seed: int,
    *, settings: Mapping[str, Any] | None = None, log: str | Path | None = None,
) -> Model:  # fmt: skip
    """Fit a regressor on every rated row of the matrix; ``columns`` are the names the matrix was made with.

    settings : the regressor's own parameters, by default its own. log : a CSV for a fusion head's epochs.

    Raises
    ------
    DrexcacheError : no target, fewer than two rated images, NaN or infinite values (of which images), an unknown
        regressor or setting, a log of a regressor that has none, or what the regressor refuses.
    """
    from drexcache.regressors.import_path import is_import_path
    from drexcache.regressors.named import make_regressor

    rated = rated_rows(matrix, str(cache.path))
    if len(rated) < 2:
        raise DrexcacheError(f"{cache.path}: {len(rated)} rated images with features; training needs at least 2")
    estimator = make_regressor(regressor, rated, seed, settings)
    has_epochs = hasattr(estimator, "write_log")
    if log is not None and not has_epochs:
        raise DrexcacheError(f"{regressor} has no training log: it is not trained in epochs as a fusion head is")
    if has_epochs:
        estimator.set_params(verbose=True)  # a bar, where there is a terminal
    elif is_import_path(regressor):
        dump_estimator(estimator)  # one that cannot be saved is refused before the training, not after
    try:
        estimator.fit(rated.X, rated.y)
    except ValueError as error:
        raise DrexcacheError(f"{cache.path}: {regressor} cannot be trained: {str(error).splitlines()[0]}") from error
    if log is not None:
        estimator.write_log(log)
    return as_model(regressor, estimator, cache, columns, matrix.target, len(rated), seed)


def as_model(
    regressor: str, estimator: Any, cache: FeatureCache, columns: Sequence[str], target: str, images: int, seed: int
) -> Model:
    """The model that a regressor has become by training on ``images`` rows of those columns of a cache."""
    names = dict.fromkeys(name.split("/")[0] for name in columns)
    from drexcache.regressors.named import is_made_of

    rated = cache.targets[target]
    trained = {
        "dataset": cache.dataset, "images": images, "seed": seed, "cache": cache.path.name,
        "settings": {key: repr(value) for key, value in estimator.get_params().items() if not is_made_of(value)},
        "versions": {package: version(package) for package in ("drexcache", "torch", "scikit-learn", "numpy")},
    }  # fmt: skip
    blocks = {name: cache.blocks[name] for name in names}
    return Model(regressor, estimator, tuple(columns), blocks, target, rated.low, rated.high, rated.higher_is, trained)
