"""Intervals for one prediction hold what they promise: against MAPIE, and in simulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import Ridge

from drexcache import DrexcacheError, import_features, load_model, open_cache
from drexcache.cli import main
from drexcache.regressors import train_model
from drexcache.regressors.intervals import OutOfFold, cross_fitted, folds, outputs


def rows(n: int, seed: int, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d), and ratings (n,) that are linear in them but for noise that grows with the first."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype("f4")
    return X, 0.5 + X @ np.linspace(0.02, 0.1, d) + rng.normal(size=n) * 0.05 * (1 + np.abs(X[:, 0]))


def ridge(X: np.ndarray, y: np.ndarray) -> OutOfFold:
    names = [f"{row}.png" for row in range(len(y))]
    return cross_fitted(X, y, names, lambda kept: Ridge().fit(X[kept], y[kept]))


def each(estimator: object, X: np.ndarray) -> np.ndarray:
    return outputs(estimator, X)[0]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_bounds_are_those_of_mapie(level: float) -> None:
    regression = pytest.importorskip("mapie.regression", reason="needs MAPIE (pip install mapie)")
    from sklearn.model_selection import PredefinedSplit

    X, y = rows(100, 0)
    new = rows(30, 1)[0]
    found = ridge(X, y).bounds(new, level, each)
    names = [f"{row}.png" for row in range(100)]
    oracle = regression.CrossConformalRegressor(
        Ridge(), confidence_level=level, method="plus", cv=PredefinedSplit(folds(names))
    ).fit_conformalize(X, y)
    expected = oracle.predict_interval(new)[1][:, :, 0].T
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_bounds_are_those_of_the_paper() -> None:
    """Equation by equation, in loops: Barber et al. 2021, section 3."""
    X, y = rows(60, 0)
    new, alpha = rows(9, 1)[0], 0.2
    found = ridge(X, y).bounds(new, 1 - alpha, each)
    fold = folds([f"{row}.png" for row in range(60)])
    models = [Ridge().fit(X[fold != k], y[fold != k]) for k in range(10)]
    for at, x in enumerate(new):
        below, above = [], []
        for i in range(60):
            mean, off = models[fold[i]].predict([x])[0], abs(y[i] - models[fold[i]].predict(X[[i]])[0])
            below.append(mean - off)
            above.append(mean + off)
        assert found[0][at] == pytest.approx(sorted(below)[int(np.floor(alpha * 61)) - 1], abs=1e-6)
        assert found[1][at] == pytest.approx(sorted(above)[int(np.ceil((1 - alpha) * 61)) - 1], abs=1e-6)


def test_coverage_is_what_was_asked_for() -> None:
    """At least 1 - 2 alpha is proven; what is found is the level itself."""
    covered = []
    for seed in range(40):
        X, y = rows(80, seed)
        new, truth = rows(200, 1000 + seed)
        low, high = ridge(X, y).bounds(new, 0.9, each)
        covered.append(np.mean((low <= truth) & (truth <= high)))
    assert abs(np.mean(covered) - 0.9) < 0.02


class TwoSeeds:
    """A regressor whose two seeds are as far apart as it errs."""

    def each_seed(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gap = 0.1 * (X[:, 0] > 0)
        return np.stack([X[:, 1] - gap, X[:, 1] + gap]), np.ones((2, len(X), 1))


def test_intervals_follow_the_spread_of_seeds() -> None:
    X, _ = rows(400, 0)
    noise = np.random.default_rng(2).normal(size=400) * np.where(X[:, 0] > 0, 0.2, 0.02)
    found = cross_fitted(X, X[:, 1] + noise, [f"{row}" for row in range(400)], lambda kept: TwoSeeds())
    low, high = found.bounds(X, 0.9, each)
    assert np.mean((high - low)[X[:, 0] > 0]) > 2 * np.mean((high - low)[X[:, 0] <= 0])


def test_copies_are_in_one_fold() -> None:
    names = [f"{row // 2}" for row in range(60)]
    found = folds(names)
    assert (found[::2] == found[1::2]).all()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    X, y = rows(60, 3)
    ids = [f"{row:02}.png" for row in range(60)]
    pd.DataFrame({"file": ids, "rating": (100 * y).clip(-50, 150)}).to_csv(tmp_path / "ratings.csv", index=False)
    import_features(
        X, tmp_path / "c.h5", "clip", ids=ids, note="simulated", ratings=tmp_path / "ratings.csv",
        value_range=(-50, 150), higher_is="less", say=lambda line: None,
    )  # fmt: skip
    return tmp_path / "c.h5"


@pytest.mark.parametrize("regressor", ["ridge", "fusion"])
def test_a_model_file_keeps_its_intervals(regressor: str, cache: Path, tmp_path: Path) -> None:
    opened = open_cache(cache)
    settings = {"epochs": 5, "width": 128, "min_steps": 1, "seeds": 2} if regressor == "fusion" else {}
    model = train_model(
        regressor, opened.matrix(), opened, ("clip",), 42, settings=settings, intervals=True
    )  # fmt: skip
    model.save(tmp_path / "m.drex")
    before, after = model.predict(opened, 0.9), load_model(tmp_path / "m.drex").predict(opened, 0.9)
    pd.testing.assert_frame_equal(before.to_pandas(), after.to_pandas())
    assert before.low is not None and before.high is not None
    assert (before.low < before.value).all() and (before.value < before.high).all()
    inside = (before.low <= opened.targets["rating"].values) & (opened.targets["rating"].values <= before.high)
    assert inside.mean() > 0.8


def test_the_commands_and_what_they_refuse(cache: Path, tmp_path: Path) -> None:
    run, model, out = CliRunner().invoke, str(tmp_path / "m.drex"), str(tmp_path / "p.csv")
    train = ["train", str(cache), "-r", "ridge", "-o", model]
    predict = ["predict", model, str(cache), "-o", out, "--interval"]
    assert run(main, train).exit_code == 0
    refused = run(main, [*predict, "0.9"])
    assert refused.exit_code == 1 and "train it again with --intervals" in refused.output
    assert run(main, [*train, "--intervals"]).exit_code == 0
    for level in ("0", "1", "90"):
        refused = run(main, [*predict, level])
        assert refused.exit_code == 1 and "must be between 0 and 1" in refused.output
    refused = run(main, [*predict, "0.99"])
    assert "needs at least 99 training images; the model has 60" in refused.output
    assert not (tmp_path / "p.csv").exists()
    assert run(main, [*predict, "0.9"]).exit_code == 0
    frame = pd.read_csv(out)
    assert list(frame) == ["id", "prediction", "low", "high"]
    assert (frame["low"] < frame["high"]).all()


def test_too_few_images_for_intervals() -> None:
    X, y = rows(15, 0)
    with pytest.raises(DrexcacheError, match="at least 20 different rated images; found 15"):
        ridge(X, y)
