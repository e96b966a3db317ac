"""Learning curves: the scores grow, the law is found again, and the band holds what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_scores import two_datasets

from drexcache import DrexcacheError, FeatureMatrix, import_features
from drexcache.cli import main
from drexcache.studies import curve, report
from drexcache.studies.comparison import Curve, read_curves, save_curves
from drexcache.studies.comparison.curve import Law, fit_law


def matrix_of(n: int, d: int = 20, noise: float = 0.5, seed: int = 0) -> FeatureMatrix:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype("f4")
    y = 0.5 + 0.05 * (X.sum(1) / np.sqrt(d) + noise * rng.normal(size=n))
    return FeatureMatrix(X, y, [f"{at:03}.png" for at in range(n)], {"cues": slice(0, d)}, dataset="made")


def test_scores_grow_towards_the_limit_and_larger_data_keeps_inside_of_the_band() -> None:
    (small,) = curve(matrix_of(120), ["ridge"], repeats=3)
    assert small.images[0] == 10 and small.images[-1] == 96
    assert small.value[-1] > small.value[0]
    assert (small.low <= small.value).all() and (small.value <= small.high).all()
    (large,) = curve(matrix_of(400, seed=1), ["ridge"], repeats=1, steps=4)
    low, high = small.band(np.array([large.images[-1]]))
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
    assert "more than ten times as many more images for r = 0.96" in one.outlook(0.96)
    assert "for r = 0.90" in one.outlook()
    flat = Curve("ridge", "art", [50, 100], np.full(2, 0.5), np.full(2, 0.4), np.full(2, 0.6))
    assert "do not grow" in flat.outlook(0.9)


def test_a_curve_comes_back_from_its_file(tmp_path: Path) -> None:
    curves = curve(matrix_of(60), ["ridge"], steps=4, repeats=1)
    save_curves(curves, tmp_path / "c.csv")
    (found,) = read_curves(tmp_path / "c.csv")
    assert found.measured["images"].tolist() == list(curves[0].images)
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
    assert (tmp_path / "curve.csv").read_text().startswith("regressor,dataset,kind,images,value,low,high\n")
    (found,) = json.loads(CliRunner().invoke(main, [*given, "--json"]).stdout)
    assert found["regressor"] == "ridge" and found["images"][0] == 10 and len(found["value"]) == 4
    refused = CliRunner().invoke(main, [*given[:-1], "60"])
    assert refused.exit_code == 1 and "found 60 steps" in refused.output
