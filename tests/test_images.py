"""Images come in from folders and zips, alone or with ratings, and go out in shards."""

import os
from pathlib import Path

import numpy as np
import pytest
from small_datasets import about, folder_of, refusal, values, zip_of

from drexcache.datasets import IMAGE_EXTENSIONS, sha256_of_ids
from drexcache.datasets.table import read_images
from drexcache.errors import DrexcacheError


def test_a_folder_without_ratings(tmp_path: Path) -> None:
    names = ("b.JPG", "a/z.tiff", "a b.webp", "ä.png", "Z.gif", "x.bmp", "y.jpeg", "t.tif")
    hidden = (".c.jpg", ".d/e.jpg", "__MACOSX/b.JPG", "a/._z.tiff", ".DS_Store")
    root = folder_of(tmp_path / "photos", *names, *hidden, "new.raw", "readme.txt")
    table = read_images(root)
    assert table.ids == ("Z.gif", "a b.webp", "a/z.tiff", "b.JPG", "t.tif", "x.bmp", "y.jpeg", "ä.png")
    assert list(table.ids) == sorted(names, key=str.encode)
    assert [file.read().decode() for file in table.files] == list(table.ids)
    assert (table.dataset, table.targets, table.labels, len(table)) == ("photos", {}, {}, 8)
    assert table.notes == (
        f"{root}: read as layout folder (guessed)",
        f"{root}: left out files that are not among its images: .raw 1",
        f"{root}: no ratings (none given, and no ratings.csv at the root)",
    )


def test_a_folder_with_its_own_ratings(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "b.jpg", "a.jpg", ratings="Filename,Split,MOS\nb.jpg,train,4\na.jpg,test,2.5\n")
    table = read_images(root)
    assert (table.ids, values(table), table.labels) == (
        ("a.jpg", "b.jpg"),
        [2.5, 4.0],
        {"split": ("test", "train")},
    )
    assert table.targets["rating"].values.dtype == np.float64
    assert about(table.targets["rating"]) == ("rating", 2.5, 4.0, "more", False)
    assert table.notes == (
        f"{root}: read as layout folder (guessed)",
        "p/ratings.csv: guessed image names from column 'Filename', ratings from column 'MOS', "
        "splits from column 'Split'",
        "p/ratings.csv: THE RANGE OF THE RATINGS IS NOT DECLARED, the observed 2.5..4 stands for it; "
        "declare what the scale allows with --range LOW HIGH",
    )
    assert read_images(root, ratings=False).targets == {}


def test_everything_can_be_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="not,read\n")
    ratings = tmp_path / "r.csv"
    ratings.write_text("what;ease;who;part;name\na.jpg;1;Ann;dev;x\nb.jpg;5;Bob;;y\n")
    table = read_images(
        root, ratings, layout="folder", dataset="mine", image_column="what", rating_column="ease",
        split_column="part", group_columns=("who",), value_range=(1, 7), higher_is="less", target="ease",
    )  # fmt: skip
    assert (table.dataset, values(table, "ease")) == ("mine", [1.0, 5.0])
    assert about(table.targets["ease"]) == ("ease", 1.0, 7.0, "less", True)
    assert table.labels == {"who": ("Ann", "Bob"), "split": ("dev", "")}
    assert table.notes == (f"{root}: read as layout folder",)


def test_a_relative_root_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_of(tmp_path / "photos", "sub/a.jpg") / "sub")
    assert [read_images(source).dataset for source in (".", "..", "../../photos")] == [
        "sub",
        "photos",
        "photos",
    ]


def test_linked_folders_are_followed_once_around(tmp_path: Path) -> None:
    folder_of(tmp_path / "elsewhere", "a.jpg")
    root = folder_of(tmp_path / "root", "b.jpg")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert read_images(root).ids == ("b.jpg", "link/a.jpg")


def test_a_zip_reads_as_a_folder(tmp_path: Path) -> None:
    source = zip_of(
        tmp_path / "z.zip",
        {"b.png": "B", "s\\a.png": "A", ".x.png": "", "ratings.csv": "id,gt\nb,1\ns/a,0\n"},
    )
    table = read_images(source, value_range=(0, 1))
    assert (table.dataset, table.ids, values(table)) == ("z", ("b.png", "s/a.png"), [1.0, 0.0])
    assert [file.read() for file in table.files] == [b"B", b"A"]


def test_every_extension_of_jpeg_is_an_image(tmp_path: Path) -> None:
    from PIL import Image

    Image.init()
    names = [f"a{ending}" for ending, kind in Image.registered_extensions().items() if kind == "JPEG"]
    assert read_images(folder_of(tmp_path / "p", *names)).ids == tuple(sorted(names))


def test_sources_that_are_none(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no") == f"{tmp_path / 'no'}: no such file or folder"
    file = tmp_path / "a.zip"
    file.write_bytes(b"text")
    assert refusal(file) == f"{file}: neither a folder nor a zip"
    empty = folder_of(tmp_path / "empty", "a.raw", "b.raw", "c")
    looked = f"no images; looked for {', '.join(IMAGE_EXTENSIONS)}"
    assert refusal(empty) == f"{empty}: {looked}, found .raw 2, without extension 1"
    root = folder_of(tmp_path / "p", "a.jpg")
    assert refusal(root, layout="zip") == "no layout 'zip'; there are: auto, folder, ic9600, savoias"
    assert refusal(root, image_column="x") == f"{root}: --image-column given, but there are no ratings"
    assert refusal(root, value_range=(0, 1)) == f"{root}: --range given, but no ratings; see --ratings, --rating-column"


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    assert refusal(tmp_path) == rf"{tmp_path}: the file name 'caf\udce9.jpg' is not UTF-8; rename the file"


@pytest.mark.parametrize(("images", "count"), [(8, 3), (7, 7), (8, 2), (1, 1)])
def test_shards_are_the_table_in_order(tmp_path: Path, images: int, count: int) -> None:
    rows = "".join(f"{number}.jpg,{number},s{number}\n" for number in range(images))
    names = [f"{number}.jpg" for number in range(images)]
    table = read_images(folder_of(tmp_path, *names, ratings="image,rating,split\n" + rows), value_range=(0, 9))
    shards = [table.shard(index + 1, count) for index in range(count)]
    assert sum((shard.ids for shard in shards), ()) == table.ids
    assert sum((shard.files for shard in shards), ()) == table.files
    assert sum((shard.labels["split"] for shard in shards), ()) == table.labels["split"]
    assert np.concatenate([values(shard) for shard in shards]).tolist() == values(table)
    assert {(*about(shard.targets["rating"]), shard.dataset, shard.notes) for shard in shards} == {
        (*about(table.targets["rating"]), table.dataset, table.notes)
    }
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert [shard.shard_of for shard in shards] == [f"{index + 1}/{count}" for index in range(count)]
    assert {shard.table_sha256 for shard in shards} == {sha256_of_ids(table.ids)}


@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0), (1, 4)])
def test_shards_that_are_none(tmp_path: Path, index: int, count: int) -> None:
    table = read_images(folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg"))
    with pytest.raises(DrexcacheError, match=f"no shard {index}/{count} of 3 images; expected I/N, 1 <= I <= N <= 3"):
        table.shard(index, count)
