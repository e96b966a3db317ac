"""The fusion head and its training are the paper's: beside an independent plain implementation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from drexcache.fusion.estimator import PRESETS, AttentionFusionRegressor
from drexcache.fusion.head import init_head, parameter_shapes, parameter_views
from drexcache.fusion.plan import Design, HeadSettings, make_plan, one_cycle
from drexcache.fusion.stacks import train_heads
from drexcache.fusion.step import clip_adamw_ema

DESIGN = Design(((0, 12), (12, 40)), width=24, batch_size=16)
SHAPES = parameter_shapes([12, 28], 24)


def problem(n: int = 120, d: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and ratings on [0, 1] that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    y = 1 / (1 + np.exp(-X[:, 0] - np.abs(X[:, 20])))
    return X, y


class PlainHead(nn.Module):
    """The paper's head, written with plain torch modules."""

    def __init__(self, dims: list[int], width: int, dropout: float) -> None:
        super().__init__()
        self.dims = dims
        self.arms: Any = nn.ModuleList(nn.Sequential(nn.Linear(d, width), nn.LayerNorm(width), nn.GELU()) for d in dims)
        self.attention: Any = nn.Sequential(nn.Linear(width * len(dims), 128), nn.Tanh(), nn.Linear(128, len(dims)))
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.alpha = nn.Parameter(torch.tensor(0.1))
        layers: list[nn.Module] = []
        for a, b in ((width, 128), (128, 64), (64, 32)):
            layers += [nn.Linear(a, b), nn.GELU(), nn.Dropout(dropout)]
        self.head: Any = nn.Sequential(*layers, nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        arms = [arm(part) for arm, part in zip(self.arms, x.split(self.dims, 1), strict=True)]
        weights = torch.softmax(self.attention(torch.cat(arms, 1)) / self.temperature, 1)
        fused = sum(weights[:, i, None] * a for i, a in enumerate(arms)) + self.alpha * sum(arms)
        return self.head(functional.layer_norm(fused, fused.shape[1:])).squeeze(1)

    def by_our_names(self) -> dict[str, torch.Tensor]:
        """Its parameters under our names and in our orientation."""
        named = {f"arm.{i}.weight": arm[0].weight.T for i, arm in enumerate(self.arms)}
        named["arm.bias"] = torch.stack([arm[0].bias for arm in self.arms])
        named["arm.norm.weight"] = torch.stack([arm[1].weight for arm in self.arms])
        named["arm.norm.bias"] = torch.stack([arm[1].bias for arm in self.arms])
        for ours, layer in {"attention.0": self.attention[0], "attention.1": self.attention[2]}.items():
            named |= {f"{ours}.weight": layer.weight.T, f"{ours}.bias": layer.bias}
        for i in range(4):
            named |= {f"head.{i}.weight": self.head[3 * i].weight.T, f"head.{i}.bias": self.head[3 * i].bias}
        return named | {"temperature": self.temperature, "alpha": self.alpha}

    def load_ours(self, parameters: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for i, (linear, norm, _) in enumerate(self.arms):
                linear.bias.copy_(parameters["arm.bias"][i])
                norm.weight.copy_(parameters["arm.norm.weight"][i])
                norm.bias.copy_(parameters["arm.norm.bias"][i])
            for name, own in self.by_our_names().items():
                if name not in ("arm.bias", "arm.norm.weight", "arm.norm.bias"):
                    own.copy_(parameters[name])


def plain_training(
    model: PlainHead, X: np.ndarray, y: np.ndarray, batches: list[np.ndarray]
) -> dict[str, torch.Tensor]:
    """The paper's loop with torch's own optimiser, schedule and clipping; returns the averaged parameters."""
    X_all, y_all = torch.from_numpy(X), torch.from_numpy(y.astype(np.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=len(batches))
    ema = {name: p.detach().clone() for name, p in model.by_our_names().items()}
    for rows in batches:
        optimizer.zero_grad()
        functional.huber_loss(model(X_all[rows]), y_all[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        for name, p in model.by_our_names().items():
            ema[name] = 0.999 * ema[name] + 0.001 * p.detach()
    return ema


@pytest.mark.parametrize("stack", [1, 2])
def test_fifty_steps_agree_with_a_plain_implementation(stack: int) -> None:
    X, y = problem(n=75)  # 5 batches an epoch, the last of 11 rows
    y = 4 * y  # errors beyond Huber's delta and gradients beyond the clipping norm
    heads = [HeadSettings(dropout=0.0, seed=3), HeadSettings(dropout=0.0, seed=4)][:stack]
    plan = make_plan(len(X), heads, DESIGN)
    (trained,) = train_heads(X, y, [(DESIGN, heads)], stack=stack)
    for k, head in enumerate(trained):
        model = PlainHead([12, 28], 24, 0.0)
        model.load_ours({name: view[k] for name, view in parameter_views(plan.init, SHAPES).items()})
        batches = [plan.index[t, k][plan.weight[t, k] > 0].numpy() for t in range(50)]
        assert sorted(np.concatenate(batches[5:10])) == list(range(75)), "an epoch is each row once"
        ema = plain_training(model, X, y, batches)
        for name, value in ema.items():
            np.testing.assert_allclose(head.parameters[name], value.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("tile", [24 * 5, 24 * 100, 2**19])
def test_the_trained_parameters_behind_the_average_agree_too(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ema=0 the result is the last step's parameters: EMA's slow weights hide no difference."""
    monkeypatch.setattr("drexcache.fusion.kernel.compiled.TILE", tile)  # many tiles, one per arm, or none
    X, y = problem(n=75)
    head = HeadSettings(dropout=0.0, ema=0.0)
    plan = make_plan(len(X), [head], DESIGN)
    model = PlainHead([12, 28], 24, 0.0)
    model.load_ours({name: view[0] for name, view in parameter_views(plan.init.clone(), SHAPES).items()})
    plain_training(model, X, y, [plan.index[t, 0][plan.weight[t, 0] > 0].numpy() for t in range(50)])
    ((trained,),) = train_heads(X, y, [(DESIGN, [head])])
    for name, value in model.by_our_names().items():
        np.testing.assert_allclose(trained.parameters[name], value.detach().numpy(), atol=1e-5, err_msg=name)


def test_size_and_default_settings_are_the_papers() -> None:
    assert sum(math.prod(shape) for shape in parameter_shapes([384, 3840]).values()) == 1_782_661
    assert sum(p.numel() for p in PlainHead([384, 3840], 384, 0.1).parameters()) == 1_782_661
    assert AttentionFusionRegressor().get_params() == {
        "arms": None,
        "width": 384,
        "dropout": 0.1,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "epochs": 10,
        "batch_size": 16,
        "min_steps": 0,
        "clip": 1.0,
        "ema": 0.999,
        "ema_horizon": None,
        "standardize": False,
        "components": None,
        "offset": 0.0,
        "arm_dropout": 0.0,
        "linear": 0.0,
        "loss": "huber",
        "early_stopping": 0,
        "validation_fraction": 0.1,
        "fixed_average": False,
        "seeds": 1,
        "random_state": 42,
        "device": "auto",
        "verbose": False,
    }
    assert PRESETS["fusion-paper"] == {}


@pytest.mark.parametrize("steps", [1, 3, 50, 101])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)
    factor, beta1 = one_cycle(steps)
    for t in range(steps):
        group = optimizer.param_groups[0]
        assert (factor[t], beta1[t]) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-9, abs=1e-12)
        optimizer.step()
        schedule.step()


def test_initial_parameters_have_the_ranges_of_torchs_layers() -> None:
    flat = init_head([12, 28], 24, torch.Generator().manual_seed(0))
    ours = {name: view[0] for name, view in parameter_views(flat[None], SHAPES).items()}
    theirs = {name: p.detach() for name, p in PlainHead([12, 28], 24, 0.0).by_our_names().items()}
    assert {name: tuple(p.shape) for name, p in ours.items()} == {name: tuple(p.shape) for name, p in theirs.items()}
    for name, value in ours.items():
        if value.numel() >= 64:  # two uniform samples of 64 differ by less in their largest value and spread
            assert float(value.abs().max()) == pytest.approx(float(theirs[name].abs().max()), rel=0.15), name
            assert float(value.std()) == pytest.approx(float(theirs[name].std()), rel=0.25, abs=1e-6), name


def test_dropout_masks_have_their_rate_and_differ_by_head() -> None:
    heads = [HeadSettings(dropout=0.1), HeadSettings(dropout=0.5), HeadSettings(dropout=0.5, seed=7)]
    masks = make_plan(64, heads, DESIGN).draw_masks()  # (SPAN, K, B, 224)
    assert [sorted(m.unique().tolist()) for m in masks.unbind(1)] == [
        [0, pytest.approx(1 / 0.9)],
        [0, 2],
        [0, 2],
    ]
    assert [float((m == 0).float().mean()) for m in masks.unbind(1)] == pytest.approx([0.1, 0.5, 0.5], abs=0.01)
    assert not torch.equal(masks[:, 1], masks[:, 2])


def test_an_update_is_torchs_clipping_and_adamw_with_each_heads_own_rates() -> None:
    torch_rng = torch.Generator().manual_seed(0)
    start = torch.randn(2, 50, generator=torch_rng)
    grads = torch.randn(6, 2, 50, generator=torch_rng)
    lr, decay = [1e-2, 3e-3], [0.0, 0.3]
    buffers = (start.clone(), torch.empty(2, 50), torch.zeros(2, 50), torch.zeros(2, 50), start.clone())
    rows = [nn.Parameter(row.clone()) for row in start]
    groups = [{"params": [p], "lr": a, "weight_decay": b} for p, a, b in zip(rows, lr, decay, strict=True)]
    optimizer = torch.optim.AdamW(groups)
    for t, grad in enumerate(grads, start=1):
        buffers[1].copy_(grad)
        c = math.sqrt(1 - 0.999**t)
        rates = [[1 - a * b, a * c / (1 - 0.9**t), 0.1, 1e-8 * c, 0.5] for a, b in zip(lr, decay, strict=True)]
        clip_adamw_ema(buffers, torch.tensor(rates), torch.tensor([[math.inf], [5.0]]))
        for p, g in zip(rows, grad, strict=True):
            p.grad = g.clone()
        nn.utils.clip_grad_norm_(rows[1], 5.0)
        optimizer.step()
    torch.testing.assert_close(buffers[0], torch.stack([p.detach() for p in rows]), rtol=1e-5, atol=1e-6)
