"""IC9600 and SAVOIAS come in as their authors lay them out."""

import zipfile
from pathlib import Path

import pytest
from small_datasets import ADVICE, about, folder_of, refusal, values, workbook, zip_of

from drexcache.datasets.table import read_images


def ic9600(**changes: str) -> dict[str, str | bytes]:
    members: dict[str, str | bytes] = {
        "images/a_1 (2).jpg": "A",
        "images/b.png": "B",
        "images/c.jpg": "C",
        "train.txt": "a_1 (2).jpg  0.25\r\nb.jpg  1\r\n\r\n",
        "test.txt": "\ufeffc.jpg\t0.0\n",
    }
    return {**members, **changes}


@pytest.mark.parametrize("top", ["", "IC9600/"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_ic9600(tmp_path: Path, top: str, unpacked: bool) -> None:
    members = {top + name: content for name, content in ic9600().items()} | {
        f"{top}other.png": "",
        "__MACOSX/images/c.jpg": "",
    }
    source = zip_of(tmp_path / "ic.zip", members)
    if unpacked:
        source = tmp_path / "ic"
        with zipfile.ZipFile(tmp_path / "ic.zip") as archive:
            archive.extractall(source)
    table = read_images(source)
    assert (table.dataset, table.ids) == ("ic", ("a_1 (2).jpg", "b.png", "c.jpg"))
    assert [file.read() for file in table.files] == [b"A", b"B", b"C"]
    assert (values(table), table.labels) == ([0.25, 1.0, 0.0], {"split": ("train", "train", "test")})
    assert about(table.targets["rating"]) == ("rating", 0.0, 1.0, "more", True)
    labels = f"{source.name}/{top}train.txt and {source.name}/{top}test.txt"
    assert table.notes == (
        f"{source}: read as layout ic9600 (guessed)",
        f"{source}: left out files that are not among its images: .png 1",
        f"{labels}: accepted names in another case, extension or folder: 1 (b.jpg is b.png)",
    )
    assert read_images(source, ratings=False).labels == {}


def test_ic9600_problems(tmp_path: Path) -> None:
    def refused(members: dict[str, str | bytes], **options: object) -> str:
        return refusal(zip_of(tmp_path / "ic.zip", members), layout="ic9600", **options)

    labels = "ic.zip/train.txt and ic.zip/test.txt"
    twice = ic9600(**{"test.txt": "c.jpg  0\nb.png  0.5\n"})
    assert refused(twice) == f"{labels}: images rated more than once: 1 (b.png); correct the file"
    missing = f"{labels}: ratings without an image: 1 (d.jpg); {ADVICE}"
    assert refused(ic9600(**{"test.txt": "c.jpg  0\nd.jpg  0.5\n"})) == missing
    line = "ic.zip/test.txt: expected lines of a name, blanks and a score; others: 1 (line 2 is 'd.jpg')"
    assert refused(ic9600(**{"test.txt": "c.jpg  0\nd.jpg\n"})) == line
    assert (
        refused(ic9600(**{"test.txt": ""}))
        == "ic.zip/test.txt: no ratings; expected lines of a name, blanks and a score"
    )
    outside = f"{labels}: ratings outside the declared range 0..1: 1 (c.jpg = 2)"
    assert refused(ic9600(**{"test.txt": "c.jpg  2"})).startswith(outside)
    columns = f"{tmp_path / 'ic.zip'}: --split-column given, but the ratings of layout ic9600 have no such column"
    assert refused(ic9600(), split_column="part") == columns
    assert refused(ic9600(), ratings="r.csv") == (
        f"{tmp_path / 'ic.zip'}: layout ic9600 has its ratings in train.txt and test.txt; leave r.csv out, "
        "or give --layout folder"
    )
    places = "expects train.txt, test.txt and images/ at the root or one folder below, found them in 0 places"
    assert refused({"images/a.jpg": ""}) == f"{tmp_path / 'ic.zip'}: layout ic9600 {places}"


def savoias_folder(root: Path, category: str, ending: str, *names: str, scores: list[object]) -> Path:
    workbook(
        root / "Ground truth" / "xlsx" / f"global_ranking_{ending}.xlsx",
        [["gt"], *([score] for score in scores)],
    )
    return folder_of(root / "Images" / category, *names)


@pytest.mark.parametrize(
    ("category", "ending"),
    [
        ("Advertisement", "ad"),
        ("Art", "art"),
        ("Interior Design", "interior_design"),
        ("Objects", "objects"),
        ("Scenes", "scenes"),
        ("Suprematism", "sup"),
        ("Visualizations", "vis"),
    ],
)
def test_savoias_categories(tmp_path: Path, category: str, ending: str) -> None:
    for other in {"ad", "art", "interior_design", "objects", "scenes", "sup", "vis"} - {ending}:
        workbook(tmp_path / "Ground truth" / "xlsx" / f"global_ranking_{other}.xlsx", [["gt"], [99], [99], [99]])
    root = savoias_folder(tmp_path, category, ending, "0.jpg", "1.png", "2.jpg", scores=[30, 0, 100])
    table = read_images(root)
    assert (table.dataset, table.ids, values(table)) == (
        category,
        ("0.jpg", "1.png", "2.jpg"),
        [30.0, 0.0, 100.0],
    )
    assert about(table.targets["rating"]) == ("rating", 0.0, 100.0, "more", True)
    assert (table.labels, table.notes) == ({}, (f"{root}: read as layout savoias (guessed)",))


def test_savoias_problems(tmp_path: Path) -> None:
    root = savoias_folder(tmp_path, "Scenes", "scenes", *(f"{i}.jpg" for i in (0, 1, 10, 2)), "x.jpg", scores=[*"01"])
    gt = tmp_path / "Ground truth" / "xlsx" / "global_ranking_scenes.xlsx"
    guess = f" ({root}: read as layout savoias (guessed))"
    assert refusal(root) == f"{gt}: images without a rating: 3 (10.jpg, 2.jpg, x.jpg); {ADVICE}{guess}"
    folder_of(root, "2.png")
    guess = " (read as layout savoias (guessed))"
    assert refusal(root) == f"{root}: images of the same number: 1 (2.jpg and 2.png){guess}"
    (root / "2.png").unlink()
    workbook(gt, [["score"], [1]])
    assert refusal(root) == (
        f"{gt}: no column 'gt' of ratings; the header row has: score; name one with --rating-column, or several with "
        f"a pattern such as 'rater*' ({root}: read as layout savoias (guessed))"
    )
    gt.rename(gt.with_name("global_ranking_vis.xlsx"))
    assert refusal(root) == (
        f"{gt.parent}: not one global_ranking_*.xlsx fits Scenes (there are: vis); name the workbook with --ratings "
        f"({root}: read as layout savoias (guessed))"
    )
    assert refusal(root, tmp_path / "r.csv") == (
        f"{root}: layout savoias has its ratings in an .xlsx, not in {tmp_path / 'r.csv'}; or give --layout "
        f"folder{guess}"
    )


def test_savoias_with_a_gap_and_another_workbook(tmp_path: Path) -> None:
    root = savoias_folder(tmp_path, "Art", "art", "0.jpg", "2.jpg", scores=[1, 2, 3])
    other = workbook(tmp_path / "mine.xlsx", [["n", "mean"], [0, 10], [1, None], [2, 12]])
    table = read_images(root, other, rating_column="mean", allow_unmatched=True)
    assert values(table) == [10.0, 12.0]
    assert table.notes[-1] == f"{other}: ratings without an image, as allowed: 1 (1)"


def test_the_real_savoias(savoias: Path) -> None:
    """Figures counted by hand in the files."""
    for category, first in (("Objects", [9, 58, 54]), ("Scenes", [29, 42, 52])):
        table = read_images(savoias / "Images" / category)
        assert (len(table), values(table)[:3]) == (200, first)
        assert table.ids == tuple(sorted(f"{number}.jpg" for number in range(200)))
    adverts = savoias / "Images" / "Advertisement"
    assert "ratings without an image: 2 (90, 96)" in refusal(adverts)
    table = read_images(adverts, allow_unmatched=True)
    assert len(table) == 198 and not {"90.png", "96.png"} & set(table.ids)
    assert dict(zip(table.ids, values(table), strict=True))["199.jpg"] == 0.0
