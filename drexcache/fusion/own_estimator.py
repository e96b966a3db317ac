"""TorchHeadRegressor: a head that a user wrote as a torch module, as a scikit-learn estimator."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from drexcache.cache import CachedRows
from drexcache.devices import resolve_device
from drexcache.files import write_file
from drexcache.fusion.basis import Basis, find_basis, linear_part
from drexcache.fusion.checks import (
    Arms,
    check_settings,
    checked_rows,
    require_finite,
    resolved_arms,
    seeds_of,
)  # fmt: skip
from drexcache.fusion.estimator import FORWARD_ROWS, AttentionFusionRegressor
from drexcache.fusion.head import parameter_views
from drexcache.fusion.own import MakeModule, OwnHeads, train_modules
from drexcache.fusion.plan import WINDOW, Design, HeadSettings
from drexcache.fusion.rows import TrainingData
from drexcache.fusion.stacks import undivided_operations

OWN = "module__"  # before the names of the module's own settings


class TorchHeadRegressor(RegressorMixin, BaseEstimator):
    """A fusion head of your own: a ``torch.nn.Module``, trained by the recipe of ``fusion``.

    The module's forward takes the arms, name -> (batch, width) tensor, and returns scores (batch,) or (batch, 1), or a
    pair of scores and attention weights (batch, n_arms). Everything else is the recipe's: each arm in the basis of its
    principal components, standardised ratings, Huber loss, AdamW, a one-cycle schedule, clipped gradients, the moving
    average (EMA) of the weights, half of the prediction from a linear regressor, the mean of several seeds. They are
    trained as one, by ``torch.func``, where the module can be vectorised; a warning says where it cannot.

    Parameters
    ----------
    module : the module's class, or a function that makes one; called with the arms' widths, name -> columns.
    arms : name -> columns of X, as in `AttentionFusionRegressor`; None takes all columns as one arm, "all".
    components : of each arm's basis; None gives the arms as they are in X, with ``standardize`` each column by itself.
    linear, arm_dropout : as in `AttentionFusionRegressor`; 0 without ``components``.
    lr, weight_decay, epochs, batch_size, min_steps, clip, ema, ema_horizon, standardize, seeds, random_state, device,
        verbose : as in `AttentionFusionRegressor`.
    **settings : ``module__NAME`` is the module's own keyword argument NAME, which a search can choose too.

    Attributes
    ----------
    arms_ : the arms' names. n_features_in_ : columns of X. seeds_ : each head's seed.
    parameters_, buffers_ : the module's, name -> (seeds, *shape).
    log_ : per epoch a dict of epoch, loss (mean over the steps and seeds) and lr.

    Examples
    --------
    >>> class Gated(torch.nn.Module):
    ...     def __init__(self, widths, hidden=16):
    ...         super().__init__()
    ...         self.values = torch.nn.ModuleDict({arm: torch.nn.Linear(w, hidden) for arm, w in widths.items()})
    ...         self.gates = torch.nn.ModuleDict({arm: torch.nn.Linear(w, hidden) for arm, w in widths.items()})
    ...         self.score = torch.nn.Linear(hidden, 1)
    ...
    ...     def forward(self, arms):
    ...         return self.score(sum(self.gates[arm](x).sigmoid() * self.values[arm](x) for arm, x in arms.items()))
    >>> X = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    >>> y = 1 / (1 + np.exp(-X[:, 0]))
    >>> head = TorchHeadRegressor(Gated, {"a": (0, 2), "b": (2, 6)}, min_steps=100, module__hidden=8)
    >>> head.fit(X, y).predict(X).shape, len(head.seeds_)
    ((200,), 5)
    """

    __module__ = "drexcache.fusion"

    def __init__(
        self,
        module: MakeModule,
        arms: Arms | None = None,
        *,
        components: int | None = 64,
        linear: float = 0.5,
        arm_dropout: float = 0.3,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        epochs: int = 10,
        batch_size: int = 32,
        min_steps: int = 600,
        clip: float | None = 1.0,
        ema: float = 0.999,
        ema_horizon: float | None = 0.1,
        standardize: bool = False,
        seeds: int = 5,
        random_state: int | np.random.RandomState | None = 42,
        device: str = "auto",
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        self.module = module
        self.arms = arms
        self.components = components
        self.linear = linear
        self.arm_dropout = arm_dropout
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.min_steps = min_steps
        self.clip = clip
        self.ema = ema
        self.ema_horizon = ema_horizon
        self.standardize = standardize
        self.seeds = seeds
        self.random_state = random_state
        self.device = device
        self.verbose = verbose
        self.settings = settings

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; ``deep``: with the module's own settings that were not given."""
        params: dict[str, Any] = super().get_params(deep=False)
        return params | (_own_defaults(self.module) if deep else {}) | self.settings

    def set_params(self, **params: Any) -> TorchHeadRegressor:
        """Set parameters by name.

        Raises
        ------
        ValueError : one that neither the estimator nor the module has.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"no parameter {name} of a TorchHeadRegressor; there are: {', '.join(known)}")
            if name.startswith(OWN):
                self.settings = self.settings | {name: value}
            else:
                setattr(self, name, value)
        return self

    @staticmethod
    def fit_many(
        estimators: Sequence[TorchHeadRegressor], X: np.ndarray, y: np.ndarray,
        rows: Sequence[np.ndarray | None]
    ) -> list[TorchHeadRegressor]:  # fmt: skip
        """Fitted clones of ``estimators``, one after the other: each has a basis and random numbers of its own.

        rows : for each the rows of X (n, d) and y (n,) that it trains on, or None for all.
        """
        fitted = [clone(estimator) for estimator in estimators]
        for model, own in zip(fitted, rows, strict=True):
            picked = slice(None) if own is None else own
            model.fit(X[picked], y[picked])
        return fitted

    def fit(self, X: np.ndarray, y: np.ndarray) -> TorchHeadRegressor:
        """Train on X (n, d) and ratings y (n,).

        Raises
        ------
        ValueError : NaN or infinite values (which rows), a constant y, fewer than 2 rows, arms that do not fit X, a
            setting out of range, a training that diverges, or a module that wants other arms or returns anything but
            finite scores of the right shape.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float32, ensure_all_finite=False, ensure_min_samples=2, y_numeric=True
        )
        require_finite("X", X)
        return self._fit(X, y.astype(np.float64))

    def fit_stream(self, rows: CachedRows) -> TorchHeadRegressor:
        """Train on rows that are read from their cache; the components of all of them must fit in memory.

        Raises
        ------
        ValueError : no ``components``; else as `fit`.
        """
        if not self.components:
            raise ValueError("without components a head of your own needs all features in memory")
        return self._fit(rows, rows.y)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Scores (n,) of X (n, d), the mean over seeds."""
        return np.asarray(self.each_seed(X)[0].mean(0))

    @available_if(lambda self: getattr(self, "has_attention_", False))
    def attention(self, X: np.ndarray) -> np.ndarray:
        """Attention weights (n, n_arms) in the order of ``arms_``, the mean over seeds; of a module that has them."""
        weights = self.each_seed(X)[1]
        assert weights is not None
        return np.asarray(weights.mean(0))

    @torch.no_grad()
    def each_seed(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores (seeds, n) and attention weights (seeds, n, n_arms), None where the module returns none.

        Raises
        ------
        ValueError : columns that do not fit, NaN or infinite features, or a module that returns NaN.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, ensure_all_finite=False, reset=False)
        require_finite("X", X)
        device = torch.device(resolve_device(self.device))
        with _numbers_of_its_own(device):
            heads = self._heads(torch.from_numpy(self._inputs(X[:2])).to(device), self.seeds_[:1])
        heads.base.eval()
        heads.buffers = {name: torch.from_numpy(value).to(device) for name, value in self.buffers_.items()}
        parameters = {name: torch.from_numpy(value).to(device) for name, value in self.parameters_.items()}
        scores, weights = [], []
        for start in range(0, len(X), FORWARD_ROWS):
            rows = X[start : start + FORWARD_ROWS]
            x = torch.from_numpy(self._inputs(rows)).to(device)
            found, attention = heads(parameters, x.expand(len(self.seeds_), *x.shape))
            own = self.target_[0] + self.target_[1] * found.double().cpu().numpy()
            line = 0.0 if self.line_ is None else rows.astype(np.float64) @ self.line_[:-1] + float(self.line_[-1])
            scores.append((1 - self.linear) * own + self.linear * line)
            weights += [] if attention is None else [attention.double().cpu().numpy()]
        together = np.concatenate(scores, 1)
        if not np.isfinite(together).all():
            raise ValueError(f"{heads.name} returns NaN or infinity")
        return together, np.concatenate(weights, 1) if weights else None

    def write_log(self, path: str | Path) -> None:
        """Write ``log_`` as a CSV, a row per epoch.

        Raises
        ------
        DrexcacheError : the file cannot be written.
        """
        import pandas as pd

        check_is_fitted(self)
        write_file(path, pd.DataFrame(self.log_).to_csv(index=False, float_format="%.6g"))

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by name and JSON-able settings, the module by its import path: all that `from_state` needs."""
        check_is_fitted(self)
        arrays = {f"parameter.{name}": value for name, value in self.parameters_.items()}
        arrays |= {f"buffer.{name}": value for name, value in self.buffers_.items()}
        arrays |= self.basis_.arrays() if self.basis_ else {}
        given = {"mean": self.mean_, "scale": self.scale_, "line": self.line_}
        arrays |= {name: value for name, value in given.items() if value is not None}
        params = {k: v for k, v in self.get_params(deep=False).items() if k not in ("module", "device", "verbose")}
        params["arms"] = {name: [cols.start, cols.stop] for name, cols in zip(self.arms_, self.columns_, strict=True)}
        params["random_state"] = self.seeds_[0]
        learnt = {"n_features_in": self.n_features_in_, "target": self.target_, "log": self.log_}
        return arrays, {"module": import_path_of(self.module), "params": params, **learnt}

    @classmethod
    def from_state(
        cls, module: MakeModule, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]
    ) -> TorchHeadRegressor:
        """The fitted estimator that `get_state` described; the caller has imported the module.

        Raises
        ------
        ValueError : an unknown setting, or an array that is missing, unknown, not finite, or of another shape or type
            than the module's.
        """
        self = cls(module).set_params(**settings["params"])
        self._check_settings()
        self.n_features_in_, self.log_ = int(settings["n_features_in"]), settings["log"]
        self.target_ = [float(value) for value in settings["target"]]
        self.arms_, self.columns_ = resolved_arms(self.arms, self.n_features_in_)
        self.seeds_ = seeds_of(self)
        self.basis_ = Basis.of_arrays(arrays, self.columns_) if self.components else None
        self.mean_, self.scale_, self.line_ = arrays.get("mean"), arrays.get("scale"), arrays.get("line")
        with _numbers_of_its_own(torch.device("cpu")):
            heads = self._heads(torch.zeros(2, self._inside[-1].stop), self.seeds_[:1])
        self.has_attention_ = heads.has_attention
        fresh = {f"parameter.{name}": view for name, view in parameter_views(heads.flat, heads.shapes).items()}
        fresh |= {f"buffer.{name}": value for name, value in heads.buffers.items()}
        expected = {name: _form(value.numpy().repeat(self.seeds, axis=0)) for name, value in fresh.items()}
        if self.standardize and not self.components:
            expected |= dict.fromkeys(("mean", "scale"), ((self.n_features_in_,), "float32"))
        if self.linear:
            expected["line"] = (self.n_features_in_ + 1,), "float32"
        for name in sorted({name for name in arrays if not name.startswith("basis.")} | set(expected)):
            found = _form(arrays[name]) if name in arrays else None
            if found != expected.get(name):
                raise ValueError(f"array {name!r} of a {heads.name}: expected {expected.get(name)}, found {found}")
        if not all(np.isfinite(value).all() for value in (*arrays.values(), np.asarray(self.target_))):
            raise ValueError("an array of the head holds NaN or infinite numbers")
        self.parameters_ = {name: arrays[f"parameter.{name}"] for name in heads.shapes}
        self.buffers_ = {name: arrays[f"buffer.{name}"] for name in heads.buffers}
        return self

    def _check_settings(self) -> None:
        check_settings(AttentionFusionRegressor().get_params() | self.get_params(deep=False))
        if isinstance(self.module, nn.Module) or not callable(self.module):
            found = " ".join(repr(self.module).split())[:60]
            raise ValueError(f"module must be the class of a torch.nn.Module, or make one; found {found}")

    def _fit(self, X: np.ndarray | CachedRows, y: np.ndarray) -> TorchHeadRegressor:
        self._check_settings()
        checked_rows(None, y)
        self.n_features_in_ = X.shape[1]
        self.arms_, self.columns_ = resolved_arms(self.arms, self.n_features_in_)
        self.seeds_, self.target_ = seeds_of(self), [float(y.mean()), float(y.std())]
        self.basis_ = self.mean_ = self.scale_ = self.line_ = None
        rows = np.arange(len(y))
        if self.components:
            self.basis_ = find_basis(X, rows, self.columns_, self.components, standardize=self.standardize)
        pieces = (X,) if isinstance(X, np.ndarray) else (piece for piece, _ in X.pieces(rows, size=WINDOW))
        Z = np.concatenate([self._inputs(piece) for piece in pieces])
        if self.basis_ and self.linear:
            self.line_ = linear_part(X, y, rows, self.columns_)
        device = torch.device(resolve_device(self.device))
        inputs = torch.from_numpy(Z).to(device)
        data = TrainingData(
            inputs,
            torch.from_numpy((y - self.target_[0]) / self.target_[1]).float().to(device),
        )
        with _numbers_of_its_own(device), undivided_operations():
            heads = self._heads(inputs[: self.batch_size], self.seeds_)
            if not heads.starts_finite:
                raise ValueError(f"{heads.name} returns NaN or infinity before it has learnt anything")
            torch.manual_seed(self.seeds_[0])  # of the module's own dropout
            trained = train_modules(data, *self._plan(len(y), str(device)), heads, verbose=self.verbose)
        self.has_attention_ = heads.has_attention
        self.mean_, self.scale_ = trained.scaling or (None, None)
        self.parameters_, self.buffers_, self.log_ = trained.parameters, trained.buffers, trained.log
        return self

    def _plan(self, n: int, device: str) -> tuple[list[HeadSettings], Design]:
        """Each seed's settings, and what they share, for n rows."""
        same = ("lr", "weight_decay", "clip", "ema", "ema_horizon", "arm_dropout")
        head = HeadSettings(
            **{name: getattr(self, name) for name in same},
            standardize=self.standardize and not self.components,
            epochs=max(self.epochs, math.ceil(self.min_steps / math.ceil(n / self.batch_size))),
        )
        arms = tuple((cols.start, cols.stop) for cols in self._inside)
        return [replace(head, seed=seed) for seed in self.seeds_], Design(arms, 1, self.batch_size, device=device)

    @property
    def _inside(self) -> list[slice]:
        """The arms' columns of what the module is given."""
        return self.basis_.columns if self.basis_ else self.columns_

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        """What the module is given of X (n, d): components, or standardised columns once the scaling is known."""
        if self.basis_:
            return self.basis_(X)
        return X if self.mean_ is None else (X - self.mean_) / self.scale_

    def _heads(self, sample: torch.Tensor, seeds: Sequence[int]) -> OwnHeads:
        own = {name.removeprefix(OWN): value for name, value in self.settings.items()}
        return OwnHeads(self.module, own, dict(zip(self.arms_, self._inside, strict=True)), seeds, sample)


def import_path_of(module: Any) -> str:
    """The path by which a module's class can be imported again, such as "mypackage.heads:Gated".

    It is "" where there is none: for a function, and for a class of a notebook, a script or a function.
    """
    name, home = getattr(module, "__qualname__", ""), getattr(module, "__module__", "")
    if not isinstance(module, type) or home == "__main__" or getattr(sys.modules.get(home), name, None) is not module:
        return ""
    return f"{home}:{name}"


def _own_defaults(module: Any) -> dict[str, Any]:
    """``module__NAME`` -> the default of each of the module's own settings."""
    try:
        parameters = list(signature(module).parameters.values())[1:]  # the first is the arms' widths
    except (TypeError, ValueError):
        return {}
    return {OWN + one.name: one.default for one in parameters if one.default is not Parameter.empty}


def _form(array: np.ndarray) -> tuple[tuple[int, ...], str]:
    return array.shape, str(array.dtype)


@contextmanager
def _numbers_of_its_own(device: torch.device) -> Iterator[None]:
    """A context that leaves torch's random numbers as they were: modules draw from them without being asked."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
