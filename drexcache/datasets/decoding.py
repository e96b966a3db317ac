"""From an image file's bytes to 8-bit RGB."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin

from PIL import TiffImagePlugin, WebPImagePlugin  # isort: skip

from drexcache.errors import DrexcacheError

BAND_PIXELS = 1 << 20  # pixels of a deep grey image that are scaled at a time

# First bytes, kind, Pillow's reader. Pillow's own Image.open is not used: it measures an image against a
# module's global and warns from 89 megapixels, and quieting that would change what all threads share.
_READERS: tuple[tuple[bytes, str, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", "JPEG", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"GIF8", "GIF", GifImagePlugin.GifImageFile),
    (b"RIFF", "WebP", WebPImagePlugin.WebPImageFile),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    *((prefix, "TIFF", TiffImagePlugin.TiffImageFile) for prefix in TiffImagePlugin.PREFIXES),
)
# The modes that Pillow's own convert turns into RGB
_TO_RGB = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_large_images = threading.Lock()
LARGE = 1 << 26  # pixels from which on images are decoded one at a time


@dataclass(frozen=True)
class Decode:
    """How a file becomes RGB where that is open.

    alpha : "drop" forgets transparency, as convert("RGB") does; "white" lays the image over white.
    exif : "ignore" keeps the stored orientation, "apply" turns the image as its EXIF tag says (Pillow itself
        always turns a TIFF).
    """

    alpha: str = "drop"
    exif: str = "ignore"

    def __post_init__(self) -> None:
        if self.alpha not in ("drop", "white"):
            raise DrexcacheError(f"alpha is drop or white, not {self.alpha!r}")
        if self.exif not in ("ignore", "apply"):
            raise DrexcacheError(f"exif is ignore or apply, not {self.exif!r}")


class UnreadableImage(Exception):  # noqa: N818
    """One image cannot be read, and why in a phrase; the image's row says so and the run goes on."""


def decode_rgb(data: bytes, decode: Decode = Decode(), max_pixels: int = 500_000_000) -> Image.Image:
    """The image in a JPEG, PNG, GIF (first frame), WebP, BMP or TIFF file as 8-bit RGB.

    12-bit and 16-bit grey is scaled to 0..255 and rounded. Colour profiles are not applied. The size is
    read from the header and checked before memory for pixels is taken. Safe to call from several threads.

    Raises
    ------
    UnreadableImage : not an image, broken, truncated, larger than max_pixels, or of pixels in no known range.
    MemoryError : too little memory; left alone, for it is the machine's failure and not the image's.

    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 7).save(file, "PNG")
    >>> decode_rgb(file.getvalue()).getpixel((0, 0))
    (7, 7, 7)
    """
    with decoded(data, decode, max_pixels) as rgb:
        return rgb


@contextmanager
def decoded(data: bytes, decode: Decode, max_pixels: int = 500_000_000) -> Iterator[Image.Image]:
    """A context that holds what `decode_rgb` gives; large images have theirs one after the other.

    So that memory does not grow with the threads. They also need Pillow's global limit, which a TIFF meets when it is
    loaded, to be raised meanwhile.
    """
    kind, reader = _reader(data)
    with _as_unreadable(kind):
        image = reader(io.BytesIO(data))
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {max_pixels / 1e6:g} megapixels")
    with _one_at_a_time(max_pixels) if pixels > min(LARGE, Image.MAX_IMAGE_PIXELS or LARGE) else nullcontext():
        with _as_unreadable(kind):
            image.load()
            if decode.exif == "apply":
                ImageOps.exif_transpose(image, in_place=True)
            image = _to_rgb(image, kind, decode)
        yield image


def _reader(data: bytes) -> tuple[str, type[ImageFile.ImageFile]]:
    """The file's kind by its first bytes, whatever its name says."""
    if not data:
        raise UnreadableImage("empty file")
    for prefix, kind, reader in _READERS:
        if data.startswith(prefix) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return kind, reader
    raise UnreadableImage("not a JPEG, PNG, GIF, WebP, BMP or TIFF image")


def _reason(kind: str, error: Exception) -> str:
    """Pillow's error as a phrase."""
    if isinstance(error, Image.DecompressionBombError):
        return f"a {kind} of more pixels than Pillow opens"
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower():
        return f"truncated {kind}"
    return f"broken {kind} ({text})"


@contextmanager
def _as_unreadable(kind: str) -> Iterator[None]:
    """Whatever Pillow raises of a broken file, which may be OSError, SyntaxError, ValueError, struct.error, ..."""
    try:
        yield
    except (MemoryError, UnreadableImage):
        raise
    except Exception as error:
        raise UnreadableImage(_reason(kind, error)) from error


@contextmanager
def _one_at_a_time(max_pixels: int) -> Iterator[None]:
    with _large_images:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _to_rgb(image: Image.Image, kind: str, decode: Decode) -> Image.Image:
    """A loaded image of any mode as RGB, its transparency dropped or laid over white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):  # Pillow < 11 opens 16-bit PNG as I
        return _deep_grey_to_rgb(image, decode)
    if image.mode not in _TO_RGB:
        names = {"I": "32-bit integer", "F": "float"}
        raise UnreadableImage(f"{names.get(image.mode, image.mode)} pixels, whose range is not known")
    alpha = None
    if decode.alpha == "white" and image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow knows only the way back through straight alpha
        image = image.convert(image.mode.upper())
    image.info.pop("transparency", None)  # else Pillow warns that RGB cannot say what the palette says
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy a large image once more
    return _over_white(rgb, alpha)


def _deep_grey_to_rgb(image: Image.Image, decode: Decode) -> Image.Image:
    """12-bit and 16-bit grey to RGB; Pillow's own convert clips it at 255, and takes no note of white as zero."""
    values = np.asarray(image)  # (H, W)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    top = (1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    levels = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    transparent = image.info.get("transparency")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = levels[::-1]
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, BAND_PIXELS // image.width)  # at a time, for numpy takes 8 bytes for each index
    for top_row in range(0, image.height, rows):
        grey[top_row : top_row + rows] = levels[values[top_row : top_row + rows]]
    alpha = None
    if decode.alpha == "white" and isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return _over_white(Image.fromarray(grey).convert("RGB"), alpha)


def _over_white(rgb: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white
