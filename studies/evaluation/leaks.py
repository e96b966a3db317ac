"""Near-copies of an image that stand on both sides of a training: kept in one fold, or said."""

from __future__ import annotations

from collections.abc import Sequence

from drexcache.cache import FeatureMatrix
from drexcache.studies.evaluation.duplicates import duplicate_groups, near_duplicates

MAX_PAIRS = 20_000**2  # comparing more would take longer than many a training
MIN_COLUMNS = 64  # fewer features make different pictures look alike: one has only two directions


def kept_together(matrix: FeatureMatrix) -> tuple[Sequence[str], list[str]]:
    """(n,) names that copies and near-copies of an image share, for its folds; and what to know about them.

    With fewer than 64 features only copies of a file are known.
    """
    if matrix.X.shape[1] < MIN_COLUMNS:
        return matrix.hashes or matrix.ids, []
    if len(matrix) ** 2 > MAX_PAIRS:
        return matrix.hashes or matrix.ids, [_unseen(matrix.dataset)]
    same, _ = duplicate_groups(matrix)
    files = matrix.hashes or matrix.ids
    first: dict[str, dict[str, str]] = {}  # group -> file -> the first image with it
    for image, file, group in zip(matrix.ids, files, same, strict=True):
        first.setdefault(group, {}).setdefault(file, image)
    alike = [" and ".join(list(images.values())[:2]) for images in first.values() if len(images) > 1]
    if not alike:
        return same, []
    listed = ", ".join(alike[:3]) + (", ..." if len(alike) > 3 else "")
    return same, [f"{matrix.dataset}: {len(alike)} groups of near-copies are kept in the same fold: {listed}"]


def on_both_sides(sources: Sequence[FeatureMatrix], test: FeatureMatrix, where: str) -> list[str]:
    """A note where images of the test set have near-copies among those to train on.

    Copies with the same bytes are left to the caller. Near-copies stay in the training: features that look the
    same to a backbone may be two pictures, and the person who knows them has to say.
    """
    if test.X.shape[1] < MIN_COLUMNS:
        return []
    if sum(len(source) for source in sources) * len(test) > MAX_PAIRS:
        return [_unseen(where)]
    found: dict[int, tuple[float, str]] = {}
    for source in sources:
        for i, j, cosine in near_duplicates(source, test):
            same_file = bool(source.hashes) and bool(test.hashes) and source.hashes[i] == test.hashes[j]
            if not same_file and cosine > found.get(j, (0.0, ""))[0]:
                found[j] = cosine, f"{source.ids[i]} and {test.ids[j]} (cosine {cosine:.3f})"
    if not found:
        return []
    alike = [pair for _, pair in sorted(found.values(), reverse=True)]
    more = ", ..." if len(alike) > 3 else ""
    return [
        f"{where}: {len(alike)} tested images have a near-copy in the training, so that the score may be too high: "
        + ", ".join(alike[:3]) + more
    ]  # fmt: skip


def _unseen(where: str) -> str:
    return f"{where}: near-duplicates were not looked for among so many images"
