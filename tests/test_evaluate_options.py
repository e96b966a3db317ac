"""evaluate's options: a search's settings, folds that follow a group, a target per cache, weights, pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from drexcache.cache import FeatureMatrix, rate
from drexcache.cli import main
from drexcache.errors import DrexcacheError
from drexcache.regressors import ChosenSettings, GramRidge, make_regressor
from drexcache.scores import ScoreTable
from drexcache.studies import compare, evaluate
from drexcache.studies.evaluation import Predictions, predictions_beside


def toy(n: int = 60, d: int = 6, name: str = "toy", **fields: object) -> FeatureMatrix:
    rng = np.random.default_rng(list(name.encode()))
    X = rng.normal(size=(n, d)).astype("f4")
    y = 0.5 + 0.1 * X[:, 0] + 0.02 * rng.normal(size=n)
    blocks = {"left": slice(0, d // 2), "right": slice(d // 2, d)}
    return FeatureMatrix(X, y, [f"{i:03}.png" for i in range(n)], blocks, dataset=name, **fields)  # type: ignore[arg-type]


def test_settings_of_a_search_have_their_own_blocks() -> None:
    chosen = {"best": ChosenSettings("svr", {"svr__C": 3.0}, ("left",))}
    _, predictions = evaluate([toy()], ["ridge", "best"], chosen=chosen)
    set_so = {"make": lambda name, matrix, seed: make_regressor(name, matrix, seed, {"svr__C": 3.0})}
    alone = evaluate([toy().select(["left"])], ["svr"], **set_so)[1].runs[0]  # type: ignore[arg-type]
    (best,) = predictions.select(regressor="best").runs
    assert best.predicted == pytest.approx(alone.predicted)
    assert (best.ids, best.target) == (alone.ids, "rating")


def test_folds_that_follow_a_group() -> None:
    groups = [f"g{i % 12}" for i in range(58)] + ["", ""]
    matrix = toy(labels={"generator": groups}, hashes=[f"h{min(i, 58)}" for i in range(60)])  # the last two are copies
    table, predictions = evaluate([matrix], ["mean"], group_folds="generator")
    fold = dict(zip(predictions.runs[0].ids, predictions.runs[0].fold.tolist(), strict=True))
    for group in set(groups):
        assert len({fold[image] for image, own in zip(matrix.ids, groups, strict=True) if own == group}) == 1
    assert "toy: images of one generator stay in one fold (13 groups)" in table.notes
    with pytest.raises(DrexcacheError, match="toy: no label named artist; there are: generator"):
        evaluate([matrix], ["mean"], group_folds="artist")
    with pytest.raises(DrexcacheError, match=r"toy: folds must be 2 to 13 \(different images or groups\); found 20"):
        evaluate([matrix], ["mean"], group_folds="generator", folds=20)


def test_weights_of_images_are_those_of_scikit_learn() -> None:
    counts = [1 + i % 5 for i in range(60)]
    matrix = toy(labels={"raters": [str(count) for count in counts], "split": ["train", "test"] * 30})
    (run,) = evaluate([matrix], ["ridge"], make=lambda *_: Ridge(alpha=2.0), split="split", weights="raters")[1].runs
    by_hand = Ridge(alpha=2.0).fit(matrix.X[::2], matrix.y[::2], sample_weight=counts[::2])
    assert run.predicted == pytest.approx(by_hand.predict(matrix.X[1::2]), abs=1e-6)
    assert evaluate([matrix], ["svr"], weights="raters")[1].runs  # the last step of a pipeline takes them
    (run,) = evaluate([matrix], ["ridge"], split="split", weights="raters")[1].runs
    ours = GramRidge().fit(matrix.X[::2], matrix.y[::2], sample_weight=np.array(counts[::2]))
    assert run.predicted == pytest.approx(ours.predict(matrix.X[1::2]), abs=1e-6)
    with pytest.raises(DrexcacheError, match="nearest takes no weights of images"):
        evaluate([matrix], ["nearest"], make=lambda *_: KNeighborsRegressor(1), weights="raters")
    wrong = replace(matrix, labels={"raters": ["many", *matrix.labels["raters"][1:]]})
    with pytest.raises(DrexcacheError, match="toy: weights in column 'raters' must be above 0; found 'many'"):
        evaluate([wrong], ["svr"], weights="raters")


class Far(Ridge):
    """Twice as far from the middle as it should be for two images."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.where(X[:, 1] > 2, 1.5, 0.5) - np.where(X[:, 1] < -2, 0.7, 0)


def test_predictions_far_outside_of_the_range_are_said() -> None:
    matrix = toy(low=1.0, high=9.0)
    X = np.clip(matrix.X, -1, 1)
    X[3, 1], X[7, 1] = 3, -3
    both = {"far": Far, "ridge": Ridge}
    table, _ = evaluate([replace(matrix, X=X)], list(both), make=lambda name, *_: both[name]())
    assert table.notes == [
        "toy: 2 of 60 predictions of far lie far outside the ratings' range, 1 to 9: 003.png 13.00, 007.png -0.60"
    ]
    noted = {row.regressor for row in table.rows if row.note}
    assert noted == {"far"}


def test_only_one_kind_is_compared() -> None:
    _, predictions = evaluate([toy(), toy(name="other")], ["ridge", "svr", "mean"])
    everything, inside = compare(predictions, "rmse"), compare(predictions, "rmse", kind="in-domain")
    assert (len(everything.pairs), len(inside.pairs)) == (12, 6)
    assert {pair.kind for pair in inside.pairs} == {"in-domain"}
    assert compare(predictions.to_pandas(), "rmse", kind="in-domain") == inside
    with pytest.raises(DrexcacheError, match="no predictions of kind split; there are: in-domain, cross"):
        compare(predictions, kind="split")


def test_frames_there_and_back() -> None:
    table, predictions = evaluate([toy()], ["ridge", "mean"])
    assert ScoreTable.from_pandas(table.to_pandas()) == table
    again = Predictions.from_pandas(predictions.to_pandas().drop(columns=["group", "target"]))
    assert [run.predicted.tolist() for run in again.runs] == [run.predicted.tolist() for run in predictions.runs]
    with pytest.raises(DrexcacheError, match="no column rated in the predictions; they have: regressor, kind"):
        Predictions.from_pandas(predictions.to_pandas().drop(columns="rated"))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_on_the_command_line(tmp_path: Path) -> None:
    images, cache = draw(tmp_path / "p", 24), tmp_path / "p.h5"
    run("extract", images, "--recipe", "classic", "-o", cache)
    names = sorted(path.name for path in images.iterdir() if path.suffix == ".png")
    ratings = "file,rating\n" + "".join(f"{name},{k % 7}\n" for k, name in enumerate(names))
    (tmp_path / "beauty.csv").write_text(ratings, encoding="utf-8")
    rate(cache, tmp_path / "beauty.csv", "beauty", value_range=(0, 6))
    best, scores = tmp_path / "best.json", tmp_path / "s.csv"
    best.write_text(json.dumps({"regressor": "svr", "settings": {"svr__C": 2.0}}), encoding="utf-8")
    options = ["-r", "mean", "--from", best, "--folds", "3", "--images", images, "-o", scores]
    assert f"svr ({best})" in run("evaluate", f"{cache}:beauty", *options)
    predictions = Predictions.read_csv(predictions_beside(scores))
    assert {one.target for one in predictions.runs} == {"beauty"}
    assert sorted(set((6 * predictions.runs[0].rated).round().tolist())) == [0, 1, 2, 3, 4, 5, 6]
    assert " evaluate beauty " in run("runs", tmp_path)
    (entry,) = json.loads(run("runs", tmp_path, "--json"))
    assert entry["caches"][0]["path"] == str(cache)
    best.write_text(json.dumps({"regressor": "os:system"}), encoding="utf-8")
    refused = CliRunner().invoke(main, ["evaluate", str(cache), "--from", str(best), "-o", str(scores)])
    assert refused.exit_code == 1
    assert "--trust" in refused.output
