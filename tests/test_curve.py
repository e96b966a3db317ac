"""Learning curves: the scores grow, the law is found again, and the band holds what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from small_scores import two_datasets

from drexcache import DrexcacheError, FeatureMatrix, import_features
from drexcache.cli import main
from drexcache.datasets import Columns
from drexcache.studies import curve, report
from drexcache.studies.comparison import Curve, read_curves, save_curves, with_raters
from drexcache.studies.comparison.curve import Law, fit_law
from drexcache.studies.comparison.raters import fewer_ratings


def matrix_of(n: int, d: int = 20, noise: float = 0.5, seed: int = 0) -> FeatureMatrix:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype("f4")
    y = 0.5 + 0.05 * (X.sum(1) / np.sqrt(d) + noise * rng.normal(size=n))
    return FeatureMatrix(X, y, [f"{at:03}.png" for at in range(n)], {"cues": slice(0, d)}, dataset="made")


def test_scores_grow_towards_the_limit_and_larger_data_keeps_inside_of_the_band() -> None:
    (small,) = curve(matrix_of(120), ["ridge"], repeats=3)
    assert small.sizes[0] == 10 and small.sizes[-1] == 96
    assert small.value[-1] > small.value[0]
    assert (small.low <= small.value).all() and (small.value <= small.high).all()
    (large,) = curve(matrix_of(400, seed=1), ["ridge"], repeats=1, steps=4)
    low, high = small.band(np.array([large.sizes[-1]]))
    assert low[0] - 0.05 < large.value[-1] < high[0] + 0.05
    assert small.law is not None and small.law.limit <= 1


def test_the_law_is_found_again_within_its_noise() -> None:
    images = np.geomspace(10, 400, 8).round().astype(int).tolist()
    truth = Law(0.92, 1.4, 0.5)
    found = [
        fit_law(images, truth.at(images) + np.random.default_rng(seed).normal(0, 0.005, 8), np.full(8, 0.005))
        for seed in range(20)
    ]
    limits = [law.limit for law in found if law is not None]
    assert len(limits) == 20
    assert abs(np.median(limits) - 0.92) < 0.02


def test_what_is_said_of_more_images() -> None:
    law, at = Law(0.95, 1.0, 0.5), np.array([50, 100])
    one = Curve("ridge", "art", [50, 100], law.at(at), law.at(at) - 0.01, law.at(at) + 0.01, law, [law, law])
    assert one.outlook(0.88).startswith("ridge on art: r = 0.850 after 100 images; about 100 more images for r = 0.88")
    assert "r = 0.80 already" in one.outlook(0.8)
    assert "; ten times as many would not be enough for r = 0.96 (reached within" in one.outlook(0.96)
    assert "for r = 0.90" in one.outlook()
    flat = Curve("ridge", "art", [50, 100], np.full(2, 0.5), np.full(2, 0.4), np.full(2, 0.6))
    assert "do not grow" in flat.outlook(0.9)


def test_a_curve_comes_back_from_its_file(tmp_path: Path) -> None:
    curves = curve(matrix_of(60), ["ridge"], steps=4, repeats=1)
    save_curves(curves, tmp_path / "c.csv")
    (found,) = read_curves(tmp_path / "c.csv")
    assert found.measured["size"].tolist() == list(curves[0].sizes)
    assert found.measured["value"].tolist() == curves[0].value.tolist()
    assert len(found.fitted) > 20


def test_the_report_shows_a_curve(tmp_path: Path) -> None:
    save_curves(curve(matrix_of(60), ["ridge"], steps=4, repeats=1), tmp_path / "c.csv")
    scores = two_datasets(tmp_path / "s.csv")
    report([scores], tmp_path / "r.html", curves=[tmp_path / "c.csv"], export=tmp_path / "paper", with_thumbnails=False)
    assert 'id="curve"' in (tmp_path / "r.html").read_text()
    assert "ridge on made: r" in (tmp_path / "paper" / "figures" / "figures.txt").read_text()


def test_fewer_images_than_steps() -> None:
    with pytest.raises(DrexcacheError, match="found 8 steps and 16 images to train on"):
        curve(matrix_of(20), ["ridge"])


def raters_of(matrix: FeatureMatrix, raters: int, noise: float) -> pd.DataFrame:
    """A table with a column per rater: the matrix's ratings with errors of their own."""
    errors = np.random.default_rng(5).normal(scale=noise, size=(len(matrix), raters))
    given = pd.DataFrame(matrix.y[:, None] + errors, columns=[f"rater_{at}" for at in range(raters)])
    return given.assign(file=matrix.ids)


def test_more_ratings_of_each_image_lift_the_score_to_that_of_the_mean() -> None:
    made = matrix_of(150, noise=0.1)
    matrix, ratings, _ = with_raters(made, raters_of(made, 16, noise=0.2), Columns(rating="rater_*"))
    np.testing.assert_allclose(matrix.y, ratings.mean(1))
    (found,) = curve(matrix, ["ridge"], ratings=ratings, repeats=4)
    assert list(found.sizes) == [1, 2, 3, 5, 7, 11, 16] and found.of == "ratings"
    assert found.value[0] + 0.1 < found.value[-1]
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    assert found.law is not None and found.law.limit > found.value[-1] - 0.02
    assert f"r = {found.value[-1]:.3f} after 16 ratings an image; " in found.outlook()
    (plain,) = curve(matrix, ["ridge"], repeats=4)
    assert found.value[-1] == pytest.approx(plain.value[-1])  # all ratings of all images are the same training


def test_fewer_ratings_of_raters_who_rated_all_or_some() -> None:
    rng, whole = np.random.default_rng(0), np.arange(40.0).reshape(4, 10)
    one, three, ten = fewer_ratings(whole, [1, 3, 10], rng)
    assert len({*(one - whole[:, 0])}) == 1  # the same rater for every image
    np.testing.assert_allclose(three - three[0], whole[:, 0])
    np.testing.assert_allclose(ten, whole.mean(1))
    some = whole.copy()
    some[0, 2:] = np.nan
    one, three, ten = fewer_ratings(some, [1, 3, 10], rng)
    assert one[0] in (0.0, 1.0) and three[0] == ten[0] == 0.5
    assert len({*(one - whole[:, 0])}) > 1


def test_a_table_without_raters_or_with_other_images_is_refused() -> None:
    made = matrix_of(20)
    table = raters_of(made, 5, noise=0.1)
    with pytest.raises(DrexcacheError, match="found one rating an image; name the columns with --rating-column"):
        with_raters(made, table[["file", "rater_0"]], Columns(rating="rater_0"))
    with pytest.raises(DrexcacheError, match=r"no image of made is rated; rated: x000.png.*images: 000.png"):
        with_raters(made, table.assign(file="x" + table["file"]), Columns(rating="rater_*"))
    matrix, ratings, notes = with_raters(made, table[3:], Columns(rating="rater_*"))
    assert len(matrix) == 17 and "3 of the 20 images of made are not rated, left out" in notes[-1]
    with pytest.raises(DrexcacheError, match="found 8 steps and a median of 3 ratings an image"):
        curve(matrix, ["ridge"], ratings=ratings[:, :3])


def test_the_command(tmp_path: Path) -> None:
    made = matrix_of(60)
    lines = "\n".join(f"{image},{y}" for image, y in zip(made.ids, made.y, strict=True))
    (tmp_path / "r.csv").write_text(f"file,rating\n{lines}\n")
    import_features(
        made.X, tmp_path / "c.h5", "cues", ids=made.ids, ratings=tmp_path / "r.csv", value_range=(0, 1),
        say=lambda line: None,
    )  # fmt: skip
    given = ["curve", str(tmp_path / "c.h5"), "-r", "ridge", "-o", str(tmp_path / "curve.csv"), "--steps", "4"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    assert "images for r =" in done.output or "already" in done.output
    assert (tmp_path / "curve.csv").read_text().startswith("regressor,dataset,of,kind,size,value,low,high\n")
    (found,) = json.loads(CliRunner().invoke(main, [*given, "--json"]).stdout)
    assert found["regressor"] == "ridge" and found["sizes"][0] == 10 and len(found["value"]) == 4
    raters_of(made, 5, noise=0.1).to_csv(tmp_path / "raters.csv", index=False)
    asked = [*given, "--ratings", str(tmp_path / "raters.csv"), "--rating-column", "rater_*", "--repeats", "1"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0 and "ridge, 5 ratings an image: r =" in done.output, done.output
    (kept,) = read_curves(tmp_path / "curve.csv")
    assert kept.of == "ratings" and kept.measured["size"].tolist() == [1, 2, 3, 5]
    alone = CliRunner().invoke(main, [*given, "--rater-column", "who"])
    assert alone.exit_code == 2 and "--rater-column needs --ratings" in alone.output
    refused = CliRunner().invoke(main, [*given[:-1], "60"])
    assert refused.exit_code == 1 and "found 60 steps" in refused.output
