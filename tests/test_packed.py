"""A tar and a Parquet table of images give the ids, features and ratings of the folder that they were packed from."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.datasets import ImageTable
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


def test_links_and_what_is_no_file_in_a_tar(pictures: Path, tmp_path: Path) -> None:
    names = ["000.png", "001.png"]
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        for name in names:
            archive.add(pictures / name, name)
        for name in ("__MACOSX/000.png", "._000.png"):
            archive.add(pictures / "000.png", name)
        kinds = {"hard.png": tarfile.LNKTYPE, "soft.png": tarfile.SYMTYPE, "pipe.png": tarfile.FIFOTYPE}
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "000.png"
            archive.addfile(member)
    files = read_images(tmp_path / "p.tar", ratings=False)
    found = dict(zip(files.ids, files.files, strict=True))
    assert [*found] == ["000.png", "001.png", "hard.png", "pipe.png", "soft.png"]
    assert found["hard.png"].read() == found["000.png"].read() == (pictures / "000.png").read_bytes()
    for name in ("pipe.png", "soft.png"):
        with pytest.raises(OSError, match="no regular file"):
            found[name].read()


def exchanged(path: Path, write: Callable[[Path, list[str]], None]) -> ImageTable:
    """A table of two images whose container was then written with the two exchanged, in the same size and time."""
    write(path, ["a.bmp", "b.bmp"])
    status, table = path.stat(), read_images(path, ratings=False)
    write(path, ["b.bmp", "a.bmp"])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    return table


def write_tar(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for value, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(bytes([value]) * 4))


def write_parquet(path: Path, names: list[str]) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    pd.DataFrame({"id": names, "image": [bytes([value]) * 4 for value in range(2)]}).to_parquet(path)


@pytest.mark.parametrize("write", [write_tar, write_parquet])
def test_a_container_that_was_replaced_gives_no_image_under_another_name(
    write: Callable[[Path, list[str]], None], tmp_path: Path
) -> None:
    table = exchanged(tmp_path / "photos", write)
    with pytest.raises(OSError, match="changed after its images were listed"):
        table.files[0].read()
    again = read_images(tmp_path / "photos", ratings=False)
    assert [file.read() for file in again.files] == [b"\1" * 4, b"\0" * 4]
    assert [file.stat() for file in again.files] != [file.stat() for file in table.files]


def test_a_table_under_any_name_and_rows_without_one(tmp_path: Path, pictures: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    data = [(pictures / name).read_bytes() for name in ("000.png", "001.png", "002.png")]
    frame = pd.DataFrame({"file": ["a.png", None, "c"], "image": data, "mos": [1.0, 2.0, 3.0], "part": ["train"] * 3})
    frame.to_parquet(tmp_path / "photos.data")
    table = read_images(tmp_path / "photos.data", value_range=(1, 3), group_columns=["part"])
    assert table.ids == ("000001.png", "a.png", "c.png")
    assert table.targets["rating"].values.tolist() == [2.0, 1.0, 3.0]
    assert table.labels == {"part": ("train",) * 3}


@pytest.mark.parametrize(
    "data", [b"PAR1" + bytes(range(200)), b"PAR1" + bytes(200) + b"PAR1", b"a" * 257 + b"ustar\0" + b"a" * 249]
)
def test_a_damaged_container_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(DrexcacheError, match=r"^.*/p: "):
        read_images(tmp_path / "p")
