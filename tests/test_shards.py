"""Several tars or Parquet tables give the ids, features and ratings of the folder that they were made of."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_packed import cache_of

from drexcache import DrexcacheError, read_images


def tars(folder: Path, pictures: Path, count: int = 3, name: str = "photos-{:06}.tar") -> Path:
    """The pictures dealt out to tars, and the table of ratings beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        with tarfile.open(folder / name.format(at), "w") as archive:
            for path in sorted(pictures.glob("*.png"))[at::count]:
                archive.add(path, f"./{path.name}")
    (folder / "ratings.csv").write_bytes((pictures / "ratings.csv").read_bytes())
    return folder


def tables(folder: Path, pictures: Path, counts: dict[str, int], named: bool = True) -> Path:
    """The pictures dealt out to Parquet tables as datasets writes them, {split: number of its tables}."""
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    folder.mkdir(parents=True, exist_ok=True)
    rated = pd.read_csv(pictures / "ratings.csv")
    names = [f"{split}-{at:05}-of-{count:05}" for split, count in counts.items() for at in range(count)]
    for at, name in enumerate(names):
        mine = rated.iloc[at * len(rated) // len(names) : (at + 1) * len(rated) // len(names)]
        cells = [{"bytes": (pictures / file).read_bytes(), "path": file if named else None} for file in mine["file"]]
        pd.DataFrame({"image": cells, "rating": mine["rating"].to_numpy()}).to_parquet(folder / f"{name}.parquet")
    return folder


def same_as_folder(source: Path, pictures: Path, folder: Path, **options: object) -> None:
    mine, theirs = cache_of(source, folder / "s.h5", **options), cache_of(pictures, folder / "f.h5")
    assert mine.ids == theirs.ids
    np.testing.assert_array_equal(mine.matrix().X, theirs.matrix().X)
    np.testing.assert_allclose(mine.matrix().y, theirs.matrix().y)
    np.testing.assert_array_equal(mine.hashes(), theirs.hashes())
    assert read_images(mine.matrix().images, False).ids == mine.ids  # where its pictures are found again


def test_a_folder_of_tars_is_the_folder_of_images(pictures: Path, tmp_path: Path) -> None:
    same_as_folder(tars(tmp_path / "photos", pictures), pictures, tmp_path)


@pytest.mark.parametrize("pattern", ["photos-{000000..000002}.tar", "photos-*.tar", "photos-{000000,00000[12]}.tar"])
def test_so_are_the_tars_that_a_pattern_names(pattern: str, pictures: Path, tmp_path: Path) -> None:
    folder = tars(tmp_path / "old [2]", pictures)
    same_as_folder(folder / pattern, pictures, tmp_path, ratings=folder / "ratings.csv")
    assert read_images(folder / pattern, False).dataset == "photos"


def test_parquet_tables_have_their_ratings_with_them(pictures: Path, tmp_path: Path) -> None:
    folder = tables(tmp_path / "photos", pictures, {"train": 3})
    same_as_folder(folder, pictures, tmp_path)
    found = read_images(folder / "train-*.parquet", value_range=(0, 100))
    assert (
        found.dataset == "train"
        and found.targets["rating"].values.tolist() == pd.read_csv(pictures / "ratings.csv")["rating"].tolist()
    )


def test_ratings_in_a_file_beside_the_tables(pictures: Path, tmp_path: Path) -> None:
    folder = tables(tmp_path / "photos", pictures, {"train": 2})
    (folder / "ratings.csv").write_bytes((pictures / "ratings.csv").read_bytes())
    with pytest.raises(DrexcacheError, match=r"photos: ratings beside the images and in ratings.csv; name it"):
        read_images(folder)
    for path in folder.glob("*.parquet"):
        pd.read_parquet(path).drop(columns="rating").to_parquet(path)
    same_as_folder(folder, pictures, tmp_path)


def test_splits_are_folders_and_a_column(pictures: Path, tmp_path: Path) -> None:
    folder = tables(tmp_path / "photos", pictures, {"train": 2, "test": 2}, named=False)
    found = read_images(folder, value_range=(0, 100))
    assert list(found.ids) == [f"{split}/{at:06}.png" for split in ("test", "train") for at in range(10)]
    assert list(found.labels["split"]) == ["test"] * 10 + ["train"] * 10
    rated = pd.read_csv(pictures / "ratings.csv")
    order = [*range(10, 20), *range(10)]
    np.testing.assert_allclose(found.targets["rating"].values, rated["rating"].to_numpy()[order])
    data = [(pictures / name).read_bytes() for name in rated["file"][order]]
    assert [file.read() for file in found.files] == data


def test_tars_in_folders_are_read_as_if_unpacked_where_they_are(pictures: Path, tmp_path: Path) -> None:
    for part in ("a", "b"):
        tars(tmp_path / "photos" / part, pictures, 2)
    names = sorted(path.name for path in pictures.glob("*.png"))
    ids = tuple(f"{part}/{name}" for part in ("a", "b") for name in names)
    assert read_images(tmp_path / "photos", False).ids == ids
    assert read_images(tmp_path / "photos" / "{a,b}" / "photos-0*.tar", False).ids == ids
    assert read_images(tmp_path / "photos" / "**" / "*-000000.tar", False).ids == tuple(
        f"{part}/{name}" for part in ("a", "b") for name in names[::2]
    )


def test_a_name_in_two_tars(pictures: Path, tmp_path: Path) -> None:
    folder = tars(tmp_path / "photos", pictures)
    with tarfile.open(folder / "photos-000002.tar", "a") as archive:
        archive.add(pictures / "000.png", "000.png")
    said = "photos: images under one name: 1 (000.png in photos-000000.tar and photos-000002.tar)"
    with pytest.raises(DrexcacheError, match=re.escape(said)):
        read_images(folder)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["photos-000000.tar", "photos-000001.tar", "photos-000003.tar"], "1 file .*, first photos-000002.tar"),
        (["7.tar", "1.tar", "2.tar"], "4 files .*, first 3.tar"),
        (["t-00001-of-00004.tar"], "3 files .*, first t-00000-of-00004.tar"),
        (["t-00004-of-00004.tar"], "3 files .*, first t-00001-of-00004.tar"),
        (["t-0-of-999999999.tar"], "999,999,998 files .*, first t-1-of-999999999.tar"),
        (["photos-2017.tar", "photos-2019.tar"], None),
        (["photos-000004.tar"], None),
        (["t-00001-of-00002.tar", "t-00002-of-00002.tar", "cats.tar"], None),
    ],
)
def test_a_missing_file_of_a_series(names: Sequence[str], first: str | None, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for at, name in enumerate(names):
        with tarfile.open(folder / name, "w") as archive:
            archive.add(pictures / f"{at:03}.png", f"{at}.png")
    for source in (folder, folder / "*.tar"):
        if first is None:
            assert read_images(source, False).ids == tuple(f"{at}.png" for at in range(len(names)))
        else:
            with pytest.raises(DrexcacheError, match=f"{first}; fetch what is missing, or name the files"):
                read_images(source)


def test_what_a_pattern_cannot_name(pictures: Path, tmp_path: Path) -> None:
    folder = tars(tmp_path / "photos", pictures)
    for pattern, said in {
        "photos-{000000..000004}.tar": "missing files: 2 (photos-000003.tar, photos-000004.tar)",
        "cats-*.tar": "names no file; a pattern names tars or Parquet tables",
        "*": "names files that are neither tars nor Parquet tables: 1 (ratings.csv)",
        "{0..9999999}.tar": "names more than 1,000,000 files",
        "{0..999999999}-{3..1}.tar": "names more than 1,000,000 files",
        "photos-**.tar": "no pattern; ** stands for folders",
        f"{{{'photos-000000,' * 30}a}}.tar": "cannot be looked for (File name too long)",
        "photos.tar": "no such file or folder",
    }.items():
        with pytest.raises(DrexcacheError, match=re.escape(f"{pattern}: {said}")):
            read_images(folder / pattern)


def test_a_tar_that_is_a_link_to_nothing(pictures: Path, tmp_path: Path) -> None:
    folder = tars(tmp_path / "photos", pictures)
    (folder / "more.tar").symlink_to("nowhere.tar")
    with pytest.raises(DrexcacheError, match=r"more.tar: cannot be read \(No such file or directory\)"):
        read_images(folder)


def test_tars_beside_other_things(pictures: Path, tmp_path: Path) -> None:
    folder = tars(tmp_path / "photos", pictures)
    (folder / "notes.heics").write_bytes(b"")
    assert "left out files that are not among its images: .heics 1" in "\n".join(read_images(folder).notes)
    (folder / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DrexcacheError, match=r"tars and Parquet tables; name those .* such as '.*photos/\*.tar'"):
        read_images(folder)
    for number in ("000", "001"):
        (folder / f"{number}.png").write_bytes((pictures / f"{number}.png").read_bytes())
    found = read_images(folder, allow_unmatched=True)
    assert found.ids == ("000.png", "001.png")
    assert "left out files that are not among its images: .tar 3, .parquet 1, .heics 1" in "\n".join(found.notes)


def test_one_tar_that_changed_leaves_the_others_as_they_are(pictures: Path, tmp_path: Path) -> None:
    folder = tars(tmp_path / "photos", pictures, 2)
    before = read_images(folder)
    (folder / "photos-000000.tar").touch()
    after = read_images(folder)
    changed = [old.stat() != new.stat() for old, new in zip(before.files, after.files, strict=True)]
    assert changed == [True, False] * 10
    with pytest.raises(OSError, match="changed after its images were listed"):
        before.files[0].read()
    assert before.files[1].read() == (pictures / "001.png").read_bytes()


def samples(path: Path, pictures: Path, beside: dict[str, str]) -> Path:
    """The pictures as a WebDataset's tars; beside : extension -> what a file of it holds, of a {rating}."""
    rated = pd.read_csv(pictures / "ratings.csv")
    for at in range(2):
        with tarfile.open(path / f"samples-{at:06}.tar", "w") as archive:
            for file, rating in rated[["file", "rating"]].iloc[at::2].itertuples(index=False):
                archive.add(pictures / file, file)
                for kind, text in beside.items():
                    data = text.replace("RATING", str(rating)).encode()
                    about = tarfile.TarInfo(f"{Path(file).stem}.{kind}")
                    about.size = len(data)
                    archive.addfile(about, io.BytesIO(data))
    return path / "samples-{000000..000001}.tar"


@pytest.mark.parametrize(
    ("beside", "options"),
    [
        ({"json": '{"mos": RATING, "tags": ["a"], "by": "me"}', "txt": "a caption"}, {}),
        ({"score": "RATING\n"}, {}),
        ({"cls": "RATING"}, {"rating_column": "cls"}),
    ],
)
def test_the_ratings_of_a_webdataset_stand_beside_the_images(
    beside: dict[str, str], options: dict[str, str], pictures: Path, tmp_path: Path
) -> None:
    same_as_folder(samples(tmp_path, pictures, beside), pictures, tmp_path, **options)


def test_what_stands_beside_the_images_and_cannot_be_read_is_named(pictures: Path, tmp_path: Path) -> None:
    for text, why in (("{", "Expecting property name"), ("9" * 70_000, "70,000 bytes, more than 65,536")):
        with pytest.raises(DrexcacheError, match=rf"samples-000000\.tar: 000\.json: cannot be read \({why}"):
            read_images(samples(tmp_path, pictures, {"json": text}), value_range=(0, 100))
    found = read_images(samples(tmp_path, pictures, {"json": "[1]", "txt": "a caption"}))
    assert not found.targets
