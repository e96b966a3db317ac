"""Folds by hash, and official splits."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from drexcache.cache.matrix import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.studies.evaluation.folds import hash_folds, split_parts, split_rows, splitting_column

IDS = [f"images/{i:03}.png" for i in range(103)]


@pytest.mark.parametrize("k", [2, 5, 103])
def test_folds_are_balanced(k: int) -> None:
    sizes = Counter(hash_folds(IDS, k).tolist())
    assert sorted(sizes) == list(range(k))
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_order_does_not_matter_and_the_seed_does() -> None:
    by_id = dict(zip(IDS, hash_folds(IDS, 5), strict=True))
    shuffled = np.random.default_rng(0).permutation(IDS).tolist()
    assert dict(zip(shuffled, hash_folds(shuffled, 5), strict=True)) == by_id
    other = hash_folds(IDS, 5, seed=1)
    together = np.mean([by_id[image] == fold for image, fold in zip(IDS, other, strict=True)])
    assert 0.1 < together < 0.35  # another seed: an independent division, one in five agrees by chance


def test_folds_are_those_of_sha256sum_and_sort() -> None:
    # for i in 0..11: printf "0:$i.png" | sha256sum; sorted, dealt out to 3
    assert hash_folds([f"{i}.png" for i in range(12)], 3).tolist() == [0, 2, 1, 1, 1, 2, 0, 2, 0, 2, 1, 0]


def test_copies_of_an_image_share_a_fold() -> None:
    hashes = [f"{i % 40}" for i in range(103)]
    folds = hash_folds(IDS, 5, same=hashes)
    assert {len(set(folds[[i for i in range(103) if i % 40 == k]])) for k in range(40)} == {1}
    assert (hash_folds(IDS[::-1], 5, same=hashes[::-1])[::-1] == folds).all()
    assert (hash_folds(IDS, 5, same=[f"h{i}" for i in range(103)]) == hash_folds(IDS, 5)).all()


@pytest.mark.parametrize("k", [0, 1, 41])
def test_too_many_or_too_few_folds(k: int) -> None:
    with pytest.raises(DrexcacheError, match=f"must be 2 to 40, .*; found {k}"):
        hash_folds(IDS, k, same=[f"{i % 40}" for i in range(103)])


def matrix(labels: dict[str, Sequence[str]]) -> FeatureMatrix:
    return FeatureMatrix(
        np.zeros((4, 1), "f4"), np.zeros(4), list("abcd"), {"x": slice(0, 1)}, dataset="art", labels=labels
    )


def test_split_rows() -> None:
    train, test = split_rows(matrix({"split": ["train", "test", "", "train"]}))
    assert (train.tolist(), test.tolist()) == ([True, False, False, True], [False, True, False, False])


@pytest.mark.parametrize("train", ["training", "Train", "TRAIN", " train ", "train_set", "Training set"])
def test_usual_spellings_of_a_split_are_understood(train: str) -> None:
    labels = {"set": [train, "Testing", "Validation", train]}
    found = split_rows(matrix(labels), "set")
    assert [mask.tolist() for mask in found] == [[True, False, False, True], [False, True, False, False]]
    assert split_parts(matrix(labels), "set")["validation"].tolist() == [False, False, True, False]
    assert splitting_column(matrix(labels)) == "set"


def test_which_column_splits() -> None:
    assert splitting_column(matrix({"kind": ["train", "boat", "car", "test tube"]})) is None
    assert splitting_column(matrix({"kind": ["a"] * 4, "part": ["training", "validation", "", ""]})) == "part"
    assert splitting_column(matrix({"split": ["0", "0", "1", "1"]})) == "split"  # not understood, and so not ignored
    assert splitting_column(matrix({"split": ["", "", "", ""]})) is None
    with pytest.raises(DrexcacheError, match="must say 'train', 'test' or 'validation'; it says '0', '1'"):
        split_rows(matrix({"split": ["0", "0", "1", "1"]}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"kind": ["a"] * 4}, "art: no label named split to split by; there are: kind"),
        ({}, "it has no labels"),
        ({"split": ["train", "val", "val", "train"]}, "must say 'train' and 'test'; it says 'train', 'val'"),
    ],
)
def test_no_such_split(labels: dict, message: str) -> None:
    with pytest.raises(DrexcacheError, match=message):
        split_rows(matrix(labels))
