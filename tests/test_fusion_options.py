"""Options beyond the paper's recipe: losses, early stopping, several datasets, a fixed average."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import pty
import struct
import termios
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from drexcache.fusion.estimator import AttentionFusionRegressor, fit_many
from drexcache.fusion.gradient import backward
from drexcache.fusion.head import fuse, init_head, parameter_shapes, parameter_views
from drexcache.fusion.loss import LOSSES, ccc, huber, rank
from drexcache.fusion.validation import inner_split

ARMS = {"dino": slice(0, 12), "resnet": slice(12, 40)}
SMALL = AttentionFusionRegressor(ARMS, width=24, epochs=4, ema=0.9, lr=3e-3)


def problem(n: int = 120, d: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and ratings on [0, 1] that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    return X, 1 / (1 + np.exp(-X[:, 0] - np.abs(X[:, 20])))


@pytest.mark.parametrize("fixed_average", [False, True])
def test_the_gradient_written_out_is_autograds(fixed_average: bool) -> None:
    shapes = parameter_shapes([5, 7, 9], 24)
    generator = torch.Generator().manual_seed(0)
    flat = torch.stack([init_head([5, 7, 9], 24, generator) for _ in range(2)]).double()
    p = parameter_views(flat, shapes)
    projected = torch.randn(2, 6, 3, 24, generator=generator, dtype=torch.float64)
    masks = (torch.rand(2, 6, 224, generator=generator) > 0.3).double() / 0.7
    d_scores = torch.randn(2, 6, generator=generator, dtype=torch.float64)

    leaves = {name: view.clone().requires_grad_() for name, view in p.items()}
    start = projected.clone().requires_grad_()
    (fuse(leaves, start, masks, fixed_average=fixed_average).scores * d_scores).sum().backward()

    grads = {name: torch.full_like(view, torch.nan) for name, view in p.items() if name not in list(shapes)[:3]}
    state = fuse(p, projected, masks, fixed_average=fixed_average)
    d = backward(p, state, d_scores, masks, grads, fixed_average=fixed_average)
    torch.testing.assert_close(d, start.grad)
    for name, grad in grads.items():
        expected = leaves[name].grad if leaves[name].grad is not None else torch.zeros_like(grad)
        torch.testing.assert_close(grad, expected, msg=name)


def test_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(2, 3, 10))
    weight = np.full((3, 10), 0.1)
    s, t, w = map(torch.from_numpy, (scores, y, weight))
    expected = torch.nn.functional.huber_loss(s, t, reduction="none").mean(1)
    torch.testing.assert_close(huber(s, t, w)[0], expected)
    for k in range(3):
        c = 2 * np.cov(scores[k], y[k], ddof=0)[0, 1]
        c /= scores[k].var() + y[k].var() + (scores[k].mean() - y[k].mean()) ** 2
        assert float(ccc(s, t, w)[k]) == pytest.approx(1 - c, abs=1e-6)
        pairs = [math.log1p(math.exp(-(scores[k, i] - scores[k, j]) / 0.1)) for i, j in _ordered(y[k])]
        assert float(rank(s, t, w)[k]) == pytest.approx(float(expected[k]) + 0.1 * sum(pairs) / 100, rel=1e-6)


def _ordered(y: np.ndarray) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.product(range(len(y)), repeat=2) if y[i] > y[j]]


@pytest.mark.parametrize("name", LOSSES)
def test_padding_a_short_batch_changes_no_loss(name: str) -> None:
    scores, y = torch.rand(2, 1, 5)
    full = torch.full((1, 5), 0.2)
    padded = [torch.cat([part, torch.full((1, 3), fill)], 1) for part, fill in ((scores, 9.0), (y, 7.0), (full, 0.0))]
    torch.testing.assert_close(LOSSES[name](*padded), LOSSES[name](scores, y, full))


def test_options_in_a_stack_equal_training_alone() -> None:
    X, y = problem()
    datasets = np.where(np.arange(120) % 3, "a", "b")
    rows = [None, np.arange(10, 120)[::-1], np.arange(0, 100), None, np.arange(0, 100)]
    changes = [
        {"loss": "ccc"},
        {"loss": "rank", "random_state": 3},
        {"early_stopping": 1, "standardize": True, "epochs": 6},
        {"fixed_average": True},
        {"early_stopping": 2, "epochs": 9, "seeds": 2},
    ]
    models = [clone(SMALL).set_params(**changed) for changed in changes]
    together = fit_many(models, X, y, rows, datasets=datasets)
    for model, own, stacked in zip(models, rows, together, strict=True):
        pick = slice(None) if own is None else own
        alone = clone(model).fit(X[pick], y[pick], datasets[pick])
        np.testing.assert_allclose(stacked.predict(X), alone.predict(X), atol=1e-5)
        assert len(stacked.log_) == len(alone.log_)
        assert stacked.dataset_scales_["a"] == pytest.approx(alone.dataset_scales_["a"], abs=1e-5)


@pytest.mark.parametrize("loss", ["huber", "ccc", "rank"])
def test_every_loss_learns(loss: str) -> None:
    X, y = problem(n=500)
    model = clone(SMALL).set_params(loss=loss, epochs=8, width=64).fit(X[:400], y[:400])
    predicted = model.predict(X[400:])
    assert np.corrcoef(predicted, y[400:])[0, 1] > 0.75
    assert np.abs(predicted - y[400:]).mean() < 0.15, "on the ratings' scale"


def test_early_stopping_keeps_the_best_weights_and_logs() -> None:
    X, y = problem()
    y = np.random.default_rng(1).permutation(y)  # nothing to learn: it soon gets worse on other rows
    model = clone(SMALL).set_params(lr=1e-2, epochs=40, early_stopping=3, validation_fraction=0.25).fit(X, y)
    losses = [row["validation_loss"] for row in model.log_]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3 < 40
    _, watched = inner_split(120, None, 0.25, 42)
    error = model.predict(X[watched]) - y[watched]
    assert np.mean(error**2) / 2 == pytest.approx(losses[best], rel=1e-4)
    assert list(model.log_[0]) == ["epoch", "loss", "lr", "validation_loss", "validation_r"]


def test_a_terminal_shows_epoch_loss_and_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux's way to say that the terminal was closed
            while part := os.read(reader, 4096):
                shown.append(part)

    thread = threading.Thread(target=read)
    thread.start()
    X, y = problem()
    with os.fdopen(terminal, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stderr)
        model = clone(SMALL).set_params(early_stopping=4, verbose=True).fit(X, y)
    thread.join()
    second = model.log_[1]
    expected = f"epoch=2, loss={second['loss']:.4f}, validation_loss={second['validation_loss']:.4f}"
    assert expected in b"".join(shown).decode()


def test_datasets_on_other_scales_are_brought_together() -> None:
    """Half of the images are rated by half the scale and higher: pooled that is noise, with scales it is not."""
    X, y = problem(n=600)
    first = np.arange(400) % 2 == 0
    ratings = np.where(first, 0.2 * y[:400], 0.2 * y[:400] + 0.6)
    model = clone(SMALL).set_params(epochs=25, width=64, random_state=0)
    pooled = clone(model).fit(X[:400], ratings)
    mixed = clone(model).fit(X[:400], ratings, datasets=np.where(first, "low", "high"))
    r = [np.corrcoef(m.predict(X[400:]), y[400:])[0, 1] for m in (pooled, mixed)]
    assert r[1] > r[0] + 0.02
    (low, high) = (mixed.dataset_scales_[name] for name in ("low", "high"))
    assert (high[0] - low[0]) * ratings.mean() + high[1] - low[1] == pytest.approx(0.6, abs=0.05)
    assert (low[0] + high[0], low[1] + high[1]) == pytest.approx((2, 0), abs=1e-4)
    arrays, state = mixed.get_state()
    assert AttentionFusionRegressor.from_state(arrays, state).dataset_scales_ == mixed.dataset_scales_


def test_datasets_go_through_a_pipeline_and_one_dataset_is_none() -> None:
    X, y = problem()
    labels = ["a"] * 60 + ["b"] * 60
    pipeline = make_pipeline(StandardScaler(), clone(SMALL)).fit(X, y, attentionfusionregressor__datasets=labels)
    assert set(pipeline[-1].dataset_scales_) == {"a", "b"}
    one = clone(SMALL).fit(X, y, ["a"] * 120)
    np.testing.assert_array_equal(one.predict(X), clone(SMALL).fit(X, y).predict(X))


def test_a_fixed_average_weighs_all_arms_the_same() -> None:
    X, y = problem()
    model = clone(SMALL).set_params(fixed_average=True).fit(X, y)
    np.testing.assert_array_equal(model.attention(X), np.full((120, 2), 0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "mse"}, "loss must be one of huber, ccc, rank; found 'mse'"),
        ({"early_stopping": -1}, "early_stopping must be a whole number of at least 0, found -1"),
        ({"validation_fraction": 1}, "validation_fraction must be a number from 1e-06 to 0.9, found 1"),
    ],
)
def test_bad_options_are_one_sentence(settings: dict[str, float], message: str) -> None:
    X, y = problem()
    with pytest.raises(ValueError, match=message):
        clone(SMALL).set_params(**settings).fit(X, y)


def test_datasets_of_another_length_are_refused() -> None:
    X, y = problem()
    with pytest.raises(ValueError, match=r"datasets must give a label to each of 120 rows, found shape \(3,\)"):
        clone(SMALL).fit(X, y, ["a", "b", "c"])
