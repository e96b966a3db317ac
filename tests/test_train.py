"""drexcache train: the log of a training, settings from a file, and ratings or features that cannot be learnt from."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw
from threadpoolctl import threadpool_info

from drexcache import DrexcacheError, load_model, open_cache
from drexcache.cli import main
from drexcache.regressors import GramRidge, train_model, training
from drexcache.regressors.settings import ChosenSettings, read_settings

QUICK = {"width": 128, "epochs": 5, "min_steps": 0, "early_stopping": 5, "validation_fraction": 0.2}


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 30 rated pictures, classic cues."""
    folder = tmp_path_factory.mktemp("train")
    run("extract", draw(folder / "pictures", 30), "--recipe", "classic", "--range", 0, 100, "-o", folder / "c.h5")
    return folder / "c.h5"


def settings_file(folder: Path, **fields: Any) -> Path:
    path = folder / "best.json"
    path.write_text(json.dumps(fields))
    return path


def test_a_training_from_a_settings_file_with_a_log(cache: Path, tmp_path: Path) -> None:
    best = settings_file(
        tmp_path, format=1, regressor="fusion", settings=QUICK, blocks=["cues"], seed=7, score=0.9, target="rating"
    )
    said = run("train", cache, "--from", best, "-o", tmp_path / "m.drex", "--log", tmp_path / "log" / "t.csv")
    assert "fusion trained on 30 rated images" in said and "its epochs stand in" in said
    model = load_model(tmp_path / "m.drex")
    assert (model.estimator.width, model.estimator.seeds_[0], model.columns) == (128, 7, ("cues",))
    rows = list(csv.DictReader((tmp_path / "log" / "t.csv").open()))
    assert list(rows[0]) == ["epoch", "loss", "lr", "validation_loss", "validation_r"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [float(row["loss"]) for row in rows] == pytest.approx(
        [row["loss"] for row in model.estimator.log_], rel=1e-5
    )
    run("train", cache, "--from", best, "--seed", 1, "-o", tmp_path / "n.drex")
    assert load_model(tmp_path / "n.drex").estimator.seeds_[0] == 1


def test_settings_of_other_regressors(cache: Path, tmp_path: Path) -> None:
    best = settings_file(tmp_path, regressor="svr", settings={"svr__C": 0.5})
    assert read_settings(best) == ChosenSettings("svr", {"svr__C": 0.5})
    run("train", cache, "--from", best, "-o", tmp_path / "m.drex")
    assert load_model(tmp_path / "m.drex").estimator.get_params()["svr__C"] == 0.5


def test_a_ridge_chosen_by_folds_in_an_older_release(tmp_path: Path) -> None:
    best = settings_file(tmp_path, regressor="ridge", settings={"standardize": False, "cv": 5})
    with pytest.warns(UserWarning, match="ridge's setting cv is ignored: its penalty is now chosen by leave-one-out"):
        assert read_settings(best) == ChosenSettings("ridge", {"standardize": False})


def test_a_regressor_without_epochs_has_no_log(cache: Path, tmp_path: Path) -> None:
    said = run("train", cache, "-r", "ridge", "-o", tmp_path / "m.drex", "--log", tmp_path / "t.csv", code=1)
    assert "Error: ridge has no training log: it is not trained in epochs as a fusion head is" in said
    assert not (tmp_path / "t.csv").exists() and not (tmp_path / "m.drex").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a settings file, such as a search's best.json"),
        ("[1]", r"not a settings file.*\(Expected `object`, got `array`\)"),
        ("{}", "not a settings file.*missing required field `regressor`"),
        ('{"regressor": "ridge", "format": 2}', "settings format 2, this drexcache reads 1; upgrade it"),
        ('{"regressor": "svr", "settings": [1]}', r"Expected `object \| null`, got `array` - at `\$.settings`"),
    ],
)
def test_settings_files_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(DrexcacheError, match=message):
        read_settings(tmp_path / "best.json")


def test_mistakes_on_the_command_line(cache: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "m.drex")
    assert "the settings could not be read" in run("train", cache, "--from", tmp_path / "none.json", *out, code=1)
    both = ("train", cache, "-r", "ridge", "--from", settings_file(tmp_path, regressor="ridge"), *out)
    for arguments in (("train", cache, *out), both):
        assert "give either --regressor NAME or --from FILE" in run(*arguments, code=2)
    unknown = settings_file(tmp_path, regressor="svr", settings={"svr__c": 1})
    assert "svr has no setting svr__c; did you mean svr__C?" in run("train", cache, "--from", unknown, *out, code=1)
    blocks = settings_file(tmp_path, regressor="fusion", blocks=["dino"])
    assert "no block named dino; there are: cues" in run("train", cache, "--from", blocks, *out, code=1)


def test_values_that_are_not_finite_are_named_by_their_images(cache: Path) -> None:
    opened = open_cache(cache)
    matrix, columns = opened.matrix(), tuple(opened.blocks)
    X, y = matrix.X.copy(), matrix.y.copy()
    X[[2, 4, 5, 6, 7, 9, 11], 1] = np.nan
    y[3] = np.inf
    with pytest.raises(DrexcacheError, match=r"NaN or infinite features in block cues of 002.png, .* and 2 more"):
        train_model("fusion", replace(matrix, X=X), opened, columns, 42)
    with pytest.raises(DrexcacheError, match=rf"{cache}: infinite ratings of 003.png"):
        train_model("ridge", replace(matrix, y=y), opened, columns, 42)
    y[3] = np.nan  # NaN stands for no rating
    assert train_model("ridge", replace(matrix, y=y), opened, columns, 42).trained["images"] == 29


@pytest.mark.parametrize(("few", "threads"), [(30, 1), (29, None)])
def test_few_rows_are_learnt_from_by_one_thread(
    few: int, threads: int | None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, seen = open_cache(cache), []
    before = max(pool["num_threads"] for pool in threadpool_info())
    fit = GramRidge.fit
    monkeypatch.setattr(training, "FEW_ROWS", few)
    monkeypatch.setattr(
        GramRidge, "fit", lambda *given: seen.append({pool["num_threads"] for pool in threadpool_info()}) or fit(*given)
    )
    train_model("ridge", opened.matrix(), opened, tuple(opened.blocks), 42)
    assert max(seen[0]) == (threads or before)
    assert max(pool["num_threads"] for pool in threadpool_info()) == before


def test_constant_ratings_and_few_rows(cache: Path) -> None:
    opened = open_cache(cache)
    matrix, columns = opened.matrix(), tuple(opened.blocks)
    with pytest.raises(DrexcacheError, match=r"fusion cannot be trained: y is constant \(0.5 in all 30 rows\)"):
        train_model("fusion", replace(matrix, y=np.full(30, 0.5)), opened, columns, 42)
    few = train_model("fusion", matrix.rows([0, 1, 2]), opened, columns, 42, settings={"width": 128})
    assert np.isfinite(few.predict(opened).value).all(), "fewer rows than a batch make one short batch"
    with pytest.raises(DrexcacheError, match="1 rated image with features; training needs at least 2"):
        train_model("fusion", matrix.rows([0]), opened, columns, 42)


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_split_is_chosen_in_any_usual_spelling(tmp_path: Path, stream: list[str]) -> None:
    pictures, texts = draw(tmp_path / "pictures", 20), ["Train", "TRAIN", "training set", "Test"]
    lines = [f"{i:03}.png,{5 * i},{texts[i % 4]}" for i in range(20)]
    (pictures / "ratings.csv").write_text("\n".join(["file,rating,split", *lines]))
    cache, out = tmp_path / "c.h5", tmp_path / "m.drex"
    run("extract", pictures, "--recipe", "classic", "--range", 0, 100, "-o", cache)
    assert "ridge trained on 15 rated images" in run(
        "train", cache, "-r", "ridge", "--split", "split=train", "-o", out, *stream
    )
    assert "ridge trained on 5 rated images" in run(
        "train", cache, "-r", "ridge", "--split", "split=test", "-o", out, *stream
    )
