"""An HDF5 file gives the ids, features and ratings of the folder that it was made of, and no file harms us."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_packed import cache_of

from drexcache import DrexcacheError, read_images
from drexcache.datasets import hdf5, hdf5_reader


def rated(pictures: Path) -> pd.DataFrame:
    return pd.read_csv(pictures / "ratings.csv")


def pixels_of(pictures: Path) -> np.ndarray:
    """(20, 24, 32, 3)"""
    return np.stack([np.asarray(Image.open(pictures / name)) for name in rated(pictures)["file"]])


def files_of(pictures: Path) -> list[np.ndarray]:
    return [np.frombuffer((pictures / name).read_bytes(), "u1") for name in rated(pictures)["file"]]


def said(file: h5py.File, pictures: Path, above: str = "") -> None:
    """The names and ratings, beside the images."""
    file[f"{above}filenames"] = rated(pictures)["file"].tolist()
    file[f"{above}scores"] = rated(pictures)["rating"].to_numpy()


def pixels(file: h5py.File, pictures: Path) -> None:
    file.create_dataset("images", data=pixels_of(pictures), chunks=(7, 24, 32, 3), compression="gzip", shuffle=True)
    said(file, pictures)


def channels_first(file: h5py.File, pictures: Path) -> None:
    file["set/x"] = np.moveaxis(pixels_of(pictures), 3, 1)
    file["set/split"] = np.array([b"train", b"test"] * 10)
    said(file, pictures, "set/")


def lzf(file: h5py.File, pictures: Path) -> None:
    file.create_dataset("data", data=pixels_of(pictures), compression="lzf", fletcher32=True)
    file["ids"] = np.array([f"{at:03}" for at in range(20)], "S3")
    file["mos"] = rated(pictures)["rating"].to_numpy()


def of_any_length(file: h5py.File, pictures: Path) -> None:
    file.create_dataset("imgs", (20,), h5py.vlen_dtype("u1"))[...] = np.array(files_of(pictures), dtype=object)
    said(file, pictures)


def opaque(file: h5py.File, pictures: Path) -> None:
    longest = max(map(len, files_of(pictures)))
    file["images"] = np.array([np.void(one.tobytes().ljust(longest, b"\0")) for one in files_of(pictures)])
    file["images_mean"] = pixels_of(pictures).mean(0)  # of no image
    said(file, pictures)


def padded(file: h5py.File, pictures: Path) -> None:
    longest = max(map(len, files_of(pictures)))
    file["images"] = np.stack([np.pad(one, (0, longest - len(one))) for one in files_of(pictures)])
    said(file, pictures)


def one_each(file: h5py.File, pictures: Path) -> None:
    for name, one in zip(rated(pictures)["file"], pixels_of(pictures), strict=True):
        file[f"photos/{name}"] = one


def one_file_each(file: h5py.File, pictures: Path) -> None:
    for at, (name, one) in enumerate(zip(rated(pictures)["file"], files_of(pictures), strict=True)):
        file[name.removesuffix(".png")] = np.void(one.tobytes()) if at % 2 else one


MADE = [pixels, channels_first, lzf, of_any_length, opaque, padded, one_each, one_file_each]


def made(make: Callable[[h5py.File, Path], None], pictures: Path, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        make(file, pictures)
    return path


@pytest.mark.parametrize("make", MADE)
def test_it_is_the_folder_that_it_was_made_of(make: Any, pictures: Path, tmp_path: Path) -> None:
    path = made(make, pictures, tmp_path / "photos.hdf5")
    own = {} if "each" not in make.__name__ else {"ratings": pictures / "ratings.csv"}
    mine, theirs = cache_of(path, tmp_path / "m.h5", **own), cache_of(pictures, tmp_path / "f.h5")
    assert mine.ids == theirs.ids and mine.dataset == "photos"
    np.testing.assert_array_equal(mine.matrix().X, theirs.matrix().X)
    np.testing.assert_allclose(mine.matrix().y, theirs.matrix().y)
    if make in (of_any_length, opaque, padded, one_file_each):
        np.testing.assert_array_equal(mine.hashes(), theirs.hashes())
    assert read_images(mine.matrix().images, False).ids == mine.ids  # where its pictures are found again


def test_grey_pixels_and_numbers_for_names(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 5, 7), "u1")
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["X"], file["labels"], file["rating"] = grey, np.arange(3, dtype="u1"), [1.5, np.nan, np.inf]
    table = read_images(tmp_path / "g.h5", False)
    assert table.ids == ("000000.png", "000001.png", "000002.png")
    for one, expected in zip(table.files, grey, strict=True):
        (tmp_path / "one.png").write_bytes(one.read())
        with Image.open(tmp_path / "one.png") as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), expected)
    said = "g.h5: ratings that are no finite number: 2 (000001.png = '', 000002.png = 'inf')"
    with pytest.raises(DrexcacheError, match=re.escape(said)):
        read_images(tmp_path / "g.h5")


def test_options_name_columns_as_they_are_in_the_file(pictures: Path, tmp_path: Path) -> None:
    path = made(channels_first, pictures, tmp_path / "p.h5")
    table = read_images(path, rating_column="scores", value_range=(0, 100))
    np.testing.assert_allclose(table.targets["rating"].values, rated(pictures)["rating"])
    assert table.labels["split"] == ("train", "test") * 10
    assert table.notes[-1] == f"{path}: guessed splits from column 'split'"  # of names there is nothing to guess


@pytest.mark.parametrize(
    ("shape", "mode"), [((2, 3, 1), "L"), ((2, 3, 3), "RGB"), ((2, 3, 4), "RGBA"), ((300, 90, 3), "RGB")]
)
def test_its_png_is_read_by_pillow(shape: tuple[int, ...], mode: str, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, "u1")
    (tmp_path / "a.png").write_bytes(hdf5_reader.png(array))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image).reshape(shape), array)


def linked(file: h5py.File) -> None:
    file["images"] = h5py.ExternalLink("/etc/passwd", "/")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5, 8, 8, 3), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (5, 8, 8, 3))
    file.create_virtual_dataset("images", layout)


def external(file: h5py.File) -> None:
    file.create_dataset("images", (5, 8, 8, 3), "u1", external=[("/etc/passwd", 0, 960)])


def by_plugin(file: h5py.File) -> None:
    about = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    about.set_chunk((1, 8, 8, 3))
    about.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())  # Zstandard
    h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((5, 8, 8, 3)), about)


def two(file: h5py.File) -> None:
    file["X_train"], file["X_test"] = np.zeros((2, 5, 8, 8, 3), "u1")


def floats(file: h5py.File) -> None:
    file["images"] = np.zeros((5, 8, 8, 3))


def twice(file: h5py.File) -> None:
    file["images"], file["names"] = np.zeros((2, 8, 8, 3), "u1"), ["a", "a"]


def cache(file: h5py.File) -> None:
    file.attrs["format"] = "drexcache"


def never_filled(file: h5py.File) -> None:
    file.create_dataset("images", (10**6, 1000, 1000, 3), "u1", chunks=(1, 100, 100, 3))


def of_no_bytes(file: h5py.File) -> None:
    file.create_dataset("images", (10**7, 1, 1), "u1", chunks=(100, 1, 1))


def large_parts(file: h5py.File) -> None:
    file.create_dataset("images", (3, 10, 10, 3), "u1", chunks=(2**21, 10, 30, 3), maxshape=(None, None, None, 3))


REFUSED: dict[Callable[[h5py.File], None], str] = {
    linked: "images is a link to another file (/etc/passwd), which is not read",
    virtual: "images is kept in other files, which are not read",
    external: "images is kept in other files, which are not read",
    by_plugin: "images is compressed by a plugin (32015); save it again with gzip",
    two: "several datasets could be the images (X_test, X_train); save the one you mean as images",
    floats: "no images; expected 8-bit pixels (n, h, w, 3), (n, h, w) or (n, 3, h, w), or files as bytes; "
    "found: images (5, 8, 8, 3) float64",
    twice: "images under one name: 1 (a.png)",
    cache: "a cache of features, which holds no images",
    never_filled: "images holds 3,000,000,000,000 bytes, more than a file of this size may",
    of_no_bytes: "images holds 10,000,000 bytes, more than a file of this size may",
    large_parts: "images is packed in parts of 1,887,436,800 bytes, more than 1,073,741,824",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_is_refused(make: Callable[[h5py.File], None], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "r.h5", "w") as file:
        make(file)
    with pytest.raises(DrexcacheError, match=re.escape(f"r.h5: {REFUSED[make]}")):
        read_images(tmp_path / "r.h5")


def test_a_file_of_matlab(tmp_path: Path) -> None:
    (tmp_path / "m.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DrexcacheError, match="a MATLAB file; write its images to a folder first, with imwrite"):
        read_images(tmp_path / "m.mat")


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """Sets a limit of the processes that are started from then on."""
    hdf5._stop()
    yield lambda name, value: monkeypatch.setattr(hdf5, name, value)
    hdf5._stop()


def test_too_much_memory_is_one_sentence(limit: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file["images"] = np.zeros((1, 9000, 8000, 3), "u1")
    limit("MEMORY", 1 << 29)
    [image] = read_images(tmp_path / "l.h5", False).files
    with pytest.raises(OSError, match="takes more than 512 MiB of memory"):
        image.read()


def test_no_memory_at_all_ends_the_other_process_alone(limit: Any, pictures: Path, tmp_path: Path) -> None:
    path = made(pixels, pictures, tmp_path / "p.h5")
    limit("MEMORY", 1 << 20)
    with pytest.raises(DrexcacheError, match=r"p.h5: "):
        read_images(path)
    limit("MEMORY", 4 << 30)
    assert len(read_images(path)) == 20


def test_a_process_that_hangs_or_is_killed(limit: Any, pictures: Path, tmp_path: Path) -> None:
    path = made(pixels, pictures, tmp_path / "p.h5")
    table = read_images(path, False)
    [process] = hdf5._running.values()
    process.process.kill()
    with pytest.raises(OSError, match=r"damaged, or made to do harm: it ended HDF5's library \(Killed\)"):
        table.files[0].read()
    assert table.files[0].read() == hdf5_reader.png(pixels_of(pictures)[0])  # of a new one
    hdf5._stop()
    limit("SECONDS", 1)
    limit("_SCRIPT", tmp_path / "hangs.py")
    text = Path(hdf5_reader.__file__).read_text()
    (tmp_path / "hangs.py").write_text(
        text.replace("reader.answer(request)", "any(iter(int, 1))").replace("= 10  # times", "= 1  # times")
    )
    with pytest.raises(DrexcacheError, match="does not come to an end with it in 1 second an image"):
        read_images(path)


def test_after_ctrl_c_every_image_is_still_its_own(pictures: Path, tmp_path: Path) -> None:
    files = read_images(made(pixels, pictures, tmp_path / "p.h5"), False).files
    wanted = [file.read() for file in files]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for at in range(10):
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + at * 1.5e-4)
            with suppress(KeyboardInterrupt):
                while True:
                    files[0].read()
            assert files[1].read() == wanted[1]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [file.read() for file in files] == wanted


def test_a_process_that_is_forked_while_a_thread_reads_reads_on_its_own(pictures: Path, tmp_path: Path) -> None:
    files = read_images(made(pixels, pictures, tmp_path / "p.h5"), False).files
    wanted, done = files[1].read(), threading.Event()
    thread = threading.Thread(target=lambda: [files[0].read() for _ in iter(done.is_set, True)])
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if not child:
                signal.alarm(20)
                os._exit(files[1].read() != wanted)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        thread.join()
    assert files[1].read() == wanted


def test_the_other_process_can_open_nothing(limit: Any, pictures: Path, tmp_path: Path) -> None:
    path = made(pixels, pictures, tmp_path / "p.h5")
    tried = "open('/etc/passwd')", "open('/dev/null', 'w')", "__import__('socket').socket()", "__import__('os').pipe()"
    text = Path(hdf5_reader.__file__).read_text().replace("import sys\n", "import socket\nimport sys\n")
    for at, what in enumerate(tried):
        (tmp_path / "t.py").write_text(text.replace("reader.answer(request)", what))
        limit("_SCRIPT", tmp_path / "t.py")
        os.utime(path, ns=(at, at))
        with pytest.raises(DrexcacheError, match="Too many open files"):
            read_images(path)


@pytest.mark.parametrize("make", [pixels, of_any_length, one_file_each])
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.thorough)])
def test_no_damage_ends_in_a_traceback(make: Any, count: int, pictures: Path, tmp_path: Path) -> None:
    path = made(make, pictures, tmp_path / "p.h5")
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(count):
        mutant = bytearray(data[: rng.integers(len(data))] if rng.random() < 0.1 else data)
        for at in rng.integers(0, len(mutant), 4):
            mutant[at] ^= 1 << rng.integers(8)
        path.write_bytes(mutant)
        hdf5._stop()
        try:
            for image in read_images(path).files:
                with suppress(OSError):
                    image.read()
        except DrexcacheError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused
