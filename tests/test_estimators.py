"""Regressors by name and by import path: they learn, repeat, are saved and loaded, and say what is wrong."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import skops.io
from click.testing import CliRunner
from conftest import draw
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from drexcache import DrexcacheError, FeatureMatrix, load_model, open_cache, read_images, recipe, regressors
from drexcache.cli import main
from drexcache.features import extract
from drexcache.regressors.model import Model
from drexcache.regressors.named import describe_regressors, make_regressor, search_space
from drexcache.regressors.ridge import PENALTIES, GramRidge
from drexcache.regressors.saving import dump_estimator, load_estimator
from drexcache.regressors.settings import Choice, Range
from drexcache.studies import evaluate

NAMES = list(regressors())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real cache of 30 rated pictures."""
    folder = tmp_path_factory.mktemp("cache")
    table = read_images(draw(folder / "pictures", 30), value_range=(0, 100))
    extract(table, recipe("classic"), folder / "small.h5", say=lambda line: None)
    return folder / "small.h5"


def problem(n: int = 90, d: int = 24) -> FeatureMatrix:
    """Two arms, and ratings that follow some columns of both."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype(np.float32)
    y = 1 / (1 + np.exp(-X[:, 0] - X[:, d // 2]))
    arms = {"a": slice(0, d // 2), "b": slice(d // 2, d)}
    return FeatureMatrix(X, y, [f"{i}.png" for i in range(n)], arms, dataset="toy")


def quick(name: str, matrix: FeatureMatrix, seed: int = 1) -> Any:
    """That regressor, with fewer steps where it takes many."""
    estimator = make_regressor(name, matrix, seed)
    fewer = {"width": 16, "epochs": 2, "min_steps": 0, "n_estimators": 20}
    last = {key: key.rpartition("__")[2] for key in estimator.get_params()}
    return estimator.set_params(**{key: fewer[name] for key, name in last.items() if name in fewer})


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_predictions_after_saving_and_loading(name: str, cache: Path, tmp_path: Path) -> None:
    opened = open_cache(cache)
    matrix = opened.matrix()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted, again = (quick(name, matrix).fit(matrix.X, matrix.y) for _ in range(2))
    model = Model(
        name, fitted, tuple(opened.blocks), dict(opened.blocks), matrix.target, matrix.low, matrix.high,
        matrix.higher_is, {},
    )  # fmt: skip
    model.save(tmp_path / "model.drex")
    expected = model.predict(opened).value
    np.testing.assert_array_equal(load_model(tmp_path / "model.drex").predict(opened).value, expected)
    np.testing.assert_array_equal(matrix.raw(np.asarray(again.predict(matrix.X)).ravel()), expected)


@pytest.mark.parametrize("name", [name for name in NAMES if "fusion" not in name])  # which need longer trainings
def test_evaluating_repeats_and_beats_the_floor(name: str) -> None:
    matrix = problem()
    matrix = replace(matrix, X=matrix.X[:, ::4].copy(), blocks={"a": slice(0, 3), "b": slice(3, 6)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [evaluate([matrix], [name], folds=3, make=quick)[1].runs[0] for _ in range(2)]
    np.testing.assert_array_equal(runs[0].predicted, runs[1].predicted)
    if name != "mean":
        assert np.corrcoef(runs[0].predicted, runs[0].rated)[0, 1] > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_what_a_search_may_set_can_be_set(name: str) -> None:
    matrix = problem(d=60)
    space = search_space(name)
    assert (space == {}) == (name == "mean")
    for end in (0, -1):
        settings = {
            key: one.values[end] if isinstance(one, Choice) else (one.low, one.high)[end] for key, one in space.items()
        }
        made = make_regressor(name, matrix, settings=settings)
        params = made.get_params()
        limits = {"plsregression__n_components": 60}  # four fifths of the rows; columns
        for key, value in settings.items():
            if key.rpartition("__")[2] == "pca":
                assert getattr(params[key], "n_components", params[key]) == (60 if value else "passthrough"), key
            else:
                assert params[key] == min([value, *(most for end, most in limits.items() if key.endswith(end))]), key
        clone(made)


def test_few_rows_and_columns_limit_neighbours_and_components() -> None:
    matrix = problem(n=10, d=3)
    for name in NAMES:
        assert quick(name, matrix).fit(matrix.X, matrix.y).predict(matrix.X).shape[0] == 10, name
    assert make_regressor("neighbours", matrix)[-1].n_neighbors == 8
    assert make_regressor("best", matrix).get_params()["pls__plsregression__n_components"] == 3


def test_principal_components_are_scikit_learns(cache: Path, tmp_path: Path) -> None:
    opened = open_cache(cache)
    matrix = opened.matrix()
    ours = make_regressor("svr", matrix, 1, {"pca": 16, "svr__C": 2.0}).fit(matrix.X, matrix.y)
    parts = (
        StandardScaler(),
        PCA(16, random_state=1),
        SVR(C=2.0, epsilon=0.02, gamma=0.25 / (np.ptp(matrix.X, axis=0) > 0).sum()),
    )
    theirs = make_pipeline(*parts).fit(matrix.X, matrix.y)
    np.testing.assert_array_equal(ours.predict(matrix.X), theirs.predict(matrix.X))
    loaded = load_estimator(dump_estimator(ours))
    np.testing.assert_array_equal(loaded.predict(matrix.X), theirs.predict(matrix.X))
    assert make_regressor("neighbours", problem(n=10, d=3), settings={"pca": 64})["pca"].n_components == 3


def test_ridge_is_scikit_learns_behind_a_scaler() -> None:
    for n, d in ((90, 24), (30, 60)):
        matrix = problem(n, d)
        ours = make_regressor("ridge", matrix).fit(matrix.X, matrix.y)
        theirs = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(matrix.X.astype("f8"), matrix.y)
        assert isinstance(ours, GramRidge)
        np.testing.assert_allclose(ours.predict(matrix.X), theirs.predict(matrix.X), atol=1e-6)


def test_unknown_names_and_settings_suggest_the_nearest() -> None:
    matrix = problem()
    mistakes: list[tuple[str, dict[str, Any], str]] = [
        ("rigde", {}, "no regressor named rigde; did you mean ridge? there are: mean, ridge,"),
        ("svr", {"svr__c": 1.0}, "svr has no setting svr__c; did you mean svr__C? there are: svr__C, svr__epsilon"),
        ("svr", {"svr__C": 1e9}, "svr: setting svr__C must be 0.01 to 100, log; found 1000000000.0"),
        ("svr", {"svr__C": "big"}, "svr: setting svr__C must be 0.01 to 100, log; found 'big'"),
        ("svr", {"svr__C": True}, "found True"),
        ("pls", {"plsregression__n_components": 2.5}, "must be 1 to 40, whole, log; found 2.5"),
        ("fusion", {"width": 100}, "fusion: setting width must be 128 or 256 or 384; found 100"),
        ("mean", {"height": 1}, "mean has no setting height; there are: constant, quantile, strategy"),
        ("sklearn.svm.SVR", {"c": 1}, "sklearn.svm.SVR has no setting c; there are: C,"),
    ]
    for name, settings, message in mistakes:
        with pytest.raises(DrexcacheError) as caught:
            make_regressor(name, matrix, settings=settings)
        assert message in str(caught.value)
    with pytest.raises(DrexcacheError, match="did you mean svr"):
        search_space("svm_r")


def test_spaces_hold_their_values() -> None:
    assert [value in Range(1, 3, integer=True) for value in (1, 3, 0, 2.0, np.int64(2), True, "2", None)] == [
        True, True, False, False, True, False, False, False,
    ]  # fmt: skip
    assert [value in Choice((0, None, "a")) for value in (0, None, "a", False, 1)] == [True, True, True, False, False]


MODULE = """
from sklearn.base import BaseEstimator, RegressorMixin

class Twice(RegressorMixin, BaseEstimator):
    def __init__(self, random_state=None):
        self.random_state = random_state
    def fit(self, X, y):
        self.fitted_ = True
        return self
    def predict(self, X):
        return 2 * X[:, 0]

class NeedsMore(Twice):
    def __init__(self, size):
        self.size = size

answer = 42
"""


def test_any_regressor_by_its_import_path(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    matrix = problem()
    made = make_regressor("own_models:Twice", matrix, seed=7)
    assert (type(made).__name__, made.random_state, search_space("own_models:Twice")) == ("Twice", 7, {})
    scores, _ = evaluate([matrix], ["own_models:Twice", "sklearn.linear_model.BayesianRidge"])
    assert {row.regressor for row in scores.rows} == {"own_models:Twice", "sklearn.linear_model.BayesianRidge"}
    for path, message in (
        ("no_such_module.Regressor", "module 'no_such_module' cannot be imported .* is it installed"),
        ("own_broken:Best", "ZeroDivisionError"),
        ("own_models.Twise", "module own_models has no Twise; did you mean Twice"),
        ("own_models:NeedsMore", "cannot be made without arguments"),
        ("own_models:answer", "found a value of type int; expected the class of a regressor"),
        ("sklearn.linear_model.LogisticRegression", "found the class LogisticRegression; expected the class of a reg"),
        (".", "cannot be imported"),
    ):
        with pytest.raises(DrexcacheError, match=message):
            make_regressor(path, matrix)
    train = ["train", str(cache), "-o", str(tmp_path / "model.drex"), "-r"]
    refused = CliRunner().invoke(main, [*train, "own_models:Twice"])
    assert refused.output == (
        "Error: Twice cannot be saved: a model file never holds own_models.Twice, for nothing here could check it when "
        "it is read back; evaluate can still use it\n"
    )
    assert CliRunner().invoke(main, [*train, "sklearn.linear_model.BayesianRidge"]).exit_code == 0
    assert load_model(tmp_path / "model.drex").estimator.predict(open_cache(cache).matrix().X).shape == (30,)
    sys.modules.pop("own_models")


@pytest.mark.parametrize("name", ["random-forest", "boosting"])
def test_trees_that_lead_out_of_bounds_are_refused(name: str) -> None:
    matrix = problem()

    def fitted() -> Any:
        return quick(name, matrix).fit(matrix.X, matrix.y)

    def nodes(model: Any) -> np.ndarray:
        return (
            model._predictors[0][0].nodes if name == "boosting" else model.estimators_[0].tree_.__getstate__()["nodes"]
        )

    left, feature = ("left", "feature_idx") if name == "boosting" else ("left_child", "feature")
    for field, value, message in ((left, 10_000, "lead nowhere"), (left, 0, "nowhere"), (feature, 24, "beyond the 24")):
        model = fitted()
        altered = nodes(model).copy()
        altered[field][0] = value
        if name == "boosting":
            model._predictors[0][0].nodes = altered
        else:
            tree = model.estimators_[0].tree_
            tree.__setstate__({**tree.__getstate__(), "nodes": altered})
        with pytest.raises(DrexcacheError, match=message):
            load_estimator(dump_estimator(model))


def test_a_model_file_with_foreign_types_is_refused(cache: Path, tmp_path: Path) -> None:
    from fractions import Fraction

    path = tmp_path / "model.drex"
    assert CliRunner().invoke(main, ["train", str(cache), "-r", "ridge", "-o", str(path)]).exit_code == 0
    with safetensors.safe_open(path, framework="numpy") as file:
        meta = file.metadata()
    evil = np.frombuffer(skops.io.dumps(Fraction(1, 2)), dtype="u1")
    path.write_bytes(safetensors.numpy.save({"skops": evil}, meta))
    with pytest.raises(DrexcacheError, match=r"holds .*Fraction.*, which a drexcache model never holds; refused"):
        load_model(path)


def test_the_command_lists_every_regressor_with_its_space() -> None:
    listed = json.loads(CliRunner().invoke(main, ["regressors", "--json"]).output)
    assert [(one["name"], one["what"]) for one in listed] == list(describe_regressors().items())
    assert listed[1]["space"] == {"standardize": {"values": [True, False]}}
    text = CliRunner().invoke(main, ["regressors"]).output
    assert all(name in text and line in text for name, line in describe_regressors().items())
    assert "svr__C: 0.01 to 100, log" in text
