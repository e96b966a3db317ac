"""drexcache search on a real cache: what it prints, leaves behind and refuses, and train --from its result."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import draw, tiny_recipe

import drexcache
from drexcache.cli import main
from drexcache.features import extract


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn pictures, 32 of them for training, with two blocks."""
    folder = tmp_path_factory.mktemp("cache")
    table = drexcache.read_images(draw(folder / "pictures", 40), value_range=(0, 100))
    extract(table, tiny_recipe(), folder / "pictures.h5")
    return folder / "pictures.h5"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["search", *map(str, arguments)])


def test_search_then_train_from_its_result(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    result = run(cache, "-r", "svr", "-r", "neighbours", "-o", out, "--total-trials", 24, "--split", "split")
    assert result.exit_code == 0, result.output
    best = json.loads((out / "best.json").read_text())
    assert best["images"] == 32
    assert (out / "results.md").read_text().splitlines()[0] in result.stdout
    assert "best settings in" in result.stderr
    line = json.loads((out / "drexcache-runs.jsonl").read_text())
    assert line["kind"] == "search"
    assert {score["regressor"] for score in line["scores"]} == {"svr", "neighbours"}
    trained = CliRunner().invoke(
        main,
        [
            "train",
            str(cache),
            "--from",
            str(out / "best.json"),
            "-o",
            str(tmp_path / "model"),
            "--split",
            "split=train",
        ],
    )
    assert trained.exit_code == 0, trained.output
    model = drexcache.load_model(tmp_path / "model")
    assert (model.regressor, list(model.columns)) == (best["regressor"], best["blocks"])
    params = model.estimator.get_params()
    components = best["settings"].pop("pca")
    assert params["pca"] == "passthrough" if not components else params["pca__n_components"] <= components
    assert {key: params[key] for key in best["settings"]} == best["settings"]


def test_taps_are_blocks_to_choose_from(cache: Path, tmp_path: Path) -> None:
    result = run(
        cache, "-r", "ridge", "-o", tmp_path, "--total-trials", 3, "--split", "none", "--block", "resnet/layer1",
        "--block", "resnet/layer4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert set(json.loads((tmp_path / "best.json").read_text())["blocks"]) <= {"resnet/layer1", "resnet/layer4"}


def test_a_column_of_splits_must_not_be_overlooked(cache: Path, tmp_path: Path) -> None:
    result = run(cache, "-r", "ridge", "-o", tmp_path)
    assert "tells training from test images; give --split split" in result.stderr


def test_a_space_file_narrows(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("[svr]\nsvr__C = 2.0\n[blocks]\nvit = false\n")
    result = run(
        cache, "-r", "svr", "-o", tmp_path / "out", "--total-trials", 2, "--split", "split", "--space",
        tmp_path / "space.toml",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert (best["blocks"], best["settings"]["svr__C"]) == (["resnet"], 2.0)
