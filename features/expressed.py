"""Fitted regressors as torch modules that an exporter can trace: from features float32 (B, d) to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from drexcache.errors import DrexcacheError
from drexcache.fusion import AttentionFusionRegressor, fuse, project

ACTIVATIONS = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class Fusion(nn.Module):
    """The fusion head in float32: the mean of its seeds' scores (B,), and of their attention (B, n_arms)."""

    def __init__(self, head: AttentionFusionRegressor) -> None:
        super().__init__()
        self.columns, self.fixed_average, self.linear = head.columns_, head.fixed_average, head.linear
        self.parameters_ = {name: _tensor(value) for name, value in head.parameters_.items()}
        d = head.n_features_in_
        line = np.zeros(d + 1, np.float32) if head.line_ is None else head.line_
        self.line = _linear(line[:-1], line[-1])
        self.scaling = nn.Identity() if head.mean_ is None else Scaled(head.mean_, head.scale_)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B,) and attention (B, n_arms) of x (B, d)."""
        p = self.parameters_
        z = self.scaling(x).expand(len(p["alpha"]), -1, -1)  # (seeds, B, d)
        found = fuse(p, project(p, z, self.columns), fixed_average=self.fixed_average)
        scores = (1 - self.linear) * found.scores.mean(0) + self.linear * self.line(x)[:, 0]
        return scores, found.weights.mean(0)


class Scaled(nn.Module):
    """(x - mean) / scale, or its inverse."""

    def __init__(self, mean: np.ndarray | None, scale: np.ndarray | None, *, back: bool = False) -> None:
        super().__init__()
        self.mean = _tensor(0.0 if mean is None else mean)
        self.scale = _tensor(1.0 if scale is None else scale)
        self.back = back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of x (B, d)."""
        return x * self.scale + self.mean if self.back else (x - self.mean) / self.scale


class Kernel(nn.Module):
    """exp(-gamma |x - c|^2) to each of the centres (n, d): (B, n)."""

    def __init__(self, centres: np.ndarray, gamma: float) -> None:
        super().__init__()
        self.centres, self.gamma = _tensor(centres), gamma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of x (B, d)."""
        return torch.exp(-self.gamma * (x[:, None] - self.centres).square().sum(-1))


class Weighted(nn.Module):
    """(x - mean) * factor, column by column."""

    def __init__(self, mean: np.ndarray, factor: np.ndarray) -> None:
        super().__init__()
        self.mean, self.factor = _tensor(mean), _tensor(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of x (B, d)."""
        return (x - self.mean) * self.factor


class Beside(nn.Module):
    """The predictions of several regressors, side by side."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of x (B, d): (B, members)."""
        return torch.cat([_column(member(x)) for member in self.members], dim=1)


def _column(found: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Predictions (B, 1), without a fusion head's attention."""
    return found[0][:, None] if isinstance(found, tuple) else found


def expressed(estimator: Any) -> nn.Module:
    """Convert a fitted regressor, or a step of one, to a module from (B, d) to (B, k).

    Raises
    ------
    DrexcacheError : one that decides by comparisons or looks rows up: trees, neighbours.
    """
    kind = type(estimator).__name__
    if kind not in _FORMS:
        if "linear_model" in type(estimator).__module__ and np.ndim(getattr(estimator, "coef_", 0.0)) == 1:
            return _linear(estimator.coef_, estimator.intercept_)
        raise DrexcacheError(
            f"a {kind} cannot be exported; fusion, mlp, linear and RBF kernel regressors and stacks of them can"
        )
    return _FORMS[kind](estimator)


def _tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def _linear(weight: np.ndarray, bias: Any) -> nn.Linear:
    """x @ weight.T + bias, weight (k, d) or (d,)."""
    weight = np.atleast_2d(weight)
    layer = nn.Linear(weight.shape[1], len(weight))
    layer.weight.data, layer.bias.data = _tensor(weight), _tensor(np.broadcast_to(bias, len(weight)))
    return layer


def _pca(pca: Any) -> nn.Module:
    scale = np.sqrt(pca.explained_variance_) if pca.whiten else np.ones(len(pca.components_))
    weight = pca.components_ / scale[:, None]
    return _linear(weight, -weight @ pca.mean_)


def _kernel(estimator: Any, centres: np.ndarray, weight: np.ndarray, bias: Any = 0.0) -> nn.Module:
    """bias + kernel @ weight.T for the centres (n, d) and weight (k, n) or (n,)."""
    if estimator.kernel != "rbf" or not isinstance(estimator.gamma, float):
        raise DrexcacheError(
            f"a {type(estimator).__name__} with kernel {estimator.kernel} and gamma {estimator.gamma} cannot be "
            "exported; one with kernel rbf and a number for gamma can"
        )
    return nn.Sequential(Kernel(centres, estimator.gamma), _linear(weight, bias))


def _kernel_fusion(one: Any) -> nn.Module:
    """A product of RBF kernels is one RBF kernel of columns weighted by the roots of their blocks' widths."""
    root = np.zeros(len(one.mean_))
    for columns, width in zip(one.columns_, one.widths_, strict=True):
        root[columns] = np.sqrt(width)
    centres, dual = one.basis_ * root, one.y_scale_ * one.weight_ * one.dual_
    bias = one.predict(one.mean_[None])[0] - np.exp(-np.square(centres).sum(1)) @ dual  # what no kernel contributes to
    return nn.Sequential(Weighted(one.mean_, one.scale_ * root), Kernel(centres, 1.0), _linear(dual, bias))


def _network(network: Any) -> nn.Module:
    layers: list[nn.Module] = []
    for weight, bias in zip(network.coefs_, network.intercepts_, strict=True):
        layers += [_linear(weight.T, bias), ACTIVATIONS[network.activation]()]
    return nn.Sequential(*layers[:-1])


_FORMS: dict[str, Callable[[Any], nn.Module]] = {
    "AttentionFusionRegressor": Fusion,
    "DummyRegressor": lambda one: _linear(np.zeros(one.n_features_in_), one.constant_[0]),
    "GramRidge": lambda one: _linear(one.coef_, one.intercept_),
    "LinearSVR": lambda one: _linear(one.coef_, one.intercept_),
    "PLSRegression": lambda one: _linear(one.coef_, one.predict(np.zeros((1, one.n_features_in_)))),
    "StandardScaler": lambda one: Scaled(one.mean_, one.scale_),
    "PCA": _pca,
    "SVR": lambda one: _kernel(one, one.support_vectors_, one.dual_coef_, one.intercept_),
    "NuSVR": lambda one: _kernel(one, one.support_vectors_, one.dual_coef_, one.intercept_),
    "KernelFusionRegressor": _kernel_fusion,
    "KernelRidge": lambda one: _kernel(one, one.X_fit_, one.dual_coef_),
    "Nystroem": lambda one: _kernel(one, one.components_, one.normalization_),
    "MLPRegressor": _network,
    "Pipeline": lambda one: nn.Sequential(
        *(expressed(step) for _, step in one.steps if step not in (None, "passthrough"))
    ),
    "TransformedTargetRegressor": lambda one: nn.Sequential(
        expressed(one.regressor_), Scaled(one.transformer_.mean_, one.transformer_.scale_, back=True)
    ),
    "StackingRegressor": lambda one: nn.Sequential(
        Beside([expressed(member) for member in one.estimators_]), expressed(one.final_estimator_)
    ),
}
