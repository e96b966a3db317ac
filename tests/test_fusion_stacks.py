"""Fusion heads of several designs, trained side by side on a CPU's threads: the same results, and one end for all."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.base import clone

from drexcache.fusion.estimator import AttentionFusionRegressor, fit_many

ARMS = {"dino": slice(0, 12), "resnet": slice(12, 40)}


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """As on a machine with three cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3, "training leaves torch as it was"
    torch.set_num_threads(before)


def problem(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Features and ratings on [0, 1] that depend on them."""
    X = np.random.default_rng(0).normal(size=(n, 40)).astype(np.float32)
    return X, 1 / (1 + np.exp(-X[:, 0] - np.abs(X[:, 20])))


def test_heads_of_several_designs_equal_heads_trained_alone() -> None:
    X, y = problem()
    base = AttentionFusionRegressor(ARMS, width=24, epochs=3, ema=0.9)
    changes = [{}, {"width": 16}, {"random_state": 5}, {"arms": None}, {"batch_size": 30, "seeds": 3}, {"dropout": 0.3}]
    models = [clone(base).set_params(**changed) for changed in changes]
    rows = [None, np.arange(80), None, np.arange(30, 110), None, None]
    for model, own, together in zip(models, rows, fit_many(models, X, y, rows), strict=True):
        pick = slice(None) if own is None else own
        alone = clone(model).fit(X[pick], y[pick])
        np.testing.assert_allclose(together.predict(X), alone.predict(X), atol=1e-5)
        assert together.seeds_ == alone.seeds_


def long_ones(count: int) -> list[AttentionFusionRegressor]:
    """Trainings of some minutes each: 160,000 steps."""
    return [AttentionFusionRegressor(ARMS, width=16, epochs=20_000, random_state=seed) for seed in range(count)]


@pytest.mark.parametrize("place", [0, 2])  # the others are waited for before it, too
def test_one_that_fails_ends_all(place: int) -> None:
    X, y = problem()
    diverging = AttentionFusionRegressor(ARMS, width=24, lr=1e30, clip=None)
    started = time.perf_counter()
    with pytest.raises(ValueError, match="training diverged"):
        fit_many([*long_ones(2)[:place], diverging, *long_ones(2)[place:]], X, y)
    assert time.perf_counter() - started < 60


def test_ctrl_c_ends_all() -> None:
    X, y = problem()
    timer = threading.Timer(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        fit_many(long_ones(6), X, y)
    assert time.perf_counter() - started < 60
    timer.join()
