"""Options beyond the paper's recipe: early stopping, several datasets, a fixed average."""

from __future__ import annotations

import contextlib
import fcntl
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
from drexcache.fusion.stopping import inner_split
from drexcache.fusion.training import huber

ARMS = {"dino": slice(0, 12), "resnet": slice(12, 40)}
SMALL = AttentionFusionRegressor(ARMS, width=24, epochs=4, ema=0.9, lr=3e-3)


def problem(n: int = 120, d: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and ratings on [0, 1] that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    return X, 1 / (1 + np.exp(-X[:, 0] - np.abs(X[:, 20])))


def test_the_loss_and_its_gradient_are_hubers_and_padding_changes_neither() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, y = 2 * torch.randn(2, 3, 10, generator=generator)
    scores.requires_grad_()
    losses, d = huber(scores, y, torch.full((3, 10), 0.1))
    expected = torch.nn.functional.huber_loss(scores, y, reduction="none").mean(1)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(d, torch.autograd.grad(expected.sum(), scores)[0])
    weight = torch.cat([torch.full((3, 10), 0.1), torch.zeros(3, 2)], 1)
    padded = [torch.cat([part, torch.full((3, 2), fill)], 1) for part, fill in ((scores, 9.0), (y, 7.0))]
    torch.testing.assert_close(huber(padded[0], padded[1], weight)[0], expected)


def test_options_in_a_stack_equal_training_alone() -> None:
    X, y = problem()
    datasets = np.where(np.arange(120) % 3, "a", "b")
    rows = [None, np.arange(10, 120)[::-1], np.arange(0, 100), None, np.arange(0, 100)]
    changes = [
        {},
        {"random_state": 3, "batch_size": 30},
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


def test_a_model_of_a_loss_that_is_gone_still_predicts() -> None:
    X, y = problem()
    model = clone(SMALL).fit(X, y)
    arrays, state = model.get_state()
    state["params"]["loss"] = "ccc"
    old = AttentionFusionRegressor.from_state(arrays, state)
    np.testing.assert_array_equal(old.predict(X), model.predict(X))
    with pytest.raises(
        ValueError, match="loss must be 'huber', found 'ccc'; 'ccc' and 'rank', no better, were removed"
    ):
        old.fit(X, y)


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
        ({"loss": "mse"}, "loss must be 'huber', found 'mse'"),
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
