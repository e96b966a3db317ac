"""ablate: every block and tap alone, all but each, and what is said of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw

from drexcache.cache.matrix import FeatureMatrix
from drexcache.cli import main
from drexcache.datasets.table import read_images
from drexcache.errors import DrexcacheError
from drexcache.features import extract
from drexcache.recipes import Recipe
from drexcache.regressors.named import make_regressor
from drexcache.scores.table import ScoreTable
from drexcache.studies import evaluate, ledger
from drexcache.studies.comparison.ablation import ablate, variants
from drexcache.studies.comparison.verdicts import compare
from drexcache.studies.evaluation.predictions import Predictions, predictions_beside


def toy(n: int = 60, **fields: Any) -> FeatureMatrix:
    """A transformer's token that says a little, and three stages of which the second says nearly all."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 9)).astype("f4")
    y = 0.5 + 0.02 * X[:, 0] + 0.1 * X[:, 5] + 0.01 * rng.normal(size=n)
    taps = {"vit/cls": slice(0, 3), "net/one": slice(3, 5), "net/two": slice(5, 6), "net/three": slice(6, 9)}
    blocks = {"vit": slice(0, 3), "net": slice(3, 9)}
    return FeatureMatrix(X, y, [f"{i}.png" for i in range(n)], blocks, taps, "toy", **fields)


def test_the_rows_of_the_paper() -> None:
    found = [(variant.name, variant.features(toy())) for variant in variants(toy(), make_regressor("fusion", toy()))]
    columns = [(name, features.X.shape[1], list(features.blocks)) for name, features in found]
    expected = [
        ("", 9, ["vit", "net"]),
        ("only vit", 3, ["vit"]),
        ("only net", 6, ["net"]),  # and so "without vit", which is left out
        ("only net/one", 2, ["net"]),
        ("only net/two", 1, ["net"]),
        ("only net/three", 3, ["net"]),
        ("without net/one", 7, ["vit", "net"]),
        ("without net/two", 8, ["vit", "net"]),
        ("without net/three", 6, ["vit", "net"]),
        ("concatenated", 9, ["all"]),
        ("averaged", 9, ["vit", "net"]),
    ]
    assert columns == expected
    assert [variant.name for variant in variants(toy(), make_regressor("ridge", toy()))] == [
        name for name, _, _ in expected if name not in ("concatenated", "averaged")
    ]


def test_whole_blocks_only() -> None:
    found = variants(toy(), make_regressor("ridge", toy()), "block")
    assert [variant.name for variant in found] == ["", "only vit", "only net"]
    with pytest.raises(DrexcacheError, match="the features are one block: there is nothing to leave out"):
        ablate(toy().select(["net"]), ["ridge"], level="block")


def test_averaged_arms_weigh_the_same_and_one_arm_all() -> None:
    weights = {}
    for variant in variants(toy(), make_regressor("fusion", toy())):
        if variant.name in ("concatenated", "averaged"):
            features = variant.features(toy())
            head = variant.make("fusion", features, 1).set_params(width=16, epochs=1, min_steps=0)
            weights[variant.name] = head.fit(features.X, features.y).attention(features.X)
    np.testing.assert_array_equal(weights["averaged"], np.full((60, 2), 0.5))
    np.testing.assert_array_equal(weights["concatenated"], np.ones((60, 1)))


def test_every_variant_has_its_own_columns() -> None:
    whole, found = toy(), {variant.name: variant for variant in variants(toy(), make_regressor("ridge", toy()))}
    for name, columns in {
        "only vit": [0, 1, 2],
        "only net/two": [5],
        "without net/two": [0, 1, 2, 3, 4, 6, 7, 8],
    }.items():
        np.testing.assert_array_equal(found[name].features(whole).X, whole.X[:, columns])
    assert found["without net/two"].features(whole).blocks == {"vit": slice(0, 3), "net": slice(3, 8)}


def test_scores_are_those_of_evaluate_on_the_same_folds() -> None:
    found = ablate(toy(), ["ridge"], folds=4, repeats=2)
    alone, predictions = evaluate([toy().select(["net/two"])], ["ridge"], folds=4, repeats=2)
    mine = found.predictions.select(regressor="ridge, only net/two")
    for run, other in zip(mine.runs, predictions.runs, strict=True):
        assert (run.ids, run.fold.tolist()) == (other.ids, other.fold.tolist())
        assert run.predicted == pytest.approx(other.predicted, abs=1e-9)
    values = [row.value for row in found.scores.select(regressor="ridge, only net/two", metric="rmse").rows]
    assert values == pytest.approx([row.value for row in alone.select(metric="rmse").rows])


def test_what_matters_and_what_does_not() -> None:
    steps: list[tuple[int, int, str]] = []
    found = ablate(toy(), ["ridge", "mean"], progress=lambda *step: steps.append(step))
    (table, floor) = found.tables()
    assert table.title == "**ridge on toy, 60 images (in-domain)**"
    lines = {line[0]: line for line in table.body}
    assert list(lines)[:3] == ["everything", "only vit", "only net"]
    verdicts = {name: line[-1] for name, line in lines.items()}
    assert verdicts["everything"] == ""
    assert verdicts["without net/two"] == verdicts["only vit"] == "worse"
    assert verdicts["without net/one"].startswith(("within noise", "better"))
    assert lines["only net/two"][1] == "1"
    # one correction for all variants of a regressor, the same that compare makes
    pairs = compare(found.predictions, regressors=[name for name in found.columns if "ridge" in name], against="ridge")
    assert found.compare()["ridge"].pairs == pairs.pairs
    assert [str(line[2]) for line in floor.body] == ["undefined (constant predictions)"] * 9
    assert [step[0] for step in steps] == list(range(90))
    assert {step[1] for step in steps} == {90}
    assert steps[5][2] == "ridge, only vit"


def test_several_blocks_without_taps() -> None:
    plain = replace(toy(), taps={}, blocks={"a": slice(0, 3), "b": slice(3, 5), "c": slice(5, 9)})
    assert [variant.name for variant in variants(plain, make_regressor("ridge", plain))] == [
        "", "only a", "only b", "only c", "without a", "without b", "without c",
    ]  # fmt: skip


def test_what_cannot_be_ablated_is_one_sentence() -> None:
    with pytest.raises(DrexcacheError, match="one tap of one block: there is nothing to leave out"):
        ablate(toy().select(["vit"]), ["fusion-paper", "ridge"])
    with pytest.raises(DrexcacheError, match="no regressor named rigde; did you mean ridge"):
        ablate(toy(), ["rigde"])
    with pytest.raises(DrexcacheError, match="one or more regressors to ablate"):
        ablate(toy(), [])


def test_on_the_command_line(tmp_path: Path, tiny: Recipe) -> None:
    images, cache, out = draw(tmp_path / "p", 20), tmp_path / "c.h5", tmp_path / "out" / "ablation.csv"
    extract(read_images(images, value_range=(0, 100)), tiny, cache)
    result = CliRunner().invoke(main, ["ablate", str(cache), "-r", "ridge", "--folds", "3", "-o", str(out)])
    assert result.exit_code == 0, result.output
    for name in ("everything", "only vit", "only resnet/layer1", "without resnet/layer4"):
        assert f"| {name} " in result.stdout
    table, predictions = ScoreTable.read_csv(out), Predictions.read_csv(predictions_beside(out))
    assert predictions.regressors == list(dict.fromkeys(row.regressor for row in table.rows))
    assert "ridge, only vit" in predictions.regressors
    ((entry,), _) = ledger.read(tmp_path)
    assert (entry["kind"], entry["regressors"]) == ("ablate", ["ridge"])
