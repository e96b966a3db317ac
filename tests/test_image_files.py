"""Files on disk and in zips: their bytes, their size and time, and whatever keeps them from being read."""

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_datasets import folder_of, refusal, zip_of

from drexcache.datasets import ImageFile, read_images


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.jpg", "1")
        archive.writestr("a.jpg", "2")
    assert refusal(tmp_path / "z.zip") == f"{tmp_path / 'z.zip'}: holds two files named a.jpg"


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
