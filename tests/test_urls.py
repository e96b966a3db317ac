"""Images at URLs, read through fsspec: the same as from a local folder, and one sentence for whatever goes wrong."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from small_datasets import folder_of, refusal

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache.reader import FeatureCache
from drexcache.cli import main
from drexcache.datasets import ImageFile, ImageTable, files
from drexcache.features import extract
from drexcache.recipes import Recipe


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """fsspec's store in memory, emptied afterwards."""
    store = MemoryFileSystem()
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def extracted(table: ImageTable, chosen: Recipe, out: Path) -> FeatureCache:
    extract(table, chosen, out, say=lambda line: None)
    return open_cache(out)


def test_a_url_is_the_local_folder(pictures: Path, tiny: Recipe, memory: MemoryFileSystem, tmp_path: Path) -> None:
    (pictures / "more").mkdir()
    (pictures / "000.png").rename(pictures / "more" / "é 1#x::y?.png")
    (pictures / ".hidden.png").write_text("")
    ratings = pictures / "ratings.csv"
    ratings.write_text(ratings.read_text().replace("000.png", "more/é 1#x::y?.png"))
    memory.put(f"{pictures}/", "/bucket/pictures", recursive=True)
    local = read_images(pictures, value_range=(0, 100))
    expected = extracted(local, tiny, tmp_path / "local.h5")
    for url in (f"file://{pictures}", "memory://bucket/pictures", "memory://bucket/pictures/"):
        table = read_images(url, value_range=(0, 100))
        assert (table.ids, table.dataset, table.labels) == (local.ids, "pictures", local.labels)
        assert table.notes[1:] == local.notes[1:] and table.notes[0] == f"{url}: read as layout folder (guessed)"
        found = extracted(table, tiny, tmp_path / "found.h5")
        assert found.contents.attributes() == expected.contents.attributes() and found.verify() == []
        assert (found.hashes() == expected.hashes()).all() and (found.stats()[:, 0] == expected.stats()[:, 0]).all()
        np.testing.assert_array_equal(found.matrix().X, expected.matrix().X)
        np.testing.assert_array_equal(found.matrix().y, expected.matrix().y)
        found.path.unlink()
    table = read_images(pictures, "memory://bucket/pictures/ratings.csv", value_range=(0, 100))
    assert table.targets["rating"].values.tolist() == local.targets["rating"].values.tolist()
    assert "memory://bucket/none.csv: cannot be read" in refusal(pictures, "memory://bucket/none.csv")


def test_from_a_url_to_predictions(pictures: Path, memory: MemoryFileSystem, tmp_path: Path) -> None:
    memory.put(f"{pictures}/", "/photos", recursive=True)
    for arguments in (
        ["extract", "memory://photos", "--recipe", "classic", "--range", "0", "100", "-o", "c.h5"],
        ["train", "c.h5", "-r", "ridge", "-o", "m.drex"],
        ["predict", "m.drex", "memory://photos", "-o", "p.csv"],
        ["predict", "m.drex", "c.h5", "-o", "q.csv"],
    ):
        here = [str(tmp_path / part) if Path(part).suffix in (".h5", ".drex", ".csv") else part for part in arguments]
        result = CliRunner().invoke(main, here)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "q.csv").read_text()


def test_ic9600_at_a_url(memory: MemoryFileSystem) -> None:
    files = {"train.txt": b"a.jpg  0.25\n", "test.txt": b"b.jpg  0.5\n", "images/a.jpg": b"", "images/b.jpg": b""}
    memory.pipe({f"/store/IC9600/{name}": data for name, data in files.items()})
    table = read_images("memory://store/IC9600")
    assert (table.ids, table.targets["rating"].values.tolist()) == (("a.jpg", "b.jpg"), [0.25, 0.5])
    assert table.labels == {"split": ("train", "test")}


def test_only_a_changed_file_is_read_again(pictures: Path, memory: MemoryFileSystem, tmp_path: Path) -> None:
    """What a store says of a file stands for the time of modification; another file of the same size is noticed."""
    memory.put(f"{pictures}/", "/photos", recursive=True)
    reads: list[str] = []

    def run(url: str = "memory://photos") -> int:
        reads.clear()
        return extract(read_images(url), recipe("classic"), tmp_path / "c.h5", say=lambda line: None).computed

    original = files._read_at_url
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_read_at_url", lambda url, name: reads.append(name) or original(url, name))  # type: ignore[func-returns-value]
        assert (run(), len(reads)) == (20, 21)  # and ratings.csv
        assert (run(), reads) == (0, ["ratings.csv"])
        memory.pipe("/photos/003.png", ImageFile("memory://photos", "003.png").read())  # written again, the same bytes
        assert (run(), reads[1:]) == (0, ["003.png"])
        memory.pipe("/photos/003.png", ImageFile("memory://photos", "004.png").read())
        assert (run(), set(reads[1:])) == (1, {"003.png"})
    assert run(f"file://{pictures}") == 1  # 003.png as it was
    link = tmp_path / "linked"
    link.mkdir()
    (link / "a.png").symlink_to(pictures / "000.png")
    first, second = (read_images(f"file://{link}").files[0].stat() for _ in range(2))
    assert first != second, "a link's own time says nothing of its target: never taken for unchanged"


def test_a_table_of_urls_goes_to_other_processes_and_threads(pictures: Path) -> None:
    table = read_images(f"file://{pictures}")
    again = pickle.loads(pickle.dumps(table))
    assert again.files == table.files and len(pickle.dumps(table)) < 5000
    expected = [(pictures / image).read_bytes() for image in table.ids]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda file: file.read(), again.files * 5)) == expected * 5
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    else:
        os._exit([file.read() for file in table.files] != expected)


def test_files_that_vanish_or_are_no_pictures_are_failed_rows(
    pictures: Path, memory: MemoryFileSystem, tmp_path: Path
) -> None:
    memory.put(f"{pictures}/", "/photos", recursive=True)
    memory.pipe("/photos/002.png", b"no picture")
    table = read_images("memory://photos")
    memory.rm("/photos/001.png")
    cache = extracted(table, recipe("classic"), tmp_path / "c.h5")
    assert cache.failures() == {
        "001.png": "cannot be read (No such file or directory)",
        "002.png": cache.failures()["002.png"],
    }
    memory.put_file(str(pictures / "001.png"), "/photos/001.png")
    memory.put_file(str(pictures / "002.png"), "/photos/002.png")
    assert extracted(read_images("memory://photos"), recipe("classic"), tmp_path / "c.h5").failures() == {}


class Flaky(MemoryFileSystem):
    """A store whose client loses its connection, in an exception of its own as clients' are."""

    protocol = "flaky"

    def cat_file(self, path: str, *args: object, **options: object) -> bytes:
        if path.endswith("005.png"):
            raise RuntimeError("connection\nreset")
        return super().cat_file(path, *args, **options)

    def find(self, path: str, *args: object, **options: object) -> dict[str, object]:
        if "secret" in path:
            raise RuntimeError("403: forbidden")
        return super().find(path, *args, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("flaky://"))


def test_a_failing_network_is_a_failed_row_or_one_sentence(
    pictures: Path, memory: MemoryFileSystem, tmp_path: Path
) -> None:
    import fsspec

    fsspec.register_implementation("flaky", Flaky, clobber=True)
    memory.put(f"{pictures}/", "/photos", recursive=True)
    cache = extracted(read_images("flaky://photos"), recipe("classic"), tmp_path / "c.h5")
    assert cache.failures() == {"005.png": "cannot be read (RuntimeError: connection reset)"}
    assert refusal("flaky://secret") == "flaky://secret: cannot be listed (RuntimeError: 403: forbidden)"


def test_mistakes_in_a_url(tmp_path: Path, memory: MemoryFileSystem) -> None:
    folder_of(tmp_path / "texts", "a.raw", "b.txt")
    assert refusal("memry://x").startswith("memry://x: no protocol memry; did you mean memory? there are: ")
    assert refusal("qqqqq://x").startswith("qqqqq://x: no protocol qqqqq; there are: ")
    assert refusal("memory://gone/photos") == "memory://gone/photos: no such folder, or nothing in it"
    assert refusal(f"file://{tmp_path}/gone") == f"file://{tmp_path}/gone: no such folder, or nothing in it"
    url = f"file://{tmp_path}/texts"
    assert refusal(url).startswith(f"{url}: no images; looked for ") and refusal(url).endswith("found .raw 1")
    assert refusal(f"{url}/a.raw") == (
        f"{url}/a.raw: a file; name a folder, or copy the file (also a zip) to this machine"
    )
    memory.pipe("/Images/Scenes/0.jpg", b"")
    assert refusal("memory://Images/Scenes", layout="savoias") == (
        "memory://Images/Scenes: layout savoias at a URL needs its workbook named with --ratings"
    )


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/photos", "s3fs"), ("gs://bucket/photos", "gcsfs")])
def test_a_protocol_whose_package_is_missing(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DrexcacheError, match=rf"{url}: \w+:// needs a package that is not installed \(.*{package}"):
        read_images(url)
