"""FORMAT.md is enough: the file read by h5py alone and by HDF5's own tools, and the files of earlier releases."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import draw, tiny_recipe

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache import format as layout
from drexcache.cache.changes import diff
from drexcache.features import extract, planning

DATA = Path(__file__).parent / "data"
V1, V2 = DATA / "cache-v1.h5", DATA / "cache-v2.h5"

# What follows up to `read` is all that another program needs; it is written after FORMAT.md, not after drexcache.


def sha256_of_texts(values: list[bytes]) -> str:
    return hashlib.sha256(b"".join(value + b"\0" for value in values)).hexdigest()


def check_storage(name: str, node: h5py.Group | h5py.Dataset) -> None:
    assert len(node.attrs) <= 64
    if isinstance(node, h5py.Dataset):
        plain = node.chunks is None and node.compression is None and not node.is_virtual and node.external is None
        assert plain and 1 <= node.ndim <= 2 and node.dtype.kind in "uifS" and node.dtype.byteorder != ">", name
        assert node.id.get_offset() is not None, f"{name} is not allocated"


def block_fingerprint(attributes: h5py.AttributeManager) -> str:
    fields = json.loads(attributes["definition"])
    for word in ("name", "tag", "licence"):
        del fields[word]
    fields["taps"] = [{key: tap[key] for key in ("name", "layer", "pool")} for tap in fields["taps"]]
    if fields["backbone"] == "classic":
        fields = {key: fields[key] for key in ("backbone", "taps", "alpha", "exif")}
    fields |= {"weights_sha256": attributes["weights_sha256"].decode(), "numerics": int(attributes.get("numerics", 1))}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stored(value: object) -> bytes:
    return value if isinstance(value, bytes) else np.array(value).tobytes()


def outline_sha256(file: h5py.File) -> str:
    groups, datasets = {"/": file}, {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        (groups if isinstance(node, h5py.Group) else datasets)[f"/{name}"] = node

    file.visititems(visit)
    attributes = {f"{path}@{key}": (path, key, v) for path, node in groups.items() for key, v in node.attrs.items()}
    lines = [f"{path}@{key}".encode() + b"\0" + stored(value) for path, key, value in sorted(attributes.values())]
    del lines[[line.split(b"\0")[0] for line in lines].index(b"/@outline_sha256")]
    for path, node in sorted(datasets.items()):
        lines.append(" ".join([path, f"{node.dtype.kind}{node.dtype.itemsize}", *map(str, node.shape)]).encode())
    return hashlib.sha256(b"".join(line + b"\0" for line in lines)).hexdigest()


def check_seals(seal: h5py.Dataset, *columns: h5py.Dataset) -> None:
    for row in range(len(seal)):
        assert zlib.crc32(b"".join(column[row : row + 1].tobytes() for column in columns)) == seal[row]


def check_block(block: h5py.Group, images: h5py.Group, version: int) -> None:
    n = len(images["id"])
    features, status, crc32 = block["features"][:], block["status"][:], block["crc32"][:]
    assert (block.attrs["type"], block.attrs["version"]) == (b"block", 1)
    assert features.shape == (n, sum(json.loads(block.attrs["dims"]))) and features.dtype in ("f4", "f2")
    for row in np.flatnonzero(status == 1):
        assert zlib.crc32(features[row].tobytes()) == crc32[row]
    checked = crc32.tobytes() + status.tobytes()
    if version == 2:
        check_seals(block["seal"], images["id"], images["sha256"], block["crc32"], block["status"])
        checked += block["seal"][:].tobytes()
    assert hashlib.sha256(checked).digest() == block["checksum"][:].tobytes()
    assert block_fingerprint(block.attrs) == block.attrs["fingerprint"].decode()


def read(path: Path) -> dict[str, object]:
    """Check everything that FORMAT.md says of a finished file; what it holds."""
    with h5py.File(path) as file:
        file.visititems(check_storage)
        root, images, ids = file.attrs, file["images"], file["images/id"][:].tolist()
        assert (root["format"], root["type"]) == (b"drexcache", b"cache") and root["version"] in (1, 2)
        assert file["complete"][:].tolist() == [1] and ids == sorted(set(ids))
        assert sha256_of_texts(ids) == images.attrs["ids_sha256"].decode() == root["table_sha256"].decode()
        columns = [images[name] for name in ("sha256", "bytes", "mtime_ns", "failure")]
        if root["version"] == 2:
            assert outline_sha256(file) == root["outline_sha256"].decode()
            check_seals(images["seal"], images["id"], *columns)
            columns.append(images["seal"])
        else:
            del columns[1:3]
        checked = b"".join(column[:].tobytes() for column in columns)
        assert hashlib.sha256(checked).digest() == images["checksum"][:].tobytes()
        for block in file["blocks"].values():
            check_block(block, images, int(root["version"]))
        for target in file["targets"].values():
            digest = hashlib.sha256(target["value"][:].tobytes()).hexdigest()
            assert digest == target.attrs["sha256"].decode() and target.attrs["higher_is"] in (b"more", b"less")
        for label in file["labels"].values():
            assert sha256_of_texts(label["value"][:].tolist()) == label.attrs["sha256"].decode()
        return {
            "ids": [image.decode() for image in ids],
            "features": {name: block["features"][:] for name, block in file["blocks"].items()},
            "status": {name: block["status"][:].tolist() for name, block in file["blocks"].items()},
            "failure": [reason.decode() for reason in images["failure"][:].tolist()],
            "targets": {name: target["value"][:].tolist() for name, target in file["targets"].items()},
            "labels": {name: [v.decode() for v in label["value"][:]] for name, label in file["labels"].items()},
        }


@pytest.mark.parametrize("store", ["float32", "float16"])
def test_another_program_can_read_and_check_everything(pictures: Path, tmp_path: Path, store: str) -> None:
    (pictures / "004.png").write_bytes(b"broken")
    extract(read_images(pictures), tiny_recipe(), tmp_path / "c.h5", store=store, say=lambda line: None)
    found, cache = read(tmp_path / "c.h5"), open_cache(tmp_path / "c.h5")
    assert found["ids"] == list(cache.ids)
    for name, features in found["features"].items():
        np.testing.assert_array_equal(features, cache.features(name))
        assert features.dtype == store and found["status"][name] == cache.status(name).tolist()
    assert found["failure"][4] == cache.failures()["004.png"]


OF_V1 = ["images/id", "images/sha256", "images/failure", "targets/order/value", "labels/split/value"]
OF_V1 += [f"blocks/cues/{name}" for name in ("crc32", "status", "features")]
OF_V2 = [*OF_V1, "images/bytes", "images/mtime_ns", "images/seal", "blocks/cues/seal"]


@pytest.mark.parametrize(("release", "flip"), [*((V1, name) for name in OF_V1), *((V2, name) for name in OF_V2)])
def test_the_checksums_cover_it(tmp_path: Path, release: Path, flip: str) -> None:
    """The reader above is not blind, and `verify` finds what it finds."""
    path = tmp_path / "c.h5"
    path.write_bytes(release.read_bytes())
    with h5py.File(path, "r", libver=("v110", "v110")) as file:
        offset = file[flip].id.get_offset()
    with path.open("r+b") as raw:
        raw.seek(offset)
        byte = raw.read(1)[0]
        raw.seek(offset)
        raw.write(bytes([byte ^ 1]))
    with pytest.raises(AssertionError):
        read(path)
    assert open_cache(path).verify() != []


def hdf5_tool(name: str, *arguments: str) -> str:
    if not shutil.which(name):
        pytest.skip(f"needs {name}, of Debian's hdf5-tools")
    printed = subprocess.run([name, *arguments], capture_output=True, text=True, check=True).stdout
    return " ".join(printed.replace("\\000", "").split())


def test_h5ls_lists_it() -> None:
    assert hdf5_tool("h5ls", "-r", f"{V1}/blocks") == (
        "/cues Group /cues/checksum Dataset {32} /cues/crc32 Dataset {4} /cues/features Dataset {4, 16} "
        "/cues/status Dataset {4}"
    )


def test_h5dump_prints_it(tmp_path: Path) -> None:
    ids = hdf5_tool("h5dump", "-d", "/images/id", "-y", str(V1))
    assert 'DATA { "blank.png", "broken.png", "discs.png", "stripes.png" }' in ids
    assert '"train", "test", "train", "test"' in hdf5_tool("h5dump", "-d", "/labels/split/value", str(V1))
    hdf5_tool("h5dump", "-d", "/blocks/cues/features", "-b", "LE", "-o", str(tmp_path / "raw"), str(V1))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "raw", "<f4").reshape(4, 16), open_cache(V1).features("cues"))


def test_the_file_of_version_1_is_read() -> None:
    cache = open_cache(V1)
    assert cache.verify() == [] and cache.dataset == "drawn" and len(cache) == 4
    assert cache.ids == ("blank.png", "broken.png", "discs.png", "stripes.png")
    assert cache.status("cues").tolist() == [1, 2, 1, 1]
    assert cache.failures() == {"broken.png": "not a JPEG, PNG, GIF, WebP, BMP or TIFF image"}
    assert cache.labels == {"artist": ("Ana", "Ana", "Zoë", "Zoë"), "split": ("train", "test", "train", "test")}
    target = cache.targets["order"]
    assert (target.low, target.high, target.higher_is, target.declared) == (1, 7, "less", True)
    np.testing.assert_array_equal(target.values, [1, 4, 5.5, np.nan])
    matrix = cache.matrix()
    assert list(matrix.ids) == ["blank.png", "discs.png", "stripes.png"]
    np.testing.assert_allclose(matrix.y, [1, 0.25, np.nan])  # less is more: 1 is the most orderly
    edges, colours = (matrix.X[:, matrix.taps[f"cues/{tap}"]].ravel() for tap in ("edge_density", "colourfulness"))
    np.testing.assert_allclose(edges, [0, 0.034281414, 0.479166657], rtol=1e-6)
    np.testing.assert_allclose(colours, [0, 122.37648, 0], rtol=1e-6)
    assert cache.blocks["cues"].fingerprint == "65a3f77a23adeb08caa64962e85e9ecc9c0d1a2654e0f7fa314619bbaf5820ec"
    assert read(V1)["targets"]["order"][:3] == [1, 4, 5.5]


def test_the_script_beside_it_still_makes_such_a_file(tmp_path: Path) -> None:
    """Only rounding and the versions of libraries may differ."""
    spec = importlib.util.spec_from_file_location("make_cache_v1", DATA / "make_cache_v1.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path / "new.h5")
    new, old = open_cache(tmp_path / "new.h5"), open_cache(V1)
    sizes = [
        new.matrix().taps[f"cues/{tap}"].start for tap in ("jpeg_ratio", "png_ratio")
    ]  # other encoders, other sizes
    a, b = (np.delete(cache.features("cues"), sizes, axis=1) for cache in (new, old))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert [line for line in diff(new, old) if "file contents" not in line and "rows differ" not in line] == []


def test_other_numerics_stay_readable_but_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw(tmp_path / "pictures", 3)
    extract(read_images(images), recipe("classic"), tmp_path / "c.h5", say=lambda line: None)
    before = open_cache(tmp_path / "c.h5")

    def newer(*args: object, **fields: object) -> layout.StoredBlock:
        return layout.StoredBlock(*args, **fields, numerics=2)  # type: ignore[arg-type]

    monkeypatch.setattr(planning, "StoredBlock", newer)
    with pytest.raises(DrexcacheError, match="block cues was computed otherwise: numerics: 1 -> 2"):
        extract(read_images(images), recipe("classic"), tmp_path / "c.h5", say=lambda line: None)
    extract(read_images(images), recipe("classic"), tmp_path / "new.h5", say=lambda line: None)
    after = open_cache(tmp_path / "new.h5")
    assert after.blocks["cues"].numerics == 2 and after.verify() == [] and before.verify() == []
    assert diff(before, after)[0] == "block cues: numerics: 1 -> 2"
