"""Near-duplicates: found whatever the order, across datasets too, and not where features are few."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drexcache.cache.matrix import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.studies.evaluation import duplicates
from drexcache.studies.evaluation.duplicates import THRESHOLD, duplicate_groups, near_duplicates
from drexcache.studies.evaluation.folds import hash_folds


def random_matrix(n: int = 300, d: int = 200, seed: int = 0) -> FeatureMatrix:
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) * rng.uniform(0.1, 50, d) + rng.normal(size=d)).astype("f4")
    return FeatureMatrix(
        X, rng.uniform(size=n), [f"{i:03}" for i in range(n)], {"cues": slice(0, d)}, dataset="made up"
    )


def test_pairs_are_those_of_the_plain_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ROWS", 37)  # several blocks, the last one short
    matrix = random_matrix()
    X = matrix.X.copy()
    X[250], X[40], X[41] = X[3], X[200] + 0.1 * X.std(0), X[200]
    Z = (X - X.mean(0)) / X.std(0)
    cosines = np.corrcoef(Z)  # another formula: rows centred too; near for 200 columns
    found = near_duplicates(replace(matrix, X=X), threshold=0.9)
    assert {(i, j) for i, j, _ in found} == {(i, j) for i, j in np.argwhere(np.triu(cosines, 1) > 0.9)}
    assert {(i, j) for i, j, _ in found} == {(3, 250), (40, 41), (40, 200), (41, 200)}
    exact = [float(Z[i] @ Z[j] / np.linalg.norm(Z[i]) / np.linalg.norm(Z[j])) for i, j, _ in found]
    assert [cosine for _, _, cosine in found] == pytest.approx(exact, abs=1e-5)
    assert exact == sorted(exact, reverse=True) or np.ptp(exact) < 1e-5


def test_across_datasets() -> None:
    a, b = random_matrix(), random_matrix(50, seed=1)
    X = b.X.copy()
    X[7] = a.X[123]
    assert [(i, j) for i, j, _ in near_duplicates(a, replace(b, X=X))] == [(123, 7)]
    assert near_duplicates(a, b) == []
    with pytest.raises(DrexcacheError, match=r"200 features and .* 3: not comparable"):
        near_duplicates(a, random_matrix(50, 3))


def test_groups_join_copies_and_chains_and_fold_together() -> None:
    matrix = random_matrix(100)
    X = matrix.X.copy()
    X[10], X[20] = X[5], X[5] + 0.01
    hashes = [f"{i}" for i in range(100)]
    hashes[99] = hashes[10]  # the same file with other features, as after a repair
    names, notes = duplicate_groups(replace(matrix, X=X, hashes=hashes))
    assert [k for k, name in enumerate(names) if name == "005"] == [5, 10, 20, 99]
    assert len(set(names)) == 97
    assert len(notes) == 1
    folds = hash_folds(matrix.ids, 5, same=names)
    assert len(set(folds[[5, 10, 20, 99]])) == 1


def test_few_features_are_not_taken_for_copies() -> None:
    few = random_matrix(600, 6)
    assert duplicate_groups(few) == (list(few.ids), [])
    X = few.X.copy()
    X[1] = X[0]
    assert [pair[:2] for pair in near_duplicates(replace(few, X=X))] == [(0, 1)]


def test_constant_and_single_features() -> None:
    same = replace(random_matrix(20), X=np.ones((20, 200), "f4"))
    assert near_duplicates(same) == []
    one = random_matrix(20, 1)
    assert len(duplicate_groups(one)[0]) == 20


def test_a_reencoded_halved_or_cropped_picture_is_found_by_its_small_version(tmp_path: Path) -> None:
    for number in range(30):
        rng = np.random.default_rng(number)
        canvas = np.full((192, 192, 3), rng.uniform(0, 255, 3))
        for _ in range(rng.integers(3, 40)):
            (x, y), (w, h) = rng.integers(0, 160, 2), rng.integers(4, 70, 2)
            canvas[y : y + h, x : x + w] = rng.uniform(0, 255, 3)
        Image.fromarray(canvas.clip(0, 255).astype("uint8")).save(tmp_path / f"{number:02}.png")
    picture = Image.open(tmp_path / "07.png")
    picture.save(tmp_path / "07-again.jpg", quality=60)
    picture.resize((96, 96)).save(tmp_path / "07-half.png")
    picture.crop((4, 4, 188, 188)).save(tmp_path / "07-crop.png")
    files = sorted(tmp_path.iterdir())
    X = np.stack([np.asarray(Image.open(file).resize((12, 12), Image.Resampling.BOX), "f4").ravel() for file in files])
    matrix = FeatureMatrix(X, np.zeros(len(X)), [file.stem for file in files], {"pixels": slice(0, X.shape[1])})
    names = duplicate_groups(matrix, THRESHOLD)[0]
    copies = {image for image, name in zip(matrix.ids, names, strict=True) if names.count(name) > 1}
    assert copies == {"07", "07-again", "07-crop", "07-half"}
