"""From an image file's bytes to the pixels that a backbone reads: decode, resize, normalise."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin

from PIL import TiffImagePlugin, WebPImagePlugin  # isort: skip

from drexcache.errors import DrexcacheError
from drexcache.recipes import CHOICES

_BAND_PIXELS = 1 << 20  # pixels turned to float at a time by "tensor-bilinear"

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
_pillow_limit = threading.Lock()


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
    kind, reader = _reader(data)
    # Of a broken file Pillow raises errors of many kinds: OSError, SyntaxError, ValueError, struct.error, ...
    try:
        image = reader(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(kind, error)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage(f"{width}x{height} pixels, more than {max_pixels / 1e6:g} megapixels")
    try:
        with _room_for(width * height, max_pixels):
            image.load()
        if decode.exif == "apply":
            ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, kind, decode)
    except (MemoryError, UnreadableImage):
        raise
    except Exception as error:
        raise UnreadableImage(_reason(kind, error)) from error


def to_pixels(image: Image.Image, size: tuple[int, int], resize: str) -> torch.Tensor:
    """An RGB image squeezed to (H, W), aspect not kept.

    "pil-bilinear", "pil-bicubic" : Pillow's resize, uint8 (3, H, W), as torchvision's Resize of a PIL image.
    "tensor-bilinear" : antialiased bilinear on float32 in [0, 1], float32 (3, H, W), bit for bit
        torchvision's resize(antialias=True) of the float tensor, and so DINOv3's own image processor's.

    >>> to_pixels(Image.new("RGB", (30, 20), "white"), (2, 3), "tensor-bilinear").shape
    torch.Size([3, 2, 3])
    """
    height, width = size
    if resize == "tensor-bilinear":
        return _tensor_bilinear(image, height, width)
    filters = {"pil-bilinear": Image.Resampling.BILINEAR, "pil-bicubic": Image.Resampling.BICUBIC}
    if resize not in filters:
        raise DrexcacheError(f"resize is one of {', '.join(CHOICES['resize'])}, not {resize!r}")
    return _uint8(image.resize((width, height), filters[resize]))


def normalise(
    pixels: torch.Tensor, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor
) -> torch.Tensor:
    """(B, 3, H, W) uint8, or float in [0, 1], to float32: (x - mean) / std for each channel.

    Bit for bit torchvision's ToTensor and Normalize on the CPU: /255, subtract, divide, each in float32.

    >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    >>> normalise(white, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0)).flatten()
    tensor([2.0000, 1.0000, 0.5000])
    """
    if pixels.dtype == torch.uint8:
        pixels = pixels.to(torch.float32).div_(255)
    mean_, std_ = (torch.as_tensor(v, dtype=torch.float32, device=pixels.device)[:, None, None] for v in (mean, std))
    return pixels.to(torch.float32).sub(mean_).div_(std_)


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
def _room_for(pixels: int, max_pixels: int) -> Iterator[None]:
    """Let Pillow load an image that our limit allows and its own, which TIFF meets in load, might not.

    Only for such an image is Pillow's global raised, while that one image is loaded.
    """
    if Image.MAX_IMAGE_PIXELS is None or pixels <= Image.MAX_IMAGE_PIXELS:
        yield
        return
    with _pillow_limit:
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
    values = np.asarray(image).astype(np.uint32)  # (H, W)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    top = (1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = top - values
    alpha = None
    transparent = image.info.get("transparency")
    if decode.alpha == "white" and isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return _over_white(Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8)).convert("RGB"), alpha)


def _over_white(rgb: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _uint8(rgb: Image.Image) -> torch.Tensor:
    """The image's values, uint8 (3, H, W)."""
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _tensor_bilinear(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """Antialiased bilinear in two passes, across and then down, as torch itself does it.

    The pass across goes band by band, so that never more than a band of the image is held as float32.
    """
    rows = max(1, _BAND_PIXELS // image.width)
    across = torch.empty(3, image.height, width)  # allocated once: a list of bands fragments the heap
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = _uint8(image.crop((0, top, image.width, bottom)))  # (3, rows, image width)
        across[:, top:bottom] = _resize_float(band.to(torch.float32).mul_(1 / 255), bottom - top, width)
    return _resize_float(across, height, width)  # (3, image height, W) -> (3, H, W)


def _resize_float(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(3, h, w) -> (3, height, width), antialiased bilinear; an axis that keeps its size is left as it is."""
    resized = torch.nn.functional.interpolate(
        pixels[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0]
