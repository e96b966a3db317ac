"""What libraries say of an image names the image; large images take memory one at a time."""

import io
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drexcache.datasets import ImageFile
from drexcache.studies.evaluation.copies import Looks
from drexcache.studies.reporting.pictures import thumbnails


def strange_tiff() -> bytes:
    """Grey, 4x4, with a tag that is larger than the file."""
    numbers = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    numbers += [(277, 3, 1, 1), (278, 4, 1, 4), (279, 4, 1, 16), (315, 2, 999999, 60000)]
    tags = struct.pack("<H", len(numbers)) + b"".join(struct.pack("<HHII", *tag) for tag in numbers)
    return b"II*\0" + struct.pack("<I", 24) + bytes(range(16)) + tags + struct.pack("<I", 0)


def damaged_fax() -> bytes:
    """Black and white, which libtiff reads in spite of wrong codes."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype="u1")
    Image.fromarray(noise).convert("1").save(file, "TIFF", compression="group4")
    data = bytearray(file.getvalue())
    for at in range(200, len(data) - 300, 7):
        data[at] ^= 0x5A
    return bytes(data)


def drexcache(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "drexcache.cli", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_warning_starts_with_its_image_and_is_said_once(tmp_path: Path) -> None:
    images = tmp_path / "im"
    images.mkdir()
    for name in "ab":
        (images / f"{name}.tif").write_bytes(strange_tiff())
    (images / "fax.tif").write_bytes(damaged_fax())
    done = drexcache("extract", images, "--recipe", "classic", "-o", tmp_path / "a.h5")
    lines = done.stderr.splitlines()
    assert [line for line in lines if "Tag" in line] == [
        f"{name}.tif: Tag data larger than file. Skipping tag 315" for name in "ab"
    ]
    assert [re.sub(r"line \d+.*", "line", line) for line in lines if "Bad code" in line] == [
        "fax.tif: damaged TIFF (Bad code word at line"
    ]
    assert "Fax4Decode" not in done.stderr  # libtiff's own words


MEMORY = """
import resource, sys
import numpy as np
import pyarrow  # has a thread, to whose part of the memory the C library leads some of our threads
from drexcache.datasets import read_images
from drexcache.features.cues import Cues
from drexcache.features.engines import keep_freed_memory
from drexcache.features.pipeline import read_ahead
from drexcache.recipes import recipe
table = read_images(sys.argv[1], False)
keep_freed_memory()  # as every extraction on a CPU does
cues = [Cues(recipe("classic").blocks[0])]
found = list(read_ahead(table, np.arange(len(table)), cues, 4, 8))
assert not any(image.failure for image in found)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_large_images_take_memory_one_at_a_time(tmp_path: Path) -> None:
    """Four threads and 81 megapixels: a byte each as they are stored and four as RGB, once and not four times."""
    side = 9000
    peaks = []
    for size in (64, side):
        folder = tmp_path / str(size)
        folder.mkdir()
        for number in range(4):
            Image.new("1", (size, size), number % 2).save(folder / f"{number}.png")
        run = [sys.executable, "-c", MEMORY, str(folder)]
        peaks.append(int(subprocess.run(run, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 7 * side**2


@pytest.mark.parametrize(("top", "dtype"), [(65535, "<u2"), (4000, "<u2")])
def test_pictures_of_16_bits_keep_their_levels_wherever_they_are_shown(top: int, dtype: str, tmp_path: Path) -> None:
    """In a report, and where near-copies are told by their pixels."""
    ramp = np.linspace(0, top, 64 * 64).reshape(64, 64).astype(dtype)
    files = {}
    for name, values in {"a.tif": ramp, "b.png": ramp, "other.tif": ramp.T.copy()}.items():
        Image.fromarray(values).save(tmp_path / name)
        files["art", name] = ImageFile(str(tmp_path / name))
    looks = Looks(files)
    assert looks.same(("art", "a.tif"), ("art", "b.png"))
    assert not looks.same(("art", "a.tif"), ("art", "other.tif"))
    shown, notes = thumbnails(files, {})
    assert notes == [] and len(set(shown.values())) == 2
