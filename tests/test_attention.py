"""Attention and contributions on built data: one group of images is told by one arm, the other by the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from drexcache.cache import FeatureMatrix
from drexcache.fusion import PRESETS, AttentionFusionRegressor
from drexcache.fusion.basis import LINE_PENALTIES, PLS_DIRECTIONS, PLS_SHARE, find_basis, principal_axes
from drexcache.fusion.plan import Design, HeadSettings, make_plan
from drexcache.regressors import contributions, make_regressor
from drexcache.studies import evaluate
from drexcache.studies.evaluation.attention import attention_table, contributions_table
from drexcache.studies.evaluation.predictions import Predictions, Run

ARMS = {"a": slice(0, 12), "b": slice(12, 24)}


def two_groups(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, y and whether arm a tells the rating: it does for every other image, else arm b does; the other is noise."""
    rng = np.random.default_rng(0)
    first, signal = np.arange(n) % 2 == 0, rng.normal(size=n)
    a, b = 0.3 * rng.normal(size=(2, n, 12))
    a[:, 0] += np.where(first, signal, 0)
    b[:, 0] += np.where(first, 0, signal)
    a[:, 1] += np.where(first, 1.5, 0)  # each arm shows whether it has something to say
    b[:, 1] += np.where(first, 0, 1.5)
    return np.concatenate([a, b], 1).astype(np.float32), 0.5 + 0.15 * signal, first


def test_weights_and_contributions_find_the_arm_that_tells_each_group() -> None:
    X, y, first = two_groups()
    head = AttentionFusionRegressor(ARMS, device="cpu", **PRESETS["fusion"]).fit(X[:300], y[:300])
    X, y, first = X[300:], y[300:], first[300:]
    assert np.corrcoef(head.predict(X), y)[0, 1] > 0.85
    weight = head.attention(X)[:, 0]
    assert weight[first].mean() > weight[~first].mean() + 0.05
    share = np.abs(contributions(head, X, ARMS))  # (n, 2)
    assert share[first, 0].mean() > 2 * share[first, 1].mean()
    assert share[~first, 1].mean() > 2 * share[~first, 0].mean()


def test_contributions_are_exact_for_a_line_and_sum_to_the_prediction_for_any_regressor() -> None:
    X, y, _ = two_groups()
    many = {f"arm{i}": slice(4 * i, 4 * i + 4) for i in range(6)}  # their orders are sampled
    line = LinearRegression().fit(X, y)
    expected = np.stack([(X[:, cols] - X[:, cols].mean(0)) @ line.coef_[cols] for cols in many.values()], axis=1)
    np.testing.assert_allclose(contributions(line, X, many), expected, atol=1e-5)
    head = AttentionFusionRegressor(ARMS, width=16, epochs=2, device="cpu").fit(X, y)
    found = contributions(head, X, ARMS)
    assert found.shape == (400, 2)
    np.testing.assert_allclose(found.sum(1), head.predict(X) - head.predict(X.mean(0, keepdims=True)), atol=1e-5)


def test_a_head_trained_in_a_basis_is_written_back_for_the_raw_features() -> None:
    X, y, _ = two_groups(120)
    raw = (X * 3 + 50).astype(np.float32)  # a large common mean
    basis = find_basis(raw, np.arange(120), list(ARMS.values()), 5, standardize=False)
    Z = basis(raw)
    assert Z.shape == (120, 10) and np.abs(Z.mean(0)).max() < 1e-4
    assert [(Z[:, cols] ** 2).mean() for cols in basis.columns] == [pytest.approx(1, rel=0.01)] * 2
    shared = {"width": 16, "epochs": 3, "offset": 3.0, "device": "cpu"}
    inside = AttentionFusionRegressor({"a": (0, 5), "b": (5, 10)}, **shared)
    outside = AttentionFusionRegressor(ARMS, components=5, **shared)
    expected = inside.fit(Z, y)
    found = outside.fit(raw, y)
    np.testing.assert_allclose(found.predict(raw), expected.predict(Z), atol=1e-5)
    ridge = make_pipeline(StandardScaler(), RidgeCV(LINE_PENALTIES)).fit(raw, y)
    pls = PLSRegression(PLS_DIRECTIONS).fit(raw, y)  # it standardises
    line = (1 - PLS_SHARE) * ridge.predict(raw) + PLS_SHARE * pls.predict(raw)
    found = clone(outside).set_params(linear=0.25).fit(raw, y)
    mixed = 0.75 * expected.predict(Z) + 0.25 * line
    np.testing.assert_allclose(found.predict(raw), mixed, atol=1e-4)
    arrays, state = found.get_state()
    again = AttentionFusionRegressor.from_state(arrays, state)
    np.testing.assert_array_equal(again.predict(raw), found.predict(raw))


def test_units_that_cannot_be_compared_drown_nothing() -> None:
    X, y, _ = two_groups()
    scale = np.ones(24, np.float32)
    scale[[1, 3, 5, 7, 9, 11]] = 1e6  # arm a's informative column 0 is not among them
    head = AttentionFusionRegressor(ARMS, device="cpu", **PRESETS["fusion"] | {"seeds": 2})
    r = [
        np.corrcoef(clone(head).fit(part[:300], y[:300]).predict(part[300:]), y[300:])[0, 1] for part in (X, X * scale)
    ]
    assert r[1] > r[0] - 0.05


def test_a_constant_arm_and_constant_columns_are_no_obstacle() -> None:
    X, y, _ = two_groups(120)
    X[:, 12:] = 7.0
    X[:, 3] = -2.0
    for arms in (ARMS, None):
        head = AttentionFusionRegressor(arms, device="cpu", **PRESETS["fusion"] | {"seeds": 1}).fit(X, y)
        moved = X.copy()
        moved[:, 3] = 5.0  # a column that never varied has no say
        np.testing.assert_allclose(head.predict(moved), head.predict(X), atol=1e-6)


def test_an_arm_is_left_out_as_often_as_asked() -> None:
    plan = make_plan(
        64, [HeadSettings(arm_dropout=0.3, epochs=50), HeadSettings()], Design(((0, 3), (3, 5), (5, 9)), 8)
    )
    assert plan.kept is not None and plan.kept.sum(-1).min() == 2
    left_out = (plan.kept == 0).float().mean((0, 2))  # (heads, n_arms)
    np.testing.assert_allclose(left_out, [[0.1] * 3, [0.0] * 3], atol=0.02)


def test_leaving_arms_out_needs_components() -> None:
    X, y, _ = two_groups(20)
    for name in ("arm_dropout", "linear"):
        with pytest.raises(ValueError, match=f"{name} needs components"):
            AttentionFusionRegressor(ARMS, **{name: 0.3}).fit(X, y)


def test_evaluate_says_where_attention_is_the_same_for_every_image() -> None:
    ids = [f"{i}.png" for i in range(20)]
    values = np.linspace(0, 1, 20)

    def run(name: str, weights: np.ndarray) -> Run:
        return Run(
            name, "in-domain", "toy", "toy", 42, 0, ids=ids, fold=np.zeros(20, int), rated=values, predicted=values,
            attention={"a": weights, "b": 1 - weights},
        )  # fmt: skip

    (table,) = attention_table(Predictions([run("stuck", np.full(20, 0.02)), run("alive", 0.2 + 0.5 * values)]))
    assert table.title.endswith("\n\nThe attention is the same for every image: stuck, toy (in-domain).")


def test_how_far_weights_can_be_believed() -> None:
    rng, ids, fold = np.random.default_rng(0), [f"{i}.png" for i in range(40)], np.arange(40) % 5
    own, jumps = rng.normal(size=40), np.array([0.3, -0.3, 0.1, -0.1, 0.0])[fold]

    def run(name: str, seed: int, a: np.ndarray, **more: dict) -> Run:
        rows = rng.permutation(40)  # another seed's images come in another order
        return Run(
            name, "in-domain", "toy", "toy", seed, 0, ids=[ids[row] for row in rows], fold=fold[rows], rated=own[rows],
            predicted=own[rows], attention={"a": a[rows], "b": 1 - a[rows]}, **more,
        )  # fmt: skip

    first, second = 0.5 + 0.1 * own, 0.5 + 0.1 * own + 0.05 * rng.normal(size=40)
    runs = [run("steady", 1, first), run("steady", 2, second), run("folds", 1, 0.5 + jumps)]
    (table,) = attention_table(Predictions(runs))
    assert table.headers == ["regressor", "train → test", "a", "b", "over seeds", "r of seeds", "between folds"]
    steady, folds = table.body
    assert steady[4:6] == [
        f"{np.std([first, second], axis=0, ddof=1).mean():.3f}", f"{np.corrcoef(first, second)[0, 1]:.3f}"
    ]  # fmt: skip
    assert folds[2:] == [f"0.500 ± {jumps.std():.3f}"] * 2 + ["", "", "100%"]


def test_evaluate_finds_contributions_of_any_regressor(tmp_path: Path) -> None:
    X, y, _ = two_groups(60)
    toy = FeatureMatrix(X, y, [f"{i}.png" for i in range(60)], ARMS, dataset="toy")
    _, predictions = evaluate([toy], ["pls"], contributions=True, folds=3)
    (run,) = predictions.runs
    fold = run.fold == run.fold[0]
    rows = [toy.ids.index(image) for image, chosen in zip(run.ids, fold, strict=True) if chosen]
    rest = np.setdiff1d(np.arange(60), [toy.ids.index(i) for i, c in zip(run.ids, fold, strict=True) if c])
    fitted = make_regressor("pls", toy.rows(rest)).fit(X[rest], y[rest])
    expected = contributions(fitted, X[rows], ARMS)
    np.testing.assert_allclose(np.stack(list(run.contributions.values()), 1)[fold], expected, atol=1e-6)
    predictions.to_csv(tmp_path / "p.csv")
    again = Predictions.read_csv(tmp_path / "p.csv")
    assert again.runs[0].contributions.keys() == {"a", "b"} and not again.runs[0].attention
    np.testing.assert_array_equal(again.runs[0].contributions["b"], run.contributions["b"])
    (table,) = contributions_table(again)
    size = [np.abs(own).mean() for own in run.contributions.values()]
    assert table.body == [["pls", "toy (in-domain)", *(f"{own:.3f} ({own / sum(size):.0%})" for own in size)]]


def test_principal_axes_are_scikit_learns_and_constant_columns_leave_them() -> None:
    for n, d in ((40, 90), (90, 40)):
        x = np.random.default_rng(0).normal(size=(n, d)) * np.linspace(1, 3, d)
        x -= x.mean(0)
        variances, axes = principal_axes(x, 7)
        pca = PCA(7, svd_solver="full").fit(x)
        np.testing.assert_allclose(variances, pca.explained_variance_)
        np.testing.assert_allclose(axes * np.sign((axes * pca.components_.T).sum(0)), pca.components_.T, atol=1e-8)
        wider = principal_axes(np.concatenate([x, np.zeros((n, 5))], axis=1), 7)[1]
        np.testing.assert_allclose(wider, np.concatenate([axes, np.zeros((5, 7))]), atol=1e-8)
    assert principal_axes(np.outer(np.arange(5) - 2.0, [1.0, 2.0]), 2)[1].shape == (2, 1)
