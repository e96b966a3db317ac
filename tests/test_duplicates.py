"""Near-duplicates: found whatever the order, across datasets too, and not where features are few."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drexcache.cache import open_cache
from drexcache.cache.matrix import FeatureMatrix
from drexcache.datasets import ImageFile, read_images
from drexcache.errors import DrexcacheError
from drexcache.features import extract
from drexcache.recipes import Recipe
from drexcache.studies.evaluation import copies
from drexcache.studies.evaluation.copies import kept_together, near_copies
from drexcache.studies.evaluation.folds import hash_folds


def near_duplicates(*args: object, **options: object) -> list[tuple[int, int, float]]:
    """All pairs, the most alike first."""
    blocks = [zip(i.tolist(), j.tolist(), c.tolist(), strict=True) for i, j, c in near_copies(*args, **options)]  # type: ignore[arg-type]
    return sorted((pair for block in blocks for pair in block), key=lambda pair: -pair[2])


def random_matrix(n: int = 300, d: int = 200, seed: int = 0) -> FeatureMatrix:
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) * rng.uniform(0.1, 50, d) + rng.normal(size=d)).astype("f4")
    return FeatureMatrix(
        X, rng.uniform(size=n), [f"{i:03}" for i in range(n)], {"cues": slice(0, d)}, dataset="made up"
    )


def test_pairs_are_those_of_the_plain_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "ROWS", 37)  # several blocks, the last one short
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
    names, notes = kept_together(replace(matrix, X=X, hashes=hashes))
    assert [k for k, name in enumerate(names) if name == "005"] == [5, 10, 20, 99]
    assert len(set(names)) == 97
    assert len(notes) == 1
    folds = hash_folds(matrix.ids, 5, same=names)
    assert len(set(folds[[5, 10, 20, 99]])) == 1


def test_few_features_are_not_taken_for_copies() -> None:
    few = random_matrix(600, 6)
    assert kept_together(few) == (list(few.ids), [])
    X = few.X.copy()
    X[1] = X[0]
    assert [pair[:2] for pair in near_duplicates(replace(few, X=X))] == [(0, 1)]


def test_constant_and_single_features() -> None:
    same = replace(random_matrix(20), X=np.ones((20, 200), "f4"))
    assert near_duplicates(same) == []
    one = random_matrix(20, 1)
    assert len(kept_together(one)[0]) == 20


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
    names = kept_together(matrix)[0]
    copies = {image for image, name in zip(matrix.ids, names, strict=True) if names.count(name) > 1}
    assert copies == {"07", "07-again", "07-crop", "07-half"}


def test_many_copies_do_not_raise_the_threshold() -> None:
    rng = np.random.default_rng(0)
    pictures, versions, d = 12, 30, 400
    base = rng.normal(size=(pictures, d))
    X = np.concatenate([one + 0.4 * rng.normal(size=(versions, d)) for one in base]).astype("f4")  # cosine about 0.86
    ids = [f"{p:02d}_{v:02d}.bmp" for p in range(pictures) for v in range(versions)]
    names, notes = kept_together(FeatureMatrix(X, np.zeros(len(X)), ids, {"b": slice(0, d)}, dataset="toy"))
    assert names == [f"{p:02d}_00.bmp" for p in range(pictures) for _ in range(versions)]
    assert notes[0].startswith("toy: 12 groups of near-copies are kept in the same fold: ")


def test_a_pair_that_only_one_tap_finds_alike_is_no_copy() -> None:
    matrix = random_matrix(200, 300)
    taps = {"b/early": slice(0, 40), "b/late": slice(40, 300)}
    X = matrix.X.copy()
    X[7, 40:], X[9] = X[3, 40:], X[5] + 0.01  # 7 shows what 3 shows, 9 is 5
    found = near_duplicates(replace(matrix, X=X, taps=taps))
    assert [pair[:2] for pair in found] == [(5, 9)]
    assert {pair[:2] for pair in near_duplicates(replace(matrix, X=X))} == {(3, 7), (5, 9)}


def test_pixels_decide_where_pictures_can_be_read(tmp_path: Path) -> None:
    matrix = random_matrix(60, 200)
    X = matrix.X + 3 * np.abs(matrix.X[3]).max() * 0  # unrelated features
    X[4], X[6] = X[3] + 0.02 * X.std(0), X[5] + 0.02 * X.std(0)  # both pairs look alike to the network
    rng = np.random.default_rng(0)
    pixels = {row: rng.integers(0, 256, (6, 8, 3), dtype="u1") for row in (3, 5, 6)}
    for row, values in pixels.items():
        Image.fromarray(values).resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / f"{row:03}.png")
    with Image.open(tmp_path / "003.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((4, 3, 156, 117)).save(tmp_path / "004.png")
    files = {("made up", f"{row:03}"): ImageFile(tmp_path / f"{row:03}.png") for row in (3, 4, 5, 6)}
    copied = replace(matrix, X=X)
    assert [pair[:2] for pair in sorted(near_duplicates(copied))] == [(3, 4), (5, 6)]
    assert [pair[:2] for pair in near_duplicates(copied, looks=copies.Looks(files))] == [(3, 4)]
    assert len(near_duplicates(copied, looks=copies.Looks({}))) == 2  # what cannot be read is left to the features


def test_memory_does_not_grow_with_the_pairs() -> None:
    rng = np.random.default_rng(0)
    X = (rng.normal(size=64) + 0.05 * rng.normal(size=(3000, 64))).astype("f4")  # 4.5 million pairs of one picture
    X[:40] = rng.normal(size=(40, 64)) * 3
    matrix = FeatureMatrix(X, np.zeros(3000), [f"{i:04}" for i in range(3000)], {"b": slice(0, 64)}, dataset="toy")
    near_duplicates(matrix.rows(range(50)))  # loads what is imported on the way
    tracemalloc.start()
    kept_together(matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150_000_000


def test_pictures_are_looked_for_where_they_were_extracted(tmp_path: Path, tiny: Recipe) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (5, 7, 3), dtype="u1")
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    with Image.open(folder / "03.png") as picture:
        picture.convert("L").convert("RGB").resize((50, 40)).save(folder / "03-grey.jpg", quality=30)
    extract(read_images(folder), tiny, tmp_path / "c.h5")
    matrix = open_cache(tmp_path / "c.h5").matrix()
    assert matrix.images == folder.resolve().as_posix()
    looks = copies.Looks.of([matrix])
    assert looks is not None
    assert looks.same(("photos", "03.png"), ("photos", "03-grey.jpg"))
    assert looks.same(("photos", "03.png"), ("photos", "04.png")) is False
    (folder / "04.png").write_bytes((folder / "03.png").read_bytes())
    looks = copies.Looks.of([matrix])
    assert looks is not None
    assert looks.same(("photos", "03.png"), ("photos", "04.png")) is None  # another file than was extracted
    folder.rename(tmp_path / "elsewhere")
    assert copies.Looks.of([matrix]) is None
