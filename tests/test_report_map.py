"""What a report shows of the data: a map of the images, those most alike, ratings to check, copies, contributions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from small_scores import evaluated_cache, names, pictures, run_of, save_scores, two_datasets
from test_report import Page

pytest.importorskip("matplotlib", reason="needs matplotlib, of drexcache[report]")
pytest.importorskip("jinja2", reason="needs Jinja2, of drexcache[report]")

from drexcache import open_cache
from drexcache.studies import report
from drexcache.studies.comparison import nearest_rows, suspects
from drexcache.studies.evaluation.predictions import Predictions, predictions_beside
from drexcache.studies.reporting import maps
from drexcache.studies.reporting.evidence import Scale, read_evidence


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on made.h5 with contributions, its figures and tables."""
    folder = tmp_path_factory.mktemp("map")
    evaluated_cache(folder, contributions=True)
    pictures(folder / "made", names(80))
    report([folder / "scores.csv"], folder / "r.html", images=[str(folder / "made")], export=folder / "paper")
    return folder


def test_what_is_on_the_page(folder: Path) -> None:
    page, matrix = Page(folder / "r.html"), open_cache(folder / "made.h5").matrix()
    (found,) = suspects(matrix)
    assert found.image == "033.png"
    text = page.text[page.text.index("A map of the images") :]
    said = f"033.png rated {found.rated:.1f} , expected {found.predicted:.1f} those most like it: {found.around:.1f}"
    assert said.replace(" ,", ",") in text.replace(" ,", ",")
    assert re.search(r"copies and near-copies .* scores\. 003\.png 011\.png", text)
    near = {int(image): own for image, own in page.data["near"].items()}
    order = [image for image, *_ in page.data["images"]]
    matrix = matrix.rows([matrix.ids.index(image) for image in order])  # ties stand in the order of the rows
    assert near == dict(enumerate(nearest_rows(matrix)[:, :6].tolist()))


def test_those_alike_are_beside_each_other_on_the_map(folder: Path) -> None:
    page = Page(folder / "r.html")
    (layer,) = page.data["panels"]["map-made"]
    at = np.column_stack([layer["x"], layer["y"]])
    order = [page.data["images"][image][0] for image in page.data["results"][layer["result"]]["images"]]
    scene = np.array([int(order[row][:3]) % 20 for row in layer["rows"]])
    distance = np.linalg.norm(at[:, None] - at[None], axis=2)
    distance[np.diag_indices(80)] = np.inf
    assert np.mean(scene[distance.argmin(1)] == scene) > 0.8  # 3 of 79 by chance
    assert page.data["panels"]["errors-ridge-made"][0]["rows"] == layer["rows"]
    figures = {path.name for path in (folder / "paper" / "figures").iterdir()}
    assert {"map-made.svg", "map-made.png", "errors-ridge-made.svg", "contributions-ridge-made.png"} <= figures


def test_a_map_of_many_images_shows_some(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "DRAWN", 20)
    report([folder / "scores.csv"], tmp_path / "r.html", with_thumbnails=False)
    page = Page(tmp_path / "r.html")
    assert "20 of 80 images, evenly chosen" in page.text
    assert len(page.data["panels"]["map-made"][0]["rows"]) == 20 and len(page.data["near"]) == 80
    monkeypatch.setattr(maps, "MOST", 79)
    (note,) = [
        one for one in report([folder / "scores.csv"], tmp_path / "r.html", with_thumbnails=False) if "map" in one
    ]
    assert note == "made: no map of its images; there are more than 79"


def test_without_a_cache_there_is_no_map(tmp_path: Path) -> None:
    report([two_datasets(tmp_path / "s.csv")], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert "A map of the images" not in page.text and page.data["near"] == {}


def test_contributions_stand_on_the_scale_of_the_ratings(folder: Path) -> None:
    (result,) = read_evidence([folder / "scores.csv"], "pearson").results
    own = result.on(Scale(200, -100))  # less is more
    np.testing.assert_allclose(own.contributions["cues"], -300 * result.contributions["cues"])
    predictions = Predictions.read_csv(predictions_beside(folder / "scores.csv"))
    np.testing.assert_allclose(result.contributions["cues"], predictions.runs[0].contributions["cues"])
    page = Page(folder / "r.html")
    shown = page.data["results"][0]["contributions"]["cues"]
    np.testing.assert_allclose(shown, 300 * result.contributions["cues"], atol=5e-4)
    assert "How far each arm moves the prediction" in page.text


def test_attention_that_is_the_same_for_every_image_is_a_note(tmp_path: Path) -> None:
    run = run_of("fusion", "art", "art", names(20), attention=("dino", "resnet"))
    for arm in run.attention:
        run.attention[arm][:] = 0.5
    report([save_scores(tmp_path / "s.csv", [run])], tmp_path / "r.html")
    assert "The attention is the same for every image: fusion, art" in Page(tmp_path / "r.html").text
