"""Options beyond the paper's recipe: early stopping, a fixed average."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.base import clone

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
    rows = [None, np.arange(10, 120)[::-1], np.arange(0, 100), None, np.arange(0, 100)]
    changes = [
        {},
        {"random_state": 3, "batch_size": 30},
        {"early_stopping": 1, "standardize": True, "epochs": 6},
        {"fixed_average": True},
        {"early_stopping": 2, "epochs": 9, "seeds": 2},
    ]
    models = [clone(SMALL).set_params(**changed) for changed in changes]
    together = fit_many(models, X, y, rows)
    for model, own, stacked in zip(models, rows, together, strict=True):
        pick = slice(None) if own is None else own
        alone = clone(model).fit(X[pick], y[pick])
        np.testing.assert_allclose(stacked.predict(X), alone.predict(X), atol=1e-5)
        assert len(stacked.log_) == len(alone.log_)


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


def test_progress_tells_epoch_loss_and_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []

    @contextlib.contextmanager
    def noted(name: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
        yield lambda done, total, label: labels.append(label)

    monkeypatch.setattr("drexcache.fusion.stopping.step_bar", noted)
    monkeypatch.setattr("drexcache.fusion.stopping.SPAN", 1)
    model = clone(SMALL).set_params(early_stopping=4, verbose=True).fit(*problem())
    shown = ", ".join(f"{name} {model.log_[0][name]:.4f}" for name in ("loss", "validation_loss", "validation_r"))
    assert f"epoch 2, {shown}" in labels


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
