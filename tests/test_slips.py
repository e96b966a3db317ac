"""Slips in Python: one thing where several are expected, or a path where a table is; one sentence, or understood."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_datasets import folder_of

from drexcache import DrexcacheError, open_cache, read_images
from drexcache.cache import FeatureMatrix
from drexcache.cli import main
from drexcache.features import extract
from drexcache.studies import evaluate
from drexcache.studies.comparison import ablate
from drexcache.studies.searching import search

OLD = Path(__file__).parent / "data/release-0.1-cache.h5"


def toy() -> FeatureMatrix:
    X = np.random.default_rng(0).normal(size=(40, 8)).astype("f4")
    return FeatureMatrix(X, X[:, 0] / 8 + 0.5, [f"{i}.png" for i in range(40)], {"b": slice(0, 8)}, dataset="toy")


def test_one_matrix_regressor_and_seed_are_a_list_of_one() -> None:
    plain, _ = evaluate([toy()], ["ridge"], seeds=[1])
    short, _ = evaluate(toy(), "ridge", seeds=1)  # type: ignore[arg-type]
    assert [row.value for row in short.rows] == [row.value for row in plain.rows]


def test_one_block_is_a_list_of_one() -> None:
    cache = open_cache(OLD)
    name = next(iter(cache.blocks))
    np.testing.assert_array_equal(cache.matrix(name).X, cache.matrix([name]).X)  # type: ignore[arg-type]
    np.testing.assert_array_equal(cache.matrix().select(name).X, cache.matrix([name]).X)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate(["photos.h5"], ["ridge"]), "matrices, as cache.matrix() gives them: expected one or several"),
        (lambda: evaluate([open_cache(OLD)], ["ridge"]), "each of type FeatureMatrix; found <"),
        (lambda: evaluate([toy()], [3]), "regressors: expected one or several, each of type str; found 3"),
        (lambda: ablate("photos.h5", ["ridge"]), "matrix: expected one or several"),
        (
            lambda: extract("photos/", "offline", "photos.h5"),
            "extract takes what read_images(...) and recipe(...) give",
        ),
        (lambda: search(toy(), [None], "found", total_trials=2), "regressors: expected one or several"),
    ],
)
def test_what_is_neither_is_one_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DrexcacheError) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("value_range", [(7,), (1, 2, 3), ("low", "high"), 5])
def test_a_range_is_two_numbers(value_range: object, tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.png", "b.png", ratings="file,rating\na.png,1\nb.png,2\n")
    with pytest.raises(DrexcacheError, match="the range of the ratings is two numbers; found"):
        read_images(root, value_range=value_range)  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["3_5", "\u0663", "inf", "7,5"])
def test_what_only_python_takes_for_a_number_is_no_end_of_a_range(word: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.png", ratings="file,rating\na.png,1\n")
    words = ["extract", str(root), "--recipe", "classic", "--range", "0", word, "-o", str(tmp_path / "c.h5")]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 2 and "is not a number; write digits and a decimal point" in found.output


@pytest.mark.parametrize("texts", [["3_5"] * 40, ["\u0663"] * 40, ["0"] * 40])
def test_what_only_python_takes_for_a_number_is_no_weight(texts: list[str]) -> None:
    matrix = replace(toy(), labels={"raters": texts})
    with pytest.raises(DrexcacheError, match="weights in column 'raters' must be above 0; found"):
        evaluate([matrix], ["svr"], weights="raters")


def test_weights_with_decimal_commas() -> None:
    one, two = (replace(toy(), labels={"w": [f"1{sign}{i % 3}" for i in range(40)]}) for sign in ".,")
    scores = [[row.value for row in evaluate([m], ["svr"], weights="w")[0].rows] for m in (one, two)]
    assert scores[0] == scores[1]
