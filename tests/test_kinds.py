"""AVIF, HEIC and JPEG XL: read as they were written, limited as others are, damaged or without a reader in a phrase."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from drexcache import open_cache, read_images, recipe
from drexcache.datasets import Decode, UnreadableImage, decode_rgb
from drexcache.datasets.kinds import jxl_size
from drexcache.features import extract
from drexcache.studies.reporting.pictures import find_images, thumbnails

KINDS = {"AVIF": ".avif", "HEIF": ".heic", "JXL": ".jxl"}


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(kind: str, image: Image.Image, **options: object) -> bytes:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("needs a Pillow with AVIF")
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="needs pillow-heif, of drexcache[formats]").register_heif_opener()
    if kind == "JXL":
        pytest.importorskip("pillow_jxl", reason="needs pillow-jxl-plugin, of drexcache[formats]")
        options["lossless"] = True
    file = io.BytesIO()
    image.save(file, kind, quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_comes_back(kind: str) -> None:
    image = picture(90, 60)
    found = decode_rgb(encoded(kind, image))
    assert found.mode == "RGB" and found.size == (90, 60)
    assert np.abs(np.asarray(found, int) - np.asarray(image, int)).mean() < 6


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_or_too_large_is_said(kind: str) -> None:
    data = encoded(kind, picture(90, 60))
    for part in (data[: len(data) // 2], data[:24]):
        with pytest.raises(UnreadableImage, match=r"broken|truncated"):
            decode_rgb(part)
    with pytest.raises(UnreadableImage, match=r"90x60 pixels, more than 0\.005 megapixels"):
        decode_rgb(data, max_pixels=5000)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (641, 480), (160, 120), (300, 2000), (5000, 3)])
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(size: tuple[int, int]) -> None:
    data = encoded("JXL", picture(*size))
    assert jxl_size(data) == size
    box = (len(data) + 8).to_bytes(4) + b"jxlc" + data
    assert jxl_size(b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + box) == size


def test_orientation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    for kind in ("HEIF", "JXL"):
        data = encoded(kind, picture(90, 60), exif=exif.tobytes())
        assert decode_rgb(data).size == decode_rgb(data, Decode(exif="apply")).size


@pytest.mark.parametrize(("kind", "module"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl.JpegXLImagePlugin")])
def test_without_the_package_the_reason_names_it(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(kind, picture(90, 60))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnreadableImage, match=r"needs another package: pip install 'drexcache\[formats\]'"):
        decode_rgb(data)


def test_a_folder_of_them_is_extracted_and_shown(tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    for kind, ending in KINDS.items():
        (tmp_path / "art" / f"a{ending}").write_bytes(encoded(kind, picture(90, 60)))
    extract(read_images(tmp_path / "art"), recipe("classic"), tmp_path / "c.h5", say=lambda line: None)
    cache = open_cache(tmp_path / "c.h5")
    assert list(cache.ids) == ["a.avif", "a.heic", "a.jxl"] and len(cache.matrix()) == 3
    files, _ = find_images([str(tmp_path / "art")], {"art": list(cache.ids)})
    made, failed = thumbnails(files, {})
    assert len(made) == 3 and failed == []
