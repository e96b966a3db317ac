"""Model files: every regressor predicts the same after loading, and a stranger's file is one sentence at worst."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import all_estimators

from drexcache import DrexcacheError, Model, load_model, open_cache
from drexcache.cache import FeatureMatrix
from drexcache.regressors import make_regressor, regressors, train_model
from drexcache.regressors.fitted import unlisted
from drexcache.regressors.saving import dump_estimator, load_estimator, refuse_unsavable

DATA = Path(__file__).parent / "data"
FEWER = {"n_estimators": 3, "max_iter": 3, "fusion__min_steps": 0, "fusion__epochs": 2}


def problem(n: int = 60, d: int = 8) -> FeatureMatrix:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype("f4")
    y = 0.5 + 0.1 * np.tanh(X[:, 0]) + 0.02 * rng.normal(size=n)
    return FeatureMatrix(X, y, [f"{i}.png" for i in range(n)], {"a": slice(0, 5), "b": slice(5, d)})


def importable() -> list[str]:
    """The import paths of scikit-learn's regressors."""
    found = []
    for name, kind in all_estimators(type_filter="regressor"):
        try:
            if is_regressor(kind()):
                found.append(f"{kind.__module__.partition('._')[0]}:{name}")
        except TypeError:  # needs arguments
            continue
    return found


SETTINGS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in regressors() if not name.startswith("fusion")]
SETTINGS += [("svr", {"pca": 16}), ("mlp", {"regressor__pca": 16}), ("ridge", {"standardize": False})]
SETTINGS += [("neighbours", {"kneighborsregressor__metric": "euclidean"})]
SETTINGS += [("neighbours", {"kneighborsregressor__weights": "uniform"})]


@pytest.mark.parametrize(("name", "settings"), SETTINGS + [(path, {}) for path in importable()])
def test_a_regressor_predicts_the_same_after_loading_or_is_refused_before_training(
    name: str, settings: dict[str, Any]
) -> None:
    matrix = problem()
    estimator = make_regressor(name, matrix, 0, settings)
    estimator.set_params(**{key: value for key, value in FEWER.items() if key in estimator.get_params()})
    try:
        refuse_unsavable(estimator)
    except DrexcacheError as error:
        assert ":" in name and "evaluate can still use it" in str(error)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(matrix.X, matrix.y)
    loaded = load_estimator(dump_estimator(estimator))
    np.testing.assert_array_equal(loaded.predict(matrix.X), estimator.predict(matrix.X))


def test_most_linear_regressors_can_be_saved() -> None:
    saved = []
    for path in importable():
        try:
            refuse_unsavable(make_regressor(path, problem()))
            saved.append(path.partition(":")[2])
        except DrexcacheError:
            continue
    assert len(saved) >= 25 and {"HuberRegressor", "Lasso", "LinearSVR", "NuSVR", "DecisionTreeRegressor"} <= set(saved)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model file of every regressor."""
    return models_of_all(tmp_path_factory.mktemp("models"))


def models_of_all(folder: Path) -> dict[str, Path]:
    cache = open_cache(DATA / "release-0.1-cache.h5")
    small: dict[str, dict[str, Any]] = {
        "random-forest": {"n_estimators": 3}, "extra-trees": {"n_estimators": 3}, "boosting": {"max_iter": 50},
        "fusion": {"epochs": 5, "min_steps": 0, "seeds": 2, "width": 128}, "fusion-paper": {"epochs": 5, "width": 128},
        "best": {"fusion__epochs": 5, "fusion__min_steps": 0, "fusion__seeds": 2},
    }  # fmt: skip
    for name in regressors():
        model = train_model(name, cache.matrix(), cache, tuple(cache.blocks), 0, settings=small.get(name))
        model.save(folder / f"{name}.drex")
    return {name: folder / f"{name}.drex" for name in regressors()}


@pytest.mark.parametrize("mutations", [30, pytest.param(2000, marks=pytest.mark.thorough)])
def test_altered_models_are_refused_or_predict_numbers(models: dict[str, Path], mutations: int) -> None:
    """In a process of its own: none ends it, none takes memory, none gives anything but a sentence or numbers."""
    script = Path(__file__).parent / "mutate_models.py"
    command = [sys.executable, script, *models.values(), "--mutations", str(mutations), "--seed", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["counts"]) == {"refused", "predicts"}, found["counts"]
    assert found["grown_mib"] < 256


def altered(path: Path, change: Callable[[Any], object]) -> Model:
    """The model with its estimator changed, saved and read again."""
    model = load_model(path)
    change(model.estimator)
    model.save(path.with_suffix(".altered"))
    return load_model(path.with_suffix(".altered"))


def setting(name: str, value: Callable[[Any], Any], step: int | None = -1) -> Callable[[Any], object]:
    """A change of one attribute of a pipeline's step, or of an estimator that is none."""

    def change(estimator: Any) -> None:
        part = estimator if step is None else estimator[step]
        setattr(part, name, value(getattr(part, name)))

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("svr", setting("support_vectors_", lambda a: a[:3]), "a SVR whose _dual_coef_ is float64"),
        ("svr", setting("support_", lambda a: a.astype("i8")), "a SVR whose support_ is int64"),
        ("svr", setting("_n_support", lambda a: a[:1]), "a SVR whose _n_support is"),
        ("svr", setting("n_features_in_", lambda d: d + 1), "a SVR for 17 columns, but there are 16"),
        ("svr", setting("scale_", lambda a: a * np.nan, 0), "a StandardScaler whose scale_ is float64"),
        ("svr", setting("C", lambda _: -1.0), "'C' parameter of SVR must be a float in the range"),
        ("pls", setting("coef_", lambda a: np.repeat(a, 9, 0)), "a PLSRegression whose coef_ is"),
        ("gaussian-process", setting("explained_", lambda a: a[:-1], None), "a KernelFusionRegressor whose explained_"),
        ("neighbours", setting("_y", lambda a: a[:-1]), "a KNeighborsRegressor whose _y"),
        ("neighbours", setting("n_neighbors", lambda _: "all"), "'n_neighbors' parameter of KNeighborsRegressor must"),
        ("ridge", setting("coef_", lambda a: np.full_like(a, np.inf), None), "a GramRidge whose coef_"),
        (
            "random-forest",
            setting("n_outputs_", lambda _: 2, None),
            "RandomForestRegressor that gives anything but one",
        ),
        ("mean", setting("n_outputs_", lambda _: 10**9, None), "a DummyRegressor that gives anything but one number"),
        ("boosting", setting("_n_features", lambda d: d + 1, None), "boosted trees of another kind"),
        ("best", setting("stack_method_", lambda _: ["fit"] * 4, None), "a stack of anything but predictions"),
    ],
)
def test_what_fitting_never_gives_is_refused(
    models: dict[str, Path], name: str, change: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(DrexcacheError, match=message):
        altered(models[name], change)


def test_predictions_that_are_not_finite_are_one_sentence(models: dict[str, Path]) -> None:
    model = altered(models["ridge"], setting("coef_", lambda a: np.full_like(a, 1e308), None))
    with pytest.raises(DrexcacheError, match=r"predicts NaN or infinity for 24 of 24 images, 00\.png first"):
        model.predict(open_cache(DATA / "release-0.1-cache.h5"))


def repacked(data: bytes, change: Callable[[dict[str, bytes]], object], method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return out.getvalue()


def test_bombs_take_no_memory() -> None:
    matrix = problem()
    data = dump_estimator(make_regressor("pls", matrix).fit(matrix.X, matrix.y))
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(2**25))

    def grow(members: dict[str, bytes]) -> None:
        members[min(set(members) - {"schema.json"})] = zeros.getvalue()

    def claim(members: dict[str, bytes]) -> None:
        name = next(name for name, value in members.items() if b"(8,), }" in value)
        members[name] = members[name].replace(b"(8,), }" + b" " * 11, b"(999999999999,), }")

    def repeat(members: dict[str, bytes]) -> None:
        schema = json.loads(members["schema.json"])
        name = max(set(members) - {"schema.json"}, key=lambda name: len(members[name]))
        node = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode", "type": "numpy"}
        again = [node | {"file": name, "__id__": number} for number in range(10_000)]
        steps = schema["content"]["content"]["steps"]["content"]
        steps[0]["content"].append({"__class__": "list", "__module__": "builtins", "__loader__": "ListNode",
                                    "content": again, "__id__": 1})  # fmt: skip
        members["schema.json"] = json.dumps(schema).encode()

    compressed = repacked(data, grow, zipfile.ZIP_DEFLATED)
    assert len(compressed) < 2**19
    for bomb, message in (
        (compressed, "compressed parts"),
        (repacked(data, claim), r"holds an array float64 \(999999999999,\) in"),
        (repacked(data, repeat), "names the same parts too often"),
    ):
        tracemalloc.start()
        with pytest.raises(DrexcacheError, match=message):
            load_estimator(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**25
        tracemalloc.stop()


def test_a_trees_constructor_never_gets_what_another_number_of_the_schema_hides() -> None:
    matrix = problem()
    tree = make_regressor("sklearn.tree:DecisionTreeRegressor", matrix).fit(matrix.X, matrix.y)

    def exchange(members: dict[str, bytes]) -> None:
        schema = json.loads(members["schema.json"])
        columns, _, outputs = schema["content"]["content"]["tree_"]["__reduce__"]["args"]["content"]
        assert (columns["content"], outputs["content"]) == ("8", "1")
        outputs["__id__"] = columns["__id__"]  # 8 outputs, where the text still says 1
        members["schema.json"] = json.dumps(schema).encode()

    with pytest.raises(DrexcacheError, match="gives anything but one number"):
        load_estimator(repacked(dump_estimator(tree), exchange))


def test_small_files_are_no_long_work() -> None:
    matrix = problem()

    def names_one_tree_often(members: dict[str, bytes]) -> None:
        schema = json.loads(members["schema.json"])
        trees = schema["content"]["content"]["estimators_"]["content"]
        trees += [trees[0] | {"content": None}] * 50_000
        members["schema.json"] = json.dumps(schema).encode()

    def lists_in_lists(members: dict[str, bytes]) -> None:
        schema = json.loads(members["schema.json"])
        node: dict[str, Any] = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": "1"}
        for number in range(30):
            many = [node, *[{"__id__": f"list {number - 1}"}] * 9] if number else [node]
            node = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": many,
                    "__id__": f"list {number}"}  # fmt: skip
        schema["content"]["content"]["more"] = node
        members["schema.json"] = json.dumps(schema).encode()

    forest = make_regressor("random-forest", matrix, 0, {"n_estimators": 2}).fit(matrix.X, matrix.y)
    for change in (names_one_tree_often, lists_in_lists):
        with pytest.raises(DrexcacheError, match="names the same parts too often"):
            load_estimator(repacked(dump_estimator(forest), change))


def test_regressors_that_wrap_each_other_are_checked_once_each() -> None:
    matrix = problem()
    model = TransformedTargetRegressor(LinearRegression(), transformer=StandardScaler()).fit(matrix.X, matrix.y)
    for _ in range(40):
        model.regressor = TransformedTargetRegressor(model.regressor, transformer=StandardScaler())
    assert unlisted(model) is None
    model.regressor.regressor.regressor.transformer = None
    assert unlisted(model) == "ratings that are transformed by anything but a StandardScaler"


def test_no_model_starts_more_threads_than_there_are_cores(models: dict[str, Path]) -> None:
    assert altered(models["random-forest"], setting("n_jobs", lambda _: 10**6, None)).estimator.n_jobs == -1


def test_overlapping_members_of_an_old_file_are_refused() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a", b'"__module__": "drexcache.ridge"' + bytes(100_000))
        archive.filelist += archive.filelist * 500
        archive._didModify = True
    with pytest.raises(DrexcacheError, match="parts that are larger than itself"):
        load_estimator(data.getvalue())
