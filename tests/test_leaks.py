"""Near-copies of an image: kept in one fold inside a dataset, said where they stand on both sides of a training."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from drexcache.cache.matrix import FeatureMatrix
from drexcache.studies import evaluate
from drexcache.studies.evaluation import copies


def make(name: str, matrix: FeatureMatrix, seed: int) -> Any:
    return KNeighborsRegressor(1) if name == "nearest" else Ridge()


def photographs(name: str, n: int = 60) -> FeatureMatrix:
    """Features wide enough that two pictures never look alike by chance."""
    rng = np.random.default_rng(list(name.encode()))
    X = rng.normal(size=(n, 200)).astype("f4")
    hashes, labels = [f"{name}{i:04}" for i in range(n)], {"split": ["train"] * (n - 20) + ["test"] * 20}
    ids = [f"{i:03}.png" for i in range(n)]
    return FeatureMatrix(
        X, 0.5 + X[:, 0] / 10, ids, {"deep": slice(0, 200)}, dataset=name, hashes=hashes, labels=labels
    )


def nearly(matrix: FeatureMatrix, rows: Sequence[int], of: FeatureMatrix, originals: Sequence[int]) -> FeatureMatrix:
    """The matrix with those rows re-encoded from other images: other files, nearly the same features."""
    X = matrix.X.copy()
    X[list(rows)] = of.X[list(originals)] + np.random.default_rng(0).normal(scale=0.1, size=(len(rows), 200))
    return replace(matrix, X=X)


def test_near_copies_stay_in_one_fold() -> None:
    photos = photographs("photos")
    copied = nearly(photos, range(30, 60), photos, range(30))
    for near_copies in (True, False):
        table, predictions = evaluate([copied], ["nearest"], make=make, near_copies=near_copies)
        run = predictions.runs[0]
        fold = dict(zip(run.ids, run.fold, strict=True))
        together = [fold[f"{i:03}.png"] == fold[f"{i + 30:03}.png"] for i in range(30)]
        assert (all(together), len(table.notes)) == (near_copies, near_copies)
        for note in table.notes:
            assert note.startswith("photos: 30 groups of near-copies are kept in the same fold: ")
            assert note.endswith(", ...")
            cosines = [float(text.split(")")[0]) for text in note.split("cosine ")[1:]]
            assert len(cosines) == 3
            assert cosines == sorted(cosines, reverse=True)
    assert evaluate([photos], ["nearest"], make=make)[0].notes == []


def test_near_copies_across_datasets_and_splits_are_said() -> None:
    photos = photographs("photos")
    art = nearly(photographs("art", 40), [3, 7], photos, [11, 50])
    table, _ = evaluate([photos, art], ["ridge"], make=make, train=["photos"], test=["art"])
    (note,) = table.notes
    assert note.startswith("photos → art: 2 tested images have a near-copy in the training, so that the score may be")
    assert "011.png and 003.png (cosine 0.99" in note and "050.png and 007.png (cosine 0.99" in note
    same_file = replace(art, hashes=[photos.hashes[11] if i == 3 else h for i, h in enumerate(art.hashes)])
    table, _ = evaluate([photos, same_file], ["ridge"], make=make, train=["photos"], test=["art"])
    assert [note.split(":")[1][:20] for note in table.notes] == [
        " 1 image is in both ",
        " 1 tested image has ",
    ]
    split = nearly(photos, [45], photos, [2])
    table, _ = evaluate([split], ["ridge"], make=make, split="split")
    assert table.notes[0].startswith("photos, split split: 1 tested image has a near-copy in the training")


def test_few_features_cannot_tell_images_apart() -> None:
    one = FeatureMatrix(
        np.arange(30, dtype="f4")[:, None],
        np.arange(30) / 30,
        [str(i) for i in range(30)],
        {"cue": slice(0, 1)},
        dataset="toy",
        hashes=["same"] * 2 + [f"h{i}" for i in range(28)],
    )
    assert copies.kept_together(one) == (one.hashes, [])
    assert copies.on_both_sides([one], one, "toy") == []


def test_so_many_images_are_said_not_to_be_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photographs("photos")
    monkeypatch.setattr(copies, "MAX_PAIRS", 59**2)
    same, notes = copies.kept_together(photos)
    assert (same, notes) == (photos.hashes, ["photos: near-duplicates were not looked for among so many images"])
    assert copies.on_both_sides([photos], photos, "here") == [
        "here: near-duplicates were not looked for among so many images"
    ]
