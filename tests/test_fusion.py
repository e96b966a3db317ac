"""The fusion estimator: stacked heads equal heads alone, scikit-learn's contract, states and mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from drexcache.fusion.estimator import PRESETS, AttentionFusionRegressor, fit_many
from drexcache.fusion.head import fuse, parameter_shapes, project

ARMS = {"dino": slice(0, 12), "resnet": slice(12, 40)}


def problem(n: int = 120, d: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and ratings on [0, 1] that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    y = 1 / (1 + np.exp(-X[:, 0] - np.abs(X[:, 20])))
    return X, y


@pytest.mark.parametrize("tile", [24 * 5, 2**19])  # weights updated in tiles, as big heads', or all at once
def test_stacked_heads_equal_heads_trained_alone(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other settings, seeds and numbers of rows in one stack; heads with fewer steps wait for the others."""
    monkeypatch.setattr("drexcache.fusion.kernel.compiled.TILE", tile)
    X, y = problem()
    folds = [None, np.arange(0, 80), np.arange(30, 97), np.arange(100)]
    base = AttentionFusionRegressor(ARMS, width=24, epochs=3, ema=0.9)
    settings: list[dict[str, Any]] = [
        {"random_state": 1},
        {"lr": 3e-3, "weight_decay": 0.2, "standardize": True},
        {"dropout": 0.4, "ema": 0.97, "clip": 0.05, "epochs": 2},
        {"ema_horizon": 0.2, "clip": None, "seeds": 2, "early_stopping": 1, "validation_fraction": 0.2},
    ]
    models = [clone(base).set_params(**changed) for changed in settings]
    together = fit_many(models, X, y, folds, stack=5)
    for model, rows, stacked in zip(models, folds, together, strict=True):
        pick = slice(None) if rows is None else rows
        alone = clone(model).fit(X[pick], y[pick])
        np.testing.assert_allclose(stacked.predict(X), alone.predict(X), atol=1e-5)
        assert [row["epoch"] for row in stacked.log_] == list(range(1, len(alone.log_) + 1))
        assert [row["loss"] for row in stacked.log_] == pytest.approx([row["loss"] for row in alone.log_], rel=1e-4)
    assert np.ptp([model.predict(X) for model in together], axis=0).min() > 1e-4, "the settings did differ"


def test_same_seed_same_result_and_the_callers_generator_is_left_alone() -> None:
    X, y = problem()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        AttentionFusionRegressor(ARMS, width=24, epochs=2, ema=0.5, random_state=seed).fit(X, y).predict(X)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns_and_fusion_learns_from_few_rows() -> None:
    X, y = problem(n=600)
    for settings in ({"lr": 5e-3, "ema": 0.95, "width": 64}, PRESETS["fusion"] | {"lr": 5e-3, "seeds": 1}):
        model = AttentionFusionRegressor(ARMS, **settings).fit(X[:400], y[:400])
        assert np.corrcoef(model.predict(X[400:]), y[400:])[0, 1] > 0.75
        assert model.log_[-1]["loss"] < model.log_[0]["loss"] / 2


def test_seeds_predict_their_mean_and_spread() -> None:
    X, y = problem()
    model = AttentionFusionRegressor(ARMS, width=24, epochs=2, ema=0.5, seeds=3).fit(X, y)
    singles = np.stack(
        [clone(model).set_params(seeds=1, random_state=s).fit(X, y).predict(X) for s in (42, 10_042, 20_042)]
    )
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, singles.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, singles.std(0, ddof=1), atol=1e-6)
    with pytest.raises(ValueError, match="fit with seeds=2 or more"):
        clone(model).set_params(seeds=1).fit(X, y).predict(X, return_std=True)


def test_attention_sums_to_one_and_is_what_the_forward_pass_used() -> None:
    X, y = problem()
    model = AttentionFusionRegressor({"b": (30, 40), "a": slice(0, 12), "c": slice(12, 20)}, width=24, epochs=2)
    weights = model.fit(X, y).attention(X)
    assert (model.arms_, weights.shape) == (["b", "a", "c"], (120, 3))
    np.testing.assert_allclose(weights.sum(1), 1.0)
    p = {name: torch.from_numpy(value) for name, value in model.parameters_.items()}
    x = torch.from_numpy(X)[None]
    expected = fuse(p, project(p, x, [slice(30, 40), slice(0, 12), slice(12, 20)])).weights
    np.testing.assert_allclose(weights, expected[0].numpy(), atol=1e-6)
    assert AttentionFusionRegressor(width=8, epochs=1).fit(X, y).attention(X).tolist() == [[1.0]] * 120


@pytest.mark.parametrize("fixed_average", [False, True])
def test_numpy_and_torch_give_the_same_forward_pass(fixed_average: bool) -> None:
    rng, arms = np.random.default_rng(0), [slice(0, 12), slice(12, 40)]
    p = {name: rng.normal(size=(3, *shape)) for name, shape in parameter_shapes([12, 28], 24).items()}
    x = 5 * rng.normal(size=(3, 50, 40))
    ours = fuse(p, project(p, x, arms), fixed_average=fixed_average)
    q = {name: torch.from_numpy(value) for name, value in p.items()}
    theirs = fuse(q, project(q, torch.from_numpy(x), arms), fixed_average=fixed_average)
    for found, expected in zip(ours, theirs, strict=True):
        assert isinstance(found, np.ndarray) and isinstance(expected, torch.Tensor)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-12)


def test_standardize_ignores_the_scale_of_features() -> None:
    X, y = problem()
    stretched = (X * np.linspace(0.01, 100, 40) + 3).astype(np.float32)
    stretched[:, 5] = X[:, 5] = 7.0  # a constant feature is no division by zero
    model = AttentionFusionRegressor(ARMS, width=24, epochs=2, ema=0.5, standardize=True)
    np.testing.assert_allclose(
        clone(model).fit(X, y).predict(X), clone(model).fit(stretched, y).predict(stretched), atol=1e-3
    )


def test_state_goes_through_arrays_and_json() -> None:
    X, y = problem()
    model = AttentionFusionRegressor(ARMS, width=24, epochs=2, standardize=True, seeds=2).fit(X, y)
    arrays, settings = model.get_state()
    assert {str(array.dtype) for array in arrays.values()} == {"float32"}
    settings = json.loads(json.dumps(settings))
    loaded = AttentionFusionRegressor.from_state(arrays, settings)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert (loaded.arms_, loaded.log_) == (model.arms_, model.log_)
    assert loaded.get_params()["arms"] == {"dino": [0, 12], "resnet": [12, 40]}
    arrays["alpha"] = arrays["alpha"][:1]
    with pytest.raises(
        ValueError, match=r"array 'alpha' .* expected \(\(2,\), 'float32'\), found \(\(1,\), 'float32'\)"
    ):
        AttentionFusionRegressor.from_state(arrays, settings)
    with pytest.raises(ValueError, match="unknown settings of a fusion head: depth"):
        AttentionFusionRegressor.from_state(arrays, settings | {"params": {"depth": 3}})


def test_log_is_a_table(tmp_path: Path) -> None:
    X, y = problem()
    log = AttentionFusionRegressor(ARMS, width=8, epochs=3).fit(X, y).log_
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, log[0])
        writer.writeheader()
        writer.writerows(log)
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,loss,lr"
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert log[-1]["lr"] == pytest.approx(1e-3 / 25e4)


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "NaN": (lambda X, y: X.__setitem__((3, 2), np.nan), {}, "X has NaN or inf in row 3; leave such rows out"),
    "many": (lambda X, y: X.__setitem__((slice(0, 9), 2), np.inf), {}, "row 0, 1, 2, 3, 4 and 4 more"),
    "rating": (lambda X, y: y.__setitem__(5, np.nan), {}, "Input y contains NaN"),
    "constant": (lambda X, y: y.fill(0.5), {}, r"y is constant \(0.5 in all 120 rows\)"),
    "outside": (None, {"arms": {"a": (0, 41)}}, "arm 'a' names columns 0 to 41, but X has columns 0 to 40"),
    "overlap": (None, {"arms": {"a": (0, 9), "b": (8, 40)}}, "arms 'a' and 'b' overlap in column 8"),
    "no arms": (None, {"arms": {}}, "arms must map names to columns"),
    "setting": (None, {"dropout": 1.5}, "dropout must be a number from 0 to 0.99, found 1.5"),
    "count": (None, {"epochs": 2.5}, "epochs must be a whole number of at least 1, found 2.5"),
    "diverges": (lambda X, y: y.__imul__(1e38), {"clip": None, "lr": 1e30}, "training diverged"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str) -> None:
    spoil, settings, message = BAD[case]
    X, y = problem()
    if spoil:
        spoil(X, y)
    with pytest.raises(ValueError, match=message):
        AttentionFusionRegressor(**{"width": 8, "epochs": 1} | settings).fit(X, y)


def test_bad_rows_of_fit_many() -> None:
    X, y = problem()
    small = AttentionFusionRegressor(width=8, epochs=1)
    with pytest.raises(ValueError, match="at least 2 rows to train on, found 1"):
        fit_many([small], X, y, [np.array([4])])
    with pytest.raises(ValueError, match="2 estimators but 1 sets of rows"):
        fit_many([small, small], X, y, [None])


def test_it_works_inside_scikit_learn() -> None:
    X, y = problem()
    small = AttentionFusionRegressor(ARMS, width=8, epochs=1)
    assert cross_val_score(make_pipeline(StandardScaler(), small), X, y, cv=3).shape == (3,)
    search = GridSearchCV(small, {"lr": [1e-9, 3e-2], "ema": [0.5]}, cv=2).fit(X, y)
    assert search.best_params_ == {"lr": 3e-2, "ema": 0.5}


@parametrize_with_checks([AttentionFusionRegressor(width=8, epochs=2)])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_few_rows_are_gone_over_often_enough() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    head = AttentionFusionRegressor(width=8, batch_size=16, epochs=2, min_steps=20).fit(X, X[:, 0])
    assert len(head.log_) == 7  # 3 steps an epoch: 7 epochs make 21
    assert len(AttentionFusionRegressor(width=8, epochs=2, min_steps=3).fit(X, X[:, 0]).log_) == 2
