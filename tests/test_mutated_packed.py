"""Altered features of other tools and altered images in one file are read, or refused in a sentence."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save_file
from test_mutated_texts import mutated, no_sentence

from drexcache import DrexcacheError, read_images
from drexcache.cache.incoming import read_features

pytest.importorskip("pyarrow", reason="needs pyarrow")
import pyarrow as pa
from pyarrow import parquet

IDS = [f"{number}.png" for number in range(6)]
X = np.random.default_rng(0).normal(size=(6, 4)).astype("f4")


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "png")
    return out.getvalue()


def packed(folder: Path) -> list[Path]:
    """Files of features, and of images."""
    np.savez(folder / "a.npz", X=X, ids=np.array(IDS))
    np.savez_compressed(folder / "b.npz", X=X, ids=np.array(IDS))
    np.save(folder / "a.npy", X)
    save_file({"X": X}, folder / "a.safetensors", {"ids": json.dumps(IDS)})
    frame = pd.DataFrame(X, columns=list("stuv")).assign(id=IDS)
    frame.to_parquet(folder / "a.parquet")
    frame.to_csv(folder / "a.csv", index=False)
    pd.DataFrame({"id": IDS, "v": [row.tolist() for row in X]}).to_parquet(folder / "lists.parquet")
    for name, form in (("pax.tar", tarfile.PAX_FORMAT), ("gnu.tar", tarfile.GNU_FORMAT)):
        with tarfile.open(folder / name, "w", format=form) as archive:
            for member in ("a.png", "b" * 150 + ".png", "é/c.png"):
                about = tarfile.TarInfo(member)
                about.size = len(picture())
                archive.addfile(about, io.BytesIO(picture()))
    rated = {"rating": np.arange(6.0), "rater": list("ababab")}
    images = [{"bytes": picture(), "path": name} for name in IDS]
    pd.DataFrame({"image": images, **rated}).to_parquet(folder / "structs.images", row_group_size=3)
    pd.DataFrame({"id": IDS, "image": [picture()] * 6, **rated}).to_parquet(folder / "bytes.images", row_group_size=3)
    return sorted(path for path in folder.iterdir() if path.is_file())


def read(path: Path) -> object:
    """Whatever kind of file it is."""
    if path.suffix not in (".tar", ".images"):
        return read_features(path, "x")
    found = read_images(path, None if path.suffix == ".images" else False, value_range=None)
    for file in found.files:
        with suppress(OSError):
            file.read()
        file.stat()
    return found


def altered(data: bytes, rng: random.Random) -> bytes:
    """Bytes, words and parts, also in the last ones, where Parquet describes itself."""
    if rng.random() < 0.5:
        return mutated(data, rng)
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        ends = [rng.randrange(len(found)), rng.randrange(min(300, len(found))), -1 - rng.randrange(len(found)) // 3]
        at = rng.choice(ends)
        found[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256), found[at] ^ 1 << rng.randrange(8)])
    return bytes(found)


def mutant(data: bytes, kind: str, rng: random.Random) -> bytes:
    """An altered file; mostly with the checksums of a zip and of a tar made right again."""
    if kind == ".npz" and rng.random() < 0.7:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                new.writestr(name, altered(old.read(name), rng))
        return out.getvalue()
    found = bytearray(altered(data, rng))
    for at in range(0, len(found) - 511, 512):
        if found[at + 257 : at + 262] == b"ustar":
            found[at + 148 : at + 156] = b"%06o\0 " % tarfile.calc_chksums(bytes(found[at : at + 512]))[0]
    return bytes(found)


def faults(folder: Path, seeds: Sequence[int]) -> tuple[int, list[str]]:
    """How many were tried, and what went wrong with which file: anything but a sentence of one line."""
    wrong = {
        path: no_sentence(path, read, lambda data, rng, kind=path.suffix: mutant(data, kind, rng), path.name, seeds)
        for path in packed(folder)
    }
    return len(wrong) * len(seeds), [one for found in wrong.values() for one in found]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.thorough)])
def test_altered_features_and_packed_images(tmp_path: Path, count: int) -> None:
    assert faults(tmp_path, range(count))[1] == []


def test_a_description_that_ends_pyarrows_process_does_not_end_ours() -> None:
    with pytest.raises(DrexcacheError, match="not a readable Parquet file"):
        read_features(Path(__file__).parent / "data" / "ends-pyarrow.parquet", "x")


# --- small files that would grow large ------------------------------------------------------------------------


def zeros_npz(path: Path) -> Path:
    with zipfile.ZipFile(path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("X.npy", "w") as file:
        about = {"descr": "<f4", "fortran_order": False, "shape": (100_000, 1000)}
        np.lib.format.write_array_header_1_0(file, about)
        for _ in range(100):
            file.write(bytes(4_000_000))
    return path / "b.npz"


def table(path: Path, name: str, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path / name, compression="zstd")
    return path / name


def header(name: str, size: int, kind: bytes) -> bytes:
    """A tar's header of a member that says to have that size."""
    about = tarfile.TarInfo(name)
    about.type = kind
    found = bytearray(about.tobuf(tarfile.GNU_FORMAT))
    found[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    found[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(found))[0]
    return bytes(found)


def tar(path: Path, size: int, kind: bytes) -> Path:
    with (path / "b.tar").open("wb") as file:
        file.write(header("a.png", 0, b"0") + header("b.png", size, kind))
        file.truncate(max(20_480, min(size, 1 << 32)))
    return path / "b.tar"


LARGE = 100_000_000
BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "npz": (zeros_npz, "X.npy unpacks from .* to 400000"),
    "features": (
        lambda path: table(path, "b.parquet", **{f"c{at}": np.zeros(1_000_000, "f4") for at in range(40)}),
        "takes too much memory unpacked",
    ),
    "lists": (
        lambda path: table(path, "b.parquet", v=pa.array([np.zeros(1_000_000, "f4")] * 40, pa.list_(pa.float32()))),
        "takes too much memory unpacked",
    ),
    "image many times": (
        lambda path: table(path, "b.images", image=pa.array([bytes(2_000_000)] * 300, pa.large_binary())),
        "takes too much memory unpacked",
    ),
    "note many times": (
        lambda path: table(path, "b.images.parquet", image=[b"\x89P"] * 300, note=[["x" * 2_000_000]] * 300),
        "texts inside lists or structs",
    ),
    **{
        f"tar {kind.decode()} {size}": (lambda path, kind=kind, size=size: tar(path, size, kind), "broken tar")
        for kind in (b"0", b"x", b"g", b"L", b"K", b"S")
        for size in (-512, -1024, 1 << 32, 1 << 62)
        if kind in b"xgLK" or size < 0 or size > 1 << 40
    },
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_small_files_that_would_grow_large_are_refused(tmp_path: Path, what: str) -> None:
    make, message = BOMBS[what]
    file = make(tmp_path)
    child = os.fork()  # so that the most memory is its own
    if not child:
        before, said = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
        try:
            read(file) if ".images" not in file.name else read_images(file)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        (tmp_path / "said").write_text(f"{grown} {said}")
        os._exit(0)
    os.waitpid(child, 0)
    grown, _, said = (tmp_path / "said").read_text().partition(" ")
    with pytest.raises(DrexcacheError, match=message):
        assert said.startswith("DrexcacheError: ")
        raise DrexcacheError(said)
    assert int(grown) < 256 << 10
