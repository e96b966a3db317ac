"""The compiled training step beside torch's operations: equal for every shape, on any number of threads."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drexcache.fusion import stacks as fusion_stacks
from drexcache.fusion.estimator import AttentionFusionRegressor
from drexcache.fusion.kernel import compiled as fusion_compiled
from drexcache.fusion.kernel.compiled import CompiledStep
from drexcache.fusion.plan import Design, HeadSettings, make_plan
from drexcache.fusion.step import TorchStep, make_step

needs_compiled = pytest.mark.skipif(
    fusion_compiled.fusion_cpu is None, reason="no C compiler was there at installation"
)

HEADS = [
    HeadSettings(clip=0.05, weight_decay=0.3, ema=0.9, seed=1),
    HeadSettings(clip=None, epochs=2, dropout=0.4, ema=0.5, seed=2),
    HeadSettings(lr=3e-3, validation=np.arange(3), seed=3),
]


def trained(step_of: Callable[..., Any], design: Design, heads: list[HeadSettings], *threads: int) -> list[np.ndarray]:
    """Every step's scores, the parameters and their average, after some steps."""
    rng = np.random.default_rng(0)
    n, d = 2 * design.batch_size + 1, max(stop for _, stop in design.arms) + 3  # three columns are no arm's
    X = torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32))
    y = torch.from_numpy(rng.uniform(size=n).astype(np.float32))
    with torch.no_grad():
        plan = make_plan(n, heads, design)
        flat, ema, masks = plan.init, plan.init.clone(), plan.draw_masks()
        step = step_of(flat, ema, heads, plan, design, X[plan.index[0]], *threads)
        scores = []
        for t in range(len(plan.lr)):
            scores.append(step.forward(masks[t]).numpy().copy())
            d_scores = plan.weight[t] * (torch.from_numpy(scores[-1]) - y[plan.index[t]])
            step.backward(t, d_scores, X[plan.index[min(t + 1, len(plan.lr) - 1)]])
    return [np.stack(scores), flat.numpy(), ema.numpy()]


def assert_equal_trainings(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Up to rounding: AdamW makes a whole step of a gradient that is nearly nothing, so single numbers may differ."""
    for name, a, b in zip(("scores", "parameters", "average"), ours, theirs, strict=True):
        assert np.abs(a - b).mean() < 2e-6 * max(1, np.abs(b).max()), name
        np.testing.assert_allclose(a, b, atol=2e-3, err_msg=name)


@needs_compiled
@settings(deadline=None, max_examples=40)
@given(
    dims=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    width=st.one_of(st.integers(3, 50), st.just(384)),  # layer norm makes mere signs of two numbers
    batch_size=st.integers(1, 40),
    fixed_average=st.booleans(),
    heads=st.integers(1, 3),
)
def test_it_equals_torchs_operations(
    dims: list[int], width: int, batch_size: int, fixed_average: bool, heads: int
) -> None:
    edges = np.cumsum([2, *dims]).tolist()  # the first two columns are no arm's
    design = Design(tuple(itertools.pairwise(edges)), width, batch_size, fixed_average=fixed_average)
    plain = trained(TorchStep, design, [HeadSettings(epochs=3)] * heads)
    assert_equal_trainings(trained(CompiledStep, design, [HeadSettings(epochs=3)] * heads, 2), plain)


@needs_compiled
@pytest.mark.parametrize("tile", [24 * 5, 24 * 100, 2**19])  # many tiles, two or one per arm
def test_heads_of_other_settings_in_one_stack_and_any_number_of_tiles(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion_compiled, "TILE", tile)
    design = Design(((0, 12), (12, 210)), 24)
    plain = trained(TorchStep, design, HEADS)
    alone, shared = (trained(CompiledStep, design, HEADS, threads) for threads in (1, 3))
    for ours, also_ours in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(ours, also_ours)
    assert_equal_trainings(alone, plain)


@needs_compiled
def test_arrays_of_another_length_are_refused() -> None:
    cpu = fusion_compiled.fusion_cpu
    shape = (1, 2, 1, 8, 20_000, False)
    flat, work = np.zeros((1, 20_000), np.float32), np.zeros(cpu.workspace(shape), np.float32)
    scores, masks = np.zeros((1, 2), np.float32), np.zeros((1, 2, 224), np.float32)
    with pytest.raises(ValueError, match="projected has 60 bytes, due are 64"):
        cpu.forward(shape, flat, np.zeros(15, np.float32), masks, work, scores)
    scores.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        cpu.forward(shape, flat, np.zeros(16, np.float32), masks, work, scores)
    with pytest.raises(ValueError, match="a shape is"):
        cpu.workspace((1, 2, 1, 8, 20, False))


def test_without_it_torch_makes_the_steps_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    model = AttentionFusionRegressor(width=16, epochs=2, ema=0.5, seeds=2)
    expected = model.fit(X, X[:, 0]).predict(X)
    monkeypatch.setattr(fusion_compiled, "fusion_cpu", None)
    fusion_stacks._warn_of_slow_steps.cache_clear()
    with pytest.warns(RuntimeWarning, match="no C compiler was found .*: fusion heads train with torch"):
        again = model.fit(X, X[:, 0]).predict(X)
    np.testing.assert_allclose(again, expected, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, X[:, 0])
    heads, design = [HeadSettings()], Design(((0, 10),), 16)
    plan = make_plan(60, heads, design)
    x = torch.from_numpy(X)[plan.index[0]]
    assert isinstance(make_step(plan.init, plan.init.clone(), heads, plan, design, x, 1), TorchStep)
