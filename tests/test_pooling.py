"""Several datasets at once: scales brought together, a shared part and one of the dataset's own, in every command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw
from sklearn.linear_model import LinearRegression, Ridge

from drexcache import DrexcacheError, FeatureMatrix, load_model, open_cache, read_images, recipe
from drexcache.cli import main
from drexcache.features import extract
from drexcache.regressors import DATASET, PooledRegressor, joined, make_regressor, upside_down
from drexcache.studies import evaluate
from drexcache.studies.evaluation.folds import hash_folds

TRUE = np.random.default_rng(3).normal(size=8)


def dataset(name: str, seed: int, low: float, scale: float, n: int = 60) -> FeatureMatrix:
    """Ratings that follow the same line on a scale of their own."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 8)).astype("f4")
    y = low + scale * (X @ TRUE + 0.5 * rng.normal(size=n))
    ids = [f"{name}-{i}.png" for i in range(n)]
    return FeatureMatrix(X, y, ids, {"a": slice(0, 3), "b": slice(3, 8)}, dataset=name, hashes=ids)


ART, MAPS, LOGOS = dataset("art", 0, 0.2, 0.02), dataset("maps", 1, 0.6, 0.05), dataset("logos", 2, 0.4, 0.03)


def standardised(matrix: FeatureMatrix) -> np.ndarray:
    return (matrix.y - matrix.y.mean()) / matrix.y.std()


def test_the_shared_part_is_the_regressor_on_standardised_ratings() -> None:
    mixed = joined([ART, MAPS], "both")
    pooled = PooledRegressor(LinearRegression()).fit(mixed.X, mixed.y, mixed.labels[DATASET])
    oracle = LinearRegression().fit(mixed.X, np.concatenate([standardised(ART), standardised(MAPS)]))
    mean, spread = (ART.y.mean() + MAPS.y.mean()) / 2, (ART.y.std() + MAPS.y.std()) / 2
    np.testing.assert_allclose(pooled.predict(LOGOS.X), mean + spread * oracle.predict(LOGOS.X), atol=1e-6)
    assert pooled.own_ is None and not hasattr(pooled, "attention")


def test_half_is_of_a_training_on_the_own_images_alone() -> None:
    mixed = joined([ART, MAPS], "art")
    pooled = PooledRegressor(LinearRegression(), own="art").fit(mixed.X, mixed.y, mixed.labels[DATASET])
    shared = LinearRegression().fit(mixed.X, np.concatenate([standardised(ART), standardised(MAPS)]))
    own = LinearRegression().fit(ART.X, ART.y)
    expected = (ART.y.mean() + ART.y.std() * shared.predict(ART.X) + own.predict(ART.X)) / 2
    np.testing.assert_allclose(pooled.predict(ART.X), expected, atol=1e-6)


def test_leave_one_out_brings_scales_together_for_any_regressor() -> None:
    options = {"leave_one_out": True, "test": ["art"], "train": ["art"]}
    table, predictions = evaluate([ART, MAPS, LOGOS], ["ridge", "fusion"], make=small, **options)
    run = predictions.select(kind="leave-one-out", regressor="ridge").runs[0]
    mixed = joined([MAPS, LOGOS], "x")
    oracle = Ridge().fit(mixed.X, np.concatenate([standardised(MAPS), standardised(LOGOS)]))
    assert np.corrcoef(run.predicted, oracle.predict(ART.X))[0, 1] == pytest.approx(1, abs=1e-9)
    assert predictions.select(kind="leave-one-out", regressor="fusion").runs[0].attention.keys() == {"a", "b"}
    assert "all but art: the training mixes 2 datasets; each dataset's ratings are put on one mean and one spread" in (
        table.notes
    )


def small(name: str, matrix: FeatureMatrix, seed: int) -> object:
    settings = {"epochs": 2, "min_steps": 0, "seeds": 1, "width": 16}
    return Ridge() if name == "ridge" else make_regressor(name, matrix, seed, None).set_params(**settings)


@pytest.mark.parametrize("split", [None, "split"])
def test_evaluate_with_other_datasets_uses_them_whole_in_every_training(split: str | None) -> None:
    labels = {"split": ["train" if i % 2 else "test" for i in range(60)]}
    art = replace(ART, labels=labels)
    copies = replace(MAPS, hashes=[*ART.ids[:5], *MAPS.hashes[5:]])  # five of its files are in art, too
    table, predictions = evaluate([art], ["ridge"], others=[art, copies, LOGOS], make=small, split=split)
    (run,) = predictions.runs
    assert (run.train, run.test) == ("art", "art")
    mixed = joined([art, copies.rows(np.arange(5, 60)), LOGOS], "art")
    folds = hash_folds(art.ids, 5) if split is None else np.array([i % 2 for i in range(60)])
    expected = dict.fromkeys(art.ids, 0.0)
    for fold in range(5) if split is None else [0]:
        rows = np.r_[np.flatnonzero(folds != fold), np.arange(60, 175)]
        labels_of = np.asarray(mixed.labels[DATASET])[rows]
        pooled = PooledRegressor(Ridge(), own="art").fit(mixed.X[rows], mixed.y[rows], labels_of)
        for row in np.flatnonzero(folds == fold):
            expected[art.ids[row]] = pooled.predict(art.X[row : row + 1])[0]
    np.testing.assert_allclose(run.predicted, [expected[image] for image in run.ids], atol=1e-6)
    assert any("and all images of maps, logos" in note for note in table.notes)


def test_ratings_upside_down_are_told() -> None:
    assert upside_down(joined([ART, MAPS, LOGOS], "all")) == []
    turned = replace(MAPS, y=1 - MAPS.y)
    (sentence,) = upside_down(joined([ART, turned, LOGOS], "all"))
    assert sentence.startswith("maps: its ratings seem to run the other way than the others' (a ridge trained on those")
    table, _ = evaluate([ART, turned, LOGOS], ["ridge"], leave_one_out=True, make=small)
    assert sentence in table.notes
    assert all(sentence not in row.note for row in table.rows if row.kind in ("in-domain", "cross"))


def test_datasets_that_cannot_be_mixed_are_one_sentence() -> None:
    one = MAPS.rows([0])
    mixed = joined([ART, one], "both")
    with pytest.raises(ValueError, match=r"the ratings of dataset maps \(1\) are all the same: they have no spread"):
        PooledRegressor(Ridge()).fit(mixed.X, mixed.y, mixed.labels[DATASET])
    with pytest.raises(ValueError, match="no row is of dataset logos"):
        PooledRegressor(Ridge(), own="logos").fit(ART.X, ART.y, ["art"] * 60)
    with pytest.raises(DrexcacheError, match="more than one is named art"):
        joined([ART, ART], "twice")
    with pytest.raises(DrexcacheError, match="block a has width 3 in art but 5 in maps"):
        joined([ART, replace(MAPS, blocks={"b": slice(0, 3), "a": slice(3, 8)})], "both")
    with pytest.raises(DrexcacheError, match="each dataset must have a name of its own"):
        evaluate([ART], ["ridge"], others=[replace(ART)], make=small)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three small caches of drawn pictures."""
    folder, made = tmp_path_factory.mktemp("pooled"), []
    for seed in range(3):
        pictures = draw(folder / f"set{seed}", 20, start=20 * seed)
        table = read_images(pictures, value_range=(0, 100), allow_unmatched=True)
        extract(table, recipe("classic"), folder / f"set{seed}.h5", say=lambda line: None)
        made.append(folder / f"set{seed}.h5")
    return made


@pytest.mark.parametrize("regressor", ["ridge", "fusion"])
def test_train_on_several_caches_and_for_one_with_others(regressor: str, caches: list[Path], tmp_path: Path) -> None:
    files = list(map(str, caches))
    done = CliRunner().invoke(main, ["train", *files, "-r", regressor, "-o", str(tmp_path / "any.drex")])
    assert done.exit_code == 0, done.output
    assert "rated images of set0, set1, set2" in done.output
    matrices = [open_cache(path).matrix() for path in caches]
    mixed = joined(matrices, "set0")
    found = load_model(tmp_path / "any.drex").predict(open_cache(caches[0]))
    pooled = PooledRegressor(make_regressor(regressor, mixed)).fit(mixed.X, mixed.y, mixed.labels[DATASET])
    np.testing.assert_allclose(found.value, matrices[0].raw(pooled.predict(matrices[0].X)), rtol=1e-5)
    assert bool(found.attention) == (regressor == "fusion")

    own = ["train", files[0], "--with", files[1], "--with", files[2], "-r", regressor, "-o", str(tmp_path / "own.drex")]
    done = CliRunner().invoke(main, own)
    assert done.exit_code == 0, done.output
    found = load_model(tmp_path / "own.drex").predict(open_cache(caches[0]))
    pooled = PooledRegressor(make_regressor(regressor, matrices[0]), own="set0")
    pooled.fit(mixed.X, mixed.y, mixed.labels[DATASET])
    np.testing.assert_allclose(found.value, matrices[0].raw(pooled.predict(matrices[0].X)), rtol=1e-5)


def test_evaluate_with_on_the_command_line(caches: list[Path], tmp_path: Path) -> None:
    a, b, _ = map(str, caches)
    done = CliRunner().invoke(main, ["evaluate", a, "--with", b, "-r", "ridge", "-o", str(tmp_path / "scores.csv")])
    assert done.exit_code == 0, done.output
    assert "half of each prediction is of a training on its own images alone" in done.output
    for command, message in (
        (["train", a, b, "--with", a, "-r", "ridge"], "give either several caches, or one and --with others"),
        (["train", a, b, "--stream", "-r", "ridge"], "--stream reads one cache alone"),
        (["train", a, b, "--log", "x.csv", "-r", "ridge"], "a log tells of a training on one cache"),
        (["train", a, a, "-r", "ridge"], "more than one is named set0"),
    ):
        done = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "model.drex")])
        assert done.exit_code != 0 and message in done.output, done.output
