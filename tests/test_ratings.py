"""Ratings are read from tables and find their images by name; whatever does not match is one sentence."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_datasets import ADVICE, folder_of, refusal, values, workbook

from drexcache.datasets.columns import Columns
from drexcache.datasets.formats import READ
from drexcache.datasets.matching import match_ratings
from drexcache.datasets.ratings import Ratings, read_ratings
from drexcache.datasets.table import read_images
from drexcache.errors import DrexcacheError

NAN = float("nan")
GUESSED = " (guessed image names from column 'image', ratings from column 'rating')"


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
        "r: ratings without an image: 1 (other/c.jpg (c.jpg is in another folder)); "
        "ratings that fit several images: 2 (b.jpg: s/b.jpg or t/b.jpg, a: a.jpg or a.png); "
        "images without a rating: 3 (s/b.jpg, t/b.jpg, x/c.jpg); " + ADVICE
    )
    assert match_ratings(ids, ratings, allow_unmatched=True).target.values[:2].tolist() == [1.0, 2.0]


def test_one_sentence_says_all_that_does_not_match(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", *"abcdefg", *(f"{name}.jpg" for name in "abcdefg"))
    (root / "ratings.csv").write_text("image,rating\na,1\nb,\nc,n/a\nd,inf\nv,1\nw,2\nx,3\ny,4\n")
    assert refusal(root) == (
        "p/ratings.csv: ratings without an image: 4 (v, w, x, ...); images without a rating: 3 "
        "(e.jpg, f.jpg, g.jpg); ratings that are no finite number: 3 (b = '', c = 'n/a', d = 'inf'); "
        f"{ADVICE}{GUESSED} ({root}: left out files that are not among its images: without extension 7)"
    )
    table = read_images(root, value_range=(0, 5), allow_unmatched=True)
    np.testing.assert_array_equal(table.targets["rating"].values, [1, NAN, NAN, NAN, NAN, NAN, NAN])
    assert table.notes[-3:] == (
        "p/ratings.csv: ratings without an image, as allowed: 4 (v, w, x, ...)",
        "p/ratings.csv: images without a rating, as allowed: 3 (e.jpg, f.jpg, g.jpg)",
        "p/ratings.csv: ratings that are no finite number, as allowed: 3 (b = '', c = 'n/a', d = 'inf')",
    )


def test_labels_of_images_that_are_not_rated(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg", ratings="image,rating,set\nb.jpg,?,test\nc.jpg,1,\n")
    assert read_images(root, value_range=(0, 1), allow_unmatched=True).labels == {"split": ("", "test", "")}


def test_an_image_is_rated_once(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="image,rating\na.jpg,1\nA,2\n")
    twice = "p/ratings.csv: images rated more than once: 1 (a.jpg); "
    advice = "correct the file, or leave the others out with --allow-unmatched"
    assert refusal(root) == f"{twice}images without a rating: 1 (b.jpg); {advice}{GUESSED}"
    assert refusal(root, allow_unmatched=True) == f"{twice}correct the file{GUESSED}"


def test_nothing_matches(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", ratings="image,rating\nx,1\ny,2\n")
    nothing = "p/ratings.csv: no image has a rating; rated: x, y; images: a.jpg"
    assert refusal(root, allow_unmatched=True) == nothing + GUESSED


def test_ranges(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="image,rating\na.jpg,1\nb.jpg,57\n")
    outside = "p/ratings.csv: ratings outside the declared range 0..50: 1 (b.jpg = 57)"
    advice = "correct the file, or clip or drop ratings or widen the range with --out-of-range"
    assert refusal(root, value_range=(0, 50)) == f"{outside}; {advice}{GUESSED}"
    assert values(read_images(root, value_range=(1, 57))) == [1.0, 57.0]
    for low, high in ((5.0, 5.0), (9.0, 1.0), (0.0, float("inf")), (NAN, 1.0)):
        wrong = f"the range of the ratings is {low:g}..{high:g}; expected two numbers, the lower first"
        assert refusal(root, value_range=(low, high)) == wrong
    assert refusal(root, higher_is="better") == "higher_is is more or less, not 'better'"
    folder_of(root, ratings="image,rating\na.jpg,3\nb.jpg,3\n")
    same = "p/ratings.csv: all ratings are 3; declare the range of the ratings with --range LOW HIGH"
    assert refusal(root) == same
    assert values(read_images(root, value_range=(1, 5))) == [3.0, 3.0]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_quotes_and_byte_order_marks(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "r.csv"
    lines = ["image;rating", '"a;b.jpg" ; 1 ', "", '"say ""x"".jpg";2e-1']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(";", mark).encode())
    found = read_ratings(path)
    assert (found.names, found.scores) == ((f"a{mark}b.jpg", 'say "x".jpg'), ("1", "2e-1"))


def test_a_workbook_of_ratings(tmp_path: Path) -> None:
    path = workbook(tmp_path / "r.xlsx", [["id", "score", "split"], [12, 3.5, "train"], ["x.jpg", 4.0, None], [None]])
    assert read_ratings(path) == Ratings(
        str(path),
        ("12", "x.jpg"),
        ("3.5", "4"),
        {"split": ("train", "")},
        (f"{path}: guessed image names from column 'id', ratings from column 'score', splits from column 'split'",),
    )


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (b"", Columns(), "empty; expected a header row and then a row for each image"),
        (b"\n \n", Columns(), "empty; expected a header row and then a row for each image"),
        (b"image,rating\n", Columns(), "no ratings below the header row (image, rating)"),
        (
            b"caf\x81,rating\n",
            Columns(),
            f"not text in UTF-8, UTF-16 or Windows-1252; {READ}",
        ),
        (
            b"image,rating\na,1,2\n",
            Columns(),
            "lines with another number of cells than the header's 2 (image, rating): 1 (line 2 has 3); put names and "
            "numbers that hold ',' in double quotes",
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
            "name one with --rating-column, or several with a pattern such as 'rater*'",
        ),
        (
            b"image,mos,score\na,1,2\n",
            Columns(),
            "several columns could be ratings (score, mos); the header row has: image, mos, score; name one with "
            "--rating-column",
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
            "several columns could be image names (image, image); the header row has: image, image, rating; name one "
            "with --image-column",
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


def test_ratings_from_a_dataframe(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "1.jpg", "b.jpg", "c.jpg")
    frame = pd.DataFrame({"image": [1, "b", "c"], "mos": [0.1, 2, np.nan], "split": ["train", None, "test"]})
    table = read_images(root, frame, value_range=(0, 5), allow_unmatched=True)
    np.testing.assert_array_equal(table.targets["rating"].values, [0.1, 2.0, NAN])
    assert table.labels == {"split": ("train", "", "test")}
    assert table.notes[-1] == "the DataFrame: ratings that are no finite number, as allowed: 1 (c = '')"
    assert refusal(root, frame[:0]) == "the DataFrame: no ratings below the header row (image, mos, split)"
    assert refusal(root, frame, layout="ic9600", rating_column="x").startswith(f"{root}: layout ic9600 expects")


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "r.xlsx").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DrexcacheError, match=r"r\.xlsx: a broken zip or workbook \(File is not a zip file\)"):
        read_ratings(tmp_path / "r.xlsx")
    with pytest.raises(DrexcacheError, match=r"no\.csv: cannot be read \(No such file or directory\)"):
        read_ratings(tmp_path / "no.csv")
