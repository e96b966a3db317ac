"""What kind of image a file is, by its first bytes, and Pillow's reader of that kind."""

from __future__ import annotations

import io
import warnings
from importlib import import_module

from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin

from PIL import TiffImagePlugin, WebPImagePlugin  # isort: skip

Reader = type[ImageFile.ImageFile]
# First bytes, kind, Pillow's reader. Image.open is not used because it checks the size against a module-wide limit
# and warns from 89 megapixels; silencing that would change a setting that all threads share.
_READERS: tuple[tuple[bytes, str, Reader], ...] = (
    (b"\xff\xd8\xff", "JPEG", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"GIF8", "GIF", GifImagePlugin.GifImageFile),
    (b"RIFF", "WebP", WebPImagePlugin.WebPImageFile),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    *((prefix, "TIFF", TiffImagePlugin.TiffImageFile) for prefix in TiffImagePlugin.PREFIXES),
)
_BRANDS = {  # of an ISO media file -> kind
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
}
_FURTHER = {  # kind -> module and class of its reader
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
    "JPEG XL": ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),
}
_JXL_FILE, _JXL_STREAM = b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width to height


class UnreadableImage(Exception):  # noqa: N818
    """An image cannot be read, with the reason as a phrase; its row is marked as failed and the run continues."""


def kind_and_reader(data: bytes) -> tuple[str, Reader]:
    """The file's kind and reader by its first bytes, whatever its name.

    Raises
    ------
    UnreadableImage : an empty file, another kind, or one whose reader is not installed.
    """
    if not data:
        raise UnreadableImage("empty file")
    for prefix, kind, reader in _READERS:
        if data.startswith(prefix) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind, reader
    kind = _further_kind(data)
    if not kind:
        raise UnreadableImage("not a JPEG, PNG, GIF, WebP, BMP or TIFF image, nor AVIF, HEIC or JPEG XL")
    module, name = _FURTHER[kind]
    try:
        return kind, getattr(import_module(module), name)
    except ImportError as error:
        raise UnreadableImage(f"{kind}, which needs another package: pip install 'drexcache[formats]'") from error


def _further_kind(data: bytes) -> str:
    if data.startswith((_JXL_FILE, _JXL_STREAM)):
        return "JPEG XL"
    if data[4:8] != b"ftyp":
        return ""
    size = min(int.from_bytes(data[:4]), 256)
    brands = [data[at : at + 4] for at in (8, *range(16, size, 4))]
    found = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    return "AVIF" if "AVIF" in found else found[0] if found else ""


def open_image(kind: str, reader: Reader, data: bytes, max_pixels: int) -> Image.Image:
    """The image with its size known; its pixels are read later, except a JPEG XL's, whose header tells its size.

    A HEIC or JPEG XL file is upright as it is read, whatever its EXIF data say.
    """
    if kind != "JPEG XL":
        return reader(io.BytesIO(data))
    check_pixels(jxl_size(data), max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = reader(io.BytesIO(data))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic of its decoder is no Exception; what it says helps nobody
            raise OSError("its decoder refuses it") from error
    image.info.pop("exif", None)
    return image


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise UnreadableImage if there are more pixels than that."""
    width, height = size
    if width * height > max_pixels:
        raise UnreadableImage(f"{width}x{height} pixels, more than {max_pixels / 1e6:g} megapixels")


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height in a JPEG XL file's header (ISO/IEC 18181-1, SizeHeader).

    >>> jxl_size(bytes.fromhex("ff0a7f"))  # 8 x 32 pixels high, ratio 1
    (256, 256)
    """
    stream = data if data.startswith(_JXL_STREAM) else _jxl_stream(data)
    bits, at = int.from_bytes(stream[2:18], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> at - count & (1 << count) - 1

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    ratio = take(3)
    return (height * _RATIOS[ratio][0] // _RATIOS[ratio][1] if ratio else side()), height


def _jxl_stream(data: bytes) -> bytes:
    """The start of the codestream in a JPEG XL container: in its box jxlc, or in the first box jxlp."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        start = at + (16 if size == 1 else 8)
        size = int.from_bytes(data[at + 8 : at + 16]) if size == 1 else size or len(data) - at
        if kind in (b"jxlc", b"jxlp"):
            start += 4 * (kind == b"jxlp")
            return data[start : start + 20]
        at += max(size, 8)
    raise UnreadableImage("broken JPEG XL (no codestream)")
