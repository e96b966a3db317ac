"""Tables as people and programs write them: dialects, encodings, workbooks, Parquet; and files that are none."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_datasets import folder_of, refusal, values, workbook, zip_of

from drexcache.datasets import Columns, match_ratings, read_images, read_ratings
from drexcache.datasets.formats import READ
from drexcache.datasets.names import match_names
from drexcache.datasets.numerals import decimal_sign, numbers
from drexcache.datasets.ratings import Ratings
from drexcache.errors import DrexcacheError

XLS = (Path(__file__).parent / "data" / "ratings.xls").read_bytes()
NOT_NUMBERS = [
    "3_5",
    "1_000",
    "١٢",
    "infinity",
    "inf",
    "nan",
    "1e400",
    "0x10",
    "1 2",
    "１２",
    "True",
    "1e",
    ".",
    "+",
]


def read(path: Path, data: bytes | str, columns: Columns | None = None) -> Ratings:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_ratings(path, columns or Columns())


def refused(path: Path, data: bytes | str, columns: Columns | None = None) -> str:
    with pytest.raises(DrexcacheError) as caught:
        read(path, data, columns)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_only_python_takes_for_a_number_is_none(text: str, tmp_path: Path) -> None:
    assert np.isnan(numbers([text])).all()
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings=f"file,rating\na,{text}\nb,1\n")
    assert f"ratings that are no finite number: 1 (a = {text!r})" in refusal(root, value_range=(0, 100))
    (root / "ratings.csv").write_text(f"file,r1,r2\na,{text}\nb,1,{text}x\n".replace(f"a,{text}", f"a,{text},1"))
    found = refusal(root, rating_column="r?", value_range=(0, 100))
    assert f"r2 of b = '{text}x'" in found and (text == "nan" or f"2 (r1 of a = {text!r}" in found)


def test_numbers_are_python_s_own_values() -> None:
    texts = ["3", "-3.25", "+.5", "5.", "2e-1", "1E3", "0.1", "123456789.123456789", "4.9406564584124654e-324"]
    assert numbers(texts).tolist() == [float(text) for text in texts]
    assert numbers(["1,5", "-,25", "2e-1", "1.000,5"], ",").tolist()[:3] == [1.5, -0.25, 0.2]
    assert np.isnan(numbers(["1.000,5", "1.5"], ",")).all()


@pytest.mark.parametrize(
    ("texts", "sign", "unclear"),
    [
        (["1,5", "2", "4,25"], ",", []),
        (["1.5", "2"], ".", []),
        (["1,5", "2.5"], ".", ["1,5"]),  # two signs in one column
        (["1,234", "2,500"], ".", ["1,234", "2,500"]),  # thousands?
        (["0,234", "2,500"], ",", []),
        (["1.234,5", "2,5"], ".", ["1.234,5", "2,5"]),  # never taken for numbers, nor left out
        (["1,234.5", "2.5"], ".", ["1,234.5"]),
        (["1 234", "1'234.5", "7"], ".", ["1 234", "1'234.5"]),
        (["\u22121,5", "2"], ",", []),
        (["n/a", "-"], ".", []),
    ],
)
def test_the_decimal_sign_is_what_all_numbers_agree_on(texts: list[str], sign: str, unclear: list[str]) -> None:
    assert decimal_sign(texts) == (sign, unclear)


def test_a_true_minus_is_a_minus() -> None:
    assert numbers(["\u22121.5", "-1.5", "1\u22121"]).tolist()[:2] == [-1.5, -1.5]
    assert numbers(["\u22121,5"], ",").tolist() == [-1.5]


def test_bars_separate_cells(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="file|rating|title\na.jpg|1.5|x, y\nb.jpg|2|z; z\n")
    assert values(read_images(root, value_range=(1, 5))) == [1.5, 2.0]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("file rating\na.jpg 1", "has: file rating (cells are told apart by tabs, semicolons, commas or |)"),
        ("a.jpg,1\nb.jpg,2", "has: a.jpg, 1 (which looks like data: the first row has to name the columns)"),
    ],
)
def test_what_may_be_wrong_with_a_header(header: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings=f"{header}\n"))


def test_a_column_that_is_nearly_the_named_one_is_offered(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", ratings="file,beauty\na.jpg,1\n")
    assert "no column 'beuaty' of ratings; did you mean beauty?; the header" in refusal(root, rating_column="beuaty")


def test_a_split_under_any_name_is_known_by_its_words(tmp_path: Path) -> None:
    rows = ["a.jpg,1,Training,train,boat", "b.jpg,2,Test,test,test", "c.jpg,3,,test,train"]
    one = [",".join(row.split(",")[:3]) for row in rows]
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", "c.jpg", ratings="\n".join(["file,mos,usage", *one]))
    table = read_images(root, value_range=(1, 5))
    assert table.labels == {"split": ("Training", "Test", "")}
    assert table.notes[-1].endswith("splits from column 'usage', by its words")
    folder_of(root, ratings="\n".join(["file,mos,usage,again,what", *rows]))
    table = read_images(root, value_range=(1, 5))
    assert table.labels == {} and "'usage' and 'again' could all be them: name one" in table.notes[-1]
    assert read_images(root, value_range=(1, 5), split_column="again").labels == {"split": ("train", "test", "test")}


def test_a_second_column_of_splits_is_mentioned(tmp_path: Path) -> None:
    rows = ["a.jpg,1,train,0", "b.jpg,2,test,1"]
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="\n".join(["file,mos,split,is_test", *rows]))
    table = read_images(root, value_range=(1, 5))
    assert table.labels == {"split": ("train", "test")}
    told = "splits from column 'split', though 'is_test' could be them, too: name one with --split-column"
    assert table.notes[-1].endswith(told)
    assert "is_test" not in " ".join(read_images(root, value_range=(1, 5), split_column="split").notes)
    assert "is_test" not in " ".join(read_images(root, value_range=(1, 5), group_columns=["is_test"]).notes)


def test_folders_that_could_be_splits_are_mentioned(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "images/train/a.jpg", "images/Test/b.jpg", ratings="file,mos\na.jpg,1\nb.jpg,2\n")
    table = read_images(root, value_range=(1, 5))
    told = "the folders 'Test' and 'train' are not used as splits; a column of splits would be"
    assert table.labels == {} and table.notes[-1].endswith(f"ratings.csv: {told}")
    folder_of(root, ratings="file,mos,split\na.jpg,1,train\nb.jpg,2,test\n")
    assert told not in " ".join(read_images(root, value_range=(1, 5)).notes)
    other = folder_of(tmp_path / "o", "train/a.jpg", "bus/b.jpg", ratings="file,mos\na.jpg,1\nb.jpg,2\n")
    assert "splits" not in " ".join(read_images(other, value_range=(1, 5)).notes)


def test_decimal_commas(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", "c.jpg", ratings="file;rating\na.jpg;1,5\nb.jpg;2,5\nc.jpg;4\n")
    table = read_images(root, value_range=(1, 5))
    assert values(table) == [1.5, 2.5, 4.0]
    assert table.notes[-1].endswith(
        "guessed image names from column 'file', ratings from column 'rating', decimal commas"
    )
    folder_of(root, ratings='file,r1,r2\na.jpg,"1,5",2\nb.jpg,"2,5","1,0"\nc.jpg,4,4\n')
    assert values(read_images(root, rating_column="r?", value_range=(1, 5))) == [1.75, 1.75, 4.0]
    folder_of(root, ratings="file;rating\na.jpg;1,5\nb.jpg;2.5\nc.jpg;4\n")
    for allow in (False, True):  # never advice to go on without what a comma made unreadable
        assert refusal(root, value_range=(1, 5), allow_unmatched=allow).startswith(
            "p/ratings.csv: numbers whose marks could mean two things (write 1234.5): 1 (1,5); "
        )


@pytest.mark.parametrize(
    ("text", "names", "scores"),
    [
        ("file\tmean rating, 1 to 7\na.jpg\t3\nb.jpg\t4\n", ("a.jpg", "b.jpg"), ("3", "4")),
        ("file,x\trating\na,1.jpg\t3\nb,2.jpg\t4\n", ("a,1.jpg", "b,2.jpg"), ("3", "4")),
        ("Ratings, second study\nfile\trating\na.jpg\t3\n\nb.jpg\t4\n", ("a.jpg", "b.jpg"), ("3", "4")),
        ("Ratings;;\n;;\nfile;rating;n\na.jpg;3;1\nb.jpg;4;2\n", ("a.jpg", "b.jpg"), ("3", "4")),
        ("file,rating\na;b;c.jpg,3\n\nd.jpg,4\n", ("a;b;c.jpg", "d.jpg"), ("3", "4")),
        ("file|x,rating\ra.jpg,3\rb.jpg,4\r", ("a.jpg", "b.jpg"), ("3", "4")),
    ],
)
def test_the_separator_is_what_all_rows_agree_on(
    tmp_path: Path, text: str, names: tuple[str, ...], scores: tuple[str, ...]
) -> None:
    header = next(line for line in text.splitlines() if line.startswith("file"))
    image = next(cell for cell in header.replace("\t", ";").split(";") if cell.startswith("file")).split(",rating")[0]
    rating = "mean rating, 1 to 7" if "mean" in header else "rating"
    found = read(tmp_path / "r.csv", text, Columns(image=image, rating=rating))
    assert (found.names, found.scores) == (names, scores)


def test_what_stands_above_the_header_is_said(tmp_path: Path) -> None:
    found = read(tmp_path / "r.txt", "Ratings, second study\nfile\trating\na.jpg\t3\n")
    assert found.notes[0] == f"{tmp_path / 'r.txt'}: left out what stands above the header: 1 ('Ratings, second study')"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "file,rating\ncafé.jpg,3\ngröße “x”.jpg,4\n"
    found = read(tmp_path / "r.csv", text.encode(encoding))
    assert (found.names, found.scores) == (("café.jpg", "größe “x”.jpg"), ("3", "4"))
    note = f"{tmp_path / 'r.csv'}: not UTF-8: read as Windows-1252 text"
    assert (note in found.notes) == (encoding == "cp1252")
    root = folder_of(tmp_path / "p", "café.jpg", "größe “x”.jpg")
    assert values(read_images(root, tmp_path / "r.csv", value_range=(1, 5))) == [3.0, 4.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file; save its table with writetable as .csv"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (or one of MATLAB 7.3); save its table as .csv"),
        (b"\x1f\x8b\x08\0", "packed with gzip; unpack it"),
        (b'{"a.jpg": 3}', "JSON; save its table as .csv"),
        (b"\n<html><table>", "HTML or XML, even if it is named .xls; open it in a spreadsheet program and save it"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "not text ('\\x00' at character"),
        (b"a\0b,c\n", "not text ('\\x00' at character 1)"),
        (b"\xff\xfea\0,", "not text in UTF-8, UTF-16 or Windows-1252"),
        (b"PAR1 and no more", "not a readable Parquet file ("),
        (b"PK\3\4 and no more", "a broken zip or workbook ("),
        (b"\xd0\xcf\x11\xe0 and no more", "not a readable .xls workbook ("),
        (b"file,rating\n" + b"a" * 200_000 + b",1\n", "not a table of text (field larger than field limit (131072))"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, data: bytes, message: str) -> None:
    found = refused(tmp_path / "r.csv", data)
    assert found.startswith(message)
    assert READ in found or "(" in message


def test_a_zip_of_something_else_and_other_workbooks(tmp_path: Path) -> None:
    zip_of(tmp_path / "x.csv", {"a.csv": "file,rating\n"})
    assert refused(tmp_path / "r", (tmp_path / "x.csv").read_bytes()).startswith("not a readable workbook (")
    zip_of(tmp_path / "x.ods", {"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": "<x/>"})
    ods = "an OpenDocument (.ods) or binary (.xlsb) workbook; save it as .xlsx"
    assert refused(tmp_path / "r", (tmp_path / "x.ods").read_bytes()) == f"{ods}; {READ}"


@pytest.mark.parametrize("name", ["r.xlsx", "r.xlsm", "r.csv", "r.xls", "ratings"])
def test_a_workbook_under_any_name(tmp_path: Path, name: str) -> None:
    workbook(tmp_path / "x.xlsx", [["file", "rating"], ["a.jpg", 1], ["b.jpg", 2.5]]).rename(tmp_path / name)
    found = read_ratings(tmp_path / name)
    assert (found.names, found.scores) == (("a.jpg", "b.jpg"), ("1", "2.5"))
    note = f"{tmp_path / name}: a workbook, whatever its name says"
    assert (note in found.notes) == (name in ("r.csv", "ratings"))


def sheets(path: Path, **rows: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, here in rows.items():
        sheet = book.create_sheet(name)
        for row in here:
            sheet.append(row)
    book.save(path)
    return path


def test_the_sheet_with_the_columns_is_read(tmp_path: Path) -> None:
    about, rated = (
        [["How we rated"], ["in 2020"]],
        [["Study 1"], [], ["file", "MOS"], ["a.jpg", 1], [None], ["b.jpg", 2]],
    )
    path = sheets(tmp_path / "r.xlsx", about=about, scores=rated, empty=[])
    found = read_ratings(path)
    assert (found.names, found.scores) == (("a.jpg", "b.jpg"), ("1", "2"))
    assert found.notes == (
        f"{path}, sheet scores: left out what stands above the header: 1 ('Study 1')",
        f"{path}, sheet scores: the one of 2 sheets with such columns",
        f"{path}, sheet scores: guessed image names from column 'file', ratings from column 'MOS'",
    )
    sheets(path, first=rated, second=rated)
    with pytest.raises(
        DrexcacheError, match=r"several sheets could hold the ratings: 2 \(.*sheet first, .*sheet second\)"
    ):
        read_ratings(path)
    sheets(path, first=about, second=[["x", "y"], [1, 2]])
    with pytest.raises(
        DrexcacheError, match=r"sheet first: no column is known .*; .*sheet second: no column is known "
    ):
        read_ratings(path)


def test_formulas_that_were_never_computed(tmp_path: Path) -> None:
    path = workbook(tmp_path / "r.xlsx", [["file", "a", "rating"], ["x.jpg", 1, "=B2*2"], ["y.jpg", 2, 4]])
    root = folder_of(tmp_path / "p", "x.jpg", "y.jpg")
    found = refusal(root, path, value_range=(0, 5))
    assert found.startswith(f"{path}: ratings that are no finite number: 1 (x.jpg = '=B2*2'): write a plain number")
    assert "(1 formula has no stored value: open the workbook in a spreadsheet program and save it; " in found


def test_an_old_workbook(tmp_path: Path) -> None:
    """tests/data/ratings.xls was written by xlwt 1.3: a sheet of text, and one with numbers and a formula."""
    (tmp_path / "r.csv").write_bytes(XLS)
    found = read_ratings(tmp_path / "r.csv")
    assert (found.names, found.scores) == (("12", "café.jpg", "7", "x.jpg"), ("3.25", "4", "1.5", ""))
    assert found.source == f"{tmp_path / 'r.csv'}, sheet ratings"


def test_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"file": ["a.jpg", "b.jpg", "c.jpg"], "rating": [0.1, np.nan, 3.0], "set": ["train", None, "test"]}
    )
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    frame.to_parquet(tmp_path / "r.parquet")
    found = read_ratings(tmp_path / "r.parquet")
    assert (found.names, found.scores) == (("a.jpg", "b.jpg", "c.jpg"), ("0.1", "", "3"))
    assert found.labels == {"split": ("train", "", "test")}


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        ("images/{}", ["a.jpg", "b/c.jpg"]),
        ("/data/photos/{}", ["a.jpg", "b/c.jpg"]),
        ("C:\\data\\photos\\{}", ["a.jpg", "b/c.jpg"]),
        ("..\\photos\\{}", ["a.jpg", "b/c.jpg"]),
        ("  {} ", ["a.jpg", "b/c.jpg"]),
        ("{}", [" a.jpg", "b/c.jpg"]),
        ("{}", ["photos/a.jpg", "photos/b/c.jpg"]),
        ("old/{}", ["photos/a.jpg", "photos/b/c.jpg"]),
    ],
)
def test_names_with_other_folders_before_all_of_them(tmp_path: Path, written: str, ids: list[str]) -> None:
    names = [written.format(image.removeprefix("photos/").strip()) for image in ids]
    found = match_names(ids, names)
    assert (found.row.tolist(), found.without, found.ambiguous, found.twice) == ([0, 1], [], [], [])
    assert found.inexact == [f"{name} is {image}" for name, image in zip(names, ids, strict=True) if name != image]


def test_a_folder_that_some_names_lack_is_not_dropped() -> None:
    found = match_names(["a.jpg", "b.jpg"], ["train/a.jpg", "val/b.jpg"])
    assert (found.row.tolist(), found.without) == (
        [-1, -1],
        ["train/a.jpg (a.jpg is in another folder)", "val/b.jpg (b.jpg is in another folder)"],
    )


def test_all_problems_in_one_sentence(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.raw")
    text = "file;r1;r2\na;1,5;9\na;1;1\nb;x;2\nz;1;1\nc;-;\n"
    (root / "ratings.csv").write_text(text)
    assert refusal(root, rating_column="r?", value_range=(0, 5)) == (
        "p/ratings.csv: images rated more than once: 1 (a.jpg); ratings of raters that are no number: 1 "
        "(r1 of b = 'x'); "
        "ratings outside the declared range 0..5: 1 (a = 9); ratings without an image: 1 (z); "
        "images without a rating: 1 (d.jpg); ratings that are no finite number: 1 (c = '-'); correct the file, or "
        "leave the others out with --allow-unmatched, or clip or drop ratings or widen the range with --out-of-range "
        f"(guessed image names from column 'file', decimal commas) ({root}: left out files that are not among its "
        "images: .raw 1)"
    )
    (root / "ratings.csv").write_text("what,score,mos,part\na,1,2,train\n")
    assert refusal(root, split_column="set") == (
        "p/ratings.csv: no column is known by its name to hold image names; several columns could be ratings (score, "
        "mos); no column 'set' of splits; the header row has: what, score, mos, part; name one with --image-column and "
        f"one with --rating-column and one with --split-column ({root}: left out files that are not among its images: "
        ".raw 1)"
    )


@pytest.mark.parametrize(
    ("how", "expected", "low", "high"),
    [
        ("clip", [0.0, 3.0, 5.0], 0.0, 5.0),
        ("drop", [np.nan, 3.0, np.nan], 0.0, 5.0),
        ("widen", [-1.0, 3.0, 7.5], -1.0, 7.5),
    ],
)
def test_ratings_outside_the_range(tmp_path: Path, how: str, expected: list[float], low: float, high: float) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", "c.jpg", ratings="file,rating\na,-1\nb,3\nc,7.5\n")
    table = read_images(root, value_range=(0, 5), out_of_range=how)
    target = table.targets["rating"]
    np.testing.assert_array_equal(target.values, expected)
    assert (target.low, target.high, target.declared) == (low, high, True)
    done = {"clip": "clipped to it", "drop": "dropped", "widen": "the range is widened to hold them"}[how]
    assert table.notes[-1] == (
        f"p/ratings.csv: ratings outside the declared range 0..5: 2 (a = -1, c = 7.5); as asked: {done}"
    )
    assert refusal(root, out_of_range="keep") == "out_of_range is one of refuse, clip, drop, widen, not 'keep'"


def test_single_raters_outside_the_range(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", ratings="file,r1,r2\na,9,1\nb,2,3\n")
    for how, first in (("clip", 3.0), ("drop", 1.0), ("widen", 5.0)):
        table = read_images(root, rating_column="r?", value_range=(0, 5), out_of_range=how)
        assert values(table) == [first, 2.5]
    assert table.targets["rating"].high == 9.0


@pytest.mark.parametrize(
    ("scores", "stray"),
    [
        ([1, 2, 3, 4, -1, -1], "2 ratings are -1, the others 1..4: "),
        ([10, 20, 30, 999], "1 rating is 999, the others 10..30: "),
        ([-99, 0, 0.5, 1], "1 rating is -99, the others 0..1: "),
        ([0, 1, 2, 3, 4], ""),
        ([-2, -1, 0, 1, 2], ""),
    ],
)
def test_a_value_that_may_mean_not_rated_is_said(scores: list[float], stray: str) -> None:
    ids = [f"{at}.jpg" for at in range(len(scores))]
    found = match_ratings(ids, Ratings("r.csv", tuple(ids), tuple(map(str, scores)), {}))
    said = [note for note in found.notes if "not rated" in note]
    assert [note.startswith(f"r.csv: {stray}") for note in said] == ([True] if stray else [])
    assert (
        match_ratings(ids, Ratings("r.csv", tuple(ids), tuple(map(str, scores)), {}), value_range=(-99, 999)).notes
        == ()
    )


def sheet_of(xml: str) -> bytes:
    """A workbook whose only sheet has these rows, in the place of openpyxl's own."""
    plain = io.BytesIO()
    openpyxl.Workbook().save(plain)
    out = io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            data = source.read(name)
            if name == "xl/worksheets/sheet1.xml":
                main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
                data = f'<worksheet xmlns="{main}"><sheetData>{xml}</sheetData></worksheet>'.encode()
            archive.writestr(name, data)
    return out.getvalue()


def cell(at: str) -> str:
    return f'<c r="{at}" t="inlineStr"><is><t>x</t></is></c>'


FAR_CELLS = f'<row r="1">{cell("A1")}{cell("B1")}</row><row r="200000">{cell("XFD200000")}</row>'


def parquet_bomb() -> bytes:
    parquet, pa = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow"), pytest.importorskip("pyarrow")
    out, rows = io.BytesIO(), 12_000_000
    table = pa.table(
        {"file": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "i4")), ["a"]), "r": np.zeros(rows)}
    )
    parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: sheet_of(FAR_CELLS), "more than 20,000,000 cells"),
        (lambda: sheet_of(" " * (1 << 28)), "a workbook of more than 256 MiB unpacked"),
        (lambda: b"file,rating\n" + b"," * 20_000_001, "more than 20,000,000 cells"),
        (parquet_bomb, "more than 20,000,000 cells"),
    ],
    ids=["far cells", "long sheet", "text", "parquet"],
)  # fmt: skip
def test_small_files_that_would_grow_large_are_refused(tmp_path: Path, data: object, message: str) -> None:
    packed = data()  # type: ignore[operator]
    (tmp_path / "r").write_bytes(packed)
    tracemalloc.start()
    try:
        with pytest.raises(DrexcacheError, match=message):
            read_ratings(tmp_path / "r")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(packed) + (128 << 20)
    finally:
        tracemalloc.stop()


SEEDS = [
    XLS,
    b"file,rating,set\na.jpg,3,train\nb.jpg,4.5,test\n",
    "file;rating\ncaf\u00e9.jpg;1,5\nb.jpg;2\n".encode("utf-16"),
    b'file\tr1\tr2\n"a\tb.jpg"\t3\t4\n',
    sheet_of(
        "<row>" + cell("A1").replace("x", "file") + cell("B1").replace("x", "rating") + "</row><row>"
        + cell("A2") + '<c r="B2"><v>3</v></c></row>'
    ),
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["set", "insert", "delete", "repeat"]))
        if kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "repeat":
            data[at:at] = data[at : at + 30] * draw(st.integers(1, 20))
        elif at < len(data):
            data[at] = draw(st.integers(0, 255))
    return bytes(data)


OPTIONS = [
    Columns(),
    Columns(rating="r?"),
    Columns(image="a", rating="b"),
    Columns(rater="set"),
    Columns(error="rating"),
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.one_of(mutated(), st.binary(max_size=200), st.text(max_size=200).map(str.encode)), st.sampled_from(OPTIONS))
def test_whatever_stands_in_a_file_it_is_ratings_or_one_sentence(tmp_path: Path, data: bytes, columns: Columns) -> None:
    try:
        found = match_ratings(["a.jpg", "b.jpg"], read(tmp_path / "r", data, columns), out_of_range="clip")
        assert np.isfinite(found.target.values).all()
    except DrexcacheError as error:
        assert str(error) and "Traceback" not in str(error)


@pytest.mark.parametrize(
    "text", ["10%", "4/7", "4 stars", "4±0.1", "4-5", "'4", "0x4", "4 (0.2)", "\u0664", "1e999", "3_5"]
)
def test_a_number_with_something_beside_it_is_never_left_out(text: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", "c.jpg")
    (root / "ratings.csv").write_text(f"file,rating\na,{text}\nb,2\nc,3\n", encoding="utf-8")
    wrong = f"ratings that are no finite number: 1 (a = {text!r}): write a plain number, such as 4 for '4/7'"
    for allowed in (False, True):
        with pytest.raises(DrexcacheError) as refused:
            read_images(root, value_range=(0, 10), allow_unmatched=allowed)
        assert f"/ratings.csv: {wrong}; correct the file (guessed" in str(refused.value)


@pytest.mark.parametrize(
    ("header", "texts", "expected"),
    [
        ("partition", ["train", "val", "train"], ("train", "val", "train")),
        ("is_test", ["0", "1", "0"], ("train", "test", "train")),
        ("Is Train", ["True", "False", "True"], ("train", "test", "train")),
        ("is_valid", ["False", "", "True"], ("train", "", "validation")),
        ("is_indoor", ["0", "1", "0"], None),
        ("place", ["train", "boat", "train"], None),
    ],
)
def test_columns_that_tell_training_images_from_others(
    header: str, texts: list[str], expected: tuple[str, ...] | None, tmp_path: Path
) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg", "c.jpg")
    lines = "".join(f"{name},{at},{text}\n" for at, (name, text) in enumerate(zip("abc", texts, strict=True)))
    (root / "ratings.csv").write_text(f"file,rating,{header}\n{lines}")
    table = read_images(root, value_range=(0, 10))
    assert table.labels == ({"split": expected} if expected else {})
    note = f"splits from column {header!r}, by its words"
    assert (note in " ".join(table.notes)) == (expected is not None)


def test_names_in_other_folders_say_so(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg")
    (root / "ratings.csv").write_text("file,rating\nC:\\x\\a.jpg,1\nD:\\y\\b.jpg,2\n")
    with pytest.raises(DrexcacheError) as refused:
        read_images(root, value_range=(0, 10))
    assert "2 (C:\\x\\a.jpg (a.jpg is in another folder), D:\\y\\b.jpg (b.jpg is in another folder))" in str(
        refused.value
    )
