"""Several targets of the same images: scores for each, their correlation, and one model that predicts all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import pearsonr

from drexcache import ScoreTable, import_features, load_model, open_cache
from drexcache.cache import rate
from drexcache.cli import main
from drexcache.regressors import train_model
from drexcache.studies import evaluate
from drexcache.studies.evaluation import correlation_table


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """60 images with two ratings that go together; five have no beauty."""
    rng = np.random.default_rng(0)
    X, ids = rng.normal(size=(60, 6)).astype("f4"), [f"{at:02}.png" for at in range(60)]
    complexity = X[:, 0] + 0.3 * rng.normal(size=60)
    beauty = np.where(np.arange(60) < 5, np.nan, 0.5 * complexity + X[:, 1])
    for name, values in (("complexity", complexity), ("beauty", beauty)):
        pd.DataFrame({"file": ids, "rating": values}).dropna().to_csv(tmp_path / f"{name}.csv", index=False)
    import_features(
        X, tmp_path / "c.h5", "cues", ids=ids, note="made", ratings=tmp_path / "complexity.csv", target="complexity",
        value_range=(-9, 9), dataset="made", say=lambda line: None,
    )  # fmt: skip
    rate(tmp_path / "c.h5", tmp_path / "beauty.csv", "beauty", value_range=(-9, 9), allow_unmatched=True)
    return tmp_path / "c.h5"


def test_each_target_is_scored_as_if_it_were_alone(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    command = ["evaluate", str(cache), "-r", "ridge", "--target", "complexity", "--target", "beauty", "-o", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "Correlation between the targets" in done.output
    rows = ScoreTable.read_csv(out).rows
    for target in ("complexity", "beauty"):
        alone, _ = evaluate([replace(open_cache(cache).matrix(target=target), dataset=f"made:{target}")], ["ridge"])
        mine = [(row.metric, row.value, row.low, row.n) for row in rows if row.test == f"made:{target}"]
        assert mine == [(row.metric, row.value, row.low, row.n) for row in alone.rows]


def test_the_correlation_is_of_the_images_that_have_both(cache: Path) -> None:
    opened = open_cache(cache)
    matrices = {name: [opened.matrix(target=name)] for name in ("complexity", "beauty")}
    (line,) = correlation_table(matrices).body
    a, b = (opened.targets[name].values for name in ("complexity", "beauty"))
    both = np.isfinite(a) & np.isfinite(b)
    assert line[3] == "55"
    assert getattr(line[2], "value") == pytest.approx(pearsonr(a[both], b[both])[0])  # noqa: B009


def test_targets_are_named_in_one_way(cache: Path, tmp_path: Path) -> None:
    command = [
        "evaluate",
        f"{cache}:beauty",
        "-r",
        "ridge",
        "--target",
        "a",
        "--target",
        "b",
        "-o",
        str(tmp_path / "s"),
    ]
    assert CliRunner().invoke(main, command).exit_code == 2


def test_one_model_file_predicts_every_target(cache: Path, tmp_path: Path) -> None:
    model, out = str(tmp_path / "m.drex"), str(tmp_path / "p.csv")
    both = ["--target", "complexity", "--target", "beauty"]
    done = CliRunner().invoke(main, ["train", str(cache), "-r", "ridge", "--intervals", *both, "-o", model])
    assert done.exit_code == 0, done.output
    assert "for complexity, beauty" in done.output
    done = CliRunner().invoke(main, ["predict", model, str(cache), "--interval", "0.9", "--clip", "-o", out])
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(out)
    names = ["prediction", "low", "high"]
    assert list(frame) == ["id", *names, *(f"{name}_beauty" for name in names)]
    opened = open_cache(cache)
    for target, column in (("complexity", "prediction"), ("beauty", "prediction_beauty")):
        alone = train_model("ridge", opened.matrix(target=target), opened, ("cues",), 42).predict(opened)
        np.testing.assert_allclose(frame[column], alone.value, rtol=1e-4)
    assert [one.target for one in load_model(model).also] == ["beauty"]
