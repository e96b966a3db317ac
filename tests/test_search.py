"""search: trials in all, what is kept, what is refused, and that nothing but the training rows is ever seen."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from drexcache import metrics
from drexcache.cache.matrix import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.regressors.named import make_regressor, search_space
from drexcache.studies import evaluate
from drexcache.studies.searching.space import make_space, read_narrowed
from drexcache.studies.searching.storage import open_storage
from drexcache.studies.searching.study import search, shares
from drexcache.studies.searching.task import training_rows
from drexcache.studies.searching.trials import MADE_FOR, finished


def toy(n: int = 60, **fields: Any) -> FeatureMatrix:
    """Ratings that follow the block "deep"; the block "noise" only misleads."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 8)).astype("f4")
    y = 0.5 + 0.1 * X[:, 0] + 0.05 * X[:, 1] + 0.03 * rng.normal(size=n)
    labels = {"split": ["test" if i % 4 == 0 else "train" for i in range(n)]}
    matrix = FeatureMatrix(
        X, y, [f"{i:03}.png" for i in range(n)], {"deep": slice(0, 4), "noise": slice(4, 8)}, dataset="toy",
        fingerprints={"deep": "a" * 64, "noise": "b" * 64}, hashes=[f"{i:064x}" for i in range(n)], labels=labels,
    )  # fmt: skip
    return replace(matrix, **fields)


def study_of(folder: Path, regressor: str, dataset: str = "toy") -> optuna.Study:
    return optuna.load_study(study_name=f"{dataset}/{regressor}", storage=open_storage(None, folder))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A finished search of two regressors, 13 trials each, and its folder."""
    folder = tmp_path_factory.mktemp("search")
    return search(toy(), ["svr", "neighbours"], folder, total_trials=26), folder


def test_what_is_left_behind(done: tuple[Any, Path]) -> None:
    found, folder = done
    best = json.loads((folder / "best.json").read_text())
    assert best == found.best
    assert best["trials"] == 26
    assert [row["trials"] for row in rows(folder / "results.csv")] == ["13", "13"]
    trials = rows(folder / "trials.csv")
    assert [(row["regressor"], row["trial"]) for row in trials] == [
        (name, str(k)) for name in ("svr", "neighbours") for k in range(13)
    ]
    complete = [row for row in trials if row["state"] == "complete"]
    assert len(list((folder / "predictions").iterdir())) == len(complete)
    assert float(best["score"]) == max(float(row["score"]) for row in complete)
    assert best["fingerprints"] == {name: toy().fingerprints[name] for name in best["blocks"]}
    assert {row["regressor"] for row in rows(folder / "importance.csv")} <= {"svr", "neighbours"}
    assert set(best["blocks"]) >= {"deep"}
    for text in ("svr", "neighbours", "nested estimate"):
        assert text in (folder / "results.md").read_text()


def test_the_score_is_that_of_evaluate_with_the_same_settings(done: tuple[Any, Path]) -> None:
    best = done[0].best
    chosen = toy().select(best["blocks"])
    _, predictions = evaluate(
        [chosen], [best["regressor"]], make=lambda name, m, seed: make_regressor(name, m, seed, best["settings"])
    )
    run = predictions.runs[0]
    assert best["score"] == pytest.approx(metrics.pearson(run.rated, run.predicted), abs=1e-6)
    assert best["interval"] == pytest.approx(metrics.interval("pearson", run.rated, run.predicted), abs=1e-6)


def test_a_trial_tells_a_dashboard_its_details(done: tuple[Any, Path]) -> None:
    study = study_of(done[1], "svr")
    trial = next(trial for trial in study.trials if trial.state.name == "COMPLETE")
    assert len(trial.user_attrs["fold scores"]) == 5
    assert {"spearman", "rmse", "mae", "seconds"} <= set(trial.user_attrs)
    assert list(trial.intermediate_values) == [0, 1, 2, 3, 4]
    assert trial.intermediate_values[4] == trial.value
    assert study.user_attrs[MADE_FOR]["fingerprint"] == toy().fingerprints


def test_total_means_total_and_a_continued_search_is_one_that_was_never_cut(
    done: tuple[Any, Path], tmp_path: Path
) -> None:
    search(toy(), ["svr", "neighbours"], tmp_path, total_trials=9)
    assert [len(finished(study_of(tmp_path, name))) for name in ("svr", "neighbours")] == [5, 4]
    search(toy(), ["svr", "neighbours"], tmp_path, total_trials=26)
    assert [
        (t["regressor"], t["trial"], t["state"], t["score"], t["settings"]) for t in rows(tmp_path / "trials.csv")
    ] == [(t["regressor"], t["trial"], t["state"], t["score"], t["settings"]) for t in rows(done[1] / "trials.csv")]
    again = search(toy(), ["svr", "neighbours"], tmp_path, total_trials=26)
    assert again.finished == 26
    with pytest.raises(DrexcacheError, match=r"26 trials are done already .* give 26 or more"):
        search(toy(), ["svr", "neighbours"], tmp_path, total_trials=25)


def test_the_first_trial_is_the_defaults_with_all_blocks(tmp_path: Path) -> None:
    search(toy(), ["neighbours"], tmp_path, total_trials=1)
    params = study_of(tmp_path, "neighbours").trials[0].params
    defaults = make_regressor("neighbours", toy()).get_params()
    assert set(params) == {"block:deep", "block:noise", *search_space("neighbours")}
    settings = {name: defaults[name] for name in params if name in defaults} | {"pca": 0}  # no components: all columns
    assert params == {"block:deep": True, "block:noise": True} | settings


def test_fusion_trials_are_trained_together_and_scored_as_if_alone(tmp_path: Path) -> None:
    narrowed = {"fusion": {"width": 128, "min_steps": 10, "epochs": {"low": 5, "high": 8}, "batch_size": 16}}
    found = search(toy(), ["fusion"], tmp_path, total_trials=6, folds=3, narrowed=narrowed)
    assert found.finished == 6
    best = found.best
    assert best["settings"]["min_steps"] == 10
    chosen = toy().select(best["blocks"])
    make = lambda name, m, seed: make_regressor(name, m, seed, best["settings"])  # noqa: E731
    run = evaluate([chosen], ["fusion"], make=make, folds=3)[1].runs[0]
    assert best["score"] == pytest.approx(metrics.pearson(run.rated, run.predicted), abs=1e-4)


def test_pruned_trials_are_replaced_and_cost_less(tmp_path: Path) -> None:
    search(toy(600), ["neighbours"], tmp_path, total_trials=20)
    trials = finished(study_of(tmp_path, "neighbours"))
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert len(trials) == 20
    assert pruned
    assert all(len(trial.user_attrs["fold scores"]) < 5 for trial in pruned)
    for trial in pruned:  # it was behind at that stage, on the same images
        others = [
            other.intermediate_values.get(trial.last_step, -1) for other in trials if other.state.name == "COMPLETE"
        ]
        assert trial.value < max(others)


def test_a_regressor_with_few_candidates_leaves_its_share_to_the_others(tmp_path: Path) -> None:
    found = search(toy(), ["mean", "svr"], tmp_path, total_trials=9, metric="rmse")
    assert {row.regressor: row.trials for row in found.rows} == {"mean": 3, "svr": 6}
    candidates = {trial["blocks"] for trial in rows(tmp_path / "trials.csv") if trial["regressor"] == "mean"}
    assert candidates == {"deep, noise", "deep", "noise"}
    assert shares([make_space("mean", toy())], 100, [0]) == [3]


def test_a_regressor_that_joins_later_catches_up(tmp_path: Path) -> None:
    search(toy(), ["svr"], tmp_path, total_trials=5)
    found = search(toy(), ["svr", "neighbours"], tmp_path, total_trials=8)
    assert {row.regressor: row.trials for row in found.rows} == {"svr": 5, "neighbours": 3}


def test_a_search_by_an_error_and_with_repeats(tmp_path: Path) -> None:
    found = search(toy(), ["mean", "svr"], tmp_path, total_trials=8, repeats=2, metric="rmse", folds=3)
    scores = {row.regressor: row.score for row in found.rows}
    assert list(scores) == ["svr", "mean"]
    assert scores["svr"] < scores["mean"]
    trial = next(t for t in study_of(tmp_path, "svr").trials if t.state.name == "COMPLETE")
    assert len(trial.user_attrs["fold scores"]) == 6
    assert trial.user_attrs["sd over repeats"] > 0


def test_holdout_trains_once_per_trial(tmp_path: Path) -> None:
    found = search(toy(), ["svr"], tmp_path, total_trials=4, holdout=True)
    assert all(len(t.user_attrs["fold scores"]) == 1 for t in finished(study_of(tmp_path, "svr")))
    assert found.best["nested"] is not None
    assert np.isfinite(np.load(tmp_path / "predictions" / "svr-00000.npy")).sum() == 12


def test_test_rows_are_never_seen(tmp_path: Path) -> None:
    """Whatever the test rows hold, the search is the same: NaN would break it, other ratings would move it."""
    poisoned = toy()
    test = np.array([label == "test" for label in poisoned.labels["split"]])
    X, y = poisoned.X.copy(), poisoned.y.copy()
    X[test], y[test] = np.nan, np.where(np.arange(test.sum()) % 2, 1e6, -1e6)
    outcomes = []
    for name, matrix in (("clean", toy()), ("poisoned", replace(poisoned, X=X, y=y))):
        found = search(training_rows(matrix, "split", "toy.h5"), ["svr"], tmp_path / name, total_trials=6)
        del found.best["files"]  # tables that hold seconds
        outcomes.append((found.best, [t["score"] for t in rows(tmp_path / name / "trials.csv")]))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0]["images"] == 45


def test_a_split_must_be_named_where_there_is_one() -> None:
    with pytest.raises(DrexcacheError, match="--split split to search on the training images, or --split none"):
        training_rows(toy(), None, "toy.h5")
    assert len(training_rows(toy(), "none", "toy.h5")) == 60
    assert len(training_rows(toy(labels={"city": ["A"] * 60}), None, "toy.h5")) == 60


def test_near_duplicates_share_a_fold_and_are_told(tmp_path: Path) -> None:
    X = np.random.default_rng(3).normal(size=(60, 100)).astype("f4")
    X[7] = X[3]
    found = search(toy(X=X, blocks={"deep": slice(0, 100)}), ["ridge"], tmp_path, total_trials=1)
    assert len(found.notes) == 1
    assert "003.png and 007.png" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 4}, "folds: 5 -> 4"),
        ({"seed": 1}, "seed: 42 -> 1"),
        ({"metric": "spearman"}, "metric: pearson -> spearman"),
        ({"narrowed": {"svr": {"svr__C": {"low": 1.0, "high": 2.0}}}}, "space svr__C: 0.01 to 100, log -> 1 to 2, log"),
    ],
)
def test_a_study_made_for_something_else_is_refused(done: tuple[Any, Path], change: dict, message: str) -> None:
    with pytest.raises(DrexcacheError, match="made for something else") as caught:
        search(toy(), ["svr", "neighbours"], done[1], total_trials=30, **change)
    assert message in str(caught.value)


def test_a_study_of_another_cache_is_refused(done: tuple[Any, Path]) -> None:
    other = toy(fingerprints={"deep": "c" * 64, "noise": "b" * 64})
    with pytest.raises(DrexcacheError, match="fingerprint deep: aaaaaaaaaaaa -> cccccccccccc"):
        search(other, ["svr", "neighbours"], done[1], total_trials=30)
    with pytest.raises(DrexcacheError, match=r"rows: \w{12} -> \w{12}"):
        search(replace(toy(), y=toy().y[::-1].copy()), ["svr", "neighbours"], done[1], total_trials=30)


@pytest.mark.parametrize(
    ("regressors", "options", "message"),
    [
        (["sv"], {}, "no regressor named sv; did you mean svr"),
        ([], {}, "name one or more"),
        (["svr"], {"metric": "accuracy"}, "no metric named accuracy; there are: pearson"),
        (["svr"], {"storage": "nonsense"}, "nonsense: the storage of trials cannot be used"),
        (["svr"], {"storage": "postgresql+psycopg://me:secret@127.0.0.1:1/db"}, "me@127.0.0.1:1/db: the storage of"),
        (["svr"], {"storage": "sqlite:////no/such/folder/a.db"}, "the storage of trials cannot be used"),
        (["svr"], {"folds": 61}, "number of folds must be 2 to 60"),
        (["svr"], {"narrowed": {"svr": {"svr__C": -1.0}}}, "svr__C must be 0.01 to 100"),
        (["svr"], {"narrowed": {"svr": {"svr__c": 1.0}}}, "no setting svr__c; did you mean svr__C"),
        (["svr"], {"narrowed": {"svr": {"svr__C": {"low": 2.0, "high": 1.0}}}}, "is no range"),
        (["svr"], {"narrowed": {"blocks": {"deeep": True}}}, "there are: deep, noise"),
        (["svr"], {"narrowed": {"blocks": {"deep": False, "noise": False}}}, "leaves no block"),
    ],
)
def test_bad_input(tmp_path: Path, regressors: list[str], options: dict, message: str) -> None:
    with pytest.raises(DrexcacheError) as caught:
        search(toy(), regressors, tmp_path, total_trials=2, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_when_every_trial_fails_the_first_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(DrexcacheError, match="no trial has succeeded; the first failed: mean: it predicts one number"):
        search(toy(), ["mean"], tmp_path, total_trials=3)
    found = search(toy(), ["mean", "svr"], tmp_path, total_trials=6)
    assert [(row.regressor, row.failed) for row in found.rows] == [("svr", 0), ("mean", 3)]
    assert found.notes == [
        "mean: no more than 3 combinations of settings and blocks to try; all were",
        "mean: 3 of 3 trials failed, the first: it predicts one number for all images of a fold: pearson is undefined",
    ]


def test_a_space_file(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(
        "[svr]\nsvr__C = { low = 0.5, high = 2.0 }\nsvr__epsilon = [0.01, 0.02]\nsvr__gamma = 1e-3\n"
        "pca = 64\n[blocks]\nnoise = false\n"
    )
    space = make_space("svr", toy(), read_narrowed(path, ["svr"]))
    assert space.describe() == {
        "block:deep": "always",
        "svr__C": "0.5 to 2, log",
        "svr__epsilon": "0.01 or 0.02",
        "svr__gamma": "0.001",
        "pca": "64",
    }
    path.write_text("[ridge]\n")
    with pytest.raises(DrexcacheError, match=r"\[ridge\] is no table of this search; there are: blocks, svr"):
        read_narrowed(path, ["svr"])
    path.write_text("a = ")
    with pytest.raises(DrexcacheError, match="not TOML, in which --space says what to search"):
        read_narrowed(path, ["svr"])
