"""AttentionFusionRegressor: the paper's fusion head as a scikit-learn estimator, and training many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, overload

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from drexcache.cache import CachedRows
from drexcache.devices import resolve_device
from drexcache.files import write_file
from drexcache.fusion.checks import Arms, check_settings, require_finite, resolved_arms, seeds_of
from drexcache.fusion.head import fuse, parameter_shapes, project

# name -> settings: exactly the paper's, and those for hundreds of images (benchmarks/results/accuracy.md)
_FUSION = {
    "width": 128, "components": 64, "offset": 3.0, "arm_dropout": 0.3, "dropout": 0.2, "linear": 0.5, "lr": 2e-4,
    "min_steps": 1200, "ema_horizon": 0.1, "seeds": 8,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {"fusion-paper": {}, "fusion": _FUSION}
FORWARD_ROWS = 2048


def fit_many(
    estimators: Sequence[AttentionFusionRegressor],
    X: np.ndarray,
    y: np.ndarray,
    rows: Sequence[np.ndarray | None] | None = None,
    *,
    stack: int | None = None,
) -> list[AttentionFusionRegressor]:
    """Fit clones of ``estimators`` together: different settings, seeds and folds in one stack on a GPU.

    X : (n, d); y : (n,). rows : for each estimator the row numbers it trains on, or None for all.
    stack : heads to train at a time; None chooses by device.
    Result k equals ``estimators[k].fit(X[rows[k]], y[rows[k]])`` to floating-point tolerance.

    Raises
    ------
    ValueError : as `AttentionFusionRegressor.fit`.

    >>> X = np.random.default_rng(0).normal(size=(60, 6)).astype("float32")
    >>> y, folds = X[:, 0], [np.arange(0, 40), np.arange(20, 60)]
    >>> small = AttentionFusionRegressor(width=16, epochs=2)
    >>> [model.predict(X).shape for model in fit_many([small, small], X, y, folds)]
    [(60,), (60,)]
    """
    models = [clone(estimator) for estimator in estimators]
    all_rows = list(rows) if rows is not None else [None] * len(models)
    if len(all_rows) != len(models):
        raise ValueError(f"{len(models)} estimators but {len(all_rows)} sets of rows")
    if not models:
        return []
    from drexcache.fusion.fitting import fit_together

    X, y = _checked(models[0], X, y)
    fit_together(models, X, y, all_rows, stack=stack)
    return models


def _checked(model: AttentionFusionRegressor, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X as float32 (n, d) and y as float64 (n,), both finite."""
    X, y = validate_data(model, X, y, dtype=np.float32, ensure_all_finite=False, ensure_min_samples=2, y_numeric=True)
    require_finite("X", X)
    return X, y.astype(np.float64)


class AttentionFusionRegressor(RegressorMixin, BaseEstimator):
    """Fuse groups of features ("arms") by attention and regress a score; the defaults are those of DReX.

    Each arm is projected to ``width`` (linear, layer norm, GELU), the arms are summed with softmax attention
    weights, and a small network scores the sum (arXiv 2511.16991). Training uses the Huber loss, AdamW, a one-cycle
    schedule and clipped gradients; predictions use the moving average (EMA) of the weights. Ratings are expected on
    [0, 1].

    Parameters
    ----------
    arms : name -> columns of X, a slice or (start, stop), such as the ``blocks`` of a `FeatureMatrix`; None
        takes all columns as one arm. Columns in no arm are ignored.
    width : features per projected arm.
    dropout : rate after each hidden layer of the head.
    lr, weight_decay : of AdamW; lr is the peak of the one-cycle schedule.
    epochs, batch_size : passes over the rows, and rows per step; the last batch may be shorter.
    min_steps : least number of steps; with few rows, as many epochs are added as this takes.
    clip : largest norm of a step's gradient; None for no limit.
    ema : decay per step of the weights' average, which starts from the initial weights without correction.
    ema_horizon : if given, the average spans this fraction of all steps: ema = 1 - 1 / (ema_horizon * steps).
    standardize : whether to scale each feature to mean 0 and standard deviation 1 over the training rows first.
    components : if given, each arm is trained in the basis of this many of its principal components, scaled so that
        all arms have the same spread; fewer if there are less than 2.5 rows per component. An arm whose columns have
        incomparable units is standardised first.
    offset : if not 0, standard deviation of the arms' initial biases; next to a large bias, the layer norm hardly
        changes small projections.
    linear : weight of a linear regressor (a ridge and PLS on the standardised columns) in the prediction, the rest
        being the head's; needs ``components``.
    arm_dropout : probability that a randomly chosen arm is left out of a row in training; needs ``components``.
    loss : "huber", the only choice.
    early_stopping : if not 0, a head stops after this many epochs without a lower validation loss and keeps its best
        weights; a ``validation_fraction`` of the rows, drawn by random_state, is held out for validation.
    fixed_average : whether to give every arm the same weight instead of attention.
    seeds : heads to train, from random_state, random_state + 10,000, ...; the prediction is their mean.
    random_state : seed of the initial weights, the shuffles and the dropout.
    device : "cpu", "cuda", "mps", or "auto" for the best available.
    verbose : whether to show a progress bar, or a line a minute if there is no terminal.

    Attributes
    ----------
    arms_ : the arms' names. n_features_in_ : columns of X.
    parameters_ : name -> (seeds, *shape) float32, see `drexcache.fusion.head.parameter_shapes`.
    line_ : (d + 1,) the linear regressor's coefficients and intercept, None without ``linear``.
    mean_, scale_ : (d,) of the training rows, None unless standardize. seeds_ : each head's seed.
    log_ : a dict per epoch with epoch, loss (mean over steps and seeds) and lr; with early stopping also
        validation_loss and validation_r.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    >>> y = 1 / (1 + np.exp(-X[:, 0]))
    >>> model = AttentionFusionRegressor({"a": (0, 2), "b": (2, 6)}, width=32, lr=0.01, ema=0.9, epochs=5)
    >>> model.fit(X, y).predict(X).shape, model.attention(X).shape, model.arms_, len(model.log_)
    ((200,), (200, 2), ['a', 'b'], 5)
    """

    __module__ = "drexcache.fusion"  # the public path, which model files contain; the class itself may move

    # Abilities that other code looks for with hasattr, so that other regressors may have them too: fit_many,
    # fit_stream, each_seed, attention, get_state, from_state, write_log; and the parameters arms and fixed_average.
    fit_many = staticmethod(fit_many)

    def __init__(
        self,
        arms: Arms | None = None,
        *,
        width: int = 384,
        dropout: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        epochs: int = 10,
        batch_size: int = 16,
        min_steps: int = 0,
        clip: float | None = 1.0,
        ema: float = 0.999,
        ema_horizon: float | None = None,
        standardize: bool = False,
        components: int | None = None,
        offset: float = 0.0,
        arm_dropout: float = 0.0,
        linear: float = 0.0,
        loss: str = "huber",
        early_stopping: int = 0,
        validation_fraction: float = 0.1,
        fixed_average: bool = False,
        seeds: int = 1,
        random_state: int | np.random.RandomState | None = 42,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.arms = arms
        self.width = width
        self.dropout = dropout
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.min_steps = min_steps
        self.clip = clip
        self.ema = ema
        self.ema_horizon = ema_horizon
        self.standardize = standardize
        self.components = components
        self.offset = offset
        self.arm_dropout = arm_dropout
        self.linear = linear
        self.loss = loss
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.fixed_average = fixed_average
        self.seeds = seeds
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: np.ndarray, y: np.ndarray) -> AttentionFusionRegressor:
        """Train on X (n, d) and ratings y (n,).

        Raises
        ------
        ValueError : NaN or infinite values (names the rows), a constant y, fewer than 2 rows, arms that do not fit X,
            a setting out of range, or training that diverges.
        """
        from drexcache.fusion.fitting import (
            fit_together,
        )  # with it comes torch, which predicting on a CPU does not need

        X, y = _checked(self, X, y)
        fit_together([self], X, y, [None])
        return self

    def fit_stream(self, rows: CachedRows) -> AttentionFusionRegressor:
        """Train on rows that are read from a cache during training, in a locally shuffled order.

        Two windows of 8,192 rows are in memory at a time; with no more rows than that, the result equals that of `fit`.

        Raises
        ------
        ValueError : as `fit`.
        """
        from drexcache.fusion.fitting import fit_together

        fit_together([self], rows, rows.y, [None])
        return self

    @overload
    def predict(self, X: np.ndarray, return_std: Literal[False] = False) -> np.ndarray: ...

    @overload
    def predict(self, X: np.ndarray, return_std: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(self, X: np.ndarray, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predictions (n,) for X (n, d), mean over seeds; with return_std also their standard deviation over seeds."""
        scores, _ = self.each_seed(X)
        mean = scores.mean(0)
        if not return_std:
            return mean
        if len(scores) < 2:
            raise ValueError("return_std is the spread over seeds: fit with seeds=2 or more")
        return mean, scores.std(0, ddof=1)

    def attention(self, X: np.ndarray) -> np.ndarray:
        """Attention weights (n, n_arms) for X (n, d), in the order of ``arms_``, mean over seeds; rows sum to 1."""
        return self.each_seed(X)[1].mean(0)

    def each_seed(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (seeds, n) and attention weights (seeds, n, n_arms) for X (n, d), in a single pass.

        Computed in float64, so that a row's result does not depend on the other rows; on a CPU by NumPy.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, ensure_all_finite=False, reset=False)
        require_finite("X", X)
        device = resolve_device(self.device, float64=True)
        p = {name: _doubled(value, device) for name, value in self.parameters_.items()}
        scores, weights = [], []
        for start in range(0, len(X), FORWARD_ROWS):
            x = _doubled(X[start : start + FORWARD_ROWS], device)
            line = 0.0 if self.line_ is None else x @ _doubled(self.line_[:-1], device) + float(self.line_[-1])
            if self.mean_ is not None:
                x = (x - _doubled(self.mean_, device)) / _doubled(self.scale_, device)
            out = fuse(p, project(p, x[None], self.columns_), fixed_average=self.fixed_average)
            scores.append(_in_memory((1 - self.linear) * out.scores + self.linear * line))
            weights.append(_in_memory(out.weights))
        return np.concatenate(scores, 1), np.concatenate(weights, 1)

    def write_log(self, path: str | Path | BinaryIO) -> None:
        """Write ``log_`` as a CSV with a row per epoch; an undefined correlation is left empty.

        Raises
        ------
        DrexcacheError : the file cannot be written.
        """
        import pandas as pd

        check_is_fitted(self)
        write_file(path, pd.DataFrame(self.log_).to_csv(index=False, float_format="%.6g"))

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by name and JSON-serialisable settings, which `from_state` turns back into the estimator."""
        check_is_fitted(self)
        arrays = dict(self.parameters_)
        if self.mean_ is not None:
            arrays |= {"mean": self.mean_, "scale": self.scale_}
        if self.line_ is not None:
            arrays["line"] = self.line_
        params = {name: value for name, value in self.get_params().items() if name not in ("device", "verbose")}
        params["arms"] = {name: [cols.start, cols.stop] for name, cols in zip(self.arms_, self.columns_, strict=True)}
        params["random_state"] = self.seeds_[0]
        return arrays, {"params": params, "n_features_in": self.n_features_in_, "log": self.log_}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> AttentionFusionRegressor:
        """The fitted estimator that `get_state` described, after checking every setting and array.

        Raises
        ------
        ValueError : an unknown setting, or an array that is missing, unknown or of the wrong shape or type.
        """
        unknown = set(settings["params"]) - set(cls().get_params())
        if unknown:
            raise ValueError(f"unknown settings of a fusion head: {', '.join(sorted(unknown))}")
        self = cls(**settings["params"])
        check_settings(self.get_params() | {"loss": "huber"})  # models trained with a removed loss still predict
        self.n_features_in_ = settings["n_features_in"]
        self.arms_, self.columns_ = resolved_arms(self.arms, self.n_features_in_)
        self.log_ = settings["log"]
        shapes = parameter_shapes([cols.stop - cols.start for cols in self.columns_], self.width)
        expected = {name: (self.seeds, *shape) for name, shape in shapes.items()}
        if self.standardize and not self.components:
            expected |= {"mean": (self.n_features_in_,), "scale": (self.n_features_in_,)}
        if self.linear:
            expected["line"] = (self.n_features_in_ + 1,)
        for name in sorted(set(expected) | set(arrays)):
            found = (arrays[name].shape, str(arrays[name].dtype)) if name in arrays else None
            wanted = (expected[name], "float32") if name in expected else None
            if found != wanted:
                raise ValueError(f"array {name!r} of a fusion head: expected {wanted}, found {found}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"array {name!r} of a fusion head holds NaN or infinite numbers")
        self.seeds_ = seeds_of(self)  # the arrays have just been checked to be for this many
        self.parameters_ = {name: arrays[name] for name in shapes}
        self.mean_, self.scale_, self.line_ = arrays.get("mean"), arrays.get("scale"), arrays.get("line")
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # the paper's settings are for thousands of ratings on [0, 1]
        return tags


def _doubled(array: np.ndarray, device: str) -> Any:
    """In double precision: NumPy's array on a CPU, torch's tensor on another device."""
    if device == "cpu":
        return array.astype(np.float64)
    import torch

    return torch.tensor(array, dtype=torch.float64, device=device)


def _in_memory(found: Any) -> np.ndarray:
    return found if isinstance(found, np.ndarray) else found.cpu().numpy()
