"""Cache files from strangers: refused in one sentence, whatever they are."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache import storage
from drexcache.cli import main
from drexcache.features import extract


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished cache."""
    folder = tmp_path_factory.mktemp("good")
    table = read_images(draw(folder / "pictures", 5), value_range=(0, 100))
    extract(table, recipe("classic"), folder / "good.h5", say=lambda line: None)
    return folder / "good.h5"


def replace_dataset(file: h5py.File, name: str, **create: object) -> None:
    del file[name]
    file.create_dataset(name, **create)


HOSTILE: dict[str, Callable[[h5py.File], object]] = {
    "soft link": lambda f: f.__setitem__("blocks/evil", h5py.SoftLink("/blocks/cues")),
    "external link": lambda f: f.__setitem__("blocks/evil", h5py.ExternalLink("/etc/passwd", "/")),
    "dangling link": lambda f: f.__setitem__("targets/evil", h5py.SoftLink("/nowhere")),
    "cycle": lambda f: f["blocks"].__setitem__("loop", f["/"]),
    "second hard link": lambda f: f.__setitem__("images/again", f["images/id"]),
    "chunked": lambda f: replace_dataset(f, "blocks/cues/features", data=f["blocks/cues/features"][:], chunks=(1, 1)),
    "gzip": lambda f: replace_dataset(f, "blocks/cues/features", data=f["blocks/cues/features"][:], compression="gzip"),
    "external storage": lambda f: replace_dataset(
        f, "blocks/cues/features", shape=(5, 14), dtype="f4", external=[("/etc/passwd", 0, 5 * 14 * 4)]
    ),
    "virtual dataset": lambda f: (
        f.__delitem__("blocks/cues/features"),
        f.create_virtual_dataset("blocks/cues/features", virtual(f.filename)),
    ),
    "object reference": lambda f: replace_dataset(f, "images/id", data=[f.ref] * 5, dtype=h5py.ref_dtype),
    "variable text": lambda f: replace_dataset(f, "images/id", data=["a"] * 5, dtype=h5py.string_dtype()),
    "absurd shape": lambda f: replace_dataset(f, "blocks/cues/features", shape=(1 << 40, 1 << 10), dtype="f4"),
    "wrong rows": lambda f: replace_dataset(f, "blocks/cues/features", data=np.zeros((4, 14), "f4")),
    "wrong columns": lambda f: replace_dataset(f, "blocks/cues/features", data=np.zeros((5, 3), "f4")),
    "wrong dtype": lambda f: replace_dataset(f, "blocks/cues/status", data=np.zeros(5, "f8")),
    "big endian": lambda f: replace_dataset(f, "blocks/cues/crc32", data=np.zeros(5, ">u4")),
    "compound": lambda f: replace_dataset(f, "images/bytes", data=np.zeros(5, [("a", "i4"), ("b", "f4")])),
    "scalar": lambda f: replace_dataset(f, "images/bytes", data=3),
    "empty dataspace": lambda f: replace_dataset(f, "images/bytes", data=h5py.Empty("i8")),
    "missing dataset": lambda f: f.__delitem__("blocks/cues/crc32"),
    "missing group": lambda f: f.__delitem__("targets"),
    "missing attribute": lambda f: f["blocks/cues"].attrs.__delitem__("definition"),
    "huge attribute": lambda f: (
        f.attrs.create("big", np.bytes_(b"x" * 60_000)) or f.attrs.create("bigger", np.zeros(9000))
    ),
    "many attributes": lambda f: [f.attrs.create(f"a{i}", i) for i in range(100)],
    "attribute of variable text": lambda f: f.attrs.__setitem__("dataset", "text"),
    "deep nesting": lambda f: f.create_group("a/b/c/d/e/f/g"),
    "named type": lambda f: f.__setitem__("images/type", np.dtype("f8")),
    "newer version": lambda f: f.attrs.__setitem__("version", 3),
    "another format": lambda f: f.attrs.__setitem__("format", np.bytes_(b"other")),
    "definition is not JSON": lambda f: f["blocks/cues"].attrs.__setitem__("definition", np.bytes_(b"{" * 5000)),
    "definition is a list": lambda f: f["blocks/cues"].attrs.__setitem__("definition", np.bytes_(b"[1, 2]")),
    "altered definition": lambda f: f["blocks/cues"].attrs.__setitem__("weights_sha256", np.bytes_(b"0" * 64)),
    "text is not UTF-8": lambda f: f["images/id"].id.write(
        h5py.h5s.ALL,
        h5py.h5s.ALL,
        np.array([b"\xff\xfe"] * 5, dtype="S7"),
        mtype=f["images/id"].id.get_type(),
    ),
}


def virtual(source: str) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(shape=(5, 14), dtype="f4")
    layout[:] = h5py.VirtualSource(source, "blocks/cues/crc32", shape=(5, 14))
    return layout


def one_sentence(path: Path) -> str:
    """Every command that opens a cache refuses it in one line without a traceback; the line."""
    with pytest.raises(DrexcacheError) as caught:
        cache = open_cache(path)
        cache.info()
        cache.matrix()
    for arguments in (
        ["cache", "info", str(path)],
        ["cache", "verify", str(path)],
        ["train", str(path), "-r", "ridge", "-o", "x"],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code != 0
        assert isinstance(result.exception, SystemExit), result.exception
        assert len(result.output.strip().splitlines()) == 1, result.output
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("what", HOSTILE)
def test_refused(good: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "hostile.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        HOSTILE[what](file)
    one_sentence(path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the file is empty"),
        (b"hello, world" * 100, "not a drexcache cache, but a text; drexcache extract makes caches"),
        (b"\x89HDF\r\n\x1a\n" * 9, "not a drexcache cache, or a damaged one"),
    ],
)
def test_not_hdf5(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(data)
    assert expected in one_sentence(path)


def test_foreign_hdf5_and_missing_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0, 2.0]
    assert "not a drexcache cache" in one_sentence(tmp_path / "other.h5")
    assert "no such file" in one_sentence(tmp_path / "none.h5")


def test_every_truncation_is_refused_or_found(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    rng = random.Random(0)
    for length in [1, 8, 47, 48, 500, *(rng.randrange(len(data)) for _ in range(40))]:
        path = tmp_path / "cut.h5"
        path.write_bytes(data[:length])
        with pytest.raises(DrexcacheError):
            open_cache(path)


DTYPES = st.sampled_from(["u1", "<i8", "<u4", "<f8", "<f4", ">f4", "S3", "S90000", "?", "<c8"])
SHAPES = st.lists(st.sampled_from([0, 1, 4, 5, 14, 1000, 1 << 20, 1 << 45]), max_size=3).map(tuple)
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(min_size=1, max_size=200), st.text(max_size=20),
    st.sampled_from([b"[" * 5000, b"{}", b"[{}]", b'{"taps": 3}', b"[1e999]", b"\xff\xfe", b"[-1]", b"null"]),
)  # fmt: skip


@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_other_structure_is_refused_in_a_sentence_and_little_memory(
    good: Path, tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "structure.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
            if name not in file:
                continue
            # what not even HDF5 takes leaves the dataset or the attribute missing
            with contextlib.suppress(ValueError, TypeError, OSError, OverflowError):
                if isinstance(file[name], h5py.Dataset):
                    chunked = {"chunks": True} if data.draw(st.booleans()) else {}
                    replace_dataset(file, name, shape=data.draw(SHAPES), dtype=data.draw(DTYPES), **chunked)
                elif len(file[name].attrs):
                    value = data.draw(VALUES)
                    key = data.draw(st.sampled_from(sorted(file[name].attrs)))
                    file[name].attrs[key] = np.bytes_(value) if isinstance(value, bytes) else value
    tracemalloc.start()
    try:
        cache = open_cache(path)
        cache.info()
        cache.verify()
        cache.matrix()
    except DrexcacheError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_never_give_a_traceback_or_silent_damage(
    good: Path, tmp_path: Path, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(good.read_bytes())
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    path = tmp_path / "flipped.h5"
    path.write_bytes(data)
    whole = open_cache(good).matrix()
    try:
        cache = open_cache(path)
        if not cache.verify():
            np.testing.assert_array_equal(cache.matrix().X, whole.X)
            np.testing.assert_array_equal(cache.matrix().y, whole.y)
    except DrexcacheError as error:
        assert str(path) in str(error)


def test_a_file_of_holes_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """3 KB in an archive, 14 GB in memory."""
    path, n = tmp_path / "holes.h5", 1 << 20
    table = read_images(draw(tmp_path / "pictures", 2))
    extract(table, recipe("classic"), tmp_path / "small.h5", say=len)
    small = open_cache(tmp_path / "small.h5")
    wanted = replace(small.contents, ids=("x",) * n, targets={}, labels={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "reserve", lambda descriptor, size: None)
        storage.create(path, wanted.stored_attributes(), wanted.datasets())
    assert path.stat().st_size > 200 << 20
    tracemalloc.start()
    with pytest.raises(DrexcacheError, match=r"MB of which only 0\.[0-9] MB are stored"):
        open_cache(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
