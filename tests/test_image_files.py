"""Files on disk and in zips: their bytes, their size and time, and whatever keeps them from being read."""

import os
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_datasets import folder_of, refusal, zip_of

from drexcache.datasets import ImageFile, read_images
from drexcache.datasets.files import list_files
from drexcache.errors import DrexcacheError


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
        def __init__(self, path: Path, *args: str, **options: str) -> None:
            parsed.append(path)
            super().__init__(path, *args, **options)  # type: ignore[call-overload]

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
    size, sign = ImageFile(file).stat()
    assert (size, sign) == (5, ImageFile(file).stat()[1])
    os.utime(file, ns=(1, 123_456_790))
    assert ImageFile(file).stat()[1] != sign
    path = zip_of(tmp_path / "z.zip", {"a.jpg": "abcdefg"})
    listed = ImageFile(path, "a.jpg").stat()
    os.utime(path, ns=(1, 987_654_321))
    assert listed[0] == 7 and ImageFile(path, "a.jpg").stat() == listed  # by the checksum that the zip lists
    zip_of(path, {"a.jpg": "gfedcba"})
    assert ImageFile(path, "a.jpg").stat() != listed


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
        "1073741825 bytes, more than 1073741824"
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


def test_pipes_and_sockets_are_not_waited_for(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg")
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s.png"))
        (root / "linked.png").symlink_to(root / "a.jpg")
        (root / "null.png").symlink_to("/dev/zero")
        for source in (root, f"file://{root}"):
            found = dict(zip(read_images(source).ids, read_images(source).files, strict=True))
            assert found["linked.png"].read() == b"a.jpg"
            for name in ("pipe.png", "null.png"):
                with pytest.raises(OSError, match="not a regular file"):
                    found[name].read()
            with pytest.raises(OSError):
                found["s.png"].read()
    os.mkfifo(tmp_path / "z.zip")
    assert refusal(tmp_path / "z.zip") == f"{tmp_path / 'z.zip'}: cannot be read (not a regular file)"
    os.mkfifo(root / "ratings.csv")
    assert refusal(root) == f"{root / 'ratings.csv'}: cannot be read (not a regular file)"


def test_zip_names_in_utf8_without_the_flag(tmp_path: Path) -> None:
    """As macOS's Finder writes them; other unflagged names are code page 437."""
    names = ["caf\u00e9.png", "gr\u00f6\u00dfe.png", "\u65e5\u672c.png", "plain.png"]
    path = tmp_path / "z.zip"
    for encoding, here in (("utf-8", names), ("cp437", [names[0], names[3]])):
        # as long in ASCII, then the bytes of the names put in their place
        plain = {name: f"{'x' * len(name.encode(encoding))}{at}" for at, name in enumerate(here)}
        data = zip_of(path, {alias: name for name, alias in plain.items()}).read_bytes()
        for at, (name, alias) in enumerate(plain.items()):
            data = data.replace(alias.encode(), name.encode(encoding) + str(at).encode())
        path.write_bytes(data)
        files = list_files(path)
        assert {name: file.read().decode() for name, file in files.items()} == {
            f"{name}{at}": name for at, name in enumerate(here)
        }


def test_a_zip_does_not_unpack_to_much_more_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.bmp", "w") as member:
        for _ in range(65):
            member.write(bytes(1 << 20))
    with pytest.raises(OSError, match=r"68157440 bytes out of \d+ in the zip; unpack it to use such a file"):
        ImageFile(str(path), "a.bmp").read()
    file = tmp_path / "large.bmp"
    with file.open("wb") as sparse:
        sparse.truncate((1 << 30) + 1)
    with pytest.raises(OSError, match="1073741825 bytes, more than 1073741824"):
        ImageFile(file).read()
    assert refusal(tmp_path, file).startswith(f"{file}: cannot be read (1073741825 bytes, more than 1073741824)")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_zip_is_one_sentence_or_files_that_cannot_be_read(tmp_path: Path, data: st.DataObject) -> None:
    path = zip_of(tmp_path / "z.zip", {name: name * 50 for name in ("a.jpg", "b/c.png", "caf\u00e9.jpg")})
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 4))
        damaged[at : at + 4] = data.draw(st.one_of(st.just(b"\xff" * 4), st.binary(max_size=6)))
    path.write_bytes(damaged)
    try:
        files = list_files(path)
    except DrexcacheError:
        return
    for file in files.values():
        with suppress(OSError):
            file.read()
            file.stat()
