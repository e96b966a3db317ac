"""Images and ratings come in: every layout, and every way in which names, ratings and images can disagree."""

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from drexcache.errors import DrexcacheError
from drexcache.images import ImageFile, ImageTable, Target, read_images
from drexcache.layout import sha256_of_ids
from drexcache.matching import match_ratings
from drexcache.ratings import Columns, Ratings, read_ratings

NAN = float("nan")
ADVICE = "mend the file, or go on without them by --allow-unmatched"


def folder_of(root: Path, *names: str, **texts: str) -> Path:
    """A folder of files that hold their own name, and of texts: ratings="..." is ratings.csv."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="utf-8")
    for name, text in texts.items():
        (root / f"{name}.csv").write_text(text, encoding="utf-8")
    return root


def zip_of(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def workbook(path: Path, rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(path)
    return path


def values(table: ImageTable, name: str = "rating") -> list[float]:
    return table.targets[name].values.tolist()


def about(target: Target) -> tuple[object, ...]:
    return target.name, target.low, target.high, target.higher_is, target.declared


def refusal(*args: object, **options: object) -> str:
    with pytest.raises(DrexcacheError) as caught:
        read_images(*args, **options)  # type: ignore[arg-type]
    return str(caught.value)


# ---- a folder


def test_a_folder_without_ratings(tmp_path: Path) -> None:
    names = ("b.JPG", "a/z.tiff", "a b.webp", "ä.png", "Z.gif", "x.bmp", "y.jpeg", "t.tif")
    hidden = (".c.jpg", ".d/e.jpg", "__MACOSX/b.JPG", "a/._z.tiff", ".DS_Store")
    root = folder_of(tmp_path / "photos", *names, *hidden, "new.heic", "readme.txt")
    table = read_images(root)
    assert table.ids == ("Z.gif", "a b.webp", "a/z.tiff", "b.JPG", "t.tif", "x.bmp", "y.jpeg", "ä.png")
    assert list(table.ids) == sorted(names, key=str.encode)
    assert [file.read().decode() for file in table.files] == list(table.ids)
    assert (table.dataset, table.targets, table.labels, len(table)) == ("photos", {}, {}, 8)
    assert table.notes == (
        f"{root}: read as layout folder (guessed)",
        f"{root}: left out files that are not among its images: .heic 1",
        f"{root}: no ratings (none given, and no ratings.csv at the root)",
    )


def test_a_folder_with_its_own_ratings(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "p", "b.jpg", "a.jpg", ratings="Filename,Split,MOS\nb.jpg,train,4\na.jpg,test,2.5\n"
    )
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


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("one.jpg", "one.jpg"),
        ("ONE.JPG", "one.jpg"),
        ("one.png", "one.jpg"),
        ("one", "one.jpg"),
        ("./one.jpg", "one.jpg"),
        ("s/two.png", "s/two.png"),
        ("s\\two.png", "s/two.png"),
        ("two.png", "s/two.png"),
        ("two", "s/two.png"),
        ("v1.5", "v1.5.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    ],
)
def test_names_that_fit_one_image(written: str, image: str) -> None:
    ids = ["caf\u00e9.jpg", "one.jpg", "s/two.png", "v1.5.jpg"]
    found = match_ratings(ids, Ratings("r", (written,), ("1",), {}), value_range=(0, 1), allow_unmatched=True)
    assert found.target.values[ids.index(image)] == 1.0
    accepted = f"r: accepted names in another case, extension or folder: 1 ({written} is {image})"
    assert (accepted in found.notes) == (written != image)


def test_the_most_literal_meaning_wins_and_two_are_too_many() -> None:
    ids = ["a.jpg", "a.png", "s/b.jpg", "t/b.jpg", "x/c.jpg"]
    ratings = Ratings("r", ("a.jpg", "a.png", "b.jpg", "a", "other/c.jpg"), ("1", "2", "3", "4", "5"), {})
    with pytest.raises(DrexcacheError) as caught:
        match_ratings(ids, ratings)
    assert str(caught.value) == (
        "r: ratings without an image: 1 (other/c.jpg); ratings that fit several images: 2 "
        "(b.jpg: s/b.jpg or t/b.jpg, a: a.jpg or a.png); "
        "images without a rating: 3 (s/b.jpg, t/b.jpg, x/c.jpg); " + ADVICE
    )
    assert match_ratings(ids, ratings, allow_unmatched=True).target.values[:2].tolist() == [1.0, 2.0]


# ---- what does not match


def test_one_sentence_says_all_that_does_not_match(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", *"abcdefg", *(f"{name}.jpg" for name in "abcdefg"))
    (root / "ratings.csv").write_text("image,rating\na,1\nb,\nc,n/a\nd,inf\nv,1\nw,2\nx,3\ny,4\n")
    assert refusal(root) == (
        "p/ratings.csv: ratings without an image: 4 (v, w, x, ...); images without a rating: 3 "
        "(e.jpg, f.jpg, g.jpg); ratings that are no finite number: 3 (b = '', c = 'n/a', d = 'inf'); "
        + ADVICE
    )
    table = read_images(root, value_range=(0, 5), allow_unmatched=True)
    np.testing.assert_array_equal(table.targets["rating"].values, [1, NAN, NAN, NAN, NAN, NAN, NAN])
    assert table.notes[-3:] == (
        "p/ratings.csv: ratings without an image, as allowed: 4 (v, w, x, ...)",
        "p/ratings.csv: images without a rating, as allowed: 3 (e.jpg, f.jpg, g.jpg)",
        "p/ratings.csv: ratings that are no finite number, as allowed: 3 (b = '', c = 'n/a', d = 'inf')",
    )


def test_labels_of_images_that_are_not_rated(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path, "a.jpg", "b.jpg", "c.jpg", ratings="image,rating,set\nb.jpg,?,test\nc.jpg,1,\n"
    )
    assert read_images(root, value_range=(0, 1), allow_unmatched=True).labels == {"split": ("", "test", "")}


def test_an_image_is_rated_once(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="image,rating\na.jpg,1\nA,2\n")
    twice = "p/ratings.csv: images rated more than once: 1 (a.jpg); "
    advice = "mend the file, or go on without the others by --allow-unmatched"
    assert refusal(root) == f"{twice}images without a rating: 1 (b.jpg); {advice}"
    assert refusal(root, allow_unmatched=True) == f"{twice}mend the file"


def test_nothing_matches(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", ratings="image,rating\nx,1\ny,2\n")
    assert (
        refusal(root, allow_unmatched=True)
        == "p/ratings.csv: no image has a rating; rated: x, y; images: a.jpg"
    )


def test_ranges(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="image,rating\na.jpg,1\nb.jpg,57\n")
    outside = "p/ratings.csv: ratings outside of the declared range 0..50: 1 (b.jpg = 57)"
    assert refusal(root, value_range=(0, 50)) == outside
    assert values(read_images(root, value_range=(1, 57))) == [1.0, 57.0]
    for low, high in ((5.0, 5.0), (9.0, 1.0), (0.0, float("inf")), (NAN, 1.0)):
        wrong = f"the range of the ratings is {low:g}..{high:g}; expected two numbers, the lower first"
        assert refusal(root, value_range=(low, high)) == wrong
    assert refusal(root, higher_is="better") == "higher_is is more or less, not 'better'"
    folder_of(root, ratings="image,rating\na.jpg,3\nb.jpg,3\n")
    same = "p/ratings.csv: all ratings are 3; declare the range of the ratings with --range LOW HIGH"
    assert refusal(root) == same
    assert values(read_images(root, value_range=(1, 5))) == [3.0, 3.0]


# ---- files of ratings


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_quotes_and_byte_order_marks(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "r.csv"
    lines = ["image;rating", '"a;b.jpg" ; 1 ', "", '"say ""x"".jpg";2e-1']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(";", mark).encode())
    found = read_ratings(path)
    assert (found.names, found.scores) == ((f"a{mark}b.jpg", 'say "x".jpg'), ("1", "2e-1"))


def test_a_workbook_of_ratings(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "r.xlsx", [["id", "score", "split"], [12, 3.5, "train"], ["x.jpg", 4.0, None], [None]]
    )
    assert read_ratings(path) == Ratings(
        str(path),
        ("12", "x.jpg"),
        ("3.5", "4"),
        {"split": ("train", "")},
        (
            f"{path}: guessed image names from column 'id', ratings from column 'score', "
            "splits from column 'split'",
        ),
    )


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (b"", Columns(), "empty; expected a header row and then a row for each image"),
        (b"\n \n", Columns(), "empty; expected a header row and then a row for each image"),
        (b"image,rating\n", Columns(), "no ratings below the header row (image, rating)"),
        (b"caf\xe9,rating\n", Columns(), "not UTF-8 text (at byte 3); save it as UTF-8"),
        (
            b"image,rating\na,1,2\n",
            Columns(),
            "line 2 has 3 cells where the header has 2 (image, rating); put a name that holds ',' in double "
            "quotes",
        ),
        (
            b"stimulus,rating\na,1\n",
            Columns(),
            "no column is known by its name to hold image names; the header row has: stimulus, rating; "
            "name one with --image-column",
        ),
        (
            b"image,beauty\na,1\n",
            Columns(),
            "no column is known by its name to hold ratings; the header row has: image, beauty; "
            "name one with --rating-column",
        ),
        (
            b"image,mos,score\na,1,2\n",
            Columns(),
            "several columns could be ratings (score, mos); name one with --rating-column",
        ),
        (
            b"image,rating\na,1\n",
            Columns(split="part"),
            "no column 'part' of splits; the header row has: image, rating; name one with --split-column",
        ),
        (
            b"image,rating\na,1\n",
            Columns(groups=("who",)),
            "no column 'who' of groups; the header row has: image, rating; name one with --group-column",
        ),
        (
            b"image,image,rating\na,b,1\n",
            Columns(image="image"),
            "several columns could be image names (image, image); name one with --image-column",
        ),
        (
            b"image,rating,split,part\na,1,x,y\n",
            Columns(split="part", groups=("split",)),
            "splits from 'part' and the group column 'split' would share a name",
        ),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: bytes, columns: Columns, message: str) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(text)
    with pytest.raises(DrexcacheError) as caught:
        read_ratings(path, columns)
    assert str(caught.value) == f"{path}: {message}"


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "r.xlsx").write_bytes(b"image,rating\n")
    with pytest.raises(DrexcacheError, match=r"r\.xlsx: not an \.xlsx workbook \(File is not a zip file\)"):
        read_ratings(tmp_path / "r.xlsx")
    with pytest.raises(DrexcacheError, match=r"no\.csv: cannot be read \(No such file or directory\)"):
        read_ratings(tmp_path / "no.csv")


# ---- IC9600


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
    assert refused(twice) == f"{labels}: images rated more than once: 1 (b.png); mend the file"
    missing = f"{labels}: ratings without an image: 1 (d.jpg); {ADVICE}"
    assert refused(ic9600(**{"test.txt": "c.jpg  0\nd.jpg  0.5\n"})) == missing
    line = "ic.zip/test.txt: line 2 is 'd.jpg'; expected a name, blanks and a score"
    assert refused(ic9600(**{"test.txt": "c.jpg  0\nd.jpg\n"})) == line
    assert (
        refused(ic9600(**{"test.txt": ""}))
        == "ic.zip/test.txt: no ratings; expected lines of a name, blanks and a score"
    )
    outside = f"{labels}: ratings outside of the declared range 0..1: 1 (c.jpg = 2)"
    assert refused(ic9600(**{"test.txt": "c.jpg  2"})) == outside
    columns = (
        f"{tmp_path / 'ic.zip'}: --split-column given, but the ratings of layout ic9600 have no such column"
    )
    assert refused(ic9600(), split_column="part") == columns
    assert refused(ic9600(), ratings="r.csv") == (
        f"{tmp_path / 'ic.zip'}: layout ic9600 has its ratings in train.txt and test.txt; leave r.csv out, "
        "or give --layout folder"
    )
    places = "expects train.txt, test.txt and images/ at the root or one folder below, found them in 0 places"
    assert refused({"images/a.jpg": ""}) == f"{tmp_path / 'ic.zip'}: layout ic9600 {places}"


# ---- SAVOIAS


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
        workbook(
            tmp_path / "Ground truth" / "xlsx" / f"global_ranking_{other}.xlsx", [["gt"], [99], [99], [99]]
        )
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
    root = savoias_folder(
        tmp_path, "Scenes", "scenes", *(f"{i}.jpg" for i in (0, 1, 10, 2)), "x.jpg", scores=[*"01"]
    )
    gt = tmp_path / "Ground truth" / "xlsx" / "global_ranking_scenes.xlsx"
    assert refusal(root) == f"{gt}: images without a rating: 3 (10.jpg, 2.jpg, x.jpg); {ADVICE}"
    folder_of(root, "2.png")
    assert refusal(root) == f"{root}: images of the same number: 1 (2.jpg and 2.png)"
    workbook(gt, [["score"], [1]])
    assert refusal(root) == (
        f"{gt}: no column 'gt' of ratings; the header row has: score; name one with --rating-column"
    )
    gt.rename(gt.with_name("global_ranking_vis.xlsx"))
    assert refusal(root) == (
        f"{gt.parent}: no global_ranking_*.xlsx for Scenes (there are: vis); name the workbook with --ratings"
    )
    assert refusal(root, tmp_path / "r.csv") == (
        f"{root}: layout savoias has its ratings in an .xlsx, not in {tmp_path / 'r.csv'}; "
        "or give --layout folder"
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


# ---- sources that are none


def test_sources_that_are_none(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no") == f"{tmp_path / 'no'}: no such folder or zip"
    file = tmp_path / "a.zip"
    file.write_bytes(b"text")
    assert refusal(file) == f"{file}: neither a folder nor a zip"
    empty = folder_of(tmp_path / "empty", "a.heic", "b.heic", "c")
    looked = "no images; looked for .jpg, .jpeg, .png, .gif, .webp, .bmp, .tif, .tiff"
    assert refusal(empty) == f"{empty}: {looked}, found .heic 2, without extension 1"
    root = folder_of(tmp_path / "p", "a.jpg")
    assert refusal(root, layout="zip") == "no layout 'zip'; there are: auto, folder, ic9600, savoias"
    assert refusal(root, image_column="x") == f"{root}: --image-column given, but there are no ratings"
    assert refusal(root, value_range=(0, 1)) == f"{root}: --range given, but there are no ratings"


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    assert refusal(tmp_path) == rf"{tmp_path}: the file name 'caf\udce9.jpg' is not UTF-8; rename the file"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.jpg", "1")
        archive.writestr("a.jpg", "2")
    assert refusal(tmp_path / "z.zip") == f"{tmp_path / 'z.zip'}: holds two files named a.jpg"


# ---- image files and shards


def test_a_zip_is_parsed_once_per_thread_and_anew_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []

    class Counted(zipfile.ZipFile):
        def __init__(self, path: Path, *args: str) -> None:
            parsed.append(path)
            super().__init__(path, *args)  # type: ignore[call-overload]

    content: dict[str, str | bytes] = {f"{number:03}.png": os.urandom(5000) for number in range(200)}
    path = zip_of(tmp_path / "z.zip", content)
    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    files = read_images(path).files
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ImageFile.read, files)) == list(content.values())
    assert 2 <= len(parsed) <= 5
    parsed.clear()
    zip_of(path, {"000.png": "new"})
    assert [files[0].read(), files[0].stat()[0], files[0].read()] == [b"new", 3, b"new"]
    assert len(parsed) == 2  # one of them by zip_of


def test_size_and_time_of_files(tmp_path: Path) -> None:
    file = folder_of(tmp_path, "a.jpg") / "a.jpg"
    os.utime(file, ns=(1, 123_456_789))
    assert ImageFile(file).stat() == (5, 123_456_789)
    path = zip_of(tmp_path / "z.zip", {"a.jpg": "abcdefg"})
    os.utime(path, ns=(1, 987_654_321))
    assert ImageFile(path, "a.jpg").stat() == (7, 987_654_321)


def test_what_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "z.zip", {"a.jpg": os.urandom(3000)})
    data = path.read_bytes()

    def refused(changed: bytes, member: str = "a.jpg") -> str:
        path.write_bytes(changed)
        with pytest.raises(OSError) as caught:
            ImageFile(path, member).read()
        return str(caught.value)

    entry = data.index(b"PK\1\2")  # in the zip's directory: declared size at 24
    assert refused(data, "b.jpg").startswith("zip member cannot be read: ")
    assert "Bad CRC-32" in refused(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    assert refused(data[: entry + 24] + (2**30 + 1).to_bytes(4, "little") + data[entry + 28 :]) == (
        "1073741825 bytes in the zip, more than 1073741824"
    )
    assert "Bad CRC-32" in refused(data[: entry + 24] + (100).to_bytes(4, "little") + data[entry + 28 :])
    assert refused(data[: entry + 24] + (9999).to_bytes(4, "little") + data[entry + 28 :]) == (
        "3000 bytes in the zip where 9999 are declared"
    )
    assert refused(data[: entry + 8] + b"\1" + data[entry + 9 :]).startswith("zip member cannot be read: ")
    assert refused(b"no zip any more") == "zip member cannot be read: File is not a zip file"
    with pytest.raises(FileNotFoundError):
        ImageFile(tmp_path / "gone.jpg").read()


def test_members_that_lead_out_of_the_zip_are_only_names(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "z.zip", {"../../up.jpg": "U", "/etc/root.jpg": "R"})
    table = read_images(source)
    assert (table.ids, [file.read() for file in table.files]) == (
        ("../../up.jpg", "/etc/root.jpg"),
        [b"U", b"R"],
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["z.zip"]


@pytest.mark.parametrize(("images", "count"), [(7, 3), (7, 7), (8, 2), (1, 1)])
def test_shards_are_the_table_in_order(tmp_path: Path, images: int, count: int) -> None:
    rows = "".join(f"{number}.jpg,{number},s{number}\n" for number in range(images))
    names = [f"{number}.jpg" for number in range(images)]
    table = read_images(
        folder_of(tmp_path, *names, ratings="image,rating,split\n" + rows), value_range=(0, 9)
    )
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
    with pytest.raises(
        DrexcacheError, match=f"no shard {index}/{count} of 3 images; expected I/N, 1 <= I <= N <= 3"
    ):
        table.shard(index, count)
