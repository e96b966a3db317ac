"""Decoding an image file's bytes to 8-bit RGB."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from drexcache.datasets.kinds import UnreadableImage, check_pixels, kind_and_reader, open_image
from drexcache.datasets.libtiff import warn_of_damage
from drexcache.devices import return_freed_memory
from drexcache.errors import DrexcacheError

warn_of_damage()
BAND_PIXELS = 1 << 20  # pixels of a 12- or 16-bit grey image to scale at a time

# The modes that Pillow's convert can turn into RGB
_TO_RGB = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_large_images = threading.Lock()
LARGE = 1 << 26  # pixels above which images are decoded one at a time


@dataclass(frozen=True)
class Decode:
    """The choices in decoding a file to RGB.

    alpha : "drop" ignores transparency, as convert("RGB") does; "white" puts the image on white.
    exif : "ignore" keeps the stored orientation, "apply" rotates the image as its EXIF tag says (Pillow always
        rotates a TIFF).
    """

    alpha: str = "drop"
    exif: str = "ignore"

    def __post_init__(self) -> None:
        if self.alpha not in ("drop", "white"):
            raise DrexcacheError(f"alpha is drop or white, not {self.alpha!r}")
        if self.exif not in ("ignore", "apply"):
            raise DrexcacheError(f"exif is ignore or apply, not {self.exif!r}")


def decode_rgb(data: bytes, decode: Decode = Decode(), max_pixels: int = 500_000_000) -> Image.Image:
    """Decode a JPEG, PNG, GIF (first frame), WebP, BMP, TIFF, AVIF, HEIC or JPEG XL file to 8-bit RGB.

    12-bit and 16-bit grey is scaled to 0..255 and rounded. Colour profiles are not applied. The size is
    read from the header and checked before memory for pixels is allocated. Safe to call from several threads.

    Raises
    ------
    UnreadableImage : not an image, broken, truncated, larger than max_pixels, or with pixels of unknown range.
    MemoryError : too little memory; passed on, because the machine is at fault and not the image.

    >>> import io
    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 7).save(file, "PNG")
    >>> decode_rgb(file.getvalue()).getpixel((0, 0))
    (7, 7, 7)
    """
    with decoded(data, decode, max_pixels) as rgb:
        return rgb


@contextmanager
def decoded(data: bytes, decode: Decode, max_pixels: int = 500_000_000) -> Iterator[Image.Image]:
    """A context with the result of `decode_rgb`, which only one thread at a time enters with a large image.

    This keeps memory from growing with the number of threads, and allows Pillow's global limit, which applies when a
    TIFF is loaded, to be raised meanwhile. Whoever enters has to delete the image before leaving.
    """
    kind, reader = kind_and_reader(data)
    with _as_unreadable(kind):
        image = open_image(kind, reader, data, max_pixels)
    check_pixels(image.size, max_pixels)
    pixels = image.width * image.height
    with _one_at_a_time(max_pixels) if pixels > min(LARGE, Image.MAX_IMAGE_PIXELS or LARGE) else nullcontext():
        with _as_unreadable(kind):
            image.load()
            if decode.exif == "apply":
                ImageOps.exif_transpose(image, in_place=True)
            image = _to_rgb(image, kind, decode)
        yield image
        del image  # before the next thread decodes its own


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
    """A context that turns what Pillow raises on a broken file (OSError, SyntaxError, ...) into UnreadableImage."""
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
            return_freed_memory()  # otherwise each of the C library's arenas could keep as much as a large image


def _to_rgb(image: Image.Image, kind: str, decode: Decode) -> Image.Image:
    """Convert a loaded image of any mode to RGB, its transparency dropped or put on white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):  # Pillow < 11 opens 16-bit PNG as I
        return _deep_grey_to_rgb(image, decode)
    if image.mode not in _TO_RGB:
        names = {"I": "32-bit integer", "F": "float"}
        raise UnreadableImage(f"{names.get(image.mode, image.mode)} pixels, whose range is not known")
    alpha = None
    if decode.alpha == "white" and image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    if image.mode in ("La", "RGBa"):  # premultiplied, which Pillow converts only by way of straight alpha
        image = image.convert(image.mode.upper())
    image.info.pop("transparency", None)  # otherwise Pillow warns that RGB loses the palette's transparency
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # avoids copying a large image once more
    return _over_white(rgb, alpha)


def _deep_grey_to_rgb(image: Image.Image, decode: Decode) -> Image.Image:
    """Convert 12-bit and 16-bit grey to RGB; Pillow's convert clips it at 255 and ignores white-is-zero."""
    values = np.asarray(image)  # (H, W)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    top = (1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    levels = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    transparent = image.info.get("transparency")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = levels[::-1]
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, BAND_PIXELS // image.width)  # at a time, because numpy takes 8 bytes per index
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
