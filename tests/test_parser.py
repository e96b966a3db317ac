"""The parser, h5py and HDF5's own tools read the same out of a file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from drexcache import DrexcacheError
from drexcache.cache.fields import lookup3
from drexcache.cache.storage import Storage, create

DATA = sorted((Path(__file__).parent / "data").glob("*.h5"))


def many(labels: int) -> tuple[dict[str, dict[str, object]], dict[str, tuple[tuple[int, ...], str]]]:
    """What fits into no object header: many links and attributes, large attributes, long names."""
    root: dict[str, object] = {f"attribute {number}": "ü" * number * 20 for number in range(30)}
    root |= {"whole": -3, "float": 2.5, "medium": "m" * 3000, "large": "l" * 5000, "very large": "x" * (1 << 20)}
    attributes: dict[str, dict[str, object]] = {"/": root, "/labels": {}}
    datasets: dict[str, tuple[tuple[int, ...], str]] = {"/values": ((3, 5), "<f4"), "/half": ((2,), "<f2")}
    for number in range(labels):
        attributes[f"/labels/{'n' * (number % 40)}{number}"] = {"type": "label"}
        datasets[f"/labels/{'n' * (number % 40)}{number}/value"] = ((4,), f"S{number + 1}")
    return attributes, datasets


@pytest.fixture(params=[*DATA, 8, 9, 60, 400], ids=str)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if isinstance(request.param, Path):
        return request.param
    create(tmp_path / "many.h5", *many(request.param))
    return tmp_path / "many.h5"


def plain(value: np.generic) -> object:
    return value.decode() if isinstance(value, bytes) else value.item()


def test_the_parser_and_h5py_agree(path: Path) -> None:
    storage, attributes, extents = Storage(path), {}, {}
    with h5py.File(path) as file:

        def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
            if isinstance(node, h5py.Dataset):
                extents[name] = node.id.get_offset(), node.shape, node.dtype
                np.testing.assert_array_equal(storage.read(name), node[:])
            else:
                found = {
                    key: value.decode() if isinstance(value, bytes) else value for key, value in node.attrs.items()
                }
                attributes[name] = {key: v.item() if isinstance(v, np.generic) else v for key, v in found.items()}

        visit("/", file)
        file.visititems(lambda name, node: visit(f"/{name}", node))
    assert storage.attributes == attributes
    assert {name: (e.offset, e.shape, e.dtype) for name, e in storage.extents.items()} == extents


def test_the_parser_and_h5dump_agree(path: Path, tmp_path: Path) -> None:
    if not shutil.which("h5dump"):
        pytest.skip("needs h5dump, of Debian's hdf5-tools")
    storage = Storage(path)
    printed = subprocess.run(["h5dump", "-n", path], capture_output=True, text=True, check=True).stdout.splitlines()
    listed = {tuple(line.split()) for line in printed if line.startswith((" dataset", " group"))}
    groups, datasets = {("group", name) for name in storage.attributes}, {("dataset", name) for name in storage.extents}
    assert listed == groups | datasets
    for name in [name for name, extent in storage.extents.items() if extent.dtype.kind != "S" and extent.dtype != "f2"]:
        raw = tmp_path / "raw"
        subprocess.run(["h5dump", "-d", name, "-b", "LE", "-o", raw, path], capture_output=True, check=True)
        assert raw.read_bytes() == storage.read(name).tobytes(), name


def test_the_checksum_is_the_one_of_its_author() -> None:
    """The values that lookup3.c's own driver5 prints."""
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


@pytest.mark.parametrize("libver", [("earliest", "v108"), ("v108", "v108"), ("latest", "latest")])
def test_files_in_other_forms_of_hdf5_are_refused_or_read_alike(tmp_path: Path, libver: tuple[str, str]) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
        file["x"] = np.arange(3)
        file.attrs["y"] = 3
    try:
        storage = Storage(tmp_path / "x.h5")
    except DrexcacheError as error:
        assert "not a drexcache cache, or a damaged one" in str(error)
    else:
        assert storage.read("/x").tolist() == [0, 1, 2] and storage.attributes == {"/": {"y": 3}}
