"""A tar and a Parquet table of images give the ids, features and ratings of the folder that they were packed from."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.features import extract


def cache_of(source: Path, out: Path, **options: object) -> object:
    table = read_images(source, value_range=(0, 100), **options)
    extract(table, recipe("classic"), out, say=lambda line: None)
    return open_cache(out)


def test_a_tar_is_the_folder_that_it_was_made_of(pictures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        for path in sorted(pictures.iterdir()):
            archive.add(path, f"./{path.name}")
    mine, theirs = cache_of(tmp_path / "p.tar", tmp_path / "t.h5"), cache_of(pictures, tmp_path / "f.h5")
    assert mine.ids == theirs.ids
    np.testing.assert_array_equal(mine.matrix().X, theirs.matrix().X)
    np.testing.assert_array_equal(mine.matrix().y, theirs.matrix().y)
    np.testing.assert_array_equal(mine.hashes(), theirs.hashes())


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_a_table_is_the_folder_that_it_was_made_of(form: str, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    rated = pd.read_csv(pictures / "ratings.csv")
    data = [(pictures / name).read_bytes() for name in rated["file"]]
    if form == "struct":
        frame = pd.DataFrame({"image": [{"bytes": d, "path": n} for d, n in zip(data, rated["file"], strict=True)]})
    else:
        frame = pd.DataFrame({"id": rated["file"], "image": data})
    frame["rating"] = rated["rating"]
    frame.to_parquet(tmp_path / "p.parquet", row_group_size=7)
    mine, theirs = cache_of(tmp_path / "p.parquet", tmp_path / "t.h5"), cache_of(pictures, tmp_path / "f.h5")
    assert mine.ids == theirs.ids
    np.testing.assert_array_equal(mine.matrix().X, theirs.matrix().X)
    np.testing.assert_allclose(mine.matrix().y, theirs.matrix().y)
    np.testing.assert_array_equal(mine.hashes(), theirs.hashes())


def test_what_cannot_be_read_is_said(tmp_path: Path, pictures: Path) -> None:
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as archive:
        archive.add(pictures / "000.png", "000.png")
    with pytest.raises(DrexcacheError, match="compressed or broken tar"):
        read_images(tmp_path / "p.tar.gz")
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    pd.DataFrame({"id": ["a"], "score": [1.0]}).to_parquet(tmp_path / "n.parquet")
    with pytest.raises(DrexcacheError, match="no column of images"):
        read_images(tmp_path / "n.parquet")
    pd.DataFrame({"id": ["a", "a"], "image": [b"\x89P", b"\x89P"]}).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DrexcacheError, match=r"images under one name: 1 \(a.png\)"):
        read_images(tmp_path / "d.parquet")
